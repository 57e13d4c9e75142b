"""Pseudo labels as an array of ordinary runs (paper Section 3.4): resumed, requeued, and looked at as any others.

python sweeps/label.py DIR --depth MODEL_DIR --semseg MODEL_DIR --cluster PROFILE --shards 16
python sweeps/label.py DIR --depth MODEL_DIR --semseg MODEL_DIR        # on this machine, as `multimae data label` does
python sweeps/label.py --help
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from multimae.config import SCENES
from multimae.label import NOTE, Labelling, add_arguments, epilog, planned, report
from multimae.record.folder import make_runs
from multimae.redact import parse_arguments
from multimae.study import planning
from multimae.study.local import gpus
from sweeps.command import Command, carried_out

SHARDS = 4  # of a split on a cluster, unless it is said
# What a study's command line has, and this one has no use for.
UNUSED = {
    "scale": "smoke", "set": [], "seed": None, "seeds": None, "table": False, "register": None, "format": None,
    "cancel_removed": False,
}  # fmt: skip
EXAMPLES = """\
examples:
  python sweeps/label.py DIR --depth MODEL_DIR --semseg MODEL_DIR --cluster PROFILE
  ... --cluster PROFILE --dry-run          jobs, and the exact sbatch scripts
  ... --cluster PROFILE --status --watch   what every run is doing
  ... --cluster PROFILE --retry-failed     what failed, from its last block of photographs
What a job asks for: `kinds: {label: {gpus_per_node: 1, time_limit: ...}}` in the profile. A job has one network and a
share of the blocks of one split; `--shards` says of how many.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """As of any study."""
    args, given = parse_arguments(_parser(), argv)
    return carried_out("label", lambda: LabelCommand(args).run(), *given)


class LabelCommand(Command):
    """The study's rows are of a folder, which is known once the command line is."""

    def __init__(self, args: argparse.Namespace):
        self.labelling = Labelling.of(args)
        if None in self.labelling.networks.values() and str(args.folder) not in SCENES:
            print(NOTE, file=sys.stderr)
        self.words = _words(args)
        shards = args.shards or (SHARDS if args.cluster is not None else args.jobs or len(gpus()) or 1)
        args.data = [f"{self.labelling.name}={self.labelling.folder}"]
        args.weights = [f"{name}={folder}" for name, folder in self.labelling.weights.items()]
        batch, pixels = args.batch, args.max_pixels
        super().__init__(self.labelling.study(shards), argparse.Namespace(**vars(args) | UNUSED))
        how = {"micro_batch_size": batch, "max_pixels": pixels}
        self.runtime = self.runtime.model_copy(update={key: value for key, value in how.items() if value})
        if self.profile and any(how.values()):
            settings = {**self.profile.settings, **{key: value for key, value in how.items() if value}}
            self.profile = self.profile.model_copy(update={"settings": settings})

    def run(self) -> int:
        if self.args.status or self.args.cancel:
            return super().run()
        if not self.args.dry_run:
            make_runs(self.args.runs)
        plan = planned(self.wanted, self.labelling, self.args.retry_failed)  # which refuses, and tells of what is gone
        if again := {entry.run.label for entry in plan.todo if entry.action == "redo"}:
            self.args.redo = [*self.args.redo, *again]
        return super().run()

    def table(self) -> int:
        """Where the labels are."""
        report(self.console, planning.status(self.wanted), self.labelling)
        return 0

    def again(self) -> str:
        return shlex.join([*self.study.command.split(), *self.words])


def _words(args: argparse.Namespace) -> list[str]:
    """The command line that sees the same rows."""
    words = [str(args.folder)]
    for key, value in vars(args).items():
        if key in ("folder", "status", "watch", "dry_run", "cancel", "retry_failed", "redo") or value in (
            None,
            False,
            [],
        ):
            continue
        option = f"--{key.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        words += [word for one in values for word in ([option] if one is True else [option, str(one)])]
    return words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python sweeps/label.py",
        description="Pseudo labels of a folder of photographs, on this machine or on a SLURM cluster.",
        epilog=EXAMPLES + epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print what would run")
    what.add_argument("--status", action="store_true", help="print what every run is doing")
    what.add_argument("--cancel", action="store_true", help="stop what runs here or is on the cluster; it is kept")
    add_arguments(parser)
    parser.add_argument("--shards", type=int, metavar="N", help=f"runs of a split (default: {SHARDS} on a cluster)")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="run folders (default: the profile's, else runs)")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="this row; may be repeated")
    parser.add_argument(
        "--cluster", nargs="?", const="", metavar="PROFILE", help="on the SLURM cluster of this profile"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side on this machine")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed")
    parser.add_argument(
        "--redo", action="append", default=[], metavar="ROW", help="run again; labels that are there stay"
    )
    parser.add_argument("--watch", action="store_true", help="with --status: keep looking")
    return parser


if __name__ == "__main__":
    sys.exit(main())
