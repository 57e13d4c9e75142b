"""Files in archives: listed by their heads, read one by one where they lie. Nothing is unpacked beside anything.

A tar in a tar is read in place. What an archive of photographs has no use for is refused, as it may lead elsewhere:
names with `..`, absolute ones, links and devices. Hidden files, which macOS adds, are passed over. No torch.
"""

import contextlib
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from ..listing import printable
from .pieces import Piece, Writer

LARGEST = 1 << 30  # bytes of a member: it is read into memory
SHOWN = 5  # names of members in a message
DEEPEST = 5  # folders below folders that are looked into


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str  # its path there, without a leading `./`
    size: int  # bytes
    start: int = 0  # byte of the archive where its content begins; of a tar


class Archive(Protocol):
    """Something that holds files. Picklable."""

    @property
    def path(self) -> Path: ...

    def members(self) -> Iterator[Member]:
        """In the order in which they lie. Raises ValueError that names the archive."""

    def give(self, member: Member, name: str, writer: Writer) -> None:
        """Write what the member holds, as `name`. Raises ValueError."""

    def read(self, member: Member) -> bytes:
        """What it holds. Raises ValueError."""


def copy(archive: Archive, places: Mapping[str, Sequence[Member]], writer: Writer) -> None:
    """What a piece does that takes files as they are: each goes to its folder, with the last part of its name."""
    for place, members in places.items():
        for member in members:
            if member.size > LARGEST:
                raise ValueError(f"{member.name} in {archive} has {member.size:,} bytes; expected an image")
            archive.give(member, f"{place}/{PurePosixPath(member.name).name}", writer)


def pieces(archive: Archive, places: Mapping[str, Sequence[Member]]) -> list[Piece]:
    """One for each folder, which it is called after."""
    return [
        Piece(place, sum(member.size for member in members), partial(copy, archive, {place: members}))
        for place, members in sorted(places.items())
    ]


def named(archive: Archive) -> str:
    """The first names in it, for a message."""
    names = [member.name for member, _ in zip(archive.members(), range(SHOWN + 1))]
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") if names else "nothing"


@contextlib.contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} could not be read: {error.strerror or error}") from error


def _checked(name: str, path: Path) -> str | None:
    """The name of a file in an archive; None of one that is passed over. Raises ValueError for one that leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(
            f"{path} holds a file with the name {printable(name)!r}, which leads out of the folder it is unpacked "
            "into: no archive as its makers publish it does; download it from them"
        )
    return None if any(part.startswith(".") or part == "__MACOSX" for part in parts) else "/".join(parts)


# ---- tar


class Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self.file, self.start, self.size, self.at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer) -> int:
        self.file.seek(self.start + self.at)
        data = self.file.read(max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


@dataclass(frozen=True)
class Tar:
    """A tar file, or one that lies in another, from byte `start`."""

    path: Path
    start: int = 0
    size: int | None = None  # None: to the end of the file
    within: str = ""  # what it is called in the other

    def __str__(self) -> str:
        return f"{self.within} in {self.path}" if self.within else str(self.path)

    def members(self) -> Iterator[Member]:
        with open(self.path, "rb") as file:
            size = file.seek(0, io.SEEK_END) if self.size is None else self.size
            seen = None
            window = Window(file, self.start, size)
            try:
                with tarfile.open(fileobj=window, mode="r:") as tar:
                    while (info := tar.next()) is not None:
                        tar.members = []  # type: ignore[attr-defined]  # else a million of them would be kept
                        if found := self._member(info):
                            yield found
                        seen = info.name
                    window.seek(tar.offset)
                    # tarfile takes a head that is cut or damaged for the end, which is a block of zeros.
                    if window.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                        raise tarfile.ReadError("no end of the archive, nor the head of a file")
            except tarfile.TarError as error:
                raise ValueError(self._broken(error, size, seen)) from None

    def read(self, member: Member) -> bytes:
        with _failing(self.path):
            file = _file(self.path)
            file.seek(member.start)
            data = file.read(member.size)
        if len(data) < member.size:
            raise ValueError(
                f"{self} ends within {member.name}: expected {member.size:,} bytes, found {len(data):,}; download it "
                "again"
            )
        return data

    def give(self, member: Member, name: str, writer: Writer) -> None:
        writer.write(name, self.read(member))

    def _member(self, info: tarfile.TarInfo) -> Member | None:
        name = _checked(info.name, self.path)
        if info.isdir() or name is None:
            return None
        if not info.isreg() or info.issparse():
            to = f" to {printable(info.linkname)}" if info.issym() or info.islnk() else ""
            what = "link" if info.issym() or info.islnk() else "device, pipe or file with holes"
            raise ValueError(
                f"{self} holds a {what}, {printable(info.name)}{to}: expected plain files, as its makers publish it"
            )
        return Member(name, info.size, self.start + info.offset_data)

    def _broken(self, error: tarfile.TarError, size: int, seen: str | None) -> str:
        if seen is None:
            return f"{self} is no tar file: {error}; it has {size:,} bytes. Download it again"
        return (
            f"{self} is cut off or damaged after {printable(seen)}: {error}; it has {size:,} bytes. Download it again"
        )


_kept: dict[Path, BinaryIO | zipfile.ZipFile] = {}  # the archive that was read last: the next piece reads it too


def _file(path: Path) -> BinaryIO:
    return _keep(path, lambda: open(path, "rb"))


def _keep(path: Path, opened: Callable[[], Any]) -> Any:
    if path not in _kept:
        for other in list(_kept):
            _kept.pop(other).close()
        _kept[path] = opened()
    return _kept[path]


# ---- zip


@dataclass(frozen=True)
class Zip:
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def members(self) -> Iterator[Member]:
        for info in _zip(self.path).infolist():
            name = _checked(info.filename, self.path)
            if info.is_dir() or name is None:
                continue
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise ValueError(f"{self} holds a link or device, {name}: expected plain files")
            if name != info.filename:
                raise ValueError(f"{self} holds a file with the name {printable(info.filename)!r}; expected {name}")
            yield Member(name, info.file_size)

    def read(self, member: Member) -> bytes:
        try:
            with _failing(self.path):
                return _zip(self.path).read(member.name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError) as error:
            raise ValueError(f"{member.name} in {self} is damaged: {error}; download the archive again") from None

    def give(self, member: Member, name: str, writer: Writer) -> None:
        writer.write(name, self.read(member))


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return _keep(path, lambda: zipfile.ZipFile(path))
    except zipfile.BadZipFile as error:
        size = path.stat().st_size
        raise ValueError(f"{path} is no whole zip file of {size:,} bytes: {error}. Download it again") from None


# ---- a folder that was unpacked already


@dataclass(frozen=True)
class Tree:
    """A folder. Its files are linked or copied, and not read."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def members(self) -> Iterator[Member]:
        """By name. Sizes are 0: nobody looks at a million files for them."""
        for folder, folders, files in os.walk(self.path, followlinks=True):
            prefix = os.path.relpath(folder, self.path).removeprefix(".")
            # A link to a folder that holds it would never end.
            folders[:] = sorted(name for name in folders if not name.startswith(".")) * (prefix.count("/") < DEEPEST)
            for name in sorted(files):
                if not name.startswith("."):
                    yield Member(f"{prefix}/{name}" if prefix else name, 0)

    def read(self, member: Member) -> bytes:
        with _failing(self.path / member.name):
            return (self.path / member.name).read_bytes()

    def give(self, member: Member, name: str, writer: Writer) -> None:
        writer.keep(name, self.path / member.name)
