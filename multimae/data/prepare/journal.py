"""Which pieces of a data set are made, and of which source: `.prepare/journal.jsonl`, only ever added to. No torch.

A piece's line is added when all of its files have their names, so a kill loses the pieces in work and nothing else. A
power cut may lose what the operating system had not written yet: every minute, and at the end, everything is made to
reach the disk, and a line says so. After another start of the machine the pieces since the last such line are made
again; what was made before it is there.
"""

import ctypes
import itertools
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TextIO

from ...config import ConfigError
from ...modalities import FIELDS
from .writing import HIDDEN

SYNC = 60.0  # seconds
VERSION = 1
TOLD = 5  # differences in a message

Stamp = tuple[int, int]  # bytes, time of change in ns


class Made:
    """The pieces that are made."""

    def __init__(self, root: Path, name: str):
        """Raises ConfigError where another data set is prepared there, or the journal cannot be read."""
        self.root, self.name = root, name
        self.file = root / HIDDEN / "journal.jsonl"
        self.pieces: dict[str, dict[str, Any]] = {}  # name -> its line
        self.sources: dict[str, Stamp] = {}
        self._to: TextIO | None = None
        self._synced = time.monotonic()
        self._read()

    def splits(self) -> set[str]:
        """The folders of splits that pieces have written into."""
        return {split for line in self.pieces.values() for folder in line["files"] if (split := _split(folder))}

    def check(self, sources: Mapping[str, Stamp], sizes: Mapping[str, int]) -> None:
        """Raises ConfigError where what was begun came from other archives. `sizes`: bytes of the pieces, by name."""
        differ = [
            f"{name}: was {size:,} bytes of {_when(changed)}, "
            + (f"is {sources[name][0]:,} bytes of {_when(sources[name][1])}" if name in sources else "is not there")
            for name, (size, changed) in self.sources.items()
            if sources.get(name) != (size, changed)
        ]
        differ += [
            f"piece {name}: was {line['read']:,} bytes, is {sizes[name]:,}"
            for name, line in self.pieces.items()
            if name in sizes and sizes[name] != line["read"]
        ]
        if differ:
            more = f"\n  and {len(differ) - TOLD} more" if len(differ) > TOLD else ""
            raise ConfigError(
                f"{self.root} was begun from another source:\n  " + "\n  ".join(differ[:TOLD]) + more + "\n"
                f"Give the source that it was begun from, or begin anew: rm -r {self.root / HIDDEN}"
            )

    def open(self, sources: Mapping[str, Stamp]) -> None:
        """Write down a session's source. Raises OSError."""
        self._to = open(self.file, "a")  # noqa: SIM115 - until `close`
        if self._to.tell() and not self.file.read_bytes().endswith(b"\n"):
            self._to.write("\n")  # half a line, of a kill
        head = {"version": VERSION, "name": self.name, "boot": _boot(), "sources": dict(sources)}
        self._add(head)

    def add(self, name: str, read: int, files: Mapping[str, int], size: int) -> None:
        """A piece, all of whose files are there."""
        self.pieces[name] = {"piece": name, "read": read, "files": dict(files), "bytes": size}
        self._add(self.pieces[name])
        if time.monotonic() - self._synced > SYNC:
            self.sync()

    def lost(self) -> list[str]:
        """The pieces whose folders hold fewer files than were written there: somebody has removed some."""
        written: Counter[str] = Counter()
        for line in self.pieces.values():
            written.update(line["files"])
        folders = {folder for folder, files in written.items() if _files_in(self.root / folder) < files}
        return [name for name, line in self.pieces.items() if folders.intersection(line["files"])]

    def forget(self, names: Collection[str]) -> None:
        """They are to be made again."""
        self._forget(names)
        self._add({"again": list(names)})

    def sync(self) -> None:
        """Wait until what is made is on the disk, and say so in the journal."""
        if self._to:
            _sync(self.root)
            self._add({"synced": len(self.pieces)})
            os.fsync(self._to.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        if self._to:
            self._to.close()
            self._to = None

    def _add(self, line: Mapping[str, Any]) -> None:
        assert self._to
        self._to.write(json.dumps(line) + "\n")
        self._to.flush()

    def _read(self) -> None:
        boot = ""
        uncertain: list[str] = []  # pieces that may not have reached the disk
        try:
            text = self.file.read_text()
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.file} cannot be read: {error}; remove it to begin anew") from None
        for line in text.splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue  # half a line, of a kill
            if "version" in values:
                if (values["version"], values["name"]) != (VERSION, self.name):
                    raise ConfigError(
                        f"{self.root} holds {values['name']} (journal of version {values['version']}), and not "
                        f"{self.name} (version {VERSION}): choose another folder, or empty it"
                    )
                if boot != values["boot"]:
                    self._forget(uncertain)
                    uncertain.clear()
                boot = values["boot"]
                self.sources |= {name: (size, changed) for name, (size, changed) in values["sources"].items()}
            elif "again" in values:
                self._forget(values["again"])
            elif "synced" in values:
                uncertain.clear()
            else:
                uncertain.append(values["piece"])
                self.pieces[values["piece"]] = values
        if boot != _boot():
            self._forget(uncertain)

    def _forget(self, names: Collection[str]) -> None:
        for name in names:
            self.pieces.pop(name, None)


def _files_in(folder: Path) -> int:
    return sum(not name.startswith(".") for name in os.listdir(folder)) if folder.is_dir() else 0


def _split(folder: str) -> str:
    """`train` of `train/rgb/n01440764`, `fog/3` of `fog/3/rgb/n01440764`."""
    parts = folder.split("/")
    return "/".join(itertools.takewhile(lambda part: part not in FIELDS, parts))


def _boot() -> str:
    """Of this start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _sync(folder: Path) -> None:
    """Make everything on the folder's file system reach the disk."""
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor):
            raise OSError(f"{folder} did not reach the disk")
    finally:
        os.close(descriptor)


def _when(ns: int) -> str:
    return time.strftime("%F %T", time.localtime(ns / 1e9))
