"""heartbeat.json: what a run is doing now, for whoever watches it. Imports no torch."""

import contextlib
import json
import os
import socket
import time
from typing import Any

import psutil

from ..files import write_atomic
from .folder import RunFolder
from .reading import read_json
from .shape import count, fits, maybe, number, process, strict, text

AT_WORK = ("starting", "training", "evaluating", "saving", "working")
SHAPE = {
    "time": number, "pid": process, "host": text, "state": text,
    **dict.fromkeys(("step", "total_steps"), maybe(count)),
    **dict.fromkeys(("epoch", "epochs", "images_per_second", "loss", "seconds_left", "waited"), maybe(number)),
}  # fmt: skip

SECONDS_BETWEEN = 2.0
CLOCK = 2.0  # how exactly, in seconds, a process's start time is known


def alive(pid: int, host: str | None, since: float) -> bool | None:
    """Whether the process that wrote as `pid` on `host` at time `since` still lives, and is not one that inherited
    its number; None: it is not on this machine, or this machine does not show other users' processes."""
    if host != socket.gethostname():
        return None
    try:
        process = psutil.Process(pid)
        return process.create_time() <= since + CLOCK and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return None
    except psutil.NoSuchProcess:
        return None if _hidden(pid) else False


def _hidden(pid: int) -> bool:
    """Whether there is such a process after all: of another user, where /proc is mounted with hidepid."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False


def last_beat(folder: RunFolder) -> dict[str, Any]:
    """What heartbeat.json says, {} where it says nothing: it is rewritten every moment, and no power cut leaves it
    whole. Raises FolderError where it cannot be read."""
    beat = read_json(folder.heartbeat)
    if not fits(beat, SHAPE):
        return {}
    together = (("total_steps", "step"), ("epoch", "epochs"))  # each is shown with the other
    return beat | {key: None for key, other in together if beat.get(key) is None or beat.get(other) is None}


class Heartbeat:
    """Rewrites the file at once when `state` changes and at most every two seconds otherwise."""

    def __init__(self, folder: RunFolder, **fields: Any):
        self.path = folder.heartbeat
        self.fields = {"pid": os.getpid(), "host": socket.gethostname(), "state": None, **fields}
        self.beat("starting")

    def know(self, **fields: Any) -> None:
        """What the next beat says, too."""
        self.fields |= fields

    def beat(self, state: str, **fields: Any) -> None:
        """`state`: one of `AT_WORK`, finished, interrupted or failed."""
        now = time.monotonic()
        due = state != self.fields["state"] or now - self._written >= SECONDS_BETWEEN
        self.fields |= {"state": state, **fields}
        if due:
            self._written: float = now
            with contextlib.suppress(OSError):  # no training dies of a disk that cannot say how it does
                write_atomic(self.path, json.dumps(strict({"time": time.time(), **self.fields})), durable=False)
