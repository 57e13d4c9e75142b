"""Opening a data set by name: the embedded scenes or a folder of images."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from ..config import SCENES, ConfigError, Data, Folder, Runtime, Scenes
from .imagefolder import FolderDataset
from .scenes.cache import BESIDE, usual_folder
from .scenes.dataset import CannotRender, RenderedScenes, name_of
from .sharing import of_first


class Dataset(Protocol):
    """Samples as they lie on the disk: not augmented, not standardised."""

    source: str  # the name of the data set
    split: str  # the name of the folder, or of the split of scenes
    fingerprint: str  # changes when the samples do
    class_names: Sequence[str]  # of `label`
    lacks: Sequence[str]  # classes of which this split has no sample
    semseg_classes: int | None  # None where files do not say

    @property
    def fields(self) -> tuple[str, ...]:
        """What a sample can hold."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call a sample in a message: a path, where there is one."""

    def sample(self, index: int, fields: Iterable[str]) -> dict[str, torch.Tensor]:
        """Of a photograph uint8 (3, H, W); of numbers float32 (channels, H, W), in the unit that their modality
        declares; of classes uint8 (H, W), 255 where unlabelled; label int64 (). Nothing but `fields` is read."""


def open_dataset(data: Data, split: str, runtime: Runtime, fields: Iterable[str] | None = None) -> Dataset:
    """The samples of `split` ("train" or "eval"), with everything checked that can be checked before training.

    `fields` are what the samples must hold; None: all that is there. Raises ValueError where anything of that is
    missing or unreadable, unless `data.allow_missing`. All processes of a run call this; the first looks at a folder.
    """
    if isinstance(data, Scenes):
        if data.name in runtime.data_roots:
            raise ConfigError(
                f"data_roots: '{data.name}' are embedded and lie in no folder; give the folder another name"
            )
        name, samples = data.split(split)
        fields = tuple(fields) if fields is not None else RenderedScenes.usual
        return open_scenes(data, name, samples or 0, fields, runtime)
    assert isinstance(data, Folder)
    if data.name not in runtime.data_roots:
        known = ", ".join([*SCENES, *sorted(runtime.data_roots)])
        raise ConfigError(
            f"data.name: no folder is known for '{data.name}' (known: {known}); give it with --data {data.name}=DIR"
        )
    return of_first(lambda: FolderDataset(runtime.data_roots[data.name], data, split, runtime, fields))


def open_scenes(data: Scenes, split: str, count: int, fields: tuple[str, ...], runtime: Runtime) -> RenderedScenes:
    """Of the user's cache on this machine, where `runtime.cache` names no other; where that cannot be written, or where
    they already lie beside the runs, of there."""

    def within(cache: Path) -> RenderedScenes:
        return RenderedScenes(split, count, data.render_size, cache, fields, data.name)

    if runtime.cache:
        return within(runtime.cache)
    beside = runtime.runs / BESIDE
    if (beside / name_of(data.name, data.render_size) / split).is_dir():
        return within(beside)
    try:
        return within(usual_folder())
    except (OSError, CannotRender) as error:  # a home that is read-only or full, or none
        print(f"note: scenes are rendered into {beside}, because {error}", file=sys.stderr, flush=True)
        return within(beside)
