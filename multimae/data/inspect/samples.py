"""Some samples of a data set with all that each of them holds, of a folder or of the embedded scenes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...config import SCENES_SPLITS, ConfigError, Runtime
from ...modalities import FIELDS
from ...seeds import derive
from ..images import Unusable, read
from ..listing import Listing, class_names, class_of, lacking
from ..scenes.dataset import RenderedScenes
from .expected import Expected


class Lying:
    """Files of a folder. `fields`: those that all of the samples hold, and "label" where they lie in classes."""

    def __init__(self, listing: Listing, train: Path, stems: Sequence[str], expected: Expected, max_pixels: int):
        self.listing, self.stems, self.expected, self.max_pixels = listing, list(stems), expected, max_pixels
        names = class_names(train) if not lacking(train) else ()
        self.numbers = {name: number for number, name in enumerate(names)}
        labelled = all(class_of(stem) in self.numbers for stem in stems)
        self.fields = (*listing.found, *(("label",) if labelled else ()))

    def __len__(self) -> int:
        return len(self.stems)

    def name(self, index: int) -> str:
        label = class_of(self.stems[index])
        known = self.expected.about.categories.get(label) if self.expected.about else None
        number = f" (class {self.numbers[label]}{', ' + known if known else ''})" if label in self.numbers else ""
        return self.stems[index] + number

    def names(self, field: str) -> Callable[[int], str]:
        classes = self.expected.classes.get(field)
        return classes.name if classes else str

    def sample(self, index: int) -> dict[str, Tensor]:
        """Raises ValueError with the name of a file that cannot be used."""
        stem, sample = self.stems[index], {}
        for field, found in self.listing.found.items():
            path = self.listing.folder / found[stem][0]
            unit = self.expected.units[field].metres if field in self.expected.units else None
            try:
                sample[field] = read(path, field, self.max_pixels, unit)
            except Unusable as error:
                raise ValueError(f"{path} {error}; `multimae data check` finds all such files") from None
        if "label" in self.fields:
            sample["label"] = torch.tensor(self.numbers[class_of(stem)])
        return sample


def drawn_from(root: Path, split: str, count: int, seed: int, expected: Expected) -> Lying:
    """So many samples that are complete, drawn from all of a split. Raises ConfigError where there is none."""
    if lack := lacking(root / split):
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "nothing"
        raise ConfigError(f"{root / split} {lack}: give a split with --split; there is {there}")
    listing = Listing(root / split, None)
    missing = listing.missing()
    whole = [stem for stem in listing.stems if stem not in missing]
    if not whole:
        raise ConfigError(
            f"no sample in {root / split} has all of {', '.join(listing.found)}: `multimae data check {root}` says why"
        )
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "show", split)))
    chosen = sorted(rng.choice(len(whole), min(count, len(whole)), replace=False))
    train = root / (split if lacking(root / "train") else "train")
    max_pixels = Runtime.model_fields["max_pixels"].default
    return Lying(listing, train, [whole[index] for index in chosen], expected, max_pixels)


class RenderedLying:
    """The first scenes of an embedded data set."""

    def __init__(self, source: str, split: str, count: int, size: int, cache: Path, fields: Sequence[str]):
        if split not in SCENES_SPLITS:
            raise ConfigError(f"--split {split}: {source} have {', '.join(SCENES_SPLITS)}")
        every = tuple(dict.fromkeys([*(f for f in FIELDS if f in RenderedScenes.usual), "label", *fields]))
        self.scenes = RenderedScenes(split, count, size, cache, every, source)
        self.fields = every

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        label = int(self.scenes.sample(index, ["label"])["label"])
        return f"{self.scenes.name(index)} (class {label}, {self.scenes.class_names[label]})"

    def names(self, field: str) -> Callable[[int], str]:
        names = self.scenes.semseg_names
        return lambda number: f"{number} {names[number]}" if number < len(names) else str(number)

    def sample(self, index: int) -> dict[str, Tensor]:
        return self.scenes.sample(index, self.fields)
