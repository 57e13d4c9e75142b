"""The arguments that decide what a study's rows are. Shared with analysis/: the same words give the same rows there."""

import argparse
import os
from itertools import islice
from pathlib import Path
from typing import Any

from multimae.config import SCALES, Classify, ConfigError, Pretrain, Runtime, Segment
from multimae.fields import validate
from multimae.modalities import MODALITIES
from multimae.settings import pairs, parse_overrides, shown

from .study import Row, Study, only, stages_of, unknown


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
    group.add_argument("--runs", type=_folder, default=Path("runs"), metavar="DIR", help="run folders (default: runs)")


def all_rows(study: Study, args: argparse.Namespace) -> tuple[Row, ...]:
    """The study's rows with the edits of the command line; raises ConfigError."""
    if args.scale not in SCALES:
        raise ConfigError(unknown("scale", args.scale, list(SCALES)))
    rows = study.build(args.scale)
    stages = stages_of(rows)
    edits: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
    if folder := _data_folder(args):
        for stage, config in stages.items():
            edits[stage] |= _own_data(folder, config)
    if args.seed is not None:
        for stage in edits:
            edits[stage]["seed"] = args.seed
    for name, value in parse_overrides(args.set).items():
        stage, dot, key = name.partition(".")
        if not dot or not key:
            found = shown(f"{name}={value}")
            raise ConfigError(f"--set takes STAGE.KEY=VALUE, such as {next(iter(stages))}.epochs=20; found {found}")
        if stage not in stages:
            raise ConfigError(unknown("stage", stage, stages))
        if key == "seed" and args.seed is not None:
            raise ConfigError(f"--set {stage}.seed and --seed both say the seed; give one of them")
        edits[stage][key] = value
    return study.build(args.scale, edits) if any(edits.values()) else rows


def rows_from(study: Study, args: argparse.Namespace) -> tuple[Row, ...]:
    """The rows that the arguments of `add_study_arguments` ask for; raises ConfigError."""
    return only(all_rows(study, args), args.only)


def runtime_from(args: argparse.Namespace) -> Runtime:
    roots = pairs([text for text in args.data if "=" in text], "--data", "NAME=DIR")
    if folder := _data_folder(args):
        roots[folder.name] = str(folder)
    return validate(Runtime, {"runs": args.runs, "data_roots": roots})


def study_words(args: argparse.Namespace) -> list[str]:
    """The words that make another command see the same rows."""
    words = ["--scale", args.scale, "--runs", str(args.runs)]
    for option in ("only", "set", "data"):
        words += [word for value in getattr(args, option) for word in (f"--{option}", value)]
    return words + (["--seed", str(args.seed)] if args.seed is not None else [])


def variant(args: argparse.Namespace) -> str:
    """The edits that make the rows others than the study's: runs of one variant are not another's. Empty: none."""
    folders = [f"--data {text}" for text in args.data if "=" not in text]
    seed = [] if args.seed is None else [f"--seed {args.seed}"]
    return " ".join([*sorted(f"--set {text}" for text in args.set), *folders, *seed])


def _folder(text: str) -> Path:
    """As a shell would have it: `--runs=~/runs` is left alone by one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a folder, found ''")
    return Path(os.path.expanduser(text))


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
