"""Files that others read or write at the same time: written whole, and held by one process. Imports no torch."""

import contextlib
import fcntl
import hashlib
import os
import pwd
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

PAUSE = 0.1  # seconds between two tries to take a lock

# A record lock does not keep a process from itself, and ends when that closes the file anywhere.
_held: dict[Path, object] = {}
os.register_at_fork(after_in_child=_held.clear)


def user() -> str:
    """Who this process belongs to: the account, whatever the environment says."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container that knows no accounts
        return str(os.geteuid())


def sha256(path: Path) -> str:
    """Of what is in a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(
    path: Path, data: str | bytes | Callable[[BinaryIO], None], durable: bool = True, private: bool = False
) -> None:
    """Write beside, fsync, rename: a reader sees the old file or the new one, never half of one. `data` may write.

    Not `durable`: without fsync, for a file that is rewritten in a moment and worth nothing after a power cut.
    `private`: only its owner may read it, from the moment it exists, also where the folder is a group's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # of a process that was killed: it would keep its mode
    mode = 0o600 if private else 0o666
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


class Locked(RuntimeError):
    """Another process holds the lock. `holder`: which, where, and since when."""

    def __init__(self, path: Path, holder: str):
        super().__init__(f"{path} is held by {holder}")
        self.holder = holder


@contextlib.contextmanager
def locked(path: Path, seconds: float = 0.0, waits: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the one lock on a file, which gets the holder's name; it ends with the process, however that ends.

    Raises Locked after `seconds`; `waits` is told of the holder once, before. OSError where the file system has no
    locks. The lock is a record lock, which file systems that machines share carry between them, and which no child
    inherits: data workers that outlive a killed run do not hold it. filelock takes another kind, by flock; of the
    versions that torch admits, the old ones were seen to hold it in such a child, to erase the holder's name, and to
    make a file that no colleague may open.
    """
    until, path = time.monotonic() + seconds, path.absolute()
    while isinstance(file := _take(path), str):
        if time.monotonic() >= until:
            raise Locked(path, file)
        if waits:
            waits(file)
            waits = None
        time.sleep(PAUSE)
    try:
        with file:
            file.truncate(0)
            file.write(f"process {os.getpid()} of {user()} on {socket.gethostname()} since {time.strftime('%F %T')}")
            file.flush()
            yield
    finally:
        _held.pop(path, None)


def _take(path: Path) -> TextIO | str:
    """The file, with its lock; or who holds that."""
    mine = object()
    if _held.setdefault(path, mine) is not mine:
        return f"this process ({os.getpid()})"
    file = None
    try:
        file = open(path, "a+")  # noqa: SIM115 - the caller closes it
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BaseException as error:
        del _held[path]
        if file is None:
            raise
        with file:
            file.seek(0)
            holder = file.read().strip() or "another process"
        if isinstance(error, BlockingIOError | PermissionError):
            return holder
        raise
