"""The arguments that decide what a study's rows are. Shared with analysis/: the same words give the same rows there."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from multimae.config import SCALES, ConfigError, Runtime, validate
from multimae.listing import data_roots

from .own_data import own_data, own_folder
from .study import Row, Study, only, unknown


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
    if folder := own_folder(args.data, {config.data.name for config in stages.values()}):
        for stage, edit in own_data(folder, stages).items():
            edits[stage] |= edit
    if args.seed is not None:
        for stage in edits:
            edits[stage]["seed"] = args.seed
    for text in args.set:
        stage, key, value = _setting(text, list(edits))
        edits[stage][key] = value
    rows = study.build(args.scale, edits) if any(edits.values()) else rows
    read = {config.data.name for row in rows for config in row.stages.values()}
    data_roots((text for text in args.data if "=" in text), read)
    return rows


def rows_from(study: Study, args: argparse.Namespace) -> tuple[Row, ...]:
    """The rows that the arguments of `add_study_arguments` ask for; raises ConfigError."""
    return only(all_rows(study, args), args.only)


def runtime_from(args: argparse.Namespace) -> Runtime:
    """Where runs and data lie, for rows that `all_rows` has seen."""
    named = [text for text in args.data if "=" in text]
    roots = data_roots(named, [text.partition("=")[0] for text in named])
    if folder := own_folder(args.data):
        roots[folder.name] = folder
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
