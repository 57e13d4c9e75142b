"""Some samples of a data set with all that each of them holds, of a folder or of the embedded scenes."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...config import SCENES_SPLITS, ConfigError, Runtime, Scenes
from ...modalities import FIELDS
from ...seeds import derive
from ..datasets import open_scenes
from ..images import Unusable, read
from ..listing import Listing, class_names, class_of, lacking
from ..packs import facts_of
from ..scenes.dataset import RenderedScenes
from .expected import Expected

MOST_LOOKED_AT = 20_000  # samples, among which some are chosen


Files = dict[str, dict[str, Path]]  # stem -> field -> file


class Lying:
    """Files of a folder. `fields`: those that samples hold, and "label" where they lie in classes of `train`."""

    def __init__(self, files: Files, train: Path, expected: Expected, max_pixels: int):
        self.files, self.stems, self.expected, self.max_pixels = files, list(files), expected, max_pixels
        names = class_names(train) if not lacking(train) else ()
        self.numbers = {name: number for number, name in enumerate(names)}
        labelled = all(class_of(stem) in self.numbers for stem in files)
        self.fields = (*next(iter(files.values())), *(("label",) if labelled else ()))

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

    def image(self, index: int, field: str) -> Tensor:
        """Raises ValueError with the name of a file that cannot be used."""
        path = self.files[self.stems[index]][field]
        unit = self.expected.units[field].metres if field in self.expected.units else None
        try:
            return read(path, field, self.max_pixels, unit)
        except Unusable as error:
            raise ValueError(f"{path} {error}; `multimae data check` finds all such files") from None

    def sample(self, index: int) -> dict[str, Tensor]:
        stem = self.stems[index]
        sample = {field: self.image(index, field) for field in self.files[stem]}
        if "label" in self.fields:
            sample["label"] = torch.tensor(self.numbers[class_of(stem)])
        return sample


def drawn(listing: Listing, count: int, seed: int, *key: str) -> Files:
    """So many of the samples that are complete, in the order of their stems, drawn by `key`; of each class as many, if
    that goes. Empty where none is complete."""
    rng = np.random.Generator(np.random.Philox(key=derive(seed, *key)))
    order = (listing.stems[index] for index in rng.permutation(len(listing.stems)))
    whole = (stem for stem in order if all(stem in found for found in listing.found.values()))
    classes: dict[str, list[str]] = {}
    for stem in itertools.islice(whole, MOST_LOOKED_AT):
        classes.setdefault(class_of(stem), []).append(stem)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*classes.values()))
    chosen = sorted(itertools.islice((stem for stem in rounds if stem), count))
    return {stem: {field: listing.folder / found[stem][0] for field, found in listing.found.items()} for stem in chosen}


def opened(root: Path, split: str, count: int, seed: int, expected: Expected) -> Lying:
    """So many samples of a split. Raises ConfigError where there is none."""
    if lack := lacking(root / split):
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "nothing"
        raise ConfigError(f"{root / split} {lack}: give a split with --split; there is {there}")
    if facts_of(root / split):
        raise ConfigError(f"{root / split} is packed: show the folder it was made of, or `multimae data unpack` it")
    listing = Listing(root / split, None)
    if not (files := drawn(listing, count, seed, "show", split)):
        raise ConfigError(
            f"no sample in {root / split} has all of {', '.join(listing.found)}: `multimae data check {root}` says why"
        )
    train = root / (split if lacking(root / "train") else "train")
    return Lying(files, train, expected, Runtime.model_fields["max_pixels"].default)


class RenderedLying:
    """The first scenes of an embedded data set."""

    def __init__(self, data: Scenes, split: str, count: int, runtime: Runtime, fields: Sequence[str]):
        if split not in SCENES_SPLITS:
            raise ConfigError(f"--split {split}: {data.name} have {', '.join(SCENES_SPLITS)}")
        every = tuple(dict.fromkeys([*(f for f in FIELDS if f in RenderedScenes.usual), "label", *fields]))
        self.scenes = open_scenes(data, split, count, every, runtime)
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
