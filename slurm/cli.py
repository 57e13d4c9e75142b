"""The command line of every study: `sys.exit(main(study))` in a file of sweeps/."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from multimae.config import ConfigError
from multimae.engine.folder import make_runs
from multimae.tracking import start_follower

from . import launch
from .arguments import add_study_arguments, all_rows, runtime_from, study_words
from .display import Progress, print_plan, print_status
from .local import Local, cores, gpus
from .state import UNDER_WAY
from .study import Study, only, runs_of

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
