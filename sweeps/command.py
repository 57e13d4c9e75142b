"""The command line of every study: `sys.exit(main(study))` in a file of sweeps/."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from analysis.paper import check_tables
from multimae.config import ConfigError
from multimae.config.runtime import cpus
from multimae.record.folder import RunLocked, make_runs
from multimae.record.state import UNDER_WAY
from multimae.redact import parse_arguments, redact
from multimae.study import Row, Study, named, only, planning, runs_of, stages_of, twins
from multimae.study import data as study_data
from multimae.study.arguments import all_rows, runtime_from, study_words, variant
from multimae.study.cost import Estimate, disk_text, parts_text
from multimae.study.display import Progress, print_plan, print_scripts, print_status, watching
from multimae.study.feeding import Feed, feeding
from multimae.study.local import Local, gpus
from multimae.study.outline import write_outlines
from multimae.study.results import Results
from multimae.tracking import following, mend
from multimae.units import counted
from slurm import scheduler
from slurm.jobs import Slurm
from slurm.profile import Profile, load_profile
from slurm.submission.arrays import stage_of
from slurm.submission.cluster import Cluster

from .options import check_options, parser_of

SLOW = (
    "note: no GPU here, and {runs} runs compute in bf16, many times slower than fp32 on most CPUs; "
    "--set STAGE.precision=fp32, or --scale smoke, is for CPUs"
)
OTHER_CODE = (
    "note: {script} is run with the packages in {used}, not with those beside it; to use those: "
    "python -m pip install -e {beside}"
)
STOPPED = "Stopped. Everything is kept; to continue, give the same command again."
SECONDS_BETWEEN_LOOKS = 2.0  # of --watch; a scheduler serves many, and is asked less often:
SECONDS_BETWEEN_QUERIES = 10.0


def main(study: Study, argv: Sequence[str] | None = None) -> int:
    """0: all is done, or on its way. 1: something failed. 2: the command was wrong. 130: stopped, and can continue."""
    script, used = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parents[1]
    beside = script.parent.parent
    if beside != used and (beside / "sweeps" / "command.py").exists():
        print(OTHER_CODE.format(script=script, used=used, beside=beside), file=sys.stderr)
    args, given = parse_arguments(parser_of(study), argv)
    return carried_out(study.name, lambda: Command(study, args).run(), *given)


def carried_out(name: str, command: Callable[[], int], *addresses: str | None) -> int:
    """The exit code of a command; what it refuses is told in a line, without the secrets of these addresses."""
    try:
        return command()
    except (ConfigError, RunLocked, scheduler.Unreachable) as error:
        print(f"{name}: {redact('; '.join(str(error).splitlines()), *addresses)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{STOPPED}")
        return 130


class Invocation:
    """What a command line says of a study: its rows, and where and how they run."""

    def __init__(self, study: Study, args: argparse.Namespace):
        self.profile: Profile | None = None
        if args.cluster is not None:
            self.profile = load_profile(args.cluster or None)
            with suppress(ConfigError) if args.dry_run else nullcontext():  # a plan can be shown anywhere
                self.profile.use_cluster()
        if args.scale is None:
            args.scale = self.profile.scale if self.profile else "smoke"
        if args.runs is None:
            args.runs = (self.profile and self.profile.runs) or Path("runs")
        if args.runs.exists() and not args.runs.is_dir():
            raise ConfigError(f"--runs: {args.runs} is a file; choose a folder")
        self.runtime = runtime_from(args)
        if self.profile:
            self.profile.runtime("", runs=args.runs)  # which knows what folders a job can be given
        self.study, self.args = study, args
        self.everything = all_rows(study, args)
        self.rows = only(self.everything, args.only)
        self.own = study_data.own_folder(args.data)
        self.files = {**(self.profile.weights if self.profile else {}), **self.runtime.weights}
        self.console = Console() if sys.stdout.isatty() else Console(width=120)

    def notes(self, planned: planning.Plan) -> list[str]:
        """What to tell of the rows before anything begins. Raises ConfigError for what cannot work."""
        notes = self.profile.check_stages(stages_of(self.everything), self.study.name) if self.profile else []
        for entry in planned.todo:
            _, stage = entry.run.cells[0]
            try:
                config = entry.run.config
                runtime = self.profile.runtime(config.task, stage) if self.profile else self.runtime
                runtime.check_size(config)
            except ConfigError as error:
                raise ConfigError(f"{stage}: {error}") from None
            notes += [f"{stage}: {note}" for note in config.notes()]
        told = [line for _, rows in self.study.of_parts(self.everything) for line in twins(rows)]
        lacks: dict[str, list[str]] = {}
        for entry in planned.entries.values():
            lacks.setdefault(planned.wanted.lacks(entry.run), []).append(entry.run.label)
        for lack, labels in lacks.items():
            told += [f"{labels[0]}{f' and {len(labels) - 1} more' * (len(labels) > 1)}: {lack}"] if lack else []
        return [*told, *dict.fromkeys(notes)]

    def data_notes(self, planned: planning.Plan) -> list[str]:
        """What cannot be told from here. Raises ConfigError for data and weights that cannot be what the runs read."""
        roots, told = self.runtime.data_roots, list[str]()
        everywhere = {**(self.profile.data_roots if self.profile else {}), **roots}
        if self.own:
            study_data.check_sizes(self.own, ((stage_of(entry), entry.run) for entry in planned.todo))
            for stage, config in stages_of(self.everything).items():
                if lack := study_data.lacks_truth(self.own, config):
                    told.append(f"{stage}: {self.own} has no {lack} to learn from, so it stays on {config.data.name}")
        study_data.other_settings(planned, everywhere)
        notes = study_data.other_data(planned, roots)
        study_data.other_weights(planned, self.files)
        unknown = study_data.unknown_data(planned, everywhere)
        absent = study_data.absent_data(planned, everywhere)
        notes += study_data.assumed_sizes(planned) if self.args.dry_run else []
        wrong = unknown + ([] if self.profile else absent)  # the nodes of a cluster may have what is not here
        if wrong and not self.args.dry_run:
            raise ConfigError("; ".join(wrong))
        return [*told, *notes, *unknown, *absent]

    def cluster(self, profile: Profile) -> Cluster:
        return Cluster(profile, self.args.runs, self.runtime.data_roots, self.runtime.weights)

    def followed(self) -> AbstractContextManager[None]:
        """MLflow is kept up to date meanwhile, where these runs may be written."""
        return following(self.args.runs) if os.access(self.args.runs, os.W_OK) else nullcontext()


class Command(Invocation):
    """What one command line asks of a study."""

    def __init__(self, study: Study, args: argparse.Namespace):
        check_options(args)
        super().__init__(study, args)
        self.wanted = planning.Wanted(
            study, args.scale, self.rows, args.runs, variant(args), Slurm(), self.everything, self.files, self.own
        )
        runs = runs_of(self.rows, self.everything).values()
        side = 1 if all(run.alone for run in runs) else args.jobs or min(4, len(gpus()) or cpus())
        self.slots = min(side, len(runs))

    def run(self) -> int:
        args = self.args
        if args.status:
            return self.status()
        if args.cancel_removed:
            return self.cancel_removed()
        for part, rows in self.study.of_parts(self.everything):
            check_tables(part, rows)
        if args.table:
            return self.table()
        if args.register is not None:
            return self.register()
        if not (args.dry_run or args.cancel):
            make_runs(args.runs)
        planned = planning.plan(self.wanted, args.retry_failed, frozenset(named(self.rows, args.redo)))
        if args.cancel:
            return self.cancel(planned)
        for line in [*self.notes(planned), *self.data_notes(planned)]:
            print(f"note: {line}", file=sys.stderr)
        if not args.dry_run:
            planning.tidy(planned)
            write_outlines(args.runs, args.scale, self.study, self.everything)
        if self.profile:
            return self.on_cluster(planned, self.profile)
        return self.here(planned)

    # ---- reading, and stopping

    def status(self) -> int:
        if not self.args.watch:
            seen = planning.status(self.wanted)
            print_status(self.console, seen, self.removed())
            self.mend(seen)
            return 0
        with self.followed(), suppress(KeyboardInterrupt), watching(self.console) as show:
            while True:
                seen = planning.status(self.wanted)
                show(seen, self.removed())
                planning.mend(seen)
                states = [entry.status for entry in seen.entries.values()]
                if not any(status.under_way for status in states):
                    break
                time.sleep(SECONDS_BETWEEN_QUERIES if any(s.job for s in states) else SECONDS_BETWEEN_LOOKS)
        return 0

    def mend(self, seen: planning.Plan) -> None:
        """What is said here, the runs' files and MLflow say too, once somebody has looked."""
        if not os.access(self.args.runs, os.W_OK):
            return
        planning.mend(seen)
        settled = ("done", "failed", "dead", "interrupted", "running")  # of a queue MLflow has no word
        states = {s: entry.status.state for s, entry in seen.entries.items() if entry.status.state in settled}
        if report := mend(self.args.runs, states):
            print(f"\nMLflow had another state of {report.runs} runs; {report}")

    def removed(self) -> list[planning.Extra]:
        return planning.extras(self.wanted, list(runs_of(self.everything)))

    def cancel(self, planned: planning.Plan) -> int:
        others = runs_of([row for row in self.everything if row not in self.rows], self.everything)
        mine = {signature: entry for signature, entry in planned.entries.items() if signature not in others}
        kept = [e for s, e in planned.entries.items() if s in others and e.status.under_way]
        if kept:
            print(f"note: {len(kept)} runs go on, because rows that --only leaves out use them too", file=sys.stderr)
        stopped = planning.cancel(replace(planned, entries=mine))
        unknown = planned.count("unknown")
        code = _tell(stopped, "" if unknown else "nothing of this study runs or is queued")
        if unknown:
            print(f"{unknown} runs were left alone: what they do is not known (--status says why)", file=sys.stderr)
        return int(unknown > 0) or code

    def cancel_removed(self) -> int:
        stopped = planning.cancel_removed(self.removed(), self.wanted)
        return _tell(stopped, "no run that left this study is under way")

    # ---- on a cluster

    def on_cluster(self, planned: planning.Plan, profile: Profile) -> int:
        """Submit what is missing, say what is, and return; the table once all is done."""
        args = self.args
        cluster = self.cluster(profile)
        if args.dry_run:
            for note in cluster.check(planned):
                print(f"note: {note}", file=sys.stderr)
            print_plan(self.console, planned, cluster.estimate(planned) + self.parts())
            print_scripts(self.console, cluster.scripts(planned))
            return 0
        submitted = False
        for array in cluster.work(planned):
            submitted = True
            after = f", {array.dependency}" if array.dependency else ""
            print(f"submitted {array.stage}: {len(array.tasks)} jobs as {array.job}{after}", flush=True)
        seen = planning.status(self.wanted)
        lacking = len(seen.lacking())
        if 0 < seen.count("done") == len(seen.entries) - lacking:
            self.console.print(
                "Everything is done already" + (", but for what lacks weights or data." if lacking else ".")
            )
            with self.followed():
                return self.table()
        print_status(self.console, seen, self.removed())
        again = self.again()
        if not submitted:
            print("Nothing to submit.")
        print(f"Follow with: {again} --status --watch")
        if seen.count("failed"):
            print(f"Once mended, what failed continues from its last checkpoint with: {again} --retry-failed")
        return int(seen.count("failed", "refused", "blocked") > lacking)

    def again(self) -> str:
        """The command that sees the same rows: without an edit or --only, --retry-failed would run another study."""
        words = [*self.study.command.split(), "--cluster", *filter(None, [self.args.cluster])]
        usual = {"--scale": self.profile.scale, "--runs": str(self.profile.runs or "runs")}
        said = study_words(self.args)
        edits = [(option, value) for option, value in zip(said[::2], said[1::2]) if usual.get(option) != value]
        return shlex.join([*words, *(word for edit in edits for word in edit)])

    # ---- on this machine

    def here(self, planned: planning.Plan) -> int:
        """Run what is missing, then print the table."""
        if planned.todo and not gpus():
            slow = sum(entry.run.config.precision == "bf16" for entry in planned.todo)
            if slow:
                print(SLOW.format(runs=slow), file=sys.stderr)
        if self.args.dry_run:
            configs = [entry.run.config for entry in planned.todo]
            for note in self.feeding(planned):
                print(f"note: {note}", file=sys.stderr)
            cost = Estimate.of([entry.run for entry in planned.todo]).text(self.slots, "GPU" if gpus() else "core")
            cost += f"\n{disk_text(configs, self.slots)}" if configs else ""
            print_plan(self.console, planned, cost + self.parts())
            return 0
        backend, progress = Local(self.runtime, self.slots), Progress(self.console, planned, self.slots)
        if planned.todo or planned.count(*UNDER_WAY):
            with self.followed(), progress:
                for event in backend.work(planned):
                    progress.update(event)
        if backend.stops:
            print(STOPPED)
            return 130
        code = progress.report()
        return self.table() or code

    def feeding(self, planned: planning.Plan) -> list[str]:
        """What to tell of this machine's cores and GPUs, of which each run has one."""
        roots, cores = self.runtime.data_roots, cpus() // self.slots
        entries = [(entry.run.cells[0][1], entry.run.config) for entry in planned.todo] if gpus() else []
        feeds = [Feed.of(f"stage {s}", c, roots.get(c.data.name), cores, 1, self.runtime) for s, c in entries]
        return feeding(feeds, f"{{}} cores a run feed it; here {counted(self.slots, 'run')} (--jobs) share {cpus()}")

    def parts(self) -> str:
        return f"\n{parts_text(self.study, self.everything)}" if self.study.parts else ""

    def register(self) -> int:
        from .register import register_best  # pandas takes half a second

        uri = self.profile.tracking_uri if self.profile else None
        results = self.results([self.everything])
        print(register_best(self.study, self.args.scale, self.args.register, results, self.rows, uri))
        return 0

    def results(self, trials: Sequence[Sequence[Row]]) -> Results:
        """What these rows, of each seed all of the study's, have recorded."""
        from analysis import tables

        if not self.args.runs.exists():
            raise ConfigError(
                f"--runs: {self.args.runs} is not there; give the folder that has the runs, or train first"
            )
        return tables.read(self.args.runs, *trials, files=self.files, own=self.own)

    def table(self) -> int:
        """The study's tables, the paper's numbers beside what was measured here."""
        from analysis import tables  # pandas takes half a second

        seeds = self.args.seeds or [self.args.seed]
        trials = [all_rows(self.study, argparse.Namespace(**vars(self.args) | {"seed": seed})) for seed in seeds]
        results = self.results(trials)
        form = self.args.format or "text"
        on_terminal = form == "text" and self.console.is_terminal
        screen = {"width": self.console.width, "colours": True} if on_terminal else {}
        code = 0
        above = ""
        for part, rows in self.study.of_parts(self.rows):
            its = results.among([dict(self.study.of_parts(trial))[part] for trial in trials])
            for table in part.tables if rows else ():
                try:
                    frame = tables.build(table, self.args.scale, its, [row.name for row in rows])
                    print(above + tables.show(table, frame, form, **screen))
                except tables.Incomparable as error:
                    print(error, file=sys.stderr)
                    code = 2
                above = "\n"
        return code


def _tell(stopped: planning.Stopped, nothing: str) -> int:
    """Say what was stopped, and what was not; the exit code. `nothing`: where there was nothing to stop."""
    if stopped.asked:
        print(f"asked {len(stopped.asked)} runs to save and stop")
    elif nothing and not stopped.left:
        print(nothing)
    for line in stopped.left:
        print(f"{line}; it goes on", file=sys.stderr)
    return int(bool(stopped.left))
