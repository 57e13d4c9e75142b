"""The processes of this machine: runs side by side in one-thread children; one that is timed has the machine alone.

Children are forked from a server that has imported torch and deepspeed once, so a run starts within a fraction of a
second. A child that crashes takes nothing else with it. The first Ctrl-C asks the children to save and stop, the
second kills them; without their launcher they stop by themselves.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..config import RunConfig, Runtime
from ..config.runtime import cpus
from ..record.folder import RunFolder, RunLocked
from ..record.heartbeat import alive
from ..record.state import Status
from .planning import ACTIONS, Entry, Event, Plan, Wanted, obstacle, set_aside, submit
from .status import read

TICK = 0.5  # seconds between two looks at what is under way
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 60.0  # seconds that a child has to save after it was asked to stop
LOCKED, INTERRUPTED = 73, 75  # exit codes

# What is slow to import, and starts no thread.
PRELOAD = (
    "multimae.engine.preload",
    "multimae.run",
    *(kind.runs.partition(":")[0] for kind in RunConfig.tasks.values()),
)


@dataclass(frozen=True)
class Job:
    """Carries out the run of a signature. Its folder, which holds its config, must exist. torch is imported within."""

    signature: str
    runtime: Runtime

    @property
    def folder(self) -> RunFolder:
        return RunFolder.of(self.runtime.runs, self.signature)

    def __call__(self) -> str:
        """`finished` or `interrupted`. Raises what the training raises."""
        from ..run import run

        return run(self.folder.config(), self.runtime)


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
    """A run that is being trained by a process of ours, with its output in the run folder's log/."""

    entry: Entry
    process: BaseProcess
    pid: int
    log: Path
    started: float
    slot: int
    asked: float | None = None  # when, to stop

    @classmethod
    def start(cls, processes: Any, entry: Entry, job: Job, slot: int, gpu: str | None = None) -> "Child":
        log = entry.folder.log / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = processes.Process(target=_main, args=(job, log, gpu), name=entry.run.label)
        # The fork server inherits these: a Ctrl-C reaches every process of the terminal, and only the launcher decides.
        with _ignoring(signal.SIGINT, signal.SIGHUP):
            process.start()
        return cls(entry, process, process.pid, log, time.time(), slot)

    @property
    def ended(self) -> bool:
        if self.process.is_alive():
            return False
        # The exit code comes by way of the fork server; if that was killed, the child may still be there, saving.
        return not alive(self.pid, socket.gethostname(), self.started)

    @property
    def locked_out(self) -> bool:
        """Whether it found another process writing the run."""
        return self.process.exitcode == LOCKED

    def stop(self) -> None:
        """Ask it to save and stop; kill it where that takes too long."""
        if self.asked is None:
            self._send(signal.SIGTERM)
            self.asked = time.monotonic()
        elif time.monotonic() > self.asked + GRACE:
            self.kill()

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def record_end(self) -> None:
        """Write down how it ended, where it could not say so itself."""
        last = self.entry.folder.journal.last()
        if last and last["time"] >= self.started and last["kind"] in ("finished", "interrupted", "failed"):
            return
        code = self.process.exitcode
        if self.asked is not None:
            state, reason = "interrupted", "stopped before it could save"
        elif code is not None and code < 0:
            state, reason = "dead", f"killed by {signal.Signals(-code).name}"
        else:
            state, reason = "failed", _last_line(self.log) or f"exit code {code}"
        self.entry.folder.jobs.write("ended", state=state, reason=reason, exit_code=code)

    def _send(self, what: signal.Signals) -> None:
        # Not process.terminate(), which does nothing for a child whose fork server is gone.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, what)


class Local:
    """Works through plans, at most `slots` runs at a time, until nothing is left that can run.

    A run that is timed starts once no other one runs, and nothing starts beside it. Those go first, and while one that
    could start waits for quiet nothing else starts: neither waits for ever. Of other launchers this one knows nothing.
    """

    def __init__(self, runtime: Runtime, slots: int, job: Callable[..., Job] = Job, preload: Sequence[str] = PRELOAD):
        self.name = f"local:{os.getpid()}"
        self.slots, self.job = slots, job
        self.gpus = gpus()
        self.runtime = self._share(runtime, max(1, cpus() // slots))
        self.alone = self._share(runtime, cpus()).model_copy(update={"alone": True})
        self.stops = 0  # how often the user asked to stop
        self._plan: Plan | None = None  # all that was added, as one
        self._queue: list[Entry] = []
        self._children: dict[str, Child] = {}
        self._elsewhere: dict[str, Entry] = {}  # runs of another launcher, which this one's may wait for
        self._clusters: dict[str, Entry] = {}  # runs that a cluster has, for as long as it takes
        self._blocked: set[str] = set()  # runs that were taken out of the queue
        self._processes = multiprocessing.get_context(start_method())
        self._processes.set_forkserver_preload(list(preload))

    def _share(self, runtime: Runtime, cores: int) -> Runtime:
        """How a run computes that has so many cores; without GPUs, by one thread, also where it has them all: side by
        side is faster than threads, and it is the same arithmetic on any number of cores."""
        how = {"workers": min(8, cores), "threads": cores} if self.gpus else {"threads": 1}
        return runtime.model_copy(update=how)

    def work(self, plan: Plan) -> Iterator[Event | None]:
        """Carry out one plan."""
        with self.at_work():
            yield from self.add(plan)
            while self.busy:
                yield from self.look()
                yield None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Catches signals within, so it belongs to the main thread; leaves no child behind, whatever happens."""
        with self._catching_stops():
            try:
                yield
            finally:
                self._abandon()
                for entry in self._queue:
                    _withdraw(entry, "its launcher was stopped")

    def add(self, plan: Plan) -> Iterator[Event]:
        """Take what a plan has to do into the queue, beside what was added before."""
        for entry in plan.todo:
            entry.folder.check_shared()
        set_aside(plan)
        for entry in plan.todo:
            submit(entry, plan.wanted, self.name)
        mine = {entry.run.signature for entry in self._queue} | self._children.keys()
        under_way = {s: e for s, e in plan.entries.items() if e.status.under_way and s not in mine}
        self._plan = replace(plan, entries=(self._plan.entries if self._plan else {}) | plan.entries)
        self._queue += plan.todo
        self._elsewhere |= {s: e for s, e in under_way.items() if not e.status.job}
        clusters = {s: e for s, e in under_way.items() if e.status.job and s not in self._clusters}
        self._clusters |= clusters
        for entry in clusters.values():
            yield Event(entry, "elsewhere", entry.status)

    @property
    def busy(self) -> bool:
        return bool(self._children) or (not self.stops and bool(self._queue or self._elsewhere))

    def look(self) -> Iterator[Event]:
        """Start what can start, wait a moment, and see what has ended."""
        yield from self._start()
        self._wait()
        yield from self._reap()
        self._look_elsewhere()
        if self.stops:
            yield from self._stop_children()
        for child in self._children.values():
            if child.asked is not None:
                child.stop()

    def stop(self, signature: str) -> None:
        """Ask one run to save and stop, or take it out of the queue."""
        for entry in [entry for entry in self._queue if entry.run.signature == signature]:
            self._queue.remove(entry)
            _withdraw(entry, "it was stopped")
        if signature in self._children:
            self._children[signature].stop()

    # ---- one look

    def _start(self) -> Iterator[Event]:
        """Start what can start; take out what never will."""
        assert self._plan
        for entry in sorted(self._queue, key=lambda entry: not entry.run.alone):
            if self.stops or len(self._children) >= self.slots or self._timing:
                return
            if any(map(self._to_come, entry.run.needs)):
                continue
            reason = self._obstacle(self._plan.needed(entry.run))
            if entry.run.alone and self._children and not reason:
                return
            self._queue.remove(entry)
            if reason:
                self._blocked.add(entry.run.signature)
                _withdraw(entry, reason)
                yield Event(entry, "blocked", Status("blocked", reason))
            else:
                self._children[entry.run.signature] = self._child(entry)
                yield Event(entry, "started", Status("pending"))

    @property
    def _timing(self) -> bool:
        return any(child.entry.run.alone for child in self._children.values())

    @property
    def _wanted(self) -> Wanted:
        assert self._plan
        return self._plan.wanted

    def _obstacle(self, needed: Sequence[Entry]) -> str | None:
        for entry in needed:
            signature = entry.run.signature
            if signature in self._clusters:
                return f"starts from {entry.run.label}, job {entry.status.job} of the cluster; run it when that is done"
            if signature in self._blocked:
                return f"{entry.run.label} blocked"
            now = replace(entry, status=self._read(entry), action=None)
            if reason := obstacle(signature, now, self._wanted):
                return reason
        return None

    def _read(self, entry: Entry) -> Status:
        return read(entry.folder, self._wanted.scheduler)

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
                yield Event(child.entry, "elsewhere", self._read(child.entry))
            else:
                child.record_end()
                yield Event(child.entry, "ended", self._read(child.entry))

    def _look_elsewhere(self) -> None:
        """Take over what another launcher has left unfinished."""
        for signature, entry in list(self._elsewhere.items()):
            seen = replace(entry, status=self._read(entry))
            if seen.status.under_way and not seen.status.job:
                continue
            del self._elsewhere[signature]
            if seen.status.under_way:
                self._clusters[signature] = seen
            elif action := ACTIONS.get(seen.status.state):
                submit(seen, self._wanted, self.name)
                self._queue.insert(0, replace(seen, action=action))

    def _to_come(self, signature: str) -> bool:
        queued = any(entry.run.signature == signature for entry in self._queue)
        return queued or signature in self._children or signature in self._elsewhere

    def _child(self, entry: Entry) -> Child:
        slot = min(set(range(self.slots)) - {child.slot for child in self._children.values()})
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        runtime = self.alone if entry.run.alone else self.runtime
        return Child.start(self._processes, entry, self.job(entry.run.signature, runtime), slot, gpu)

    def _stop_children(self) -> Iterator[Event]:
        for child in self._children.values():
            if child.asked is None:
                yield Event(child.entry, "asked", Status("running", "saving"))
            child.stop()
            if self.stops > 1:
                child.kill()

    def _abandon(self) -> None:
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


def _withdraw(entry: Entry, reason: str) -> None:
    """Write down that a run is in nobody's queue any more."""
    entry.folder.jobs.write("ended", state="missing", reason=reason)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def _ignoring(*signals: signal.Signals) -> Iterator[None]:
    before = {s: signal.signal(s, signal.SIG_IGN) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


# ---- inside


def _main(job: Job, log: Path, gpu: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
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
    multiprocessing.parent_process().join()  # type: ignore[union-attr]  # a child has one
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
