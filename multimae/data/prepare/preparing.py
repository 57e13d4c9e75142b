"""Making the pieces of a data set in processes of their own, each once. No torch."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from ...config import ConfigError
from ...files import Locked, locked
from ...units import size
from .journal import Made, Stamp
from .pieces import Piece
from .writing import HIDDEN, FolderWriter, Halted, Interrupted

ARCHIVES = (".tar", ".tgz", ".gz", ".zip", ".mat", ".h5", ".hdf5", ".csv")
AHEAD = 2  # pieces that are in the hands of the pool, for each process
GLANCE = 0.5  # seconds between two looks at them


@dataclass
class Making:
    """What became of the pieces, so far."""

    total: int  # pieces of this session
    bytes: int  # to be read for them
    made: int = 0
    read: int = 0  # bytes
    written: int = 0
    linked: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # piece -> why


def sources_of(source: Path) -> dict[str, Stamp]:
    """Size and time of change of the archives that lie in a folder, by which a source is known again."""
    found = {}
    for path in sorted(source.iterdir()):
        if path.name.endswith(ARCHIVES) and path.is_file():
            status = path.stat()
            found[path.name] = (status.st_size, status.st_mtime_ns)
    return found


@contextlib.contextmanager
def holding(root: Path) -> Iterator[None]:
    """The destination, for this process alone. Raises ConfigError."""
    try:
        (root / HIDDEN).mkdir(parents=True, exist_ok=True)
        with locked(root / HIDDEN / "lock"):
            for left in (root / HIDDEN).iterdir():
                if left.name not in ("lock", "journal.jsonl"):
                    left.unlink()  # half a file, of a process that was killed
            yield
    except Locked as error:
        raise ConfigError(f"another preparation of {root} is at work, {error.holder}: let it finish") from None


def check_room(root: Path, todo: Sequence[Piece]) -> None:
    """Raises ConfigError where what is to be copied does not fit."""
    need = sum(piece.bytes for piece in todo)
    free = free_bytes(root)
    if need > free:
        raise ConfigError(
            f"{root} has {size(free)} free, and what is to be written there takes {size(need)}: make room, or choose "
            "another folder"
        )


def free_bytes(root: Path) -> int:
    """Of the file system on which a folder lies, or would."""
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def make(todo: Sequence[Piece], root: Path, jobs: int, made: Made, show: Callable[[Making], None]) -> Making:
    """Make pieces, and write each down. What could not be made of what is in the source is in `failed`.

    Raises Halted and KeyboardInterrupt, after what is made was written down.
    """
    state = Making(len(todo), sum(piece.bytes for piece in todo))
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    stop = context.Event()
    running: dict[Future, Piece] = {}
    pieces = iter(todo)
    pool = ProcessPoolExecutor(min(jobs, len(todo)) or 1, context, _begin, (stop,))
    try:
        while True:
            while len(running) < AHEAD * jobs and (piece := next(pieces, None)):
                with _uninterrupted():
                    running[pool.submit(_make, root, piece)] = piece
            if not running:
                return state
            for future in wait(running, GLANCE, FIRST_COMPLETED).done:
                _note(running.pop(future), future.result(), made, state)
            show(state)
    except BrokenProcessPool:
        raise Halted(
            "a process that made pieces was killed, perhaps because memory ran out; if so, fewer --jobs need less"
        ) from None
    finally:
        stop.set()  # pieces in work end with their next file
        pool.shutdown(cancel_futures=True)
        for future, piece in running.items():
            if future.done() and not future.cancelled() and not future.exception():
                with contextlib.suppress(Halted):
                    _note(piece, future.result(), made, state)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C, which reaches all processes of a terminal, waits; in a process that is begun within, for ever."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _note(piece: Piece, outcome: dict[str, Any], made: Made, state: Making) -> None:
    if full := outcome.get("full"):
        raise Halted(full)
    if failed := outcome.get("failed"):
        state.failed[piece.name] = failed
    elif "files" in outcome:
        state.made += 1
        state.written += outcome["bytes"]
        state.linked += outcome["linked"]
        try:
            made.add(piece.name, piece.bytes, outcome["files"], outcome["bytes"])
        except OSError as error:
            raise Halted(f"{made.file} could not be written: {error.strerror or error}") from None
    state.read += piece.bytes


# ---- in a process of the pool

_stopping: Callable[[], bool] = lambda: False  # noqa: E731


def _begin(stop: Any) -> None:
    global _stopping
    _stopping = stop.is_set
    if parent := parent_process():
        # A process whose parent was killed would wait for its next piece for ever.
        threading.Thread(target=partial(_end_with, parent.sentinel), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _make(root: Path, piece: Piece) -> dict[str, Any]:
    writer = FolderWriter(root, _stopping)
    try:
        piece.make(writer)
    except Interrupted:
        return {}
    except Halted as error:
        return {"full": str(error)}
    except ValueError as error:
        return {"failed": str(error)}
    except OSError as error:  # of the source: the writer tells its own
        return {"failed": f"{error.filename or 'a file of the source'} could not be read: {error.strerror or error}"}
    return {"files": Counter(writer.files), "bytes": writer.bytes, "linked": writer.linked}
