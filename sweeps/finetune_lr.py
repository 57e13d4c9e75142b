"""The search for the learning rate of a fine-tuning, and for what goes with it: Optuna over ordinary runs.

python sweeps/finetune_lr.py --transfer segment --init run:SIGNATURE             # 24 trials on this machine
python sweeps/finetune_lr.py --transfer segment --init run:SIGNATURE --cluster ours --parallel 8
python sweeps/finetune_lr.py --transfer segment --study alpha_ablation           # a search for each row of a study
python sweeps/finetune_lr.py --help
"""

import argparse
import contextlib
import importlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multimae.config import ConfigError, Transfer
from multimae.config.runtime import cpus
from multimae.config.settings import nearest, pairs, shown
from multimae.files import Locked, locked, user, write_atomic
from multimae.record.folder import make_runs
from multimae.redact import parse_arguments, redact
from multimae.search import (
    DIMENSIONS,
    Coordinator,
    Search,
    StorageLost,
    Trials,
    dimensions,
    display,
    make_search,
    storage_at,
)
from multimae.search.coordinator import Here
from multimae.search.report import found, report
from multimae.study import Evaluation, Row, Study, planning
from multimae.study.arguments import add_study_arguments
from multimae.study.display import print_plan, print_scripts
from multimae.study.local import Local, gpus
from multimae.study.planning import Plan
from multimae.tracking import tell
from slurm.jobs import Slurm
from slurm.submission.cluster import Cluster
from sweeps.command import SECONDS_BETWEEN_QUERIES, STOPPED, Invocation, carried_out
from sweeps.paper import ADE20K, CLASSIFY, HYPERSIM, LOSSES, NYUV2, NYUV2_DEPTH, transfers

MEASURES = {measure.stage: measure for measure in (CLASSIFY, ADE20K, HYPERSIM, NYUV2, NYUV2_DEPTH, *LOSSES)}
STUDIES = ("alpha_ablation", "modality_ablation", "nonmasked_baselines", "decoder_depth", "multimae_decoders")
ON_CLUSTER = 8  # trials at a time, unless it is said
EXAMPLES = """\
examples:
  python sweeps/finetune_lr.py --transfer segment --init run:SIGNATURE       24 trials, at most four side by side
  ... --search lr,layer_decay,drop_path                    more than the rate
  ... --range lr=1e-5:1e-2                                 from where to where (default: 30 times less and more)
  ... --trials 48                                          the same search goes on
  ... --set segment.epochs=10                              another transfer, and so another search
  ... --status                                             the trials, from any machine that sees the runs
  ... --cluster PROFILE --parallel 8                       trials are jobs; this waits for them, and may be killed
  python sweeps/finetune_lr.py --transfer segment --init official:NAME --weights NAME=FILE
  python sweeps/finetune_lr.py --transfer segment --study alpha_ablation --only alpha=1
What decides is measured on samples that no table shows. A trial is a run as any other, and is never done twice. Ctrl-C
stops (jobs of a cluster go on); the same command continues.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """0: all trials have ended, and the table's run too. 1: something failed. 2: the command was wrong. 130: stopped,
    and can continue."""
    args, given = parse_arguments(_parser(), argv)
    storage = args.storage or os.environ.get("OPTUNA_STORAGE")
    return carried_out("finetune_lr", lambda: SearchCommand(_study(args), args, storage).run(), storage, *given)


@dataclass
class OnCluster:
    """A cluster's jobs, which go on without this process."""

    cluster: Cluster

    def start(self, plan: Plan) -> None:
        for array in self.cluster.work(plan):
            print(f"submitted {array.stage}: {len(array.tasks)} jobs as {array.job}", flush=True)

    def stop(self, plan: Plan) -> None:
        planning.cancel(plan)

    def wait(self) -> bool:
        time.sleep(SECONDS_BETWEEN_QUERIES)
        return True


class SearchCommand(Invocation):
    def __init__(self, study: Study, args: argparse.Namespace, storage: str | None):
        _check_options(args)
        super().__init__(study, args)
        self.measure = _measure(study, args.transfer)
        chosen = [row for row in self.rows if args.transfer in row.stages]
        self.searches = [self.search(row) for row in chosen]
        several = f"{study.name}-{args.scale}-{args.transfer}"
        self.folder = args.runs / "searches" / (args.name or (several if study.tables else self.searches[0].name))
        self.storage = storage or f"sqlite:///{(self.folder / 'optuna.db').absolute()}"
        self.lost = False  # the storage, for now
        self.parallel = args.parallel or (ON_CLUSTER if self.profile else min(4, len(gpus()) or cpus()))

    def search(self, row: Row) -> Search:
        args, config = self.args, row.stages[self.args.transfer]
        assert isinstance(config, Transfer)
        searched = dimensions(config, args.search.split(","), pairs(args.range, "--range", "NAME=LOW:HIGH"))
        several = len(self.study.tables) > 0
        name = args.name and (f"{args.name} {row.name}" if several else args.name)
        return make_search(
            args.transfer,
            config,
            self.measure,
            searched,
            title=f"{row.name} {args.transfer}",
            name=name,
            prefix=f"{args.scale}-",
            split=args.validate,
            held_out=args.held_out,
            pruning=not args.no_pruning,
        )

    def run(self) -> int:
        args = self.args
        if args.status or args.report:
            return self.show()
        if args.cancel:
            return self.cancel()
        planned = planning.plan(self.wanted())
        self.check(planned)
        for line in [*self.notes(planned), *self.data_notes(planned)]:
            print(f"note: {line}", file=sys.stderr)
        if args.dry_run:
            return self.dry_run(planned)
        make_runs(args.runs)
        with self.alone():
            return self.coordinate()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the one coordinator of this search, on any machine that sees the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / ".coordinator"))
            except Locked as error:
                raise ConfigError(
                    f"{error.holder} coordinates this search; --status shows it, and Ctrl-C there stops it. If that "
                    f"machine is gone for good, remove {self.folder / '.coordinator'}"
                ) from None
            yield

    def wanted(self) -> planning.Wanted:
        """The first trial of each search, and the table's run: what can be told before anything begins."""
        rows = []
        for search in self.searches:
            rows.append(Row(f"{search.title}, a trial", {search.stage: search.base}))
            if search.table != search.base:
                rows.append(Row(f"{search.title}, the table's run", {search.stage: search.table}))
        study = Study(self.study.name, "The search for a learning rate", lambda scale: rows)
        return planning.Wanted(
            study, self.args.scale, tuple(rows), self.args.runs, scheduler=Slurm(), files=self.files, own=self.own
        )

    def check(self, planned: Plan) -> None:
        """Raises ConfigError where the transfers cannot start."""
        for entry in planned.entries.values():
            config, folder = entry.run.config, planned.wanted.folder
            if reason := planned.wanted.lacks(entry.run):
                raise ConfigError(f"{'--init' if config.lacks_weights(self.files) else '--data'}: {reason}")
            for needed in config.needs:
                if reason := planning.obstacle(needed, None, planned.wanted):
                    hint = f": {self.study.command} first" if self.study.tables else ""
                    raise ConfigError(f"--init: {reason}{hint}")
                config.check_needs({needed: folder(needed).config()})

    def coordinator(self, launcher, make: bool = True) -> Coordinator:
        storage, owner = storage_at(self.storage, make), self.owner(make)
        return Coordinator(
            [Trials(search, storage, make, owner) for search in self.searches],
            self.args.runs,
            self.args.scale,
            launcher,
            number=self.args.trials,
            parallel=self.parallel,
            scheduler=Slurm(),
            files=self.files,
        )

    def owner(self, make: bool) -> tuple[str, str]:
        """The id of this search's folder, by which it is known again wherever it is moved, and where it is: colleagues
        may share a storage, and search for the same."""
        file = self.folder / ".id"
        if make and not file.exists():
            write_atomic(file, uuid.uuid4().hex)
        id = file.read_text() if file.exists() else ""
        return id, f"{self.args.runs.absolute()} of {user()} on {socket.gethostname()}"

    # ---- carrying it out

    def coordinate(self) -> int:
        with self.launcher() as launcher:
            coordinator = self.coordinator(launcher)
            with self.followed(), display.following(coordinator, self.console) as show:
                goes_on = True
                while goes_on and self.looked(coordinator, show):
                    goes_on = launcher.wait()
        if not goes_on:
            print(STOPPED)
            return 130
        return self.finish(coordinator)

    def looked(self, coordinator: Coordinator, show: Callable[[], None]) -> bool:
        """Whether anything is left to wait for. A storage that is away for a while ends nothing."""
        try:
            waits = coordinator.look()
            show()
        except StorageLost as error:
            if not self.lost:
                said = redact(str(error), self.storage)
                self.console.print(f"{said}\nThe runs go on, and it is asked again.", highlight=False)
            self.lost = True
            return True
        if self.lost:
            self.console.print("The storage answers again.", highlight=False)
            self.lost = False
        return waits

    @contextlib.contextmanager
    def launcher(self) -> Iterator[Here | OnCluster]:
        if self.profile:
            yield OnCluster(self.cluster(self.profile))
            return
        local = Local(self.runtime, self.parallel)
        with local.at_work():
            yield Here(local)

    def cancel(self) -> int:
        coordinator = self.coordinator(None, make=False)
        with self.alone():
            stopped = [planning.cancel(plan) for plan in coordinator.under_way()]
        print(f"asked {sum(len(each.asked) for each in stopped)} runs to save and stop; the search goes on with them")
        for line in (line for each in stopped for line in each.left):
            print(f"{line}; it goes on", file=sys.stderr)
        return int(any(each.left for each in stopped))

    # ---- showing it

    def dry_run(self, planned: Plan) -> int:
        number, each = self.args.trials, len(self.searches)
        print_plan(self.console, planned, f"{number} trials of each, {self.parallel} at a time: {number * each} runs")
        for search in self.searches:
            space = ", ".join(f"{d.name} {d.low:.3g} to {d.high:.3g}{' (log)' * d.log}" for d in search.dimensions)
            print(f"{search.name}: {space}; {search.measure.metric} on {search.judged}")
        if self.profile:
            print_scripts(self.console, self.cluster(self.profile).scripts(planned))
        return 0

    def show(self) -> int:
        coordinator = self.coordinator(None, make=False)
        if self.args.report:
            return self.finish(coordinator)
        self.console.print(display.overview(coordinator, self.console))
        return 0

    def finish(self, coordinator: Coordinator) -> int:
        """Say what was found, and write it down as HTML."""
        code = 0
        for trials in coordinator.searches:
            notes = found(coordinator, trials)
            file = self.folder / ("report.html" if len(self.searches) == 1 else f"{trials.search.name}.html")
            write_atomic(file, report(trials, notes))
            print("\n".join([*notes, f"report: {file}", ""]))
            code |= trials.best is None
            if problem := self.tell(trials, notes, file):
                print(f"MLflow has not taken the report: {problem}", file=sys.stderr)
        return int(code)

    def tell(self, trials: Trials, notes: Sequence[str], file: Path) -> str:
        """Give MLflow the report, beside the trials; why it has not taken it, if so."""
        search, best = trials.search, trials.best
        found = {**best.params, search.measure.metric: best.value} if best else {}
        tags = {
            "stage": "search",
            "study": search.name,
            "scale": self.args.scale,
            "mlflow.note.content": "  \n".join(notes),
        }
        where = f"{search.name}/{self.args.scale}"
        tag = ("multimae.search", search.name)
        return tell(self.args.runs, where, tag, "search", metrics=found, tags=tags, files=[file])


def _study(args: argparse.Namespace) -> Study:
    """The study that is searched: a row of one stage, or those of `--study`."""
    if args.study:
        if args.study not in STUDIES:
            hint = nearest(args.study, list(STUDIES))
            raise ConfigError(f"--study: no study {shown(args.study)}{hint} There are {', '.join(STUDIES)}")
        return importlib.import_module(f"sweeps.{args.study}").study
    if args.transfer not in MEASURES:
        hint = nearest(args.transfer, list(MEASURES))
        raise ConfigError(f"--transfer: no transfer {shown(args.transfer)}{hint} There are {', '.join(MEASURES)}")
    measure = MEASURES[args.transfer]
    return Study("finetune_lr", "", lambda scale: [Row(args.init, transfers(scale, args.init, [measure]))])


def _measure(study: Study, stage: str) -> Evaluation:
    if not study.tables:
        return MEASURES[stage]
    found = {
        m.stage: m
        for table in study.tables
        for each in table.measures
        for m in each.measures
        if isinstance(m, Evaluation)
    }
    if stage not in found:
        hint = nearest(stage, list(found))
        raise ConfigError(
            f"--transfer: no column of {study.name} is of {shown(stage)}{hint} There are {', '.join(found)}"
        )
    return found[stage]


def _check_options(args: argparse.Namespace) -> None:
    if not args.study and not args.init:
        raise ConfigError(
            "--init: what does the transfer start from? run:SIGNATURE, official:NAME, timm:NAME or scratch"
        )
    if args.study and args.init:
        raise ConfigError("--study says what its rows start from, and --init another thing; give one of them")
    for option in ("trials", "parallel"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise ConfigError(f"--{option}: expected 1 or more, found {value}")
    if not 0 < args.held_out < 1:
        raise ConfigError(f"--held-out: expected a share between 0 and 1, found {args.held_out:g}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python sweeps/finetune_lr.py",
        description="Find the learning rate of a fine-tuning: trials are ordinary runs, Optuna proposes them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print what would be searched, and what a trial costs")
    what.add_argument("--status", action="store_true", help="print the trials")
    what.add_argument("--report", action="store_true", help="write the report of what has ended so far")
    what.add_argument("--cancel", action="store_true", help="stop the runs; the same command without it goes on")
    search = parser.add_argument_group("what is searched")
    search.add_argument("--transfer", required=True, metavar="STAGE", help=f"{', '.join(list(MEASURES)[:5])}, ...")
    search.add_argument("--init", metavar="WEIGHTS", help="run:SIGNATURE, official:NAME, timm:NAME.TAG or scratch")
    search.add_argument("--study", metavar="NAME", help=f"in place of --init: every row of one of {', '.join(STUDIES)}")
    search.add_argument("--trials", type=int, default=24, metavar="N", help="of each search (default: %(default)s)")
    search.add_argument(
        "--search", default="lr", metavar="NAMES", help=f"some of {','.join(DIMENSIONS)} (default: %(default)s)"
    )
    search.add_argument("--range", action="append", default=[], metavar="NAME=LOW:HIGH", help="from where to where")
    search.add_argument(
        "--validate", metavar="SPLIT", help="decide on this split (default: one the table does not show)"
    )
    search.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="of training, where there is none (%(default)s)"
    )
    search.add_argument("--no-pruning", action="store_true", help="let every trial train to its end")
    add_study_arguments(parser)
    how = parser.add_argument_group("how")
    how.add_argument("--cluster", nargs="?", const="", metavar="PROFILE", help="trials are jobs on the SLURM cluster")
    how.add_argument(
        "--parallel", type=int, metavar="N", help="trials at a time (default: as many as fit, at most 4; 8)"
    )
    how.add_argument(
        "--storage",
        metavar="URL",
        help="of Optuna (default: $OPTUNA_STORAGE, where a password belongs, else SQLite beside the runs)",
    )
    how.add_argument("--name", help="of the search (default: follows from the transfer)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
