"""A child process of the local back end: one run, seen from the launcher and from inside."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from multimae.engine.folder import RunLocked
from multimae.engine.heartbeat import alive

from .job import Job
from .launch import Entry

GRACE = 60.0  # seconds that a child has to save after it was asked to stop
LOCKED, INTERRUPTED = 73, 75  # exit codes


@dataclass
class Child:
    """A run that is being trained by a process of ours, with its output in the run folder's log/."""

    entry: Entry
    process: BaseProcess
    log: Path
    started: float
    slot: int
    asked: float | None = None  # when, to stop

    @classmethod
    def start(cls, processes: BaseContext, entry: Entry, job: Job, slot: int, gpu: str | None = None) -> "Child":
        log = entry.folder.log / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = processes.Process(target=_main, args=(job, log, gpu), name=entry.run.label)
        # The fork server inherits these: a Ctrl-C reaches every process of the terminal, and only the launcher decides.
        with _ignoring(signal.SIGINT, signal.SIGHUP):
            process.start()
        return cls(entry, process, log, time.time(), slot)

    @property
    def ended(self) -> bool:
        if self.process.is_alive():
            return False
        # The exit code comes by way of the fork server; if that was killed, the child may still be there, saving.
        return not alive(self.process.pid, socket.gethostname(), self.started)

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
        elif code < 0:
            state, reason = "dead", f"killed by {signal.Signals(-code).name}"
        else:
            state, reason = "failed", _last_line(self.log) or f"exit code {code}"
        self.entry.folder.jobs.write("ended", state=state, reason=reason, exit_code=code)

    def _send(self, what: signal.Signals) -> None:
        # Not process.terminate(), which does nothing for a child whose fork server is gone.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, what)


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
