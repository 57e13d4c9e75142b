"""Pseudo labels for a folder of photographs: `multimae data label`, and what `sweeps/label.py` shares with it.

A split's photographs are dealt out in blocks to as many runs as there are accelerators, or jobs; each is a run like any
other. Labels that are there are never made again, and what is missing is, whatever the runs' records say.
"""

import argparse
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from .config import SCENES, ConfigError, Folder, Runtime
from .config.label import BLOCK, SHORT, Label
from .config.labellers import embedded
from .config.runtime import cpus
from .config.schema import validate
from .config.settings import read_mapping, shown
from .data.listing import PHOTOGRAPHS, listed
from .data.subsets import contents
from .labelling import layout, provenance
from .labelling.models import NetworkFolder, network, numbering, offered
from .modalities import FIELDS, MODALITIES, PSEUDO
from .record.folder import RunLocked, make_runs
from .study import Row, Study, planning
from .study.display import Progress, print_plan
from .study.local import Local, gpus
from .tracking import following
from .units import counted

EMBEDDED = "embedded"
GIVES = ("disparity", "relative", "metres")
NUMBERS = [name for name in PSEUDO if MODALITIES[name].channels is not None]
NOTE = "note: the embedded labeller knows the embedded scenes alone: what it says of real photographs means nothing"
TRAIN, TESTED = 4096, 1024  # embedded photographs of each split, as many as smoke scale reads

EPILOG = """\
networks, as folders in Hugging Face's layout (config.json, preprocessor_config.json, model.safetensors):
{offers}
  {embedded:<43} trained here on embedded scenes that no other run sees; to try everything without a download
To get one, where there is a network: hf download NAME --local-dir DIR. Nothing is downloaded here.

Labels lie in DIR/SPLIT/pseudo_<modality>/, never over true ones; DIR/dataset.yaml tells where they come from.
What is labelled is never labelled again. Ctrl-C saves and stops; the same command continues.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """0: all is labelled. 1: something failed. 2: the command was wrong. 130: stopped, and can continue."""
    parser = argparse.ArgumentParser(
        prog="multimae data label",
        description="Predict depth and semantic labels of photographs by off-the-shelf networks, for pre-training.",
        epilog=epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="run folders (default: runs)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side (default: one a GPU, or core)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be labelled")
    parser.add_argument("--no-track", action="store_true", help="leave MLflow for a later `multimae sync`")
    args = parser.parse_args(argv)
    try:
        return _label(args)
    except (ConfigError, RunLocked) as error:
        print(f"multimae data label: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def epilog() -> str:
    return EPILOG.format(offers="\n".join(map(offered, PSEUDO)), embedded=EMBEDDED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help=f"photographs: DIR/SPLIT/{PHOTOGRAPHS}/...; or `scenes`"
    )
    for name in PSEUDO:
        parser.add_argument(f"--{name}", metavar="MODEL_DIR", help=f"the network of {PSEUDO[name]}; or `{EMBEDDED}`")
    for name in NUMBERS:
        parser.add_argument(f"--{name}-gives", choices=GIVES, help="what it gives, where its config.json does not say")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="YAML: `name: number` of a network's other classes"
    )
    parser.add_argument("--out", type=Path, metavar="NEW", help="label in a new folder, with links to the photographs")
    parser.add_argument("--split", action="append", default=[], metavar="SPLIT", help="this split (default: all)")
    parser.add_argument("--batch", type=int, metavar="N", help="photographs that a network sees at once (default: 8)")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="of a photograph (default: 100 million)")
    parser.add_argument("--skip-damaged", action="store_true", help="leave out photographs that cannot be read")


# ---- what is asked for


@dataclass(frozen=True)
class Labelling:
    """Which photographs, and by which networks: by modality; None: the embedded one."""

    folder: Path
    splits: tuple[str, ...]
    networks: dict[str, NetworkFolder | None]
    conversions: dict[str, dict[str, Any]]
    classes: dict[str, int]
    skip_damaged: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Labelling":
        """Raises ConfigError. With `--out`, the folder is laid out."""
        words = {name: getattr(args, name) for name in PSEUDO if getattr(args, name)}
        if not words:
            told = "\n".join(f"--{name} MODEL_DIR, one of\n{offered(name)}" for name in PSEUDO)
            raise ConfigError(f"expected a network for one modality or more:\n{told}\n  or `{EMBEDDED}` of either")
        networks, how = {}, {}
        for name, word in words.items():
            found = None if word == EMBEDDED else network(_absolute(word), name)
            networks[name] = found
            if name in NUMBERS:
                how[name] = {"kind": _gives(found, getattr(args, f"{name}_gives"), name)}
        folder = laid_out(args.folder, args.out)
        there = layout.splits(folder)
        if unknown := [split for split in args.split if split not in there]:
            raise ConfigError(f"--split: {folder} has {', '.join(there)}; found {shown(unknown[0])}")
        classes = _classes(args.classes)
        for name, found in networks.items():
            if found and name not in NUMBERS:
                numbering(found, classes, name)
        return cls(folder, tuple(args.split or there), networks, how, classes, args.skip_damaged)

    @property
    def name(self) -> str:
        """Of the data set."""
        return Path(os.path.realpath(self.folder)).name

    @property
    def weights(self) -> dict[str, Path]:
        """The networks' folders, by what configs call them."""
        return {found.content[:SHORT]: found.folder for found in self.networks.values() if found}

    def runtime(self, args: argparse.Namespace) -> Runtime:
        how = {"micro_batch_size": args.batch, "max_pixels": args.max_pixels}
        where: dict[str, Any] = {"runs": args.runs, "data_roots": {self.name: self.folder}, "weights": self.weights}
        return validate(Runtime, where | {key: value for key, value in how.items() if value is not None})

    def study(self, shards: int) -> Study:
        """Of each split as many rows as there are shards, and blocks."""
        return Study("label", f"Pseudo labels of {self.folder}", lambda scale: self._rows(shards))

    def _rows(self, shards: int) -> Iterator[Row]:
        labellers = {f"labeller_{name}": embedded(name) for name, found in self.networks.items() if not found}
        for split in self.splits:
            samples, mark = self._photographs(split)
            parts = min(shards, -(-samples // BLOCK))
            for part in range(parts):
                stages = {
                    PSEUDO[name]: self._config(name, split, samples, mark).edit({"shard": part, "shards": parts})
                    for name in self.networks
                }
                yield Row(f"{split} {part + 1}/{parts}" if parts > 1 else split, labellers | stages)

    def _photographs(self, split: str) -> tuple[int, str]:
        """How many there are, and their mark. Raises ConfigError for what lies among them and is none."""
        data = Folder(name=self.name, eval_split=split, allow_missing=self.skip_damaged)
        try:
            if self.skip_damaged:
                listing = listed(self.folder / split, (PHOTOGRAPHS,))
                missing = listing.missing()
                usable = [stem for stem in listing.stems if stem not in missing]
                return len(usable), f"listing of {len(usable)}"
            found = contents(self.folder, (("eval", data, "eval"),), (PHOTOGRAPHS,))["eval"]
        except (ValueError, OSError) as error:
            raise ConfigError(f"{error}\nRepair or remove them, or leave them out with --skip-damaged") from None
        if not found["n"]:
            raise ConfigError(f"{self.folder / split / PHOTOGRAPHS} has no photographs")
        return int(found["n"]), str(found["fingerprint"])

    def _config(self, name: str, split: str, samples: int, mark: str) -> Label:
        found = self.networks[name]
        data = {"name": self.name, "eval_split": split, "allow_missing": self.skip_damaged}
        values: dict[str, Any] = {
            "task": "label", "field": PSEUDO[name], "photographs": mark,
            "network": found.content if found else f"run:{embedded(name).signature}",
            "called": found.name if found else f"{EMBEDDED} {name}",
            "data": data | ({} if self.skip_damaged else {"eval_samples": samples}),
        }  # fmt: skip
        values |= (
            {"conversion": self.conversions[name]}
            if name in NUMBERS
            else {"classes": [f"{name}: {number}" for name, number in self.classes.items()]}
        )
        return validate(Label, values)


def laid_out(folder: Path, out: Path | None) -> Path:
    """The folder in which labels lie: `folder`, or with `out` that, with links to the photographs, or to embedded ones.
    Raises ConfigError."""
    new = _absolute(out) if out else None
    if str(folder) in SCENES:
        if new is None:
            raise ConfigError(f"{folder} are embedded: say where their photographs are to be written, with --out NEW")
        from .labelling.embedded import photographs

        photographs(str(folder), new, {"train": TRAIN, "val": TESTED})
        return new
    if new is None:
        return _absolute(folder)
    layout.lay_out(_absolute(folder), new)
    return new


def _absolute(path: Path | str) -> Path:
    """Links stay: another node may resolve them otherwise."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def _gives(found: NetworkFolder | None, said: str | None, name: str) -> str:
    if found is None:
        return "metres"
    if found.gives and said and said != found.gives:
        raise ConfigError(
            f"--{name}-gives {said}: {found.name} says of itself that it gives {found.gives}; leave it out"
        )
    if not (gives := found.gives or said):
        raise ConfigError(
            f"--{name}: {found.name} is a {found.architecture}, whose config.json does not say what it gives, and the "
            f"wrong word would turn near into far: give --{name}-gives disparity (MiDaS, of Intel) or relative "
            "(Omnidata: 0 is near, 1 far)"
        )
    return gives


def _classes(file: Path | None) -> dict[str, int]:
    if file is None:
        return {}
    try:
        given = read_mapping(file)
        return validate(Label, {"classes": [f"{name}: {number}" for name, number in given.items()]}).numbering
    except FileNotFoundError:
        raise ConfigError(f"--classes: {file} is not there") from None
    except ConfigError as error:
        raise ConfigError(f"--classes: {error}") from None


# ---- what is there


def gone(planned: planning.Plan, labelling: Labelling) -> frozenset[str]:
    """The signatures of runs that are done, and of whose labels some are not there any more."""
    lost = set()
    for signature, entry in planned.entries.items():
        config = entry.run.config
        if isinstance(config, Label) and entry.status.state == "done" and not labelling.skip_damaged:
            stems = listed(labelling.folder / config.data.eval_split, (PHOTOGRAPHS,)).stems
            there = _labels(labelling.folder / config.data.eval_split / config.field)
            if any(stems[index] not in there for block in config.blocks(len(stems)) for index in block):
                lost.add(signature)
    return frozenset(lost)


@functools.cache
def _labels(folder: Path) -> frozenset[str]:
    ending, found = FIELDS[folder.name].files.endings[0], []
    for where, _, names in os.walk(folder):
        inner = os.path.relpath(where, folder)
        prefix = "" if inner == "." else f"{inner}/"
        found += [prefix + name.removesuffix(ending) for name in names if name.endswith(ending) and name[0] != "."]
    return frozenset(found)


def planned(wanted: planning.Wanted, labelling: Labelling, retry_failed: bool = True) -> planning.Plan:
    """What is to be done. Raises ConfigError where labels of others lie in the way."""
    plan = planning.plan(wanted, retry_failed)
    for entry in plan.entries.values():
        if isinstance(config := entry.run.config, Label):
            provenance.check(labelling.folder / config.data.eval_split / config.field, config)
    lost = gone(plan, labelling)
    if lost:
        print(f"note: labels of {counted(len(lost), 'run')} are gone, and are made again", file=sys.stderr)
    return planning.plan(wanted, retry_failed, lost) if lost else plan


def report(console: Console, plan: planning.Plan, labelling: Labelling) -> None:
    """Where everything is, once it is done."""
    for split in labelling.splits:
        for name in labelling.networks:
            folder = labelling.folder / split / PSEUDO[name]
            _labels.cache_clear()
            console.print(f"{folder}: {counted(len(_labels(folder)), 'label')}", highlight=False, soft_wrap=True)
    sheets = [e.folder.samples / "labels.png" for e in plan.entries.values() if isinstance(e.run.config, Label)]
    there = [str(sheet) for sheet in sheets if sheet.exists()]
    console.print(f"Look at some: {', '.join(there[:4])}", highlight=False, soft_wrap=True)
    console.print(f"Pre-train on them: python sweeps/alpha_ablation.py --data {labelling.folder}", highlight=False)


# ---- on this machine


def _label(args: argparse.Namespace) -> int:
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: expected 1 or more, found {args.jobs}")
    labelling = Labelling.of(args)
    for found in labelling.networks.values():
        if found is None and str(args.folder) not in SCENES:
            print(NOTE, file=sys.stderr)
            break
    slots = args.jobs or len(gpus()) or min(4, cpus())
    study = labelling.study(slots)
    rows = study.build("smoke")
    runtime = labelling.runtime(args)
    wanted = planning.Wanted(study, "smoke", rows, args.runs, among=rows, files=labelling.weights)
    console = Console(stderr=True)
    if not args.dry_run:
        make_runs(args.runs)
    plan = planned(wanted, labelling)
    if args.dry_run:
        print_plan(
            Console() if sys.stdout.isatty() else Console(width=120), plan, f"\n{slots} at a time on this machine"
        )
        return 0
    planning.tidy(plan)
    backend, progress = Local(runtime, slots), Progress(console, plan, slots)
    with nullcontext() if args.no_track else following(args.runs), progress:
        for event in backend.work(plan):
            progress.update(event)
    if backend.stops:
        print("Stopped. Everything is kept; to continue, give the same command again.", file=sys.stderr)
        return 130
    code = progress.report()
    if not code:
        report(console, plan, labelling)
    return code


if __name__ == "__main__":
    sys.exit(main())
