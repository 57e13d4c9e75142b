"""The command line of every study: `sys.exit(main(study))` in a file of sweeps/.

`add_study_arguments` and `rows_from` are shared with analysis/, so that the same words give the same rows there.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from multimae.config import SCALES, Classify, ConfigError, Pretrain, Runtime, Segment, validate
from multimae.engine.folder import make_runs
from multimae.modalities import MODALITIES
from multimae.tracking import start_follower

from . import launch
from .display import Progress, print_plan, print_status
from .local import Local, cores, gpus
from .state import UNDER_WAY
from .study import Row, Study, only, runs_of, unknown

EXAMPLES = """\
examples:
  python sweeps/{name}.py                              run what is missing, then print the table
  python sweeps/{name}.py --dry-run                    rows, signatures, what would run, time and GPU-hours
  python sweeps/{name}.py --status --watch             what every run is doing
  python sweeps/{name}.py --only '{row}'          some rows
  python sweeps/{name}.py --set pretrain.epochs=20     change a setting of a stage; transfers follow their pre-training
  python sweeps/{name}.py --data DIR                   your own images: DIR/train/rgb/<class>/x.jpg, .../depth/..., ...
  python sweeps/{name}.py --scale paper --data imagenet=DIR --data ade20k=DIR
What is done is never run again. Ctrl-C saves and stops; the same command continues.
"""

STOPPED = "Stopped. Everything is kept; to continue, give the same command again."


def main(study: Study, argv: Sequence[str] | None = None) -> int:
    """0: all is done. 1: something failed. 2: the command was wrong. 130: stopped, and can continue."""
    args = _parser(study).parse_args(argv)
    try:
        return _dispatch(study, args)
    except ConfigError as error:
        print(f"{study.name}: {'; '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{STOPPED}")
        return 130


# ---- arguments that decide what the rows are


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is run")
    group.add_argument("--scale", default="smoke", metavar="|".join(SCALES), help="how big (default: %(default)s)")
    group.add_argument("--only", action="append", default=[], metavar="ROW", help="this row; may be repeated")
    group.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change a setting: pretrain.epochs=20"
    )
    group.add_argument("--seed", type=int, metavar="N", help="the seed of every stage")
    group.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DIR",
        help="train every stage on this folder, not on the recipes' data; NAME=DIR says where a recipe's dataset lies",
    )
    group.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="run folders (default: runs)")


def all_rows(study: Study, args: argparse.Namespace) -> tuple[Row, ...]:
    """The study's rows with the edits of the command line; raises ConfigError."""
    if args.scale not in SCALES:
        raise ConfigError(unknown("scale", args.scale, list(SCALES)))
    rows = study.build(args.scale)
    stages = {stage: config for row in reversed(rows) for stage, config in row.stages.items()}
    edits: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
    if folder := _data_folder(args):
        for stage, config in stages.items():
            edits[stage] |= _own_data(folder, config)
    if args.seed is not None:
        for stage in edits:
            edits[stage]["seed"] = args.seed
    for text in args.set:
        stage, key, value = _setting(text, list(edits))
        edits[stage][key] = value
    return study.build(args.scale, edits) if any(edits.values()) else rows


def rows_from(study: Study, args: argparse.Namespace) -> tuple[Row, ...]:
    """The rows that the arguments of `add_study_arguments` ask for; raises ConfigError."""
    return only(all_rows(study, args), args.only)


def runtime_from(args: argparse.Namespace) -> Runtime:
    roots = dict(text.split("=", 1) for text in args.data if "=" in text)
    if folder := _data_folder(args):
        roots[folder.name] = str(folder)
    return validate(Runtime, {"runs": args.runs, "data_roots": roots})


def study_words(args: argparse.Namespace) -> list[str]:
    """The words that make another command see the same rows."""
    words = ["--scale", args.scale, "--runs", str(args.runs)]
    for option in ("only", "set", "data"):
        words += [word for value in getattr(args, option) for word in (f"--{option}", value)]
    return words + (["--seed", str(args.seed)] if args.seed is not None else [])


def _setting(text: str, stages: list[str]) -> tuple[str, str, Any]:
    path, equals, value = text.partition("=")
    stage, dot, key = path.partition(".")
    if not equals or not dot or not key:
        raise ConfigError(f"--set takes STAGE.KEY=VALUE, such as {stages[0]}.epochs=20; found '{text}'")
    if stage not in stages:
        raise ConfigError(unknown("stage", stage, stages))
    try:
        return stage, key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: '{value}' is not a YAML value") from None


def _data_folder(args: argparse.Namespace) -> Path | None:
    folders = [Path(text).resolve() for text in args.data if "=" not in text]
    if len(folders) > 1:
        raise ConfigError(f"--data: one folder for all stages, found {len(folders)}; NAME=DIR places single datasets")
    for folder in folders:
        if not (folder / "train").is_dir():
            raise ConfigError(f"--data: expected {folder / 'train'}/rgb/<class>/<image>, but there is no such folder")
    return folders[0] if folders else None


def _own_data(folder: Path, config: Pretrain | Classify | Segment) -> dict[str, Any]:
    """The edits that turn a stage to a folder in the layout `<split>/<modality>/<class>/<image>`."""
    train = folder / "train"
    rgb = train / "rgb" if (train / "rgb").is_dir() else train
    edits = {"data.name": folder.name, "model.semseg_classes": 133}  # COCO's ids, as in the authors' pseudo labels
    # The recipe's number of images where there are as many, else all of them, however many can be read.
    for split, key in ((config.data.train_split, "train_samples"), (config.data.eval_split, "eval_samples")):
        limit = getattr(config.data, key)
        images = folder / split / "rgb" if (folder / split / "rgb").is_dir() else folder / split
        if limit and images.is_dir():
            enough = sum(1 for _ in islice(_files(images), limit)) == limit
            edits[f"data.{key}"] = limit if enough else None
    if isinstance(config, Classify):
        classes = sorted(p.name for p in rgb.iterdir() if p.is_dir() and p.name not in MODALITIES)
        if len(classes) < 2:
            raise ConfigError(f"--data: classification needs at least two class folders in {rgb}, found {len(classes)}")
        edits["classes"] = len(classes)
    if isinstance(config, Segment):
        edits |= {"classes": 133, "zero_is_unlabelled": False}
    return edits


def _files(folder: Path):
    return (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


# ---- what is done with them


def _parser(study: Study) -> argparse.ArgumentParser:
    try:
        row = next(iter(study.rows("smoke"))).name
    except ConfigError:
        row = "ROW"
    parser = argparse.ArgumentParser(
        prog=f"sweeps/{study.name}.py",
        description=f"{study.title} (Table {study.table} of the paper), run on this machine.",
        epilog=EXAMPLES.format(name=study.name, row=row),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print what would run and what it would cost")
    what.add_argument("--status", action="store_true", help="print what every run is doing")
    what.add_argument("--cancel", action="store_true", help="ask what runs on this machine to save and stop")
    add_study_arguments(parser)
    how = parser.add_argument_group("how")
    how.add_argument("--jobs", type=int, metavar="N", help="runs side by side (default: one a core or GPU, at most 4)")
    how.add_argument("--retry-failed", action="store_true", help="run again what failed")
    how.add_argument("--watch", action="store_true", help="with --status: keep looking")
    return parser


def _dispatch(study: Study, args: argparse.Namespace) -> int:
    everything = all_rows(study, args)
    rows = only(everything, args.only)
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: expected 1 or more, found {args.jobs}")
    slots = args.jobs or min(4, len(gpus()) or cores())
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if args.status:
        while True:
            seen = launch.status(study, args.scale, rows, args.runs)
            extra = launch.extras(study, args.scale, args.runs, list(runs_of(everything)))
            print_status(console, seen, extra, clear=args.watch)
            if not args.watch or not any(e.status.under_way for e in seen.entries.values()):
                return 0
            time.sleep(2)
    if not (args.dry_run or args.cancel):
        make_runs(args.runs)
    planned = launch.plan(study, args.scale, rows, args.runs, args.retry_failed)
    for line in (*launch.other_data(planned, runtime_from(args).data_roots), *_slow(planned)):
        print(f"note: {line}", file=sys.stderr)
    if args.dry_run:
        print_plan(console, planned, slots, "GPU" if gpus() else "core")
        return 0
    if args.cancel:
        asked = launch.cancel(planned)
        print(f"asked {len(asked)} runs to save and stop" if asked else "nothing of this study runs on this machine")
        return 0
    return _apply(console, planned, args, slots)


def _slow(planned: launch.Plan) -> list[str]:
    runs = sum(entry.run.config.precision == "bf16" for entry in planned.todo)
    if gpus() or not runs:
        return []
    hint = "--set STAGE.precision=fp32, or --scale smoke, is for CPUs"
    return [f"no GPU here, and {runs} runs compute in bf16, many times slower than fp32 on most CPUs; {hint}"]


def _apply(console: Console, planned: launch.Plan, args: argparse.Namespace, slots: int) -> int:
    progress = Progress(console, planned, slots)
    if planned.todo or planned.count(*UNDER_WAY):
        if _work(progress, planned, args, slots):
            print(STOPPED)
            return 130
    code = progress.report()
    words = [planned.study.name, *study_words(args)]
    # A process of its own, because analysis/ imports sweeps/, which import this.
    table = subprocess.run([sys.executable, "-m", "analysis.tables", *words], check=False).returncode
    return code or table


def _work(progress: Progress, planned: launch.Plan, args: argparse.Namespace, slots: int) -> bool:
    """Run what is missing; returns whether the user stopped it."""
    backend = Local(runtime_from(args), slots)
    follower = start_follower(args.runs)
    try:
        with progress:
            for event in launch.apply(planned, backend):
                progress.update(event)
    finally:
        if not follower.stop():
            print(f"MLflow has not taken everything yet ({follower.log} says why); `multimae sync` sends the rest.")
    return bool(backend.stops)
