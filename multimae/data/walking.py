"""Walking a folder, and why a thing in it is no file or no folder. Imports no torch.

Hidden files and folders do not count. An error of the file system is never taken for the absence of a file.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

# Files that gather beside images and are none. Whatever else is no image is told: to pass over it in silence would be
# to train on less than there is.
JUNK = re.compile(
    r"thumbs\.db|desktop\.ini|(readme|licen[cs]e|checksums|md5sums|sha\d+sums)(\.(rst|pdf))?"
    r"|.*\.(txt|json|csv|md|ya?ml|xml|html|log|md5|sha\d+)",
    re.IGNORECASE | re.DOTALL,
)

Pending = tuple[str, str, tuple]  # a folder: path relative to the top and a slash, path, what holds it


def start(top: str | Path) -> Pending:
    return "", str(top), ()


def look(pending: Pending) -> tuple[list[os.DirEntry], list[Pending]]:
    """(the files in a folder, the folders in it). Follows links, unless in a circle."""
    prefix, folder, above = pending
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _told(folder, error) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise ValueError(f"{folder} is a link to a folder that holds it, so its images never end; remove the link")
    files, folders = [], []
    for entry in entries(folder):
        if is_folder(entry):
            folders.append((f"{prefix}{entry.name}/", entry.path, (*above, identity)))
        else:
            files.append(entry)
    return files, folders


def walk(top: str | Path) -> Iterator[os.DirEntry]:
    """Every file, as it is found."""
    pending = [start(top)]
    while pending:
        files, folders = look(pending.pop())
        pending += folders
        yield from files


def entries(folder: str | Path) -> list[os.DirEntry]:
    """What is in a folder, but for what is hidden."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if entry.name[0] != "."]
    except OSError as error:
        raise _told(folder, error) from error


def _told(folder: str | Path, error: OSError) -> Exception:
    what = f"{printable(folder)} cannot be listed: {error.strerror}"
    return ValueError(what) if isinstance(error, PermissionError) else OSError(what)  # a server may answer again


def lacking(folder: Path) -> str:
    """Why there is no folder at a path; empty where there is one."""
    try:
        return "" if stat.S_ISDIR(folder.stat().st_mode) else "is no folder"
    except OSError as error:
        return "is not there" if error.errno == errno.ENOENT else f"cannot be looked at ({error.strerror})"


def is_folder(entry: os.DirEntry) -> bool:
    try:
        folder = entry.is_dir()
    except OSError as error:
        if not _leads_nowhere(entry, error):
            raise _told(entry.path, error) from error
        return False
    if folder and not is_text(entry.name):
        raise ValueError(f"{printable(entry.path)}: the folder's name is not UTF-8; rename it")
    return folder


def _leads_nowhere(entry: os.DirEntry, error: OSError) -> bool:
    """Whether an entry that could not be looked at is a link to what is not there, or to itself."""
    return entry.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


def status_of(entry: os.DirEntry) -> os.stat_result | str:
    """Of a file; or why it is none. An error of the file system is not the file's: it raises OSError."""
    try:
        status = entry.stat()
    except OSError as error:
        if _leads_nowhere(entry, error):
            return f"{entry.path} is a link to {printable(os.readlink(entry.path))}, which is not there"
        raise OSError(f"{entry.path} cannot be looked at: {error.strerror}") from error
    return status if stat.S_ISREG(status.st_mode) else f"{entry.path} is no file, but a pipe, socket or device"


def is_text(name: str) -> bool:
    return name.isascii() or not any("\udc80" <= character <= "\udcff" for character in name)


def printable(path: str | Path) -> str:
    """A path as it can be printed, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
