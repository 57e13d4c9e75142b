"""The local back end: runs side by side in one-thread child processes of this machine.

Children are forked from a server that has imported torch and deepspeed once, so a run starts within a fraction of a
second. A child that crashes takes nothing else with it. The first Ctrl-C asks the children to save and stop, the
second kills them; without their launcher they stop by themselves.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from multimae.config import Runtime
from multimae.engine.folder import RunFolder, RunLocked

from .job import Job
from .launch import ACTIONS, Entry, Event, Plan, obstacle, submit
from .state import Status, read

TICK = 0.5  # seconds between two looks at what is under way
GRACE = 60.0  # seconds that a child has to save after it was asked to stop
LOCKED, INTERRUPTED = 73, 75  # exit codes of a child
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What is slow to import, and starts no thread.
PRELOAD = ("multimae.engine.preload", "multimae.run", *(f"multimae.tasks.{t}" for t in ("pretrain", "classify", "segment")))



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


@dataclass
class Child:
    """A run that is being trained by a process of ours."""

    entry: Entry
    process: BaseProcess
    log: Path
    started: float
    slot: int
    asked: float | None = None  # when, to stop

    @property
    def ended(self) -> bool:
        # The exit code comes by way of the fork server; if that was killed, the child may still be there, saving.
        return not self.process.is_alive() and not psutil.pid_exists(self.process.pid)


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
        self._processes = multiprocessing.get_context(start_method())
        self._processes.set_forkserver_preload(list(preload))

    def work(self, plan: Plan) -> Iterator[Event | None]:
        self._queue = list(plan.todo)
        self._elsewhere = {s: e for s, e in plan.entries.items() if e.status.under_way}
        with self._catching_stops():
            try:
                while self._children or (not self.stops and (self._queue or self._elsewhere)):
                    yield from self._start(plan)
                    self._wait()
                    yield from self._reap()
                    self._look_elsewhere(plan)
                    if self.stops:
                        self._stop_children()
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
            if needed and (reason := obstacle(needs, _seen(needed), self.runtime.runs)):
                _withdraw(entry, reason)
                yield Event(entry, "blocked", Status("blocked", reason))
            else:
                self._children[entry.run.signature] = self._child(entry)
                yield Event(entry, "started", Status("pending"))

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
            if child.process.exitcode == LOCKED:
                self._elsewhere[signature] = child.entry
                yield Event(child.entry, "elsewhere", read(child.entry.folder))
            else:
                _record_end(child)
                yield Event(child.entry, "ended", read(child.entry.folder))

    def _look_elsewhere(self, plan: Plan) -> None:
        """Take over what another launcher has left unfinished."""
        for signature, entry in list(self._elsewhere.items()):
            seen = replace(entry, status=read(entry.folder))
            if seen.status.under_way:
                continue
            del self._elsewhere[signature]
            if action := ACTIONS.get(seen.status.state):
                submit(seen, plan, self.name)
                self._queue.insert(0, replace(seen, action=action))

    def _to_come(self, signature: str) -> bool:
        queued = any(entry.run.signature == signature for entry in self._queue)
        return queued or signature in self._children or signature in self._elsewhere

    # ---- children

    def _child(self, entry: Entry) -> Child:
        log = entry.folder.log / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        job = self.job(entry.run.signature, self.runtime)
        slot = min(set(range(self.slots)) - {child.slot for child in self._children.values()})
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        process = self._processes.Process(target=_main, args=(job, log, gpu), name=entry.run.label)
        # The fork server inherits these: a Ctrl-C reaches every process of the terminal, and only this one decides.
        with _ignoring(signal.SIGINT, signal.SIGHUP):
            process.start()
        return Child(entry, process, log, time.time(), slot)

    def _stop_children(self) -> None:
        for child in self._children.values():
            if child.asked is None:
                child.process.terminate()
                child.asked = time.monotonic()
            elif self.stops > 1 or time.monotonic() > child.asked + GRACE:
                child.process.kill()

    def _abandon(self) -> None:
        """Leave no child behind, whatever happened here."""
        while self._children:
            self._stop_children()
            self._wait()
            for _ in self._reap():
                pass

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


def _record_end(child: Child) -> None:
    """Write down how a process ended that could not say so itself."""
    last = child.entry.folder.journal.last()
    if last and last["time"] >= child.started and last["kind"] in ("finished", "interrupted", "failed"):
        return
    code = child.process.exitcode
    if child.asked is not None:
        state, reason = "interrupted", "stopped before it could save"
    elif code < 0:
        state, reason = "dead", f"killed by {signal.Signals(-code).name}"
    else:
        state, reason = "failed", _last_line(child.log) or f"exit code {code}"
    child.entry.folder.jobs.write("ended", state=state, reason=reason, exit_code=code)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def _ignoring(*signals: signal.Signals) -> Iterator[None]:
    before = {s: signal.signal(s, signal.SIG_IGN) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


# ---- in the child


def _main(job: Job, log: Path, gpu: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_follow_launcher, daemon=True).start()
    try:
        outcome = job()
    except RunLocked as error:
        print(error, file=sys.stderr)
        sys.exit(LOCKED)
    sys.exit(0 if outcome == "finished" else INTERRUPTED)


def _follow_launcher() -> None:
    """Save and stop when the launcher is gone; a pipe tells, on any system."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
