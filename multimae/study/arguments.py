"""The arguments that decide what a study's rows are: the same words give the same rows in any command."""

import argparse
import os
from pathlib import Path
from typing import Any

from ..config import SCALES, ConfigError, Runtime, weights_of
from ..config.schema import validate
from ..config.settings import pairs, parse_overrides, shown
from ..data.listing import data_roots
from .data import own_data, own_folder
from .study import Edits, Row, Study, joined, stages_of, unknown


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is run")
    group.add_argument("--scale", metavar="|".join(SCALES), help="how big (default: the profile's, else smoke)")
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
    group.add_argument(
        "--weights", action="append", default=[], metavar="NAME=FILE", help="a checkpoint that init names"
    )
    group.add_argument("--runs", type=_folder, metavar="DIR", help="run folders (default: the profile's, else runs)")


def all_rows(study: Study, args: argparse.Namespace) -> tuple[Row, ...]:
    """The study's rows with the edits of the command line; raises ConfigError."""
    if args.scale not in SCALES:
        raise ConfigError(unknown("scale", args.scale, list(SCALES)))
    stages = stages_of(study.build(args.scale))
    edits: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
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
    if study.parts:
        rows = joined((part, _edited(part, args, edits)) for part in study.parts)
    else:
        rows = _edited(study, args, edits)
    read = {config.data.name for row in rows for config in row.stages.values()}
    data_roots((text for text in args.data if "=" in text), read)
    weights_of(args.weights, (config for row in rows for config in row.stages.values()))
    return rows


def _edited(study: Study, args: argparse.Namespace, edits: Edits) -> tuple[Row, ...]:
    """The rows of a study with the edits of its stages, a folder of one's own and a seed."""
    rows = study.build(args.scale)
    stages = stages_of(rows)
    folder = own_folder(args.data, {config.data.name for config in stages.values()})
    own = own_data(folder, stages) if folder else {}
    seed = {} if args.seed is None else {"seed": args.seed}
    made = {stage: {**own.get(stage, {}), **seed, **edits[stage]} for stage in stages}
    return study.build(args.scale, made) if any(made.values()) else rows


def runtime_from(args: argparse.Namespace) -> Runtime:
    """Where runs, data and weights lie, for rows that `all_rows` has seen."""
    named = [text for text in args.data if "=" in text]
    roots = data_roots(named, [text.partition("=")[0] for text in named])
    if folder := own_folder(args.data):
        roots[folder.name] = folder
    weights = pairs(args.weights, "--weights", "NAME=FILE")
    return validate(Runtime, {"runs": args.runs, "data_roots": roots, "weights": weights})


def study_words(args: argparse.Namespace) -> list[str]:
    """The words that make another command see the same rows."""
    words = ["--scale", args.scale, "--runs", str(args.runs)]
    for option in ("only", "set", "data", "weights"):
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
