"""Opening a data set by name: the embedded scenes or a folder of images."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from ..config import ConfigError, Data, Runtime
from .folders import FolderDataset
from .rendered import RenderedScenes

SCENES = "scenes"
DEFAULT_SAMPLES = {"train": 8192, "eval": 1024}  # of scenes: there are as many as are asked for


class Dataset(Protocol):
    """Samples as they lie on the disk: not augmented, not standardised."""

    split: str  # the name of the folder, or of the split of scenes
    fingerprint: str  # changes when the samples do
    fields: tuple[str, ...]  # what a sample can hold
    classes: int | None  # of `label`
    class_names: Sequence[str]
    semseg_classes: int | None  # None where files do not say

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call a sample in a message: a path, where there is one."""

    def sample(self, index: int, fields: Iterable[str]) -> dict[str, torch.Tensor]:
        """rgb uint8 (3, H, W); depth float32 (1, H, W) in metres, 0 where invalid; semseg uint8 (H, W), 255 where
        unlabelled; label int64 (). Nothing but `fields` is read."""


def open_dataset(data: Data, split: str, runtime: Runtime, fields: Iterable[str] | None = None) -> Dataset:
    """The samples of `split` ("train" or "eval"), with everything checked that can be checked before training.

    `fields` are what the samples must hold; None: all that is there. Raises ValueError where anything of that is
    missing or unreadable, unless `data.allow_missing`.
    """
    name, samples = {
        "train": (data.train_split, data.train_samples),
        "eval": (data.eval_split, data.eval_samples),
    }[split]
    cache = runtime.cache or runtime.runs / ".cache"
    if data.name == SCENES:
        fields = tuple(fields) if fields is not None else RenderedScenes.usual
        return RenderedScenes(name, samples or DEFAULT_SAMPLES[split], data.render_size, cache, fields)
    if data.name not in runtime.data_roots:
        known = ", ".join([SCENES, *sorted(runtime.data_roots)])
        raise ConfigError(
            f"data.name: no folder is known for '{data.name}' (known: {known}); give it with --data {data.name}=DIR"
        )
    root = Path(runtime.data_roots[data.name])
    dataset = FolderDataset.open(root, name, fields, cache, data.allow_missing)
    # Classes are numbered by the training folder, so that a class without evaluation images shifts no label.
    if name != data.train_split and dataset.classes is not None:
        dataset.number_classes(root / data.train_split)
    return dataset.first(samples) if samples else dataset
