"""Reading the files of a run's folder, whatever became of them. Imports no torch."""

import contextlib
import json
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..config import ConfigError


class FolderError(ConfigError):
    """Something in a run's folder that cannot be used as it is. The message names it, and what mends it."""


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Within, an error of the operating system is told as a user can mend it."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"{error.filename or path}: {error.strerror or error}. See to its owner and permissions, or move it away"
        ) from error


def regular(path: Path) -> bool:
    """Whether there is a file. Raises FolderError for what is none: a folder, a pipe, whose reader would wait, or a
    link to nothing."""
    if os.path.lexists(path) and not path.is_file():
        raise FolderError(f"{path}: expected a file, found {_broken(path) or 'something else. Move it away'}")
    return path.exists()


def check_folder(path: Path) -> None:
    """Raises FolderError where something else is in the place of a folder. There may be nothing."""
    if os.path.lexists(path) and not path.is_dir():
        raise FolderError(f"{path}: expected a folder, found {_broken(path) or 'a file. Move it away'}")


def _broken(path: Path) -> str:
    """Of a link that leads nowhere, or to itself: that, and what mends it. Empty for anything else."""
    if path.exists() or not path.is_symlink():
        return ""
    return f"a link to {os.readlink(path)}, which is not there. See whether its disk is mounted, or remove the link"


def opened(path: Path) -> BufferedReader | None:
    """The file; None where there is none. Raises FolderError where it cannot be read."""
    with usable(path):
        try:
            return open(path, "rb") if regular(path) else None
        except FileNotFoundError:  # it went just now
            return None


def read_bytes(path: Path) -> bytes | None:
    """What is in the file; None where there is none. Raises FolderError where it cannot be read."""
    if (file := opened(path)) is None:
        return None
    with file, usable(path):
        return file.read()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none, also in an empty or torn file. Raises FolderError."""
    contents = read_bytes(path)
    try:
        found = json.loads(contents or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
