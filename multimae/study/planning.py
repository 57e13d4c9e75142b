"""Launching is reconciling: the study says what should exist, the run folders say what does; the difference is run.

`plan` compares, a back end runs what is missing, `status` reads, `cancel` stops. Whatever is done costs nothing; what
runs, or waits in somebody's queue, is left to them.
"""

import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..files import user
from ..record.folder import RunFolder, RunLocked
from ..record.heartbeat import alive
from ..record.reading import FolderError, usable
from ..record.state import Status, Traces
from .lacks import lacks, short
from .links import link
from .status import Scheduler, read, read_all
from .study import Row, Run, Study, runs_of

ACTIONS = {"missing": "run", "interrupted": "resume", "dead": "resume"}


@dataclass(frozen=True)
class Wanted:
    """What should exist, and who may have it in a queue."""

    study: Study
    scale: str
    rows: tuple[Row, ...]
    runs: Path  # the folder of run folders
    variant: str = ""  # the edits that make these rows others than the study's
    scheduler: Scheduler | None = None
    among: tuple[Row, ...] = ()  # rows that may have runs which those need
    files: Collection[str] = ()  # names of weights that are given
    own: Path | None = None  # the folder of one's own that all stages read

    def lacks(self, run: Run) -> str:
        """Why a run can never begin with what is given; empty where it can."""
        return lacks(run, self.files, self.own)

    def folder(self, signature: str) -> RunFolder:
        return RunFolder.of(self.runs, signature)


@dataclass(frozen=True)
class Entry:
    """A run, what it is doing, and what a back end does about it: `run`, `resume`, `retry`, `redo` or nothing."""

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
    wanted: Wanted
    entries: dict[str, Entry]  # by signature, each after those that it needs
    retry_failed: bool = False
    redo: frozenset[str] = frozenset()  # runs that are done again on purpose

    @property
    def todo(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.action]

    def needed(self, run: Run) -> list[Entry]:
        """The entries of the runs that it needs, as far as they are in the plan."""
        return [self.entries[need] for need in run.needs if need in self.entries]

    def lacking(self) -> list[Entry]:
        """Those that wait for what is not given, weights or data, and those that start from them."""
        found: dict[str, Entry] = {}
        for signature, entry in self.entries.items():
            waits = self.wanted.lacks(entry.run) or found.keys() & entry.run.needs
            if entry.status.state != "done" and waits:
                found[signature] = entry
        return list(found.values())

    def count(self, *states: str) -> int:
        return sum(entry.status.state in states for entry in self.entries.values())


@dataclass(frozen=True)
class Event:
    """Something that happened to a run while a plan was carried out."""

    entry: Entry
    kind: str  # submitted | started | ended | blocked | elsewhere (another launcher has it) | asked (to stop)
    status: Status


def plan(wanted: Wanted, retry_failed: bool = False, redo: frozenset[str] = frozenset()) -> Plan:
    """What is, and what a back end would do. Reads only, and asks the scheduler at most once.

    `redo`: signatures of runs that are done again, with all that start from them. Raises ConfigError where one of these
    is under way.
    """
    runs = runs_of(wanted.rows, wanted.among)
    configs = {signature: run.config for signature, run in runs.items()}
    folders = {signature: wanted.folder(signature) for signature in runs}
    statuses = read_all(folders.values(), configs, wanted.scheduler)
    if lost := _left_behind(redo, wanted, runs):
        raise ConfigError(
            f"--redo: {', '.join(lost)} started from what is done again, and these rows leave them out; give --redo "
            "without --only, or choose their rows too; of other studies: python sweeps/all.py --redo STUDY:ROW. What "
            "is wanted no more: remove its folder"
        )
    made = Plan(wanted, {}, retry_failed, redo)
    for signature, run in runs.items():
        status, needed = statuses[signature], made.needed(run)
        action = _action(status, needed, retry_failed)
        if signature in redo or any(entry.action == "redo" for entry in needed):
            if status.under_way or status.state == "unknown":
                raise ConfigError(f"--redo: {run.label} is {status.state}; --cancel stops it first")
            action = "redo"
        # A job that waits for others never starts where one of them will not be done, and the scheduler says so late.
        waits = [entry.run.signature for entry in needed] if status.job and status.state == "waiting" else []
        found: list[str | None] = [wanted.lacks(run)] if action else []
        found += [obstacle(need, made.entries.get(need), wanted) for need in (run.needs if action else waits)]
        if reason := next((reason for reason in found if reason), None):
            status, action = replace(status, state="blocked", reason=reason), None
        made.entries[signature] = Entry(run, folders[signature], status, action)
    return made


def _left_behind(redo: Collection[str], wanted: Wanted, runs: Mapping[str, Run]) -> list[str]:
    """Runs of other rows, or of other studies here, that began from what is done again, by label."""
    if not redo:
        return []
    labels = {signature: run.label for signature, run in runs_of(wanted.among).items()}
    needs: dict[str, tuple[str, ...]] = {}
    for folder in RunFolder.all(wanted.runs):
        with contextlib.suppress(ConfigError):  # which is refused where it is needed
            if folder.signature not in runs and folder.journal.path.exists():
                needs[folder.signature] = folder.config().needs
                last = folder.jobs.last("submitted") or {}
                told = [last[key] for key in ("study", "row", "stage") if last.get(key)]
                labels.setdefault(folder.signature, " ".join([*told, f"({folder.signature})"]))
    again = _descendants(redo, {signature: run.needs for signature, run in runs.items()} | needs)
    return [labels[signature] for signature in needs if signature in again]


def _descendants(of: Collection[str], needs: Mapping[str, Sequence[str]]) -> set[str]:
    """These, and all that start from them, to any depth."""
    found = set(of)
    while more := {signature for signature, its in needs.items() if found.intersection(its)} - found:
        found |= more
    return found


def _action(status: Status, needed: Sequence[Entry], retry_failed: bool) -> str | None:
    # A job that waits in a scheduler's queue for one that ended badly would wait for ever.
    orphaned = status.state in ("pending", "waiting") and any(entry.action for entry in needed)
    if status.job and (status.state == "blocked" or orphaned):
        return "run"
    if status.state == "failed" and retry_failed:
        return "retry"
    return ACTIONS.get(status.state)


def obstacle(needed: str, entry: Entry | None, wanted: Wanted) -> str | None:
    """Why a run that needs `needed` cannot start now or later; None if it can."""
    folder = wanted.folder(needed)
    status = entry.status if entry else read(folder, wanted.scheduler)
    if entry and (entry.action or status.under_way):
        return None
    if status.state == "done":
        return folder.weights_problem
    if entry:
        return f"{entry.run.label} {status.reason if short(status.reason) else status.state}"
    why = f": {status.reason}" if status.state == "refused" else ", which is not done, and none of these rows makes it"
    return f"needs {needed}{why}"


def status(wanted: Wanted) -> Plan:
    """What is, and nothing that would be done."""
    seen = plan(wanted)
    entries = {
        signature: replace(entry, action=None, status=_awaiting(entry, seen))
        for signature, entry in seen.entries.items()
    }
    return replace(seen, entries=entries)


def _awaiting(entry: Entry, seen: Plan) -> Status:
    """Of a run that has not begun: the run it waits for, by name."""
    needed = next((other for other in seen.needed(entry.run) if other.status.state != "done"), None)
    if entry.status.state == "waiting" and needed:
        return replace(entry.status, reason=f"for {needed.run.label}")
    return entry.status


def tidy(plan: Plan) -> None:
    """Of runs that are done: let the study's names lead to them, and remove the checkpoints of those that were killed
    just before they could do so themselves."""
    for entry in plan.entries.values():
        if entry.status.state != "done":
            continue
        _link(entry, plan.wanted)
        if entry.folder.checkpoints.exists():
            with contextlib.suppress(RunLocked, FolderError), entry.folder.claim():  # somebody else's, maybe
                entry.folder.drop_checkpoints()


def mend(plan: Plan) -> None:
    """Write down how runs ended whose jobs could not say so: what the scheduler tells, others have from the files."""
    for entry in plan.entries.values():
        state, job = entry.status.state, entry.status.job
        if job and state in ("failed", "dead", "interrupted") and Traces(entry.folder).status.state != state:
            with contextlib.suppress(OSError):  # of a colleague's, maybe
                entry.folder.jobs.write("ended", job=f"slurm:{job}", state=state, reason=entry.status.reason)


def set_aside(plan: Plan) -> list[Path]:
    """Move what is done again out of the way; returns where it is kept: `<signature>.1` beside the runs, then `.2`, ...

    Raises FolderError where it cannot be moved, RunLocked where somebody writes it.
    """
    folders = [e.folder for e in reversed(plan.todo) if e.action == "redo" and e.folder.path.exists()]
    kept = []
    with contextlib.ExitStack() as claimed:
        for folder in folders:
            claimed.enter_context(folder.claim())
        for folder in folders:  # what starts from others goes first, so that a kill leaves nothing of what is gone
            path = folder.path
            with usable(path):
                number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.{n}").exists())
                kept.append(path.rename(path.with_name(f"{path.name}.{number}")))
                folder.jobs.write("redone", number=number)  # or MLflow would take it for the one before
    return kept


def submit(entry: Entry, wanted: Wanted, job: str, **where: str) -> None:
    """Write down who has this run in a queue (`job`), and for what. Raises FolderError."""
    entry.folder.create(entry.run.config)
    _link(entry, wanted)
    for place, stage in entry.run.cells:
        study, row = wanted.study.place(place)
        what = {"study": study, "row": row, "stage": stage}
        what |= {"scale": wanted.scale, "variant": wanted.variant}
        who = {"user": user(), "host": socket.gethostname()}
        with usable(entry.folder.path):
            entry.folder.jobs.write("submitted", job=job, **who, **where, **what)


def _link(entry: Entry, wanted: Wanted) -> None:
    for place, stage in entry.run.cells:
        study, row = wanted.study.place(place)
        link(entry.folder.path, study, f"{wanted.scale} {wanted.variant}", row, stage)


@dataclass(frozen=True)
class Stopped:
    asked: list[str]  # runs that save and stop, by label
    left: list[str]  # why another one goes on, and who can stop it


def cancel(plan: Plan) -> Stopped:
    """Stop what a plan has under way. Raises RuntimeError where a scheduler that has jobs cannot be asked.

    Processes of this machine save first; jobs of a scheduler are cancelled, by one command.
    """
    runs = {entry.run.label: (entry.folder, entry.status) for entry in plan.entries.values()}
    return _stop(runs, plan.wanted.scheduler)


def cancel_removed(extras: Iterable[Extra], wanted: Wanted) -> Stopped:
    """`cancel` for runs that the study no longer has."""
    runs = {f"{e.row} {e.stage} ({e.signature})": (wanted.folder(e.signature), e.status) for e in extras}
    return _stop(runs, wanted.scheduler)


def _stop(runs: Mapping[str, tuple[RunFolder, Status]], scheduler: Scheduler | None) -> Stopped:
    stopped = Stopped([], [])
    jobs = {}
    for label, (folder, status) in runs.items():
        if status.job and (status.under_way or status.state == "blocked"):
            jobs[status.job] = (label, folder)
        elif status.state == "running":
            _stop_process(label, status.heartbeat, stopped)
    others = scheduler.cancel(jobs) if scheduler and jobs else set()  # without one, there are no jobs
    for job, (label, folder) in jobs.items():
        if job in others:
            who = (folder.jobs.last("submitted") or {}).get("user", "another user")
            stopped.left.append(f"{label} is job {job} of {who}, who alone may cancel it")
        else:
            # Where the site hides one user's jobs from another, the others would not learn of it.
            state, reason = "interrupted" if folder.journal.path.exists() else "missing", "its job was cancelled"
            folder.jobs.write("ended", job=f"slurm:{job}", state=state, reason=f"{reason} by {user()}")
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


def extras(wanted: Wanted, signatures: Sequence[str]) -> list[Extra]:
    """Runs that were submitted for this variant of a study at this scale and no other, and are none of `signatures`."""
    found, studies = {}, {part.name for part in wanted.study.parts or (wanted.study,)}
    for folder in RunFolder.all(wanted.runs):
        if folder.signature in signatures:
            continue
        try:
            submitted = folder.jobs.records("submitted")
        except FolderError:  # whose it is cannot be told
            continue
        of = {(last.get("study"), last.get("scale"), last.get("variant", "")) for last in submitted}
        if of and of <= {(study, wanted.scale, wanted.variant) for study in studies}:
            found[folder] = submitted[-1]
    statuses = read_all(found, scheduler=wanted.scheduler)
    return [
        Extra(f.signature, last.get("row") or "?", last.get("stage") or "?", statuses[f.signature])
        for f, last in found.items()
    ]
