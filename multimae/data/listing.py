"""What lies in a folder of images, told without opening one: samples and classes.

`<root>/<split>/<field>/<subfolder>/<stem>.<ext>`, joined by subfolder and stem; a field is a source of a modality, or a
dense target.
Subfolders are optional (ADE20K) and name the classes where they are there. Without folders of fields, the split's own
subfolders hold photographs (ImageNet).
Hidden files and folders do not count. Imports no torch: planning a study counts classes and samples too.
"""

import contextlib
import errno
import functools
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..config import SCENES, ConfigError
from ..config.settings import nearest
from ..modalities import FIELDS, SOURCES

ENDINGS = {field: kind.files.endings for field, kind in FIELDS.items()}  # of files that are read
PHOTOGRAPHS = next(field for field, kind in FIELDS.items() if kind.photograph)
# Files that gather beside images and are none. Whatever else is no image is told: to pass over it in silence would be
# to train on less than there is.
JUNK = re.compile(
    r"thumbs\.db|desktop\.ini|(readme|licen[cs]e|checksums|md5sums|sha\d+sums)(\.(rst|pdf))?"
    r"|.*\.(txt|json|csv|md|ya?ml|xml|html|log|md5|sha\d+)",
    re.IGNORECASE | re.DOTALL,
)
SHOWN = 20  # problems that are listed one by one

Found = tuple[str, int, int]  # path relative to the split, bytes, time of change


class Listing:
    """The files in the folder of a split, by field and relative stem (`n01440764/n01440764_10026`)."""

    def __init__(self, folder: Path, fields: Iterable[str] | None):
        """`fields`: those to list; None: all that are there. Raises ValueError where the folder is none, or its samples
        cannot be told; OSError of the file system."""
        self.folder = folder
        if lack := lacking(folder):
            raise ValueError(f"{folder} {lack}: expected a split's folder, with a subfolder for each modality")
        there = [field for field in ENDINGS if not lacking(folder / field)]
        wanted = [field for field in fields if field != "label"] if fields is not None else there
        self.plain = not SOURCES.keys() & there  # ImageNet: class folders, and nothing but photographs
        if self.plain:
            there, wanted = [PHOTOGRAPHS], wanted or [PHOTOGRAPHS]
        elif not wanted:
            wanted = there
        lost = [str(folder / field) for field in wanted if field not in there]
        if lost:
            raise ValueError(f"{', '.join(lost)} not found: expected a folder for each modality of this run")
        self.faults: dict[str, str] = {}  # stem -> what lies there in place of a file that can be read
        self.found = {field: self._files(field) for field in ENDINGS if field in wanted}
        self.stems = sorted(set(self.faults).union(*self.found.values()))

    def expected(self) -> str:
        return ", ".join(str(self.example(field, "<subfolder>/<stem>")) for field in self.found)

    def example(self, field: str, stem: str) -> Path:
        return self.folder / ("" if self.plain else field) / (stem + ENDINGS[field][0])

    def missing(self) -> dict[str, str]:
        """stem -> what lies there instead of the sample's files, or the paths that were expected."""
        missing = {}
        for stem in self.stems:
            if paths := [str(self.example(field, stem)) for field, found in self.found.items() if stem not in found]:
                missing[stem] = " and ".join(paths) + " missing"
        return missing | self.faults

    def sizes(self, stems: Sequence[str]) -> np.ndarray:
        """Bytes of the samples' files: (fields, samples)."""
        return np.array([[found[stem][1] for stem in stems] for found in self.found.values()])

    def _files(self, field: str) -> dict[str, Found]:
        found: dict[str, Found] = {}
        top = "" if self.plain else f"{field}/"
        _class_folders(self.folder / top)
        for name, entry in _walk(os.path.join(self.folder, top)):
            stem, ending = os.path.splitext(name)
            stem = stem if stem.isascii() else unicodedata.normalize("NFC", stem)  # macOS writes é as e and an accent
            if fault := _fault(entry, ending.lower(), field):
                self.faults[stem] = fault
                continue
            status = entry.stat()
            if stem in found:
                raise ValueError(f"two files for one sample: {self.folder / found[stem][0]} and {entry.path}")
            found[stem] = (top + name, status.st_size, status.st_mtime_ns)
        return found


def _walk(top: str) -> Iterator[tuple[str, os.DirEntry]]:
    """(path relative to `top`, entry) of whatever is no known junk. Follows links, unless in a circle."""
    pending: list[tuple[str, str, tuple]] = [("", top, ())]
    while pending:
        prefix, folder, above = pending.pop()
        with _telling(folder):
            status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise ValueError(f"{folder} is a link to a folder that holds it, so its images never end; remove the link")
        for entry in _entries(folder):
            if _is_folder(entry):
                pending.append((f"{prefix}{entry.name}/", entry.path, (*above, identity)))
            elif not JUNK.fullmatch(entry.name):
                yield prefix + entry.name, entry


def _entries(folder: str | Path) -> Iterator[os.DirEntry]:
    """What is in a folder, but for what is hidden."""
    with _telling(folder), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry


@contextlib.contextmanager
def _telling(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ValueError(f"{printable(folder)} cannot be listed: {error.strerror}") from None
    except OSError as error:  # of a server, perhaps, that may answer again
        raise OSError(f"{printable(folder)} cannot be listed: {error.strerror}") from error


def lacking(folder: Path) -> str:
    """Why there is no folder at a path; empty where there is one."""
    try:
        return "" if stat.S_ISDIR(folder.stat().st_mode) else "is no folder"
    except OSError as error:
        return "is not there" if error.errno == errno.ENOENT else f"cannot be looked at ({error.strerror})"


def _is_folder(entry: os.DirEntry) -> bool:
    with _telling(entry.path):
        try:
            folder = entry.is_dir()
        except OSError as error:
            if not _leads_nowhere(entry, error):
                raise
            return False
    if folder and not _is_text(entry.name):
        raise ValueError(f"{printable(entry.path)}: the folder's name is not UTF-8; rename it")
    return folder


def _leads_nowhere(entry: os.DirEntry, error: OSError) -> bool:
    """Whether an entry that could not be looked at is a link to what is not there, or to itself."""
    return entry.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


def _fault(entry: os.DirEntry, ending: str, field: str) -> str | None:
    """Why a file is no sample's. An error of the file system is not the file's: it raises OSError."""
    if not _is_text(entry.name):
        return f"{printable(entry.path)}: the name is not UTF-8; rename it"
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        if _leads_nowhere(entry, error):
            return f"{entry.path} is a link to {printable(os.readlink(entry.path))}, which is not there"
        raise OSError(f"{entry.path} cannot be looked at: {error.strerror}") from error
    if ending not in ENDINGS[field]:
        return f"{entry.path}: expected one of {', '.join(ENDINGS[field])}, found {ending or 'no ending'}"
    return None if stat.S_ISREG(mode) else f"{entry.path} is no file, but a pipe, socket or device"


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\udc80" <= character <= "\udcff" for character in name)


def printable(path: str | Path) -> str:
    """A path as it can be printed, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# ---- classes


def class_of(stem: str) -> str:
    """The name of a sample's class: the first folder of its stem. Empty for an image that lies in none."""
    return stem.partition("/")[0] if "/" in stem else ""


def class_names(split: Path) -> tuple[str, ...]:
    """The classes of a training split, in the order of their numbers: its class folders that hold an image.

    The one numbering there is, for training, evaluation, and the number of classes that planning counts.
    """
    folders = _class_folders(images_folder(split))
    return tuple(sorted(name for name, folder in folders.items() if any(True for _ in _images(folder))))


def _class_folders(top: Path) -> dict[str, str]:
    """The folders in it by name: a class each, where they hold an image.

    Raises ValueError for what may be meant as a class and is none: a link to nothing, and a file that is no image and
    no known junk (an archive, perhaps) beside class folders; and for two folders whose names look the same.
    """
    entries = list(_entries(top))
    folders = [entry for entry in entries if _is_folder(entry)]
    for entry in entries:
        if _is_folder(entry) or JUNK.fullmatch(entry.name) or entry.name.lower().endswith(ENDINGS[PHOTOGRAPHS]):
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
    return sum(1 for _ in zip(range(limit), _images(str(folder))))


def _images(folder: str) -> Iterator[str]:
    return (name for name, _ in _walk(folder) if name.lower().endswith(ENDINGS[PHOTOGRAPHS]))


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
        if not _is_text(folder):
            raise ConfigError(f"--data: {printable(folder)} is not UTF-8; rename the folder")
        path = Path(os.path.expanduser(folder))  # which leaves the home of nobody as it is
        if roots.setdefault(name, path) != path:
            raise ConfigError(f"--data: '{name}' lies in one folder, found {roots[name]} and {path}")
    return roots
