"""A process beside a training that keeps MLflow up to date, so that the training need not."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..record.sharing import share
from ..redact import redacting
from .store import default_uri
from .syncer import Syncer

SECONDS_BETWEEN = 5.0
LAST_SECONDS = 60.0  # for what is left, once the parent is gone


class Follower:
    """A process that syncs every few seconds, and ends with the process that started it."""

    def __init__(self, process: subprocess.Popen, log: Path):
        self._process = process
        self.log = log  # what it could not send, and why

    def stop(self, timeout: float = 30.0) -> bool:
        """Let it send the rest. Returns whether everything has arrived within `timeout` seconds."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._process.stdin.write(b".")
            self._process.stdin.close()
        try:
            return self._process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False


def start_follower(runs: Path, uri: str | None = None, signature: str | None = None) -> Follower:
    """Begin to sync all runs in `runs`, or one of them, in a process of its own that training never waits for."""
    share(Path(runs))
    log = Path(runs) / signature / "log" / "mlflow.log" if signature else Path(runs) / ".mlflow.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # it may be a colleague's
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "multimae.tracking", str(runs), *([signature] if signature else [])],
            # Not in the arguments, which anyone can read: the address may hold a password.
            env=os.environ | {"MLFLOW_TRACKING_URI": uri or default_uri(runs)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the parent, which then calls stop
        )
    return Follower(process, log)


@contextlib.contextmanager
def following(
    runs: Path, uri: str | None = None, signature: str | None = None, seconds: float = 30.0
) -> Iterator[None]:
    """Keep MLflow up to date within, and give it `seconds` for the rest; says so where that was too short."""
    follower = start_follower(runs, uri, signature)
    try:
        yield
    finally:
        if not follower.stop(seconds):
            print(
                f"MLflow has not taken everything yet ({follower.log} says why); `multimae sync` sends the rest.",
                file=sys.stderr,
            )


def follow(runs: Path, signatures: Sequence[str] | None = None) -> int:
    """Sync all runs (or these) until standard input ends. Returns 0 if everything has arrived."""
    stop = threading.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read(1)  # "stop", or the end of the file when the parent is gone
        stop.set()
        time.sleep(LAST_SECONDS)
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    os.nice(10)
    uri = default_uri(runs)
    with redacting(uri):  # MLflow, SQLAlchemy and others write to the log, too
        syncer = Syncer(runs, uri)
        told: list[str] = []
        while not stop.wait(SECONDS_BETWEEN):
            report = syncer.once(signatures)
            if report.problems != told:
                print(report, flush=True)
            told = report.problems
        report = syncer.once(signatures, wait=LAST_SECONDS)
        print(report, flush=True)
    return 0 if report.ok else 1
