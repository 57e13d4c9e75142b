"""What keeps trials and runs together: looks at both, tells what has ended, asks for more, and has it carried out.

Nothing is kept here: each look begins with what the storage and the run folders say. So a coordinator may be killed at
any moment, and started again on any machine that sees them.
"""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..config import Transfer
from ..record.folder import RunFolder
from ..record.state import UNDER_WAY
from ..study import Row, Study, planning
from ..study.local import TICK, Local
from ..study.planning import Entry, Plan, Wanted
from ..study.status import Scheduler
from .space import RUNGS, Search
from .trials import REASON, SIGNATURE, Trials

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

PRUNED = "pruned"  # how the reason of a run begins that was ended by its search
FINAL = "best"  # the row of the table's run
RETRIES = 2  # of a trial that failed or died, without a checkpoint in between


class Launcher(Protocol):
    """What carries out runs: this machine or a cluster."""

    def start(self, plan: Plan) -> None:
        """Have done what the plan says is to be done."""

    def stop(self, plan: Plan) -> None:
        """End what the plan has under way, for good or until somebody starts it again."""

    def wait(self) -> bool:
        """A moment. False: the user wants to stop."""


class Here:
    """The processes of this machine. Within `local.at_work()`."""

    def __init__(self, local: Local):
        self.local = local

    def start(self, plan: Plan) -> None:
        for _ in self.local.add(plan):
            pass

    def stop(self, plan: Plan) -> None:
        for signature in plan.entries:
            self.local.stop(signature)

    def wait(self) -> bool:
        if self.local.busy:
            for _ in self.local.look():
                pass
        else:
            time.sleep(TICK)
        return not self.local.stops


@dataclass(frozen=True)
class Seen:
    """A trial, and what its run does."""

    trial: "FrozenTrial"
    entry: Entry

    @classmethod
    def of(cls, trial: "FrozenTrial", plan: Plan) -> "Seen":
        return cls(trial, plan.entries[trial.user_attrs[SIGNATURE]])


class Coordinator:
    """Of one search or several, which share `parallel` runs at a time. `number`: trials of each."""

    def __init__(
        self,
        searches: Sequence[Trials],
        runs: Path,
        scale: str,
        launcher: Launcher,
        *,
        number: int,
        parallel: int,
        scheduler: Scheduler | None = None,
        files: Collection[str] = (),
        retries: int = RETRIES,
    ):
        self.searches, self.runs, self.scale, self.launcher = searches, runs, scale, launcher
        self.number, self.parallel, self.retries = number, parallel, retries
        self.scheduler, self.files = scheduler, files
        self._settled: set[tuple[str, int]] = set()  # pruned trials whose runs are known to have ended

    def look(self) -> bool:
        """Do what is to be done now; whether anything is left to wait for. May be repeated after any error."""
        plans = {t.search.name: self._plan(t.search, self._at_work(t)) for t in self.searches}
        for trials in self.searches:
            for trial in trials.of("RUNNING"):
                self._ended(trials, Seen.of(trial, plans[trials.search.name]))
            self._settle(trials)
        free = self.parallel - sum(len(trials.of("RUNNING")) for trials in self.searches)
        for _ in range(free):
            short = [t for t in self.searches if len(t.all()) < self.number]
            if not short:
                break
            min(short, key=lambda t: len(t.all())).ask()
        waits = [self._start(trials, plans[trials.search.name]) for trials in self.searches]
        return any(waits)

    def rows(self, search: Search, trials: "Iterable[FrozenTrial]") -> list[Row]:
        return [Row(f"trial {trial.number}", {search.stage: search.trial(trial.params)}) for trial in trials]

    def seen(self, search: Search, trials: "Sequence[FrozenTrial]") -> list[Seen]:
        """What the runs of trials do. Nothing is done about it."""
        plan = self._plan(search, self.rows(search, trials))
        return [Seen.of(trial, plan) for trial in trials]

    def final(self, trials: Trials) -> Transfer | None:
        """The table's run with what was found, once all trials have ended."""
        ended = len(trials.of("COMPLETE", "PRUNED", "FAIL")) >= self.number
        return trials.search.final(trials.best.params) if ended and trials.best else None

    def result(self, trials: Trials, config: Transfer) -> str:
        """What the table's run has measured, for a reader."""
        folder = RunFolder.of(self.runs, config.signature)
        seen = planning.plan(self._wanted(trials.search, self._final(trials))).entries[config.signature].status
        if seen.state != "done":
            return f"{seen.state} {seen.reason}".strip()
        data = config.data
        found = replace(trials.search.measure, split=None).measured(config, folder)
        return f"{trials.search.measure.metric} {found.value:.4g} on '{data.eval_split}' of {data.name}"

    def under_way(self) -> list[Plan]:
        """What runs or is queued, of each search."""
        found = []
        for trials in self.searches:
            rows = [*self.rows(trials.search, trials.all()), *self._final(trials)]
            found.append(planning.status(self._wanted(trials.search, rows)))
        return found

    def _at_work(self, trials: Trials) -> list[Row]:
        """The rows of what is to be carried out now."""
        return [*self.rows(trials.search, trials.of("RUNNING")), *self._final(trials)]

    def _plan(self, search: Search, rows: Sequence[Row]) -> Plan:
        return planning.plan(self._wanted(search, rows), retry_failed=True)

    def _wanted(self, search: Search, rows: Sequence[Row]) -> Wanted:
        study = Study(search.name, search.title, lambda _: rows)
        return Wanted(study, self.scale, tuple(rows), self.runs, scheduler=self.scheduler, files=self.files)

    # ---- trials that run

    def _ended(self, trials: Trials, seen: Seen) -> None:
        """Tell what has ended."""
        search, trial, entry = trials.search, seen.trial, seen.entry
        status, folder = entry.status, entry.folder
        if search.pruning:
            for share, value in reached(search, folder).items():
                if trials.report(trial, share, value):
                    trials.prune(trial, f"{PRUNED} after {share:.0%} of its training: not in the better half")
                    return
        if status.state == "done":
            value = search.measure.measured(search.trial(trial.params), folder).value
            trials.tell(trial, value if math.isfinite(value) else search.worst)
        elif status.state == "failed" and diverged(folder):
            trials.tell(trial, search.worst, status.in_full)
        elif status.state in ("refused", "blocked"):
            trials.fail(trial, status.in_full)
        elif status.state in ("failed", "dead") and (times := failures(folder)) > self.retries:
            trials.fail(trial, f"{status.state} {times} times without a checkpoint: {status.in_full}")

    def _settle(self, trials: Trials) -> None:
        """End the runs of pruned trials, and have their folders say why."""
        search = trials.search
        at_work = {t.user_attrs[SIGNATURE] for t in trials.of("RUNNING")}  # which a rounded parameter may share
        pruned = [
            trial
            for trial in trials.of("PRUNED")
            if (search.name, trial.number) not in self._settled and trial.user_attrs[SIGNATURE] not in at_work
        ]
        for seen in self.seen(search, pruned):
            entry, status = seen.entry, seen.entry.status
            if status.under_way:
                plan = planning.status(self._wanted(search, self.rows(search, [seen.trial])))
                self.launcher.stop(plan)
                continue
            self._settled.add((search.name, seen.trial.number))
            if status.state in ("interrupted", "dead") and not status.reason.startswith(PRUNED):
                why = seen.trial.user_attrs.get(REASON, PRUNED)
                entry.folder.jobs.write("ended", state="interrupted", reason=f"{why} (search {search.name})")

    # ---- runs

    def _start(self, trials: Trials, seen: Plan) -> bool:
        """Have carried out what is to be; whether any is on its way. `seen`: the plan of those that were before."""
        search, entries = trials.search, dict(seen.entries)
        rows = self._at_work(trials)
        if new := [row for row in rows if row.stages[search.stage].signature not in entries]:
            entries |= self._plan(search, new).entries
        runs = {row.stages[search.stage].signature: row for row in rows}
        runs = {signature: row for signature, row in runs.items() if not self._given_up(entries[signature])}
        chosen = {signature: entries[signature] for signature in runs}
        plan = replace(seen, wanted=self._wanted(search, list(runs.values())), entries=chosen)
        if plan.todo:
            self.launcher.start(plan)
        return bool(trials.of("RUNNING") or plan.todo) or plan.count(*UNDER_WAY, "unknown") > 0

    def _given_up(self, entry: Entry) -> bool:
        """Of the table's run; a trial that cannot go on is told as failed before."""
        gone = entry.status.state in ("failed", "dead")
        return gone and (diverged(entry.folder) or failures(entry.folder) > self.retries)

    def _final(self, trials: Trials) -> list[Row]:
        config = self.final(trials)
        return [Row(FINAL, {trials.search.stage: config})] if config else []


def reached(search: Search, folder: RunFolder) -> Mapping[float, float]:
    """{share of the training: what a run had reached by then}, of the rungs that it has come to."""
    found: dict[float, float] = {}
    on, epochs = search.measure.split, search.base.epochs
    for record in folder.journal.records("eval"):
        share = record.get("epoch", 0) / epochs
        for rung in RUNGS:
            if record["split"] == on and rung - 1e-6 <= share < 1 - 1e-6 and search.measure.metric in record["metrics"]:
                value = float(record["metrics"][search.measure.metric])
                found.setdefault(rung, value if math.isfinite(value) else search.worst)
    return found


def diverged(folder: RunFolder) -> bool:
    """Whether it failed last of what another try would repeat."""
    return bool((folder.journal.last("failed") or {}).get("diverged"))


def failures(folder: RunFolder) -> int:
    """How often a run failed or died since it last saved."""
    saved = (folder.journal.last("checkpoint") or {"time": 0.0})["time"]
    ends = [*folder.journal.records("failed"), *(r for r in folder.jobs.records("ended") if r["state"] != "missing")]
    return sum(end["time"] > saved and end.get("state") != "interrupted" for end in ends)
