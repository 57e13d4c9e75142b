"""The local back end: runs side by side in one-thread child processes of this machine.

Children are forked from a server that has imported torch and deepspeed once, so a run starts within a fraction of a
second. A child that crashes takes nothing else with it. The first Ctrl-C asks the children to save and stop, the
second kills them; without their launcher they stop by themselves.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

from multimae.config import Runtime

from .child import Child
from .job import Job
from .launch import ACTIONS, Entry, Event, Plan, obstacle, submit
from .state import Status, read

TICK = 0.5  # seconds between two looks at what is under way
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What is slow to import, and starts no thread.
TASKS = ("pretrain", "classify", "segment")
PRELOAD = ("multimae.engine.preload", "multimae.run", *(f"multimae.tasks.{task}" for task in TASKS))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The NVIDIA GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; asks no driver."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def start_method() -> str:
    """A fork must not follow the start of CUDA or of macOS's frameworks; there each child imports for itself."""
    return "spawn" if sys.platform == "darwin" or gpus() else "forkserver"


class Local:
    """Works through one plan, at most `slots` runs at a time, until nothing is left that can run."""

    def __init__(self, runtime: Runtime, slots: int, job: Callable[..., Job] = Job, preload: Sequence[str] = PRELOAD):
        self.name = f"local:{os.getpid()}"
        self.slots, self.job = slots, job
        self.gpus = gpus()
        share = max(1, cores() // slots)
        # One thread a run: side by side is faster than threads, and it is the same arithmetic on any number of cores.
        how = {"workers": min(8, share), "threads": share} if self.gpus else {"threads": 1}
        self.runtime = runtime.model_copy(update=how)
        self.stops = 0  # how often the user asked to stop
        self._queue: list[Entry] = []
        self._children: dict[str, Child] = {}
        self._elsewhere: dict[str, Entry] = {}  # runs of another launcher, which this one's may wait for
        self._clusters: dict[str, Entry] = {}  # runs that a cluster has, for as long as it takes
        self._processes = multiprocessing.get_context(start_method())
        self._processes.set_forkserver_preload(list(preload))

    def work(self, plan: Plan) -> Iterator[Event | None]:
        """Catches signals while it runs, so it belongs to the main thread."""
        for entry in plan.todo:
            submit(entry, plan, self.name)
        self._queue = list(plan.todo)
        under_way = {s: e for s, e in plan.entries.items() if e.status.under_way}
        self._clusters = {s: e for s, e in under_way.items() if e.status.job}
        self._elsewhere = {s: e for s, e in under_way.items() if s not in self._clusters}
        for entry in self._clusters.values():
            yield Event(entry, "elsewhere", entry.status)
        with self._catching_stops():
            try:
                while self._children or (not self.stops and (self._queue or self._elsewhere)):
                    yield from self._start(plan)
                    self._wait()
                    yield from self._reap()
                    self._look_elsewhere(plan)
                    if self.stops:
                        yield from self._stop_children()
                    yield None
            finally:
                self._abandon()
                for entry in self._queue:
                    _withdraw(entry, "its launcher was stopped")

    # ---- one look

    def _start(self, plan: Plan) -> Iterator[Event]:
        """Start what can start; take out what never will."""
        for entry in list(self._queue):
            needs = entry.run.needs
            if self.stops or len(self._children) >= self.slots:
                return
            if needs and self._to_come(needs):
                continue
            self._queue.remove(entry)
            needed = plan.entries.get(needs)
            if needed and (reason := self._obstacle(needs, needed)):
                _withdraw(entry, reason)
                yield Event(entry, "blocked", Status("blocked", reason))
            else:
                self._children[entry.run.signature] = self._child(entry)
                yield Event(entry, "started", Status("pending"))

    def _obstacle(self, needs: str, needed: Entry) -> str | None:
        if needs in self._clusters:
            return f"starts from {needed.run.label}, job {needed.status.job} of the cluster; run it when that is done"
        return obstacle(needs, _seen(needed), self.runtime.runs)

    def _wait(self) -> None:
        sentinels = [child.process.sentinel for child in self._children.values() if child.process.is_alive()]
        if sentinels:
            wait(sentinels, TICK)
        else:
            time.sleep(TICK)

    def _reap(self) -> Iterator[Event]:
        for signature, child in list(self._children.items()):
            if not child.ended:
                continue
            del self._children[signature]
            if child.locked_out:
                self._elsewhere[signature] = child.entry
                yield Event(child.entry, "elsewhere", read(child.entry.folder))
            else:
                child.record_end()
                yield Event(child.entry, "ended", read(child.entry.folder))

    def _look_elsewhere(self, plan: Plan) -> None:
        """Take over what another launcher has left unfinished."""
        for signature, entry in list(self._elsewhere.items()):
            seen = replace(entry, status=read(entry.folder))
            if seen.status.under_way and not seen.status.job:
                continue
            del self._elsewhere[signature]
            if seen.status.under_way:
                self._clusters[signature] = seen
            elif action := ACTIONS.get(seen.status.state):
                submit(seen, plan, self.name)
                self._queue.insert(0, replace(seen, action=action))

    def _to_come(self, signature: str) -> bool:
        queued = any(entry.run.signature == signature for entry in self._queue)
        return queued or signature in self._children or signature in self._elsewhere

    def _child(self, entry: Entry) -> Child:
        slot = min(set(range(self.slots)) - {child.slot for child in self._children.values()})
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        return Child.start(self._processes, entry, self.job(entry.run.signature, self.runtime), slot, gpu)

    def _stop_children(self) -> Iterator[Event]:
        for child in self._children.values():
            if child.asked is None:
                yield Event(child.entry, "asked", Status("running", "saving"))
            child.stop()
            if self.stops > 1:
                child.kill()

    def _abandon(self) -> None:
        """Leave no child behind, whatever happened here."""
        while self._children:
            for _ in (*self._stop_children(), *self._reap()):
                pass
            self._wait()

    @contextlib.contextmanager
    def _catching_stops(self) -> Iterator[None]:
        def stop(*_):
            self.stops += 1

        before = {s: signal.signal(s, stop) for s in STOP_SIGNALS}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)


def _seen(entry: Entry) -> Entry:
    return replace(entry, status=read(entry.folder), action=None)


def _withdraw(entry: Entry, reason: str) -> None:
    """Write down that a run is in nobody's queue any more."""
    entry.folder.jobs.write("ended", state="missing", reason=reason)
