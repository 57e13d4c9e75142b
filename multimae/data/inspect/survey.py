"""What lies in a split: the heads and ends of all its files, and the pixels of some. One sample at a time; what is kept
does not grow with the pixels, and of a file it is its name and 8 bytes."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ...modalities import FIELDS, MASK
from ..images import Unusable, open_image, read
from ..index import CHECKERS, ENDS
from ..listing import Listing, class_of
from .findings import EXAMPLES
from .samples import Files

TOGETHER = 256  # samples that are in the pool's hands
PART = 4096  # bytes of a file, in its middle and at its end, that tell it from others of its size
NUMBERS = 1 << 16  # that a pixel of a file can hold
FEW_ROWS = 8
NUMBER = re.compile(r"\d+|b'.*'")  # what differs between files in which the same is wrong


@dataclass
class Some:
    """How many there are, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.first) < EXAMPLES:
            self.first.append(text)


@dataclass
class Values:
    """Of the pixels of one field, as numbers in the files."""

    files: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(NUMBERS, np.int64))  # with each number
    images: np.ndarray = field(default_factory=lambda: np.zeros(NUMBERS, np.int64))  # that hold it
    flat: Some = field(default_factory=Some)  # files of one value
    empty: Some = field(default_factory=Some)  # files of nothing but 0
    slopes: list[float] = field(default_factory=list)  # correlations of a number with how far down it is

    def add(self, path: str, found: "Pixels") -> None:
        self.files += 1
        self.pixels[found.values] += found.counts
        self.images[found.values] += 1
        known = np.count_nonzero(found.values)
        if known < 2:
            (self.flat if known else self.empty).add(path)
        if found.slope is not None:
            self.slopes.append(found.slope)

    def quantiles(self, *shares: float) -> list[int]:
        """Of the numbers that are not 0; empty where there are none."""
        known = np.cumsum(self.pixels[1:])
        return [1 + int(np.searchsorted(known, share * known[-1])) for share in shares] if known[-1] else []


@dataclass(frozen=True)
class Pixels:
    """Of one file: which numbers, ascending, and how many pixels have each."""

    values: np.ndarray
    counts: np.ndarray
    slope: float | None


@dataclass
class Glance:
    """One sample's files, by field."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # width and height, px
    modes: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, Pixels] = field(default_factory=dict)
    mark: int = 0  # equal where the files that tell samples apart may be


@dataclass
class Survey:
    """Of a split."""

    folder: Path
    samples: int
    classes: Counter[str]  # samples by class folder; "": in none
    files: dict[str, int]  # by field
    modes: dict[str, Counter[str]]  # of images, by field
    loose: list[str] = field(default_factory=list)  # the first samples in no folder
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # width and height of samples, px
    values: dict[str, Values] = field(default_factory=dict)
    whole: int = 0  # samples that lack no file
    decoded: int = 0  # samples whose pixels were looked at
    # (field, what is wrong, its numbers left out) -> the same with those of the first, and which files
    unusable: dict[tuple[str, str], tuple[str, Some]] = field(default_factory=dict)
    differ: Some = field(default_factory=Some)  # samples whose files differ in size
    marks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    shown: Files = field(default_factory=dict)  # some samples, for pictures
    paths: np.ndarray = field(default_factory=lambda: np.zeros(0, "S1"))  # of what `marks` are of, in `folder`


def look(listing: Listing, stem: str, max_pixels: int, told_by: str, decode: bool) -> Glance:
    """At one sample. Raises OSError with the file's name for the file system's."""
    seen = Glance()
    for name, found in listing.found.items():
        if stem not in found:
            continue
        path = listing.folder / found[stem][0]
        try:
            with open(path, "rb") as file:
                if name == told_by:
                    seen.mark = _mark(file, found[stem][1])
                image = open_image(file, name, max_pixels)
                seen.sizes[name], seen.modes[name] = image.size, image.mode
                end = ENDS.get(image.format or "", b"")
                file.seek(-len(end) or 0, os.SEEK_END)
                whole = bool(end) and file.read() == end
            if decode or not whole:
                pixels = read(path, name, max_pixels, unit=1.0).numpy()
                if decode and not FIELDS[name].photograph:
                    seen.pixels[name] = _pixels(pixels, name == MASK.name)
        except Unusable as error:
            seen.unusable[name] = str(error)
        except OSError as error:
            raise OSError(f"{path} could not be read: {error.strerror or error}") from error
    return seen


def told_apart_by(listing: Listing) -> str:
    """The field by whose files samples are the same: photographs, where there are any. Equal labels may be right."""
    return next((name for name in listing.found if FIELDS[name].photograph), next(iter(listing.found)))


def _mark(file: IO[bytes], size: int) -> int:
    digest = hashlib.blake2b(size.to_bytes(8), digest_size=8)
    for start in (size // 2, max(size - PART, 0)) if size > PART else (0,):
        file.seek(start)
        digest.update(file.read(PART))
    file.seek(0)
    return int.from_bytes(digest.digest()) | 1  # 0 is none


def _pixels(image: np.ndarray, flags: bool) -> Pixels:
    values = (image * 255 if flags else image).astype(np.uint16)
    counts = np.bincount(values.ravel())
    (there,) = counts.nonzero()
    return Pixels(there.astype(np.uint16), counts[there], _slope(values[0]) if values.ndim == 3 else None)


def _slope(values: np.ndarray) -> float | None:
    """Correlation of the means of rows with how far down they are; None of few rows, or of equal ones."""
    known = values > 0
    rows = known.sum(1)
    kept = rows > 0
    means = values.sum(1, dtype=np.float64)[kept] / rows[kept]
    if kept.sum() < FEW_ROWS or means.std() == 0:
        return None
    return float(np.corrcoef(means, np.flatnonzero(kept))[0, 1])


def survey(listing: Listing, max_pixels: int, decode: Collection[str] | None, done: Callable[[], None]) -> Survey:
    """`decode`: stems of samples whose pixels are looked at; None: of all. `done` is called after each sample."""
    stems = [stem for stem in listing.stems if stem not in listing.faults]
    told_by = told_apart_by(listing)
    found = Survey(
        listing.folder,
        len(listing.stems),
        Counter(map(class_of, stems)),
        {name: len(files) for name, files in listing.found.items()},
        {name: Counter() for name in listing.found},
        loose=[stem for stem in stems if "/" not in stem][:EXAMPLES],
    )
    marks = np.zeros(len(stems), np.uint64)
    names = (listing.found[told_by].get(stem, ("",))[0] for stem in stems)
    found.paths = np.array([name.encode() for name in names], dtype=bytes)

    def one(stem: str) -> Glance:
        return look(listing, stem, max_pixels, told_by, decode is None or stem in decode)

    with ThreadPoolExecutor(CHECKERS) as pool:
        for start in range(0, len(stems), TOGETHER):
            together = stems[start : start + TOGETHER]
            for number, (stem, seen) in enumerate(zip(together, pool.map(one, together)), start):
                _take(found, listing, stem, seen)
                marks[number] = seen.mark
                found.decoded += decode is None or stem in decode
                done()
    found.marks = marks
    found.whole = sum(all(stem in files for files in listing.found.values()) for stem in stems)
    return found


def _take(found: Survey, listing: Listing, stem: str, seen: Glance) -> None:
    def path(name: str) -> str:
        return str(listing.folder / listing.found[name][stem][0])

    for name, reason in seen.unusable.items():
        found.unusable.setdefault((name, NUMBER.sub("N", reason)), (reason, Some()))[1].add(path(name))
    for name, mode in seen.modes.items():
        found.modes[name][mode] += 1
    for name, pixels in seen.pixels.items():
        found.values.setdefault(name, Values()).add(path(name), pixels)
    if seen.sizes:
        found.sizes[next(iter(seen.sizes.values()))] += 1
    if len(set(seen.sizes.values())) > 1:
        found.differ.add(", ".join(f"{path(name)} {w} x {h}" for name, (w, h) in seen.sizes.items()))


# ---- samples that are there twice


def twins(surveys: Iterable[Survey]) -> Iterator[list[tuple[Survey, str]]]:
    """Groups of equal files. Those whose mark is the only one are not read."""
    surveys = list(surveys)
    marks = np.concatenate([found.marks for found in surveys])
    starts = np.cumsum([0] + [len(found.marks) for found in surveys])
    order = np.argsort(marks, kind="stable")
    firsts = np.flatnonzero(np.diff(marks[order], prepend=np.uint64(0)))  # of equal marks; 0 is none
    counts = np.diff(firsts, append=len(order))
    for first, count in zip(firsts[counts > 1], counts[counts > 1]):
        group = order[first : first + count]
        same: dict[bytes, list[tuple[Survey, str]]] = {}
        for index in group:
            which = int(np.searchsorted(starts, index, side="right")) - 1
            file = surveys[which].paths[index - starts[which]].decode()
            with open(surveys[which].folder / file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            same.setdefault(digest, []).append((surveys[which], file))
        yield from (files for files in same.values() if len(files) > 1)
