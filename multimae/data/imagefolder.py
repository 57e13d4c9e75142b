"""A folder of images as a data set: `<root>/<split>/<field>/<subfolder>/<stem>.<ext>` (see `multimae.data.listing`).

Everything is listed in one walk, and the head and the end of every file are read, before training starts. What was
found wrong with a file's content is kept in the cache until a file changes; an error of the file system never is. The
rest of a file is judged when it is read.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch

from ..config import Folder, Runtime
from ..files import write_atomic
from .images import Unusable, open_image, read
from .listing import SHOWN, Listing, class_names, class_of, images_folder, summary
from .subsets import choose, fingerprint

CHECKERS = 16  # threads: on a network file system they wait, they do not compute
CHECK = 3  # the version of what is checked; verdicts of others are not taken from the cache
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


class FolderDataset:
    """Samples in the order of their relative stems. See `datasets.Dataset`."""

    semseg_classes: int | None = None  # files do not say

    def __init__(self, root: Path, data: Folder, split: str, runtime: Runtime, fields: Iterable[str] | None):
        """The samples of `split` ("train" or "eval") that `data` asks for.

        Raises ValueError with the path expected for whatever is missing or damaged, unless `data.allow_missing`, which
        leaves those samples out; and for a class without samples.
        """
        self.root, self.max_pixels = Path(root), runtime.max_pixels
        self.units = data.units
        self.source = data.name
        self.split, _ = data.split(split)
        listing = Listing(self.root / self.split, fields)
        if problems := listing.missing() | _unusable(listing, runtime):
            message = summary(problems, len(listing.stems), listing.folder)
            if not data.allow_missing:
                raise ValueError(f"{message}\nRepair them, or leave these samples out with data.allow_missing=true")
            print(f"warning: left out {message}", file=sys.stderr)
        usable = [stem for stem in listing.stems if stem not in problems]
        if not usable:
            raise ValueError(f"no samples in {listing.folder}: expected {listing.expected()}")
        if lost := sorted(_classes(listing.stems) - _classes(usable)):
            raise ValueError(
                f"all samples of {len(lost)} classes in {listing.folder} were left out: {', '.join(lost[:SHOWN])}. "
                "Repair them, or remove their folders, so that nothing is measured as if they were there"
            )
        stems = choose(usable, data, split)
        self.stems = np.array([stem.encode() for stem in stems])
        found = listing.found.items()  # of each field: paths relative to the split, bytes (samples,)
        self.files = {field: np.array([files[stem][0].encode() for stem in stems]) for field, files in found}
        self.fingerprint = fingerprint(stems, listing.sizes(stems), data, whole=len(stems) == len(usable))
        labelled = fields is None or "label" in fields  # else subfolders need be no classes: buildings, perhaps
        self.class_names: Sequence[str] = tuple(sorted(_classes(stems))) if labelled else ()
        self.lacks: Sequence[str] = ()  # classes of the training split without a sample here
        if self.class_names:
            self._number_classes(self.root / data.train_split, whole=split == "train")
        if fields is not None and "label" in fields:
            self._check_labels()

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.files, "label") if self.class_names else tuple(self.files)

    def __len__(self) -> int:
        return len(self.stems)

    def _number_classes(self, train: Path, whole: bool) -> None:
        """Take the classes, and so their numbers, from the training folder. `whole`: each must have a sample here."""
        names, found = class_names(train), set(self.class_names)
        folder = self.root / self.split
        if unknown := sorted(found - set(names)):
            listed = ", ".join(unknown[:SHOWN])
            raise ValueError(f"{folder} has classes that {images_folder(train)} lacks, or has no image of: {listed}")
        self.lacks = tuple(name for name in names if name not in found)
        if whole and self.lacks:
            raise ValueError(
                f"{len(self.lacks)} classes of {images_folder(train)} have no sample in {folder}: "
                f"{', '.join(self.lacks[:SHOWN])}. Add theirs, or remove their folders, so that the others are "
                "numbered without them"
            )
        self.class_names, self.class_numbers = names, {name: number for number, name in enumerate(names)}

    def _check_labels(self) -> None:
        loose = [index for index in range(len(self)) if b"/" not in self.stems[index]]
        if not self.class_names:
            raise ValueError(f"{self.root / self.split} has no class folders: expected <class>/<image> in it")
        if loose:
            listed = ", ".join(self.name(index) for index in loose[:SHOWN])
            raise ValueError(f"{len(loose)} images lie beside the class folders; move or remove them: {listed}")

    def path(self, index: int, field: str) -> Path:
        return self.root / self.split / self.files[field][index].decode()

    def name(self, index: int) -> str:
        return str(self.path(index, next(iter(self.files))))

    def sample(self, index: int, fields: Iterable[str]) -> dict[str, torch.Tensor]:
        sample = {}
        for field in fields:
            if field == "label":
                sample["label"] = torch.tensor(self.class_numbers[class_of(self.stems[index].decode())])
                continue
            path = self.path(index, field)
            try:
                sample[field] = read(path, field, self.max_pixels, self.units.get(field))
            except Unusable as error:
                raise ValueError(
                    f"{path} {error}. Repair it, or remove the sample; `multimae data check --deep {self.root}` "
                    "finds all such files"
                ) from None
            except OSError as error:
                raise ValueError(f"{path} could not be read: {error.strerror or error}") from error
        return sample


def _classes(stems: Iterable[str]) -> set[str]:
    return {class_of(stem) for stem in stems} - {""}


# ---- checking


def _unusable(listing: Listing, runtime: Runtime) -> dict[str, str]:
    """stem -> which file cannot be used, and why. From the cache, where no file has changed."""
    complete = [stem for stem in listing.stems if all(stem in found for found in listing.found.values())]
    digest = hashlib.sha256(f"{listing.folder.absolute()} {CHECK} {PIL.__version__} {runtime.max_pixels}".encode())
    for field, found in listing.found.items():
        digest.update(repr([field, *(found[stem] for stem in complete)]).encode())
    known = (runtime.cache or runtime.runs / ".cache") / "folders" / f"{digest.hexdigest()[:16]}.json"
    if (kept := _kept(known)) is not None:
        return kept
    with ThreadPoolExecutor(CHECKERS) as pool:
        checked = pool.map(partial(_check, listing, runtime.max_pixels), complete, chunksize=64)
        problems = {stem: problem for stem, problem in zip(complete, checked, strict=True) if problem}
    try:
        write_atomic(known, json.dumps(problems), durable=False)
    except OSError as error:
        print(f"note: the next start checks the images again: {known.parent}: {error.strerror}", file=sys.stderr)
    return problems


def _kept(file: Path) -> dict[str, str] | None:
    """Verdicts of an earlier check; None where there are none that can be read."""
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None


def _check(listing: Listing, max_pixels: int, stem: str) -> str | None:
    """What is wrong with the content of a sample's files. Raises OSError with the file's name for the file system's."""
    sizes = {}
    for field, found in listing.found.items():
        path = listing.folder / found[stem][0]
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
