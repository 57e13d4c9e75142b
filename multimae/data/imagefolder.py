"""A folder of images as a data set: `<root>/<split>/<field>/<subfolder>/<stem>.<ext>` (see `multimae.data.listing`).

Everything is listed in one walk, and the head and the end of every file are read, before training starts (see
`multimae.data.index`). The rest of a file is judged when it is read.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..config import Folder, Runtime
from ..modalities import SOURCES
from .about import FILE, About
from .images import Unusable, decode
from .index import index
from .listing import SHOWN, class_names, class_of, images_folder, places, summary
from .packs import PackedFiles, facts_of
from .subsets import choose, fingerprint
from .walking import lacking


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
        self.index = index(self.root / self.split, fields, runtime)
        facts = facts_of(self.root / self.split)
        self.packed = PackedFiles(self.root / self.split, facts) if facts else None
        stems, usable = self._usable(data.allow_missing)
        self.about = About.of(self.root)
        if self.about:
            self._hold(self.about, len(stems))
        chosen = choose(usable, data, split)
        # Which of the index's samples; None: all, in their order.
        self.rows = None if len(chosen) == len(stems) else places(stems, chosen)
        sizes = np.array([self._of(self.index.sizes(field)) for field in self.index.fields])
        self.fingerprint = fingerprint(chosen, sizes, data, whole=len(chosen) == len(usable))
        labelled = fields is None or "label" in fields  # else subfolders need be no classes: buildings, perhaps
        self.class_names: Sequence[str] = tuple(sorted(_classes(chosen))) if labelled else ()
        self.lacks: Sequence[str] = ()  # classes of the training split without a sample here
        if self.class_names:
            self._number_classes(self.root / data.train_split, whole=split == "train")
        if fields is not None and "label" in fields:
            self._check_labels()

    def _usable(self, allow_missing: bool) -> tuple[list[str], list[str]]:
        """(all stems, those of samples that can be used)."""
        folder, stems = self.root / self.split, [stem.decode() for stem in self.index.stems]
        problems = {stems[row]: problem for row, problem in self.index.problems.items()}
        if problems:
            message = summary(problems, len(stems), folder)
            if not allow_missing:
                raise ValueError(f"{message}\nRepair them, or leave these samples out with data.allow_missing=true")
            print(f"warning: left out {message}", file=sys.stderr)
        usable = [stem for stem in stems if stem not in problems]
        if not usable:
            raise ValueError(f"no samples in {folder}: expected {self.index.expected(folder)}")
        if lost := sorted(_classes(stems) - _classes(usable)) if problems else []:
            raise ValueError(
                f"all samples of {len(lost)} classes in {folder} were left out: {', '.join(lost[:SHOWN])}. "
                "Repair them, or remove their folders, so that nothing is measured as if they were there"
            )
        return stems, usable

    def _hold(self, about: About, samples: int) -> None:
        """The data set to what it says of itself."""
        said = about.splits.get(self.split)
        if said is not None and said != samples:
            raise ValueError(
                f"{self.root / self.split} has {samples:,} samples, and {self.root / FILE} says {said:,}: prepare it "
                "again, which completes it, or correct that line if these are all there shall be"
            )
        for field in self.index.fields:
            facts, modality = about.fields.get(field), SOURCES.get(field)
            if facts and facts.unit and field != modality:  # of the modality itself, the run's settings say it too
                self.units[field] = facts.unit

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.index.fields, "label") if self.class_names else self.index.fields

    def __len__(self) -> int:
        return len(self.index.stems) if self.rows is None else len(self.rows)

    def _of(self, column: np.ndarray) -> np.ndarray:
        """What a column of the index holds of these samples."""
        return column if self.rows is None else column[self.rows]

    def _row(self, index: int) -> int:
        return index if self.rows is None else int(self.rows[index])

    def _stem(self, index: int) -> str:
        return self.index.stems[self._row(index)].decode()

    def _number_classes(self, train: Path, whole: bool) -> None:
        """Take the classes, and so their numbers, from the training folder. `whole`: each must have a sample here."""
        if lack := lacking(train):
            raise ValueError(
                f"{train} {lack}, and its class folders number the classes; where those are another data set's, as of "
                f"ImageNet's variants: ln -s OTHER/{train.name} {train}"
            )
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
        loose = np.flatnonzero(np.char.find(self._of(self.index.stems), b"/") < 0)
        if not self.class_names:
            raise ValueError(f"{self.root / self.split} has no class folders: expected <class>/<image> in it")
        if len(loose):
            listed = ", ".join(self.name(index) for index in loose[:SHOWN])
            raise ValueError(f"{len(loose)} images lie beside the class folders; move or remove them: {listed}")

    def path(self, index: int, field: str) -> Path:
        return self.root / self.split / self.index.path(self._row(index), field)

    def name(self, index: int) -> str:
        return str(self.path(index, self.index.fields[0]))

    def sample(self, index: int, fields: Iterable[str]) -> dict[str, torch.Tensor]:
        files = [field for field in fields if field != "label"]
        sample = {}
        for field, data in self.read(index, files):
            try:
                sample[field] = decode(data, field, self.max_pixels, self.units.get(field))
            except Unusable as error:
                raise ValueError(
                    f"{self.path(index, field)} {error}. Repair it, or remove the sample; `multimae data check --deep "
                    f"{self.root}` finds all such files"
                ) from None
        if "label" in fields:
            sample["label"] = torch.tensor(self.class_numbers[class_of(self._stem(index))])
        return sample

    def read(self, index: int, fields: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(field, what lies in its file). Raises ValueError with the name of a file that cannot be read, or is no more
        what it was when the run began."""
        row = self._row(index)
        if self.packed:
            yield from self.packed.read(self.index.samples[row], fields).items()
            return
        for field in fields:
            path, size = self.path(index, field), int(self.index.sizes(field)[row])
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ValueError(f"{path} could not be read: {error.strerror or error}") from error
            if len(data) != size:
                raise ValueError(
                    f"{path} has {len(data):,} bytes, and had {size:,} when this run began: a run learns from one set "
                    "of files. Put it back, or begin anew with these"
                )
            yield field, data


def _classes(stems: Iterable[str]) -> set[str]:
    return {class_of(stem) for stem in stems} - {""}
