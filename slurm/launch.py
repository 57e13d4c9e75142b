"""Launching is reconciling: the study says what should exist, the run folders say what does; the difference is run.

`plan` compares, `apply` runs what is missing through a back end, `status` reads, `cancel` stops. Whatever is done
costs nothing; what runs, or waits in somebody's queue, is left to them.
"""

import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from multimae.engine.folder import RunFolder
from multimae.engine.heartbeat import alive

from .state import Status, read
from .study import Row, Run, Study, runs_of

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

    @property
    def todo(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.action]

    def count(self, *states: str) -> int:
        return sum(entry.status.state in states for entry in self.entries.values())


@dataclass(frozen=True)
class Event:
    """Something that happened to a run while a study was applied."""

    entry: Entry
    kind: str  # started | ended | blocked | elsewhere (another launcher has it) | asked (to stop)
    status: Status


class Backend(Protocol):
    """Where jobs run. `work` may end at once (a scheduler has them) or when all of them did (local processes)."""

    name: str  # of this launcher in jobs.jsonl: `local:<process id>`

    def work(self, plan: Plan) -> Iterator[Event | None]:
        """Run the plan's entries; yields None about twice a second, so that a display can follow."""


def plan(study: Study, scale: str, rows: tuple[Row, ...], runs: Path, retry_failed: bool = False) -> Plan:
    """What is, and what `apply` would do. Reads only."""
    entries: dict[str, Entry] = {}
    for signature, run in runs_of(rows).items():
        folder = RunFolder.of(runs, signature)
        status = read(folder)
        action = "retry" if status.state == "failed" and retry_failed else ACTIONS.get(status.state)
        if action and (reason := _obstacle(run, entries, runs)):
            status, action = replace(status, state="blocked", reason=reason), None
        entries[signature] = Entry(run, folder, status, action)
    return Plan(study, scale, rows, entries)


def status(study: Study, scale: str, rows: tuple[Row, ...], runs: Path) -> Plan:
    """What is, and nothing that would be done."""
    seen = plan(study, scale, rows, runs)
    entries = {
        signature: replace(entry, action=None, status=_awaiting(entry, seen))
        for signature, entry in seen.entries.items()
    }
    return replace(seen, entries=entries)


def apply(plan: Plan, backend: Backend) -> Iterator[Event | None]:
    """Run what the plan says is missing. Nothing is touched where there is nothing to do."""
    for entry in plan.todo:
        submit(entry, plan, backend.name)
    yield from backend.work(plan)


def submit(entry: Entry, plan: Plan, job: str) -> None:
    """Write down who has this run in a queue, and for what."""
    entry.folder.create(entry.run.config)
    for row, stage in entry.run.cells:
        where = {"study": plan.study.name, "row": row, "stage": stage, "scale": plan.scale}
        entry.folder.jobs.write("submitted", job=job, host=socket.gethostname(), **where)


def cancel(plan: Plan) -> list[Entry]:
    """Ask the processes of this machine that train these runs to save and stop; the runs that were asked."""
    asked = []
    for entry in plan.entries.values():
        beat = entry.status.heartbeat
        if entry.status.state == "running" and alive(beat["pid"], beat["host"], beat["time"]):
            os.kill(beat["pid"], signal.SIGTERM)
            asked.append(entry)
    return asked


def extras(study: Study, scale: str, runs: Path, signatures: Sequence[str]) -> list[Extra]:
    """Runs that were submitted for this study at this scale and are none of `signatures`."""
    found = []
    for jobs in sorted(Path(runs).glob("*/jobs.jsonl")):
        folder = RunFolder(jobs.parent)
        if folder.signature in signatures:
            continue
        last = folder.jobs.last("submitted")
        if last and (last["study"], last["scale"]) == (study.name, scale):
            found.append(Extra(folder.signature, last["row"], last["stage"], read(folder)))
    return found


def other_data(plan: Plan, roots: Mapping[str, Path]) -> list[str]:
    """What to tell of runs that learnt from a folder other than the one that is given now under the same name."""
    told = {}
    for entry in plan.entries.values():
        name = entry.run.config.data.name
        if name not in roots:
            continue
        begun = next((record for _, record in entry.folder.journal.read() if record["kind"] in ("data", "train")), {})
        if begun.get("root") not in (None, str(roots[name])):
            told[begun["root"]] = (
                f"{entry.run.label} learnt from {begun['root']}, and --data is {roots[name]} now. Data of one name are "
                "taken for the same: if they are not, rename the folder"
            )
    return list(told.values())


def obstacle(needed: str, entry: Entry | None, runs: Path) -> str | None:
    """Why a run that needs `needed` cannot start now or later; None if it can."""
    if entry is None:
        return None if RunFolder.of(runs, needed).done else f"needs {needed}, which no row of this study makes"
    status = entry.status
    if entry.action or status.under_way or status.state == "done":
        return None
    return f"{entry.run.label} {status.state}"


def _obstacle(run: Run, entries: dict[str, Entry], runs: Path) -> str | None:
    return obstacle(run.needs, entries.get(run.needs), runs) if run.needs else None


def _awaiting(entry: Entry, seen: Plan) -> Status:
    """Of a run that has not begun: the run it waits for, by name."""
    needed = seen.entries.get(entry.run.needs or "")
    if entry.status.state == "waiting" and needed:
        return replace(entry.status, reason=f"for {needed.run.label}")
    return entry.status
