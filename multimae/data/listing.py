"""What lies in a folder of images, told without opening one: samples and classes.

`<root>/<split>/<field>/<subfolder>/<stem>.<ext>`, joined by subfolder and stem; a field is a source of a modality, or a
dense target.
Subfolders are optional (ADE20K) and name the classes where they are there. Without folders of fields, the split's own
subfolders hold photographs (ImageNet).
Hidden files and folders do not count. Imports no torch: planning a study counts classes and samples too.
"""

import dataclasses
import functools
import os
import unicodedata
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..config import SCENES, ConfigError
from ..config.settings import nearest
from ..modalities import FIELDS, SOURCES
from .packs import facts_of, table_of
from .walking import JUNK, Pending, entries, is_folder, is_text, lacking, look, printable, start, status_of, walk

ENDINGS = {field: kind.files.endings for field, kind in FIELDS.items()}  # of files that are read
PHOTOGRAPHS = next(field for field, kind in FIELDS.items() if kind.photograph)
SHOWN = 20  # problems that are listed one by one
LISTERS = 16  # threads: on a network file system they wait, they do not compute

NEVER = np.zeros(0, np.int64)
Found = tuple[str, int, int]  # path relative to the split, bytes, time of change


class Listing:
    """The files in the folder of a split, by field and relative stem (`n01440764/n01440764_10026`)."""

    def __init__(self, folder: Path, fields: Iterable[str] | None):
        """`fields`: those to list; None: all that are there. Raises ValueError where the folder is none, or its samples
        cannot be told; OSError of the file system."""
        self.folder = folder
        if lack := lacking(folder):
            raise ValueError(f"{folder} {lack}: expected a split's folder, with a subfolder for each modality")
        if facts := facts_of(folder):
            self._take(facts, fields)
            return
        there = [field for field in ENDINGS if not lacking(folder / field)]
        wanted = [field for field in fields if field != "label"] if fields is not None else there
        self.plain = not SOURCES.keys() & there  # ImageNet: class folders, and nothing but photographs
        if self.plain:
            there, wanted = [PHOTOGRAPHS], wanted or [PHOTOGRAPHS]
        elif not wanted:
            wanted = there
        self._demand(wanted, there)
        columns = {field: self._column(field) for field in ENDINGS if field in wanted}
        # stem -> what lies there in place of a file that can be read
        self.faults = {stem: fault for column in columns.values() for stem, fault in column.faults.items()}
        self.stems = _union([*(column.stems for column in columns.values()), self.faults])
        self.found = {field: FieldFiles.of(self._top(field), self.stems, column) for field, column in columns.items()}

    def _take(self, facts: Mapping[str, Any], fields: Iterable[str] | None) -> None:
        """What the index of a packed split says."""
        table, of = table_of(self.folder), facts["files"]
        self.plain, self.faults = not any(files["top"] for files in of.values()), {}
        self.stems = [stem.decode() for stem in table["stem"]]
        wanted = [field for field in fields or of if field != "label"] or list(of)
        self._demand(wanted, of)
        self.found = {
            field: FieldFiles(
                stems=self.stems, **of[field], kinds=table[f"{field} kind"], sizes=table[f"{field} size"], times=NEVER
            )
            for field in of
            if field in wanted
        }

    def _demand(self, wanted: Iterable[str], there: Collection[str]) -> None:
        if lost := [str(self.folder / field) for field in wanted if field not in there]:
            raise ValueError(f"{', '.join(lost)} not found: expected a folder for each modality of this run")

    def expected(self) -> str:
        return ", ".join(str(self.example(field, "<subfolder>/<stem>")) for field in self.found)

    def example(self, field: str, stem: str) -> Path:
        return self.folder / (self._top(field) + stem + ENDINGS[field][0])

    def missing(self) -> dict[str, str]:
        """stem -> what lies there instead of the sample's files, or the paths that were expected."""
        lacks = {field: files.sizes < 0 for field, files in self.found.items()}
        missing = {}
        for row in np.flatnonzero(np.any(list(lacks.values()), axis=0)):
            stem = self.stems[row]
            paths = [str(self.example(field, stem)) for field, lack in lacks.items() if lack[row]]
            missing[stem] = " and ".join(paths) + " missing"
        return missing | self.faults

    def sizes(self, stems: Sequence[str]) -> np.ndarray:
        """Bytes of the samples' files: int64 (fields, samples); -1 where there is none."""
        sizes = np.array([files.sizes for files in self.found.values()])
        return sizes if len(stems) == len(self.stems) else sizes[:, places(self.stems, stems)]

    def _top(self, field: str) -> str:
        return "" if self.plain else f"{field}/"

    def _column(self, field: str) -> "_Column":
        """Raises ValueError for two files of one stem."""
        top = os.path.join(self.folder, self._top(field))
        class_folders(Path(top))
        column, pending = _Column(), [start(top)]
        with ThreadPoolExecutor(LISTERS) as pool:
            while pending:
                inner: list[Pending] = []
                for part, folders in pool.map(functools.partial(_leaf, field), pending):
                    column.add(part)
                    inner += folders
                pending = inner
        if any(one > other for one, other in pairwise(column.stems)):
            column.sort()
        for row, (one, other) in enumerate(pairwise(column.stems)):
            if one == other:
                found = [self.folder / self._top(field) / column.name(at) for at in (row, row + 1)]
                raise ValueError(f"two files for one sample: {found[0]} and {found[1]}")
        return column


@dataclass
class _Column:
    """Files of a field, or of a folder of it: of each its stem, what follows that, bytes and time of change."""

    stems: list[str] = dataclasses.field(default_factory=list)
    suffixes: list[str] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)
    times: list[int] = dataclasses.field(default_factory=list)
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # of those in another form of Unicode than here
    faults: dict[str, str] = dataclasses.field(default_factory=dict)  # stem -> why what lies there is no file of it

    def name(self, row: int) -> str:
        name = self.stems[row] + self.suffixes[row]
        return self.names.get(name, name)

    def add(self, other: "_Column") -> None:
        self.stems += other.stems
        self.suffixes += other.suffixes
        self.sizes += other.sizes
        self.times += other.times
        self.names |= other.names
        self.faults |= other.faults

    def sort(self) -> None:
        order = sorted(range(len(self.stems)), key=self.stems.__getitem__)
        self.stems = [self.stems[row] for row in order]
        self.suffixes = [self.suffixes[row] for row in order]
        self.sizes = [self.sizes[row] for row in order]
        self.times = [self.times[row] for row in order]


def _leaf(field: str, pending: Pending) -> tuple[_Column, list[Pending]]:
    """What lies in one folder, and the folders in it, both in order."""
    column, prefix, endings = _Column(), pending[0], ENDINGS[field]
    files, folders = look(pending)
    for entry in sorted(files, key=_name):
        stem, ending = os.path.splitext(entry.name)
        known = ending.lower() in endings
        if not known and JUNK.fullmatch(entry.name):
            continue
        stem = prefix + stem
        if not stem.isascii():
            plain = unicodedata.normalize("NFC", stem)  # macOS writes é as e and an accent
            if plain != stem:
                column.names[plain + ending] = stem + ending
            stem = plain
            if not is_text(entry.name):
                column.faults[printable(stem)] = f"{printable(entry.path)}: the name is not UTF-8; rename it"
                continue
        status = status_of(entry)
        if isinstance(status, str):
            column.faults[stem] = status
        elif not known:
            column.faults[stem] = f"{entry.path}: expected one of {', '.join(endings)}, found {ending or 'no ending'}"
        else:
            column.stems.append(stem)
            column.suffixes.append(ending)
            column.sizes.append(status.st_size)
            column.times.append(status.st_mtime_ns)
    return column, sorted(folders)


def _name(entry: os.DirEntry) -> str:
    return entry.name


def _union(parts: Sequence[Iterable[str]]) -> list[str]:
    """All stems, sorted. The fields of most folders have the same."""
    first = parts[0]
    if isinstance(first, list) and all(part == first or not part for part in parts[1:]):
        return first
    return sorted(set().union(*parts))


def places(stems: Sequence[str], some: Sequence[str]) -> np.ndarray:
    """int64 (some,): where those are among all; both are sorted."""
    rows = {stem: row for row, stem in enumerate(stems)}
    return np.array([rows[stem] for stem in some], np.int64)


@dataclass(eq=False)
class FieldFiles(Mapping[str, Found]):
    """The files of one field, by stem and by row: that of their stem among all of the split."""

    top: str  # what stands before a stem in a path: `rgb/`
    stems: list[str]
    suffixes: list[str]  # what follows it: `.JPEG`
    names: dict[str, str]  # of those in another form of Unicode than here
    kinds: np.ndarray  # which suffix,
    sizes: np.ndarray  # how many bytes (-1: there is no file),
    times: np.ndarray  # and when it was changed, in nanoseconds: (stems,)

    @classmethod
    def of(cls, top: str, stems: list[str], column: _Column) -> "FieldFiles":
        at: Any = slice(None) if len(column.stems) == len(stems) else places(stems, column.stems)
        suffixes = sorted(set(column.suffixes))
        kinds = {suffix: kind for kind, suffix in enumerate(suffixes)}
        files = cls(top, stems, suffixes, column.names, *(np.full(len(stems), -1, np.int64) for _ in range(3)))
        files.kinds[at] = [kinds[suffix] for suffix in column.suffixes]
        files.sizes[at] = column.sizes
        files.times[at] = column.times
        return files

    def path(self, row: int) -> str:
        """Relative to the split."""
        name = self.stems[row] + self.suffixes[self.kinds[row]]
        return self.top + self.names.get(name, name)

    def __getitem__(self, stem: str) -> Found:
        row = bisect_left(self.stems, stem)
        if row == len(self.stems) or self.stems[row] != stem or self.sizes[row] < 0:
            raise KeyError(stem)
        return self.path(row), int(self.sizes[row]), int(self.times[row]) if len(self.times) else 0

    def __iter__(self) -> Iterator[str]:
        return (self.stems[row] for row in np.flatnonzero(self.sizes >= 0))

    def __len__(self) -> int:
        return int((self.sizes >= 0).sum())


@functools.cache  # all stages of a study ask
def fields_of(split: Path) -> tuple[str, ...]:
    """Those that have a folder, or lie in a pack; without any, a split's own folders hold photographs."""
    facts = facts_of(split)
    there = facts["files"] if facts else (field for field in ENDINGS if not lacking(split / field))
    return tuple(there) or (PHOTOGRAPHS,)


# ---- classes


def class_of(stem: str) -> str:
    """The name of a sample's class: the first folder of its stem. Empty for an image that lies in none."""
    return stem.partition("/")[0] if "/" in stem else ""


def class_names(split: Path) -> tuple[str, ...]:
    """The classes of a training split, in the order of their numbers: its class folders that hold an image.

    The one numbering there is, for training, evaluation, and the number of classes that planning counts.
    """
    if facts := facts_of(split):
        return tuple(facts["classes"])
    folders = class_folders(images_folder(split))
    return tuple(sorted(name for name, folder in folders.items() if any(True for _ in _images(folder))))


def class_folders(top: Path) -> dict[str, str]:
    """The folders in it by name: a class each, where they hold an image.

    Raises ValueError for what may be meant as a class and is none: a link to nothing, and a file that is no image and
    no known junk (an archive, perhaps) beside class folders; and for two folders whose names look the same.
    """
    there = entries(top)
    folders = [entry for entry in there if is_folder(entry)]
    for entry in there:
        if is_folder(entry) or JUNK.fullmatch(entry.name) or entry.name.lower().endswith(ENDINGS[PHOTOGRAPHS]):
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            target = printable(os.readlink(entry.path))
            raise ValueError(f"{printable(entry.path)} is a link to {target}, which is not there; mend or remove it")
        if folders:
            raise ValueError(
                f"{printable(entry.path)} lies beside the class folders, and is neither one nor an image: unpack it "
                "if it holds a class, or move it away"
            )
    found: dict[str, str] = {}
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.name)
        if name in found:
            one, other = ascii(os.path.basename(found[name])), ascii(folder.name)
            raise ValueError(f"two folders in {top} have the same name in two forms of Unicode: {one} and {other}")
        found[name] = folder.path
    return found


def images_folder(split: Path) -> Path:
    """Where a split's class folders lie: in the folder of its first modality, or in itself."""
    return next((split / field for field in SOURCES if not lacking(split / field)), split)


@functools.cache  # all stages of a study ask
def count_images(folder: Path, limit: int) -> int:
    """How many images are in a folder; no more than `limit` are counted."""
    if facts := facts_of(folder):
        return min(limit, facts["samples"])
    return sum(1 for _ in zip(range(limit), _images(str(folder))))


def _images(folder: str) -> Iterator[str]:
    return (entry.name for entry in walk(folder) if entry.name.lower().endswith(ENDINGS[PHOTOGRAPHS]))


listed = functools.cache(Listing)  # runs of a study take different parts of one folder


def summary(problems: Mapping[str, str], samples: int, folder: Path) -> str:
    lines = [f"{len(problems)} of {samples} samples in {folder} cannot be used:"]
    lines += [f"  {problem}" for _, problem in sorted(problems.items())[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    return "\n".join(lines)


# ---- where data sets lie


def data_roots(given: Iterable[str], read: Iterable[str]) -> dict[str, Path]:
    """The folders of `NAME=DIR` words. Raises ConfigError for a NAME that no run reads, and for what has no meaning."""
    read = sorted(set(read))
    roots: dict[str, Path] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ConfigError(f"--data: expected NAME=DIR, found '{text}'")
        if name in SCENES:
            raise ConfigError(f"--data: '{name}' are embedded, and lie in no folder; found '{text}'")
        if name not in read:
            known = ", ".join(read)
            raise ConfigError(f"--data: '{name}' is the data set of no run here{nearest(name, read)} Theirs: {known}")
        if not is_text(folder):
            raise ConfigError(f"--data: {printable(folder)} is not UTF-8; rename the folder")
        path = Path(os.path.expanduser(folder))  # which leaves the home of nobody as it is
        if roots.setdefault(name, path) != path:
            raise ConfigError(f"--data: '{name}' lies in one folder, found {roots[name]} and {path}")
    return roots
