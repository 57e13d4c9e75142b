"""What a split of a folder holds, found out once: an index that one process writes and the others map into memory.

The first process of a run lists the folder, with the size and the time of change of every file. If that is what an
index in the cache was made of, the index holds; else every file's head and end are read, and a new one is written.
What was found wrong with a file's content stays in it until a file changes; an error of the file system never is.
"""

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from ..config import Runtime
from ..files import locked, write_atomic
from .images import Unusable, open_image, read
from .listing import ENDINGS, Listing
from .packs import TABLE, check_shards, facts_of, table_of
from .progress import Pace

CHECKERS = 16  # threads: on a network file system they wait, they do not compute
TOGETHER = 4096  # samples that are in the threads' hands
VERSION = 4  # of what is checked, and of the file; others are not read
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
KEPT_DAYS = 60.0  # an index that has been replaced: a run that began before may map it, and start workers that do
PATIENCE = 60.0  # seconds until another machine sees what was just written


class Index:
    """All samples of a split, in the order of their stems; mapped, so that many processes share it.

    `stems`: bytes (samples,). `sizes`: int64 (samples,) for each field; -1 where there is no file. `problems`: what is
    wrong with a sample, by its row.
    """

    def __init__(
        self, samples: np.ndarray, facts: Mapping[str, Any], file: Path | None = None, fields: tuple[str, ...] = ()
    ):
        """`samples`: rows of stem, and of each field kind and size. `file`: where they lie. `fields`: none are all."""
        self.samples, self.facts, self.file, self.fields = samples, facts, file, fields or tuple(facts["files"])
        self.stems = samples["stem"]
        self.problems = {int(row): problem for row, problem in facts["problems"].items()}

    def sizes(self, field: str) -> np.ndarray:
        return self.samples[f"{field} size"]

    def path(self, row: int, field: str) -> str:
        """Relative to the split."""
        of, sample = self.facts["files"][field], self.samples[row]
        name = sample["stem"].decode() + of["suffixes"][sample[f"{field} kind"]]
        return of["top"] + of["names"].get(name, name)

    def expected(self, folder: Path) -> str:
        """The paths of a sample in the folder of the split, in words."""
        tops = {field: self.facts["files"][field]["top"] for field in self.fields}
        return ", ".join(f"{folder}/{top}<subfolder>/<stem>{ENDINGS[field][0]}" for field, top in tops.items())

    def __getstate__(self) -> dict[str, Any]:
        """For another process: of what lies in a file, where."""
        return {"file": self.file, "fields": self.fields} if self.file else vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "samples" in state:
            vars(self).update(state)
            return
        until = time.monotonic() + PATIENCE
        while (index := Index.at(**state)) is None:
            if time.monotonic() > until:
                raise OSError(
                    f"{state['file']} was written by the first process, and is not to be seen here: run folders must "
                    "lie on a file system that all machines of a run share"
                )
            time.sleep(1)
        vars(self).update(vars(index))

    @classmethod
    def at(cls, file: Path, fields: tuple[str, ...] = ()) -> "Index | None":
        """What was written to a file; None where nothing is, or a power cut left a part of it."""
        try:
            facts = json.loads(file.with_suffix(".json").read_text())
            return cls(np.load(file, mmap_mode="r"), facts, file, fields)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, file: Path) -> "Index":
        """The same, mapped. Raises OSError."""
        write_atomic(file, partial(np.save, arr=self.samples), durable=False)
        write_atomic(file.with_suffix(".json"), json.dumps(self.facts), durable=False)
        return Index.at(file) or self


def index(folder: Path, fields: Iterable[str] | None, runtime: Runtime) -> Index:
    """Of a split's folder. `fields` and what is raised: as of `Listing`."""
    listing = Listing(folder, fields)
    if facts := facts_of(folder):
        check_shards(folder, facts)
        return Index(table_of(folder), facts, folder / TABLE, tuple(listing.found))
    place = hashlib.sha256(f"{folder.absolute()} {list(listing.found)} {runtime.max_pixels}".encode()).hexdigest()[:12]
    file = runtime.runs / ".cache" / "index" / f"{place}-{_digest(listing)}.npy"
    if found := Index.at(file):
        return found
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without a lock, several processes do the same
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(file.with_name(f".{place}.lock"), math.inf, partial(_wait, folder)))
        if found := Index.at(file):
            return found
        made = _made(listing, runtime)
        try:
            made = made.write(file)
            _clear(file, place)
        except OSError as error:
            print(
                f"note: the next start checks the images again: {file.parent}: {error.strerror or error}",
                file=sys.stderr,
            )
        return made


def _wait(folder: Path, holder: str) -> None:
    print(f"{folder} is being checked by {holder}: waiting for that", file=sys.stderr, flush=True)


def _clear(file: Path, place: str) -> None:
    """Remove older indexes of the same folder."""
    for old in file.parent.glob(f"{place}-*.*"):
        if old.stem != file.stem and old.stat().st_mtime < time.time() - KEPT_DAYS * 86400:
            old.unlink(missing_ok=True)


def _digest(listing: Listing) -> str:
    """Of everything that the verdicts follow from."""
    digest = hashlib.sha256(f"{VERSION} {PIL.__version__} {sorted(listing.faults.items())}".encode())
    digest.update("\n".join(listing.stems).encode())
    for files in listing.found.values():
        digest.update(repr([files.suffixes, sorted(files.names.items())]).encode())
        for column in (files.kinds, files.sizes, files.times):
            digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()[:16]


def _made(listing: Listing, runtime: Runtime) -> Index:
    """Checks the content of all samples that are complete."""
    stems = np.array([stem.encode() for stem in listing.stems], dtype=np.bytes_)
    columns: list[tuple[str, np.dtype]] = [("stem", stems.dtype)]
    for field in listing.found:
        columns += [(f"{field} kind", np.dtype(np.uint8)), (f"{field} size", np.dtype(np.int64))]
    samples = np.empty(len(stems), columns)
    samples["stem"] = stems
    for field, files in listing.found.items():
        samples[f"{field} kind"], samples[f"{field} size"] = files.kinds, files.sizes
    problems = listing.missing()
    complete = [row for row, stem in enumerate(listing.stems) if stem not in problems]
    by_row = {row: problems[stem] for row, stem in enumerate(listing.stems) if stem in problems} if problems else {}
    with Pace(f"checking the samples of {listing.folder}", len(complete)) as pace, ThreadPoolExecutor(CHECKERS) as pool:
        for start in range(0, len(complete), TOGETHER):
            rows = complete[start : start + TOGETHER]
            for row, problem in zip(rows, pool.map(partial(_check, listing, runtime.max_pixels), rows), strict=True):
                if problem:
                    by_row[row] = problem
            pace.done(len(rows))
    paths = {
        field: {"top": files.top, "suffixes": files.suffixes, "names": files.names}
        for field, files in listing.found.items()
    }
    return Index(
        samples,
        {"digest": _digest(listing), "files": paths, "problems": {str(row): by_row[row] for row in sorted(by_row)}},
    )


def _check(listing: Listing, max_pixels: int, row: int) -> str | None:
    """What is wrong with the content of a sample's files. Raises OSError with the file's name for the file system's."""
    sizes = {}
    for field, files in listing.found.items():
        path = listing.folder / files.path(row)
        try:
            with open(path, "rb") as file:
                image = open_image(file, field, max_pixels)
                sizes[path] = image.size
                end = ENDS.get(image.format or "", b"")
                file.seek(-len(end) or 0, os.SEEK_END)
                ends_well = bool(end) and file.read() == end
            if not ends_well:
                read(path, field, max_pixels)  # slow and certain: some cameras write more after the end
        except Unusable as error:
            return f"{path} {error}"
        except OSError as error:
            raise OSError(
                f"{path} could not be read: {error.strerror or error}. That is the file system's word, not the file's, "
                "so nothing is left out for it; try again when the file can be read"
            ) from error
    if len(set(sizes.values())) > 1:
        return "sizes differ: " + ", ".join(f"{path} {w} x {h}" for path, (w, h) in sizes.items())
    return None
