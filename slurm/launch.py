"""Launching is reconciling: the study says what should exist, the run folders say what does; the difference is run.

`plan` compares, `apply` runs what is missing through a back end, `status` reads, `cancel` stops. Whatever is done
costs nothing; what runs, or waits in somebody's queue, is left to them.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from multimae.config import SCENES, ConfigError
from multimae.engine.folder import FolderError, RunFolder, RunLocked, usable
from multimae.engine.heartbeat import alive
from multimae.listing import differing, lacking

from . import scheduler
from .state import Status, read, read_all
from .study import Row, Run, Study, runs_of

MOST_TOLD = 5  # runs that a message lists
ACTIONS = {"missing": "run", "interrupted": "resume", "dead": "resume"}


@dataclass(frozen=True)
class Entry:
    """A run, what it is doing, and what `apply` does about it: `run`, `resume`, `retry` or nothing."""

    run: Run
    folder: RunFolder
    status: Status
    action: str | None = None


@dataclass(frozen=True)
class Extra:
    """A run that was submitted for a study which no longer has it."""

    signature: str
    row: str
    stage: str
    status: Status


@dataclass(frozen=True)
class Plan:
    study: Study
    scale: str
    rows: tuple[Row, ...]
    entries: dict[str, Entry]  # by signature, those that others need first
    runs: Path  # the folder of run folders
    retry_failed: bool = False
    variant: str = ""  # the edits that make these rows others than the study's

    @property
    def todo(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.action]

    def count(self, *states: str) -> int:
        return sum(entry.status.state in states for entry in self.entries.values())


@dataclass(frozen=True)
class Event:
    """Something that happened to a run while a study was applied."""

    entry: Entry
    kind: str  # submitted | started | ended | blocked | elsewhere (another launcher has it) | asked (to stop)
    status: Status


class Backend(Protocol):
    """Where jobs run. `work` may end at once (a scheduler has them) or when all of them did (local processes)."""

    def work(self, plan: Plan) -> Iterator[Event | None]:
        """`submit` and run the plan's entries; yields None about twice a second, so that a display can follow."""


def plan(
    study: Study, scale: str, rows: tuple[Row, ...], runs: Path, retry_failed: bool = False, variant: str = ""
) -> Plan:
    """What is, and what `apply` would do. Reads only, and asks the scheduler at most once."""
    wanted = runs_of(rows)
    configs = {signature: run.config for signature, run in wanted.items()}
    statuses = read_all([RunFolder.of(runs, signature) for signature in wanted], configs)
    entries: dict[str, Entry] = {}
    for signature, run in wanted.items():
        status, needed = statuses[signature], entries.get(run.needs or "")
        action = _action(status, needed, retry_failed)
        if action and (reason := _obstacle(run, entries, runs)):
            status, action = replace(status, state="blocked", reason=reason), None
        entries[signature] = Entry(run, RunFolder.of(runs, signature), status, action)
    return Plan(study, scale, rows, entries, Path(runs), retry_failed, variant)


def replan(seen: Plan) -> Plan:
    """The same plan as things are now."""
    return plan(seen.study, seen.scale, seen.rows, seen.runs, seen.retry_failed, seen.variant)


def _action(status: Status, needed: Entry | None, retry_failed: bool) -> str | None:
    # A job that waits in a scheduler's queue for one that ended badly would wait for ever.
    orphaned = status.state in ("pending", "waiting") and needed is not None and needed.action is not None
    if status.job and (status.state == "blocked" or orphaned):
        return "run"
    if status.state == "failed" and retry_failed:
        return "retry"
    return ACTIONS.get(status.state)


def status(study: Study, scale: str, rows: tuple[Row, ...], runs: Path) -> Plan:
    """What is, and nothing that would be done."""
    seen = plan(study, scale, rows, runs)
    entries = {
        signature: replace(entry, action=None, status=_awaiting(entry, seen))
        for signature, entry in seen.entries.items()
    }
    return replace(seen, entries=entries)


def apply(plan: Plan, backend: Backend) -> Iterator[Event | None]:
    """Run what the plan says is missing. Nothing is touched where there is nothing to do.

    Raises ConfigError for a run that a colleague began and does not share.
    """
    for entry in plan.todo:
        entry.folder.check_shared()
    yield from backend.work(plan)


def tidy(plan: Plan) -> None:
    """Remove the checkpoints of runs that are done, and were killed just before they could do so themselves."""
    for entry in plan.entries.values():
        if entry.status.state == "done" and entry.folder.checkpoints.exists():
            with contextlib.suppress(RunLocked, FolderError), entry.folder.claim():  # somebody else's, maybe
                entry.folder.drop_checkpoints()


def submit(entry: Entry, plan: Plan, job: str, **where: str) -> None:
    """Write down who has this run in a queue (`job`), and for what. Raises FolderError."""
    entry.folder.create(entry.run.config)
    for row, stage in entry.run.cells:
        what = {"study": plan.study.name, "row": row, "stage": stage, "scale": plan.scale, "variant": plan.variant}
        who = {"user": scheduler.user(), "host": socket.gethostname()}
        with usable(entry.folder.path):
            entry.folder.jobs.write("submitted", job=job, **who, **where, **what)


@dataclass(frozen=True)
class Stopped:
    asked: list[str]  # runs that save and stop, by label
    left: list[str]  # why another one goes on, and who can stop it


def cancel(plan: Plan) -> Stopped:
    """Stop what a plan has under way. Raises scheduler.Unreachable.

    Processes of this machine save first; jobs of a scheduler are cancelled, by one command.
    """
    return _stop({entry.run.label: (entry.folder, entry.status) for entry in plan.entries.values()})


def cancel_removed(extras: Iterable[Extra], runs: Path) -> Stopped:
    """`cancel` for runs that the study no longer has."""
    return _stop({f"{e.row} {e.stage} ({e.signature})": (RunFolder.of(runs, e.signature), e.status) for e in extras})


def _stop(runs: Mapping[str, tuple[RunFolder, Status]]) -> Stopped:
    stopped = Stopped([], [])
    jobs = {}
    for label, (folder, status) in runs.items():
        if status.job and (status.under_way or status.state == "blocked"):
            jobs[status.job] = (label, folder)
        elif status.state == "running":
            _stop_process(label, status.heartbeat, stopped)
    try:
        scheduler.cancel(jobs)
        others = set()
    except scheduler.NotYours as error:
        others = error.jobs
    for job, (label, folder) in jobs.items():
        if job in others:
            who = (folder.jobs.last("submitted") or {}).get("user", "another user")
            stopped.left.append(f"{label} is job {job} of {who}, who alone may cancel it")
        else:
            # Where the site hides one user's jobs from another, the others would not learn of it.
            state, reason = "interrupted" if folder.journal.path.exists() else "missing", "its job was cancelled"
            folder.jobs.write("ended", job=f"slurm:{job}", state=state, reason=f"{reason} by {scheduler.user()}")
            stopped.asked.append(label)
    return stopped


def _stop_process(label: str, beat: Mapping[str, Any], stopped: Stopped) -> None:
    try:
        lives = alive(beat["pid"], beat["host"], beat["time"])
        if lives:
            os.kill(beat["pid"], signal.SIGTERM)
            stopped.asked.append(label)
        elif lives is None:
            stopped.left.append(f"{label} is process {beat['pid']} on {beat['host']}: give the command there")
    except PermissionError:
        stopped.left.append(f"{label} is process {beat['pid']} of another user here, who alone may stop it")


def extras(study: Study, scale: str, runs: Path, signatures: Sequence[str], variant: str = "") -> list[Extra]:
    """Runs that were submitted for this variant of a study at this scale and are none of `signatures`."""
    found = {}
    for folder in RunFolder.all(runs):
        if folder.signature in signatures:
            continue
        try:
            last = folder.jobs.last("submitted")
        except FolderError:  # whose it is cannot be told
            continue
        if last and (last.get("study"), last.get("scale"), last.get("variant", "")) == (study.name, scale, variant):
            found[folder] = last
    statuses = read_all(list(found))
    return [
        Extra(f.signature, last.get("row") or "?", last.get("stage") or "?", statuses[f.signature])
        for f, last in found.items()
    ]


def other_data(plan: Plan, roots: Mapping[str, Path]) -> list[str]:
    """Raises ConfigError for runs that learnt from other samples than those in the folder that is given now under the
    same name. Returns what to tell where that cannot be said from here.

    The same path says nothing: files in it may have changed. So this lists every folder, and asks for the size of every
    file, once in a process for each set of fields that runs read: seconds for a million files on a local disk, minutes
    on a slow network file system.
    """
    told, wrong = {}, {}
    for entry in plan.entries.values():
        data = entry.run.config.data
        if entry.status.state == "refused":
            continue
        begun = next((record for _, record in entry.folder.journal.read() if record["kind"] in ("data", "train")), {})
        before = begun.get("root")
        if data.name not in roots or before is None:
            continue
        now = roots[data.name]
        absent = lacking(now)
        if absent and _same_place(before, now):  # its data were cleared away
            continue
        try:
            differ = None if absent else differing(begun, now, data)
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"{entry.run.label} learnt from what was {before}, and {now} is not that now: {error}"
            ) from None
        if differ is None:
            told[before] = (
                f"{entry.run.label} learnt from {before}, and --data is {now} now. Whether it holds the same cannot be "
                "said from here; if it does not, rename the folder"
            )
        elif differ:
            wrong[entry.run.label] = f"{entry.folder.signature}: {' and '.join(differ)} samples from {before}"
    if wrong:
        lines = "; ".join(f"{label} (run {what})" for label, what in list(wrong.items())[:MOST_TOLD])
        raise ConfigError(
            f"--data: {len(wrong)} runs learnt from other images than those in {now}: {lines}. Rename this folder, so "
            "that its runs are others; or remove the folders of those runs"
        )
    return list(told.values())


def unknown_data(plan: Plan, roots: Mapping[str, Path]) -> list[str]:
    """What to tell of data that are still to be read and for which no folder is given."""
    return [f"no folder is known for '{n}'; give it with --data {n}=DIR" for n in _read(plan) if n not in roots]


def absent_data(plan: Plan, roots: Mapping[str, Path]) -> list[str]:
    """What to tell of folders that are still to be read and are not on this machine."""
    lacks = {name: lacking(Path(roots[name])) for name in _read(plan) if name in roots}
    return [f"--data {name}={roots[name]}: the folder {lack}" for name, lack in lacks.items() if lack]


def _read(plan: Plan) -> list[str]:
    return [name for name in dict.fromkeys(e.run.config.data.name for e in plan.todo) if name != SCENES]


def _same_place(before: str, now: Path) -> bool:
    return os.path.realpath(before) == os.path.realpath(now)


def obstacle(needed: str, entry: Entry | None, runs: Path) -> str | None:
    """Why a run that needs `needed` cannot start now or later; None if it can."""
    status = entry.status if entry else read(RunFolder.of(runs, needed))
    if entry and (entry.action or status.under_way):
        return None
    if status.state == "done":
        return RunFolder.of(runs, needed).weights_problem
    if entry:
        return f"{entry.run.label} {status.state}"
    why = f": {status.reason}" if status.state == "refused" else ", which is not done, and none of these rows makes it"
    return f"needs {needed}{why}"


def _obstacle(run: Run, entries: dict[str, Entry], runs: Path) -> str | None:
    return obstacle(run.needs, entries.get(run.needs), runs) if run.needs else None


def _awaiting(entry: Entry, seen: Plan) -> Status:
    """Of a run that has not begun: the run it waits for, by name."""
    needed = seen.entries.get(entry.run.needs or "")
    if entry.status.state == "waiting" and needed:
        return replace(entry.status, reason=f"for {needed.run.label}")
    return entry.status
