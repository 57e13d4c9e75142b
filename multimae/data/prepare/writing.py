"""Files of a piece, on their way into the data set's folder. No torch.

A file is written beside and renamed, so that a kill leaves it whole or not at all; it is not waited for until it is on
the disk, which at a million files would take days. See `journal` for what that means after a power cut.
"""

import contextlib
import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ..listing import printable

HIDDEN = ".prepare"  # below the destination: the journal, the lock, files that are not whole yet
LINKS_FAIL = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)  # and a copy may not


class Halted(Exception):
    """The preparation cannot go on: a disk that is full, a folder that may not be written."""


class Interrupted(Exception):
    """The preparation was asked to stop."""


class FolderWriter:
    """See `pieces.Writer`."""

    def __init__(self, root: Path, stopping: Callable[[], bool] = lambda: False):
        self.root, self.stopping = root.resolve(), stopping
        self.beside = self.root / HIDDEN / f"{os.uname().nodename}.{os.getpid()}"
        self.files: Counter[str] = Counter()  # by the folder in which they lie
        self.bytes = self.linked = 0
        self._names: set[str] = set()
        self._folders: set[str] = set()

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with self._telling(path):
            with open(self.beside, "wb") as file:
                file.write(data)
            os.replace(self.beside, path)
        self.bytes += len(data)

    def keep(self, name: str, file: Path) -> None:
        path = self._path(name)
        self.beside.unlink(missing_ok=True)
        try:
            os.link(file, self.beside, follow_symlinks=True)
            self.linked += 1
        except OSError as error:
            if error.errno not in LINKS_FAIL:
                self._unreadable(file)
                raise self._told(path, error) from None
            self._unreadable(file)
            with self._telling(path):
                shutil.copyfile(file, self.beside)
                self.bytes += self.beside.stat().st_size
        with self._telling(path):
            os.replace(self.beside, path)  # does nothing where both are links to one file
            self.beside.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if self.stopping():
            raise Interrupted
        parts = name.split("/")
        if not name or "\0" in name or "\\" in name or {"", ".", ".."}.intersection(parts) or parts[0] == HIDDEN:
            raise ValueError(f"the name {printable(name)!r} leads out of {self.root}: expected <folder>/<file>")
        if name in self._names:
            raise ValueError(f"there are two files for {name}; expected each once")
        self._names.add(name)
        path = self.root.joinpath(*parts)
        folder = os.path.dirname(name)
        if folder not in self._folders:
            with self._telling(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.resolve() != path.parent:
                raise ValueError(f"{path.parent} leads through a link to {path.parent.resolve()}: remove the link")
            self._folders.add(folder)
        self.files[folder] += 1
        return path

    def _unreadable(self, file: Path) -> None:
        """Raises ValueError where it is the source that cannot be read."""
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise ValueError(f"{file} could not be read: {error.strerror}") from None

    @contextlib.contextmanager
    def _telling(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):
                self.beside.unlink(missing_ok=True)
            raise self._told(path, error) from None

    def _told(self, path: Path, error: OSError) -> Halted:
        return Halted(f"{path} could not be written: {error.strerror or error}")
