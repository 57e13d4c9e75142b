"""Scenes rendered once, into files that are mapped into memory; several processes may render and read them together."""

import contextlib
import math
import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...config import SCENES
from ...files import Locked, locked, write_atomic
from ...modalities import SOURCES
from ...units import size as bytes_text
from ..progress import Pace
from . import composing, targets
from .cache import holds, outdated, shared_as
from .standins import STANDINS

BLOCK = 512  # scenes in a file; several processes render different blocks at the same time
BATCH_PIXELS = 1 << 15  # that are rendered together: few enough for the processor's cache
INTERLEAVED = {"rgb", "normals"}  # stored (height, width, channels), which resizes twice as fast
# Fields of numbers: what is stored for 0 and for 1. Of depth, metres; the part of a normal along an axis is -1 to 1.
ENDS = {"depth": (0, 1), "normals": (-127, 127)}
BLUR = 4  # px: the side of the squares that a pseudo label cannot tell apart


class CannotRender(ValueError):
    """Scenes are not there, and may not be written."""


class RenderedScenes:
    """The first `count` scenes of a split, size x size pixels, from files that are rendered if they are not there.

    In place of a network's pseudo label there is what is rendered, with its edges off by a pixel or two: one value for
    each square of BLUR x BLUR. Dense targets are 0 to 1; normals are in camera axes (right, down, forward), of
    which -1 is 0 and 1 is 1. Depth that is not known is 0.
    """

    usual = ("rgb", "depth", "semseg", "label")
    lacks: Sequence[str] = ()

    def __init__(
        self, split: str, count: int, size: int, cache: Path, fields: tuple[str, ...] = usual, source: str = SCENES[0]
    ):
        have = tuple(dict.fromkeys((*SOURCES, *composing.FIELDS, "label", *targets.NAMES)))
        if unknown := set(fields) - set(have):
            known = ", ".join(have)
            raise ValueError(f"scenes have {known}; asked for {', '.join(sorted(unknown))}")
        self.source, self.split, self.count, self.size, self.fields = source, split, count, size, tuple(fields)
        self.standin = STANDINS[source]
        self.class_names: Sequence[str] = self.standin.labels
        self.semseg_names: Sequence[str] = self.standin.classes
        self.semseg_classes: int | None = len(self.semseg_names)
        rendered = name_of(source, size)
        dense = f"-targets{targets.VERSION}" * (not set(targets.NAMES).isdisjoint(fields))
        self.fingerprint = f"{rendered}-{split}-{count}{dense}"
        self.cache = Path(cache)
        self.folder = self.cache / rendered / split
        self.rendered = 0  # scenes, by this process
        try:
            self._render_missing()
        except OSError as error:
            raise OSError(
                f"{self.folder} cannot take rendered scenes ({error.strerror or error}); choose another folder with "
                "`cache`"
            ) from error
        self._map()

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "files"}  # a pickled map is a full copy

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._map()

    def _map(self) -> None:
        blocks = self._blocks()
        fields = {self._rendered(field) for field in self.fields}
        self.files = {field: [np.load(self._file(b, field), mmap_mode="r") for b in blocks] for field in fields}

    def name(self, index: int) -> str:
        return f"scene {index} of '{self.split}'"

    def sample(self, index: int, fields: Iterable[str]) -> dict[str, torch.Tensor]:
        block, row = divmod(index, BLOCK)
        sample = {}
        for field in fields:
            rendered = self._rendered(field)
            values = np.array(self.files[rendered][block][row])
            if ends := _ends(SOURCES.get(field, field), values.dtype):
                zero, one = ends
                values = values.astype(np.float32)
                if zero:
                    values -= zero
                values /= one - zero
            tensor = torch.from_numpy(values)
            tensor = tensor.permute(2, 0, 1) if rendered in INTERLEAVED else tensor
            sample[field] = _blurred(tensor) if SOURCES.get(field, field) != field else tensor
        return sample

    # ---- the cache

    def _blocks(self) -> list[range]:
        return [range(start, min(start + BLOCK, self.count)) for start in range(0, self.count, BLOCK)]

    def _file(self, block: range, field: str) -> Path:
        version = f"{targets.VERSION}" if field in targets.NAMES else ""
        return self.folder / f"{block.start:07d}-{block.stop:07d}.{field}{version}.npy"

    def _rendered(self, field: str) -> str:
        """The field that is rendered for another: most pseudo labels are made of the truth."""
        return field if field in self.standin.own else SOURCES.get(field, field)

    def _alone(self, block: range, seconds: float = 0.0) -> contextlib.AbstractContextManager[None]:
        return locked(self.folder / f"{block.start:07d}-{block.stop:07d}.lock", seconds)

    def _missing(self, block: range) -> list[str]:
        """What to render of a block: with anything, all that is usual, and with a dense target all of them, because
        another task will want it."""
        wanted = dict.fromkeys((*self.usual, *map(self._rendered, self.fields)))
        dense = dict.fromkeys((*targets.NAMES, *targets.RENDERED))
        if not dense.keys().isdisjoint(wanted):
            wanted |= dense
        return [field for field in wanted if not _whole(self._file(block, field))]

    def _render_missing(self) -> None:
        """Render the blocks that are not there; those which another process is rendering come last."""
        todo = [block for block in self._blocks() if self._missing(block)]
        if not todo:
            return
        with contextlib.suppress(PermissionError):
            self.cache.mkdir(parents=True, exist_ok=True)
            with shared_as(self.cache):
                self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise CannotRender(
                f"scenes are to be rendered into {self.folder}, where you may not write: share that folder with your "
                "group (`chmod -R g+rwX`), or choose another: `cache` in a profile, or --runtime cache=DIR"
            )
        what = f"rendering scenes ({self.split}, {self.size} px)"
        with Pace(f"{what} into {self.cache}", sum(map(len, todo))) as pace, shared_as(self.cache):
            self._render_all(todo, pace)
        if self.rendered:
            print(f"{what}: done; {self.cache} holds {bytes_text(holds(self.cache))}", file=sys.stderr, flush=True)
        if old := outdated(self.cache, {name: standin.version for name, standin in STANDINS.items()}):
            print(f"note: {old}", file=sys.stderr, flush=True)

    def _render_all(self, todo: Iterable[range], pace: Pace) -> None:
        others = []
        for block in todo:
            try:
                with self._alone(block):
                    self._render(block, pace)
            except Locked:
                others.append(block)
        if others:
            print(f"{pace.what}: waiting for other processes that render too", file=sys.stderr, flush=True)
        for block in others:
            with self._alone(block, math.inf):
                self._render(block, pace)

    def _render(self, block: range, pace: Pace) -> None:
        if not (fields := self._missing(block)):
            pace.done(len(block))
            return
        parts = []
        together = max(1, BATCH_PIXELS // self.size**2)
        for start in range(block.start, block.stop, together):
            batch = [self.standin.scene(self.split, index) for index in block[start - block.start :][:together]]
            images = self.standin.render(batch, self.size, fields)
            images["label"] = np.array([scene.label for scene in batch])
            for field in images:
                if images[field].dtype == np.float32:
                    images[field] = images[field].astype(np.float16)  # to 0.05 %, in half the space
            for field in INTERLEAVED.intersection(images):
                images[field] = images[field].transpose(0, 2, 3, 1)
            parts.append(images)
            self.rendered += len(batch)
            pace.done(len(batch))
        for field in fields:
            whole = np.concatenate([part[field] for part in parts])
            write_atomic(self._file(block, field), partial(np.save, arr=whole))


def name_of(source: str, size: int) -> str:
    """Of the folder of a data set's scenes."""
    return f"{source}-v{STANDINS[source].version}-{size}px"


def _ends(field: str, dtype: np.dtype) -> tuple[int, int] | None:
    """What is stored for 0 and for 1; None: what is stored is no number."""
    return ENDS.get(field) or ((0, np.iinfo(dtype).max) if field in targets.NAMES else None)


def _blurred(image: torch.Tensor) -> torch.Tensor:
    """(..., size, size), of every square of pixels the one in its middle."""
    side = image.shape[-1]
    at = (torch.arange(side) // BLUR * BLUR + BLUR // 2).clamp(max=side - 1)
    return image[..., at[:, None], at]


def _whole(path: Path) -> bool:
    """Whether a file is there, and as long as it says: a power cut or a copy may have left a part of one."""
    try:
        np.load(path, mmap_mode="r")
    except (FileNotFoundError, EOFError, ValueError):
        return False
    return True
