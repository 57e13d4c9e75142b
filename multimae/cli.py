"""The command `multimae`: one run, its data, the tracking store, a run's model, the benchmark."""

import argparse
import contextlib
import os
import sys

from .config import ConfigError, RunConfig, Runtime, load, recipes, weights_of
from .config.schema import validate
from .config.settings import parse_overrides, shown
from .data.listing import data_roots
from .record.folder import RunLocked, make_runs
from .redact import parse_arguments, redact

RUN_EXAMPLES = """\
examples:
  multimae run smoke/pretrain                                  # prints the run's signature
  multimae run smoke/segment --set init=run:SIGNATURE          # transfer from it
  torchrun --nproc-per-node 8 -m multimae run paper/pretrain --data imagenet=DIR
A run that was stopped continues with the same command; one that is finished is not run again.

recipes: """


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    # What follows `data`, `sync`, `ui`, `model` and `bench` is theirs: each has its own --help.
    if arguments[:1] == ["data"]:
        from .data.command import main as data

        return data(arguments[1:])
    if arguments[:1] == ["sync"]:
        from .tracking import main as sync

        return sync(arguments[1:])
    if arguments[:1] == ["ui"]:
        from .tracking import ui

        return ui(arguments[1:])
    if arguments[:1] == ["bench"]:
        from .bench import main as bench

        return bench(arguments[1:])
    if arguments[:1] == ["model"]:
        from .export import main as model

        return model(arguments[1:])
    args, secrets = parse_arguments(_parser(), arguments)
    try:
        return _run(args)
    except ConfigError as error:
        print(f"multimae: {redact(str(error), *secrets)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the training began; after that it saves first
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="multimae", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | data | sync | ui | model | bench")
    run = commands.add_parser(
        "run",
        help="do one run, from a recipe",
        epilog=RUN_EXAMPLES + ", ".join(recipes()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("recipe", help="a recipe's name (scale/name) or a YAML file")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting: epochs=20")
    run.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="where the dataset NAME lies")
    run.add_argument("--weights", action="append", default=[], metavar="NAME=FILE", help="a checkpoint that init names")
    run.add_argument("--runtime", action="append", default=[], metavar="KEY=VALUE", help="how to run: zero_stage=2")
    run.add_argument("--runs", default="runs", help="where run folders lie (default: %(default)s)")
    run.add_argument("--no-track", action="store_true", help="leave MLflow for a later `multimae sync`")
    commands.add_parser("data", help="prepare, check and look at a data set", add_help=False)
    commands.add_parser("sync", help="send to MLflow what it has missed", add_help=False)
    commands.add_parser("ui", help="open MLflow with a dashboard of each study", add_help=False)
    commands.add_parser("model", help="the final weights of a run as an MLflow model", add_help=False)
    commands.add_parser("bench", help="measure the training step and the data pipeline", add_help=False)
    return parser


def _run(args: argparse.Namespace) -> int:
    _check_launch()
    config = load(args.recipe, args.set)
    runtime = _runtime(args, config)
    writer = int(os.environ.get("RANK", 0)) == 0
    if writer:
        print(f"run {config.signature} in {runtime.runs / config.signature}", flush=True)

    make_runs(runtime.runs)
    from .run import RunFailed, run  # torch is imported here, after what can go wrong without it
    from .tracking import following

    follow = writer and not args.no_track
    try:
        with following(runtime.runs, runtime.tracking_uri) if follow else contextlib.nullcontext():
            outcome = run(config, runtime)
    except (RunFailed, RunLocked) as error:
        print(f"multimae: {error}", file=sys.stderr)
        return 1
    if writer:
        print(f"{outcome}: {config.signature}" + ("" if outcome == "finished" else "; the same command continues it"))
    return 0 if outcome == "finished" else 130


def _check_launch() -> None:
    """Raises ConfigError where the variables of torchrun or srun make no sense: a rank without the others would write
    beside their lock, or wait for them for ever."""
    numbers = {}
    for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        text = os.environ.get(name, usual)
        if not (text.isascii() and text.isdecimal() and len(text) < 8):
            raise ConfigError(f"the environment variable {name}: expected a whole number, found {shown(text)}")
        numbers[name] = int(text)
    rank, processes = numbers["RANK"], numbers["WORLD_SIZE"]
    if rank >= processes:
        raise ConfigError(
            f"the environment variables RANK {rank} and WORLD_SIZE {processes}: expected a rank below the number of "
            "processes; torchrun sets both, and a single process needs neither (unset RANK WORLD_SIZE)"
        )
    lost = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if processes > 1 and lost:
        raise ConfigError(f"the environment variable {lost[0]} is not set, and WORLD_SIZE is {processes}: use torchrun")


def _runtime(args: argparse.Namespace, config: RunConfig) -> Runtime:
    where = {
        "runs": args.runs,
        "data_roots": data_roots(args.data, [config.data.name]),
        "weights": weights_of(args.weights, [config]),
    }
    how = parse_overrides(args.runtime)
    for key in where.keys() & how.keys():
        option = {"data_roots": "--data NAME=DIR", "weights": "--weights NAME=FILE"}.get(key, "--runs DIR")
        raise ConfigError(f"--runtime {key}: has an option of its own, {option}")
    return validate(Runtime, where | how)
