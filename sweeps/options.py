"""What the command line of a study takes."""

import argparse

from multimae.config import ConfigError
from multimae.study import Study
from multimae.study.arguments import add_study_arguments

EXAMPLES = """\
examples:
  {command}                              run what is missing, then print the table
  {command} --dry-run                    rows, signatures, what would run, time and GPU-hours
  {command} --status --watch             what every run is doing
  {command} --table --seeds 0 1 2        the table, as mean and spread over seeds
  {command} --table --format latex       or markdown, or html, whose cells lead to their runs
  {command} --register COLUMN    the best row's model by a column of a table, into MLflow's registry
  {command} --only '{row}'          some rows
  {command} --set pretrain.epochs=20     change a setting of a stage; transfers follow their pre-training
  {command} --data DIR                   your own images: DIR/train/rgb/<class>/x.jpg, .../depth/..., ...
  {command} --scale lab --data imagenet100=DIR --data ade20k=DIR      a node of four GPUs, a day
  {command} --scale paper --data imagenet=DIR --data ade20k=DIR
What is done is never run again. Ctrl-C saves and stops; the same command continues.

on a SLURM cluster (PROFILE: a file in slurm/profiles/ or a path; `python -m slurm.doctor PROFILE` proves it):
  {command} --cluster PROFILE            submit what is missing and return; give it again at any time
  {command} --cluster PROFILE --dry-run  rows, jobs, GPU-hours, and the exact sbatch scripts
  {command} --cluster PROFILE --retry-failed
  {command} --cluster PROFILE --cancel   stop its jobs; --cluster PROFILE continues them
"""


def check_options(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that would be ignored, and for folders that cannot be meant."""
    if args.jobs is not None and args.cluster is not None:
        raise ConfigError("--jobs is for this machine; on a cluster it is max_jobs in the profile")
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: expected 1 or more, found {args.jobs}")
    if args.watch and not args.status:
        raise ConfigError("--watch goes with --status: give both")
    if args.seeds is not None and not args.table:
        raise ConfigError("--seeds goes with --table: give both")
    if args.format is not None and not args.table:
        raise ConfigError("--format goes with --table: give both")
    if args.seeds and args.seed is not None:
        raise ConfigError("--seeds and --seed both say the seed; give one of them")
    if args.seeds and (twice := [seed for seed in args.seeds if args.seeds.count(seed) > 1]):
        raise ConfigError(f"--seeds: {twice[0]} stands more than once, and a seed is one run; give each once")
    for option in ("status", "table", "register", "cancel", "cancel_removed"):
        if args.retry_failed and getattr(args, option):
            words = option.replace("_", "-")
            raise ConfigError(f"--retry-failed runs again what failed, and --{words} runs nothing: give one of them")
        if args.redo and getattr(args, option):
            raise ConfigError(f"--redo runs again, and --{option.replace('_', '-')} runs nothing: give one of them")


def parser_of(study: Study) -> argparse.ArgumentParser:
    try:
        row = next(iter(study.rows("smoke"))).name
    except ConfigError:
        row = "ROW"
    parser = argparse.ArgumentParser(
        prog=study.command,
        description=f"{study.heading}, run on this machine or on a SLURM cluster.",
        epilog=EXAMPLES.format(command=study.command, row=row),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print what would run and what it would cost")
    what.add_argument("--status", action="store_true", help="print what every run is doing")
    what.add_argument(
        "--table", action="store_true", help="print the tables, the paper's beside what was measured here"
    )
    what.add_argument(
        "--register", metavar="COLUMN", help="register in MLflow the model of the row that is best in this column"
    )
    what.add_argument("--cancel", action="store_true", help="stop what runs here or is on the cluster; it is kept")
    what.add_argument("--cancel-removed", action="store_true", help="the same for runs that left the study")
    add_study_arguments(parser)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="PROFILE",
        help="on the SLURM cluster of slurm/profiles/PROFILE.yaml, or of a YAML file ($MULTIMAE_PROFILE, else site)",
    )
    how.add_argument("--jobs", type=int, metavar="N", help="runs side by side (default: one a core or GPU, at most 4)")
    how.add_argument("--retry-failed", action="store_true", help="run again what failed")
    how.add_argument(
        "--redo",
        action="append",
        default=[],
        metavar="ROW",
        help="run again on purpose, with what starts from it; the old folders stay, as SIGNATURE.1. Also 'ROW STAGE'",
    )
    how.add_argument("--seeds", type=int, nargs="+", metavar="N", help="with --table: mean and spread over these seeds")
    how.add_argument("--format", choices=("text", "markdown", "latex", "html"), help="with --table: how it is printed")
    how.add_argument("--watch", action="store_true", help="with --status: keep looking")
    return parser
