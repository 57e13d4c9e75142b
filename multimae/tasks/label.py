"""Pseudo labels: predicts a field of each photograph of a split, and writes it beside (paper Section 3.4)."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..config import ConfigError, Folder, Runtime, Segment, Transfer, load
from ..config.label import Label
from ..data.datasets import open_dataset
from ..data.imagefolder import FolderDataset
from ..data.images import FORMATS, read
from ..data.loaders import normalize
from ..data.views import View
from ..files import write_atomic
from ..labelling import conversions, provenance
from ..labelling.models import network
from ..labelling.networks import ClassNetwork, DepthNetwork, Labeller
from ..modalities import FIELDS, MODALITIES
from ..pictures import label_sheet
from ..shards import Shard
from .transfer import Progress, load_trained

SHEET = "sheet"  # the last piece: a picture of some photographs and their labels
SHOWN = 6
TOGETHER = 8  # photographs that a network sees at once, unless `micro_batch_size` says otherwise
AHEAD = 2  # batches that are read meanwhile
READERS = 2  # threads that decode and encode files, at least


class LabelTask:
    """A `Work`: a piece is a block of photographs. Which of them a network sees together follows from the block alone,
    so that a run which continues, on however many processes, writes the same bytes."""

    class_names: Sequence[str] = ()

    def __init__(self, config: Label, runtime: Runtime):
        self.config, self.runtime, self.kind = config, runtime, FIELDS[config.field]
        if not isinstance(config.data, Folder):
            name = config.data.name
            raise ConfigError(
                f"data.name: '{name}' lie in no folder beside which labels could; "
                f"`multimae data label {name} --out NEW` writes their photographs into one"
            )
        data = open_dataset(config.data, "eval", runtime, config.fields)
        assert isinstance(data, FolderDataset)
        self.allow_missing = config.data.allow_missing
        if config.photographs not in (None, data.fingerprint) and not self.allow_missing:
            raise ConfigError(
                f"{data.root / data.split} has changed since this run was planned (photographs were added, removed or "
                "replaced): give the command again, and what is labelled stays"
            )
        self.data, self.sets, self.field = data, {"eval": data}, config.fields[0]
        self.weights: tuple[str, str] | None = None
        self.labeller, names, architecture = self._labeller()
        self.blocks = {f"{block.start}-{block.stop - 1}": block for block in config.blocks(len(data))}
        self.pieces = (*self.blocks, SHEET)
        self.folder = provenance.begin(data.root, config, architecture)
        provenance.say(data.root, config, names)

    def _labeller(self) -> tuple[Labeller, list[str], str]:
        """It, the names of its classes by number, and what it is."""
        config = self.config
        if config.needs:
            (signature,) = config.needs
            folder = self.runtime.runs / signature
            trained = Trained(load(folder / "config.yaml"), folder / "weights.safetensors", self.runtime)
            return trained, trained.names, f"run {signature}"
        if config.network is None or config.foreign_weights is None:
            raise ConfigError("network: expected the hash of a network's folder; `multimae data label` finds it")
        key = config.foreign_weights.partition(":")[2]
        if key not in self.runtime.weights:
            raise ConfigError(f"{config.lacks_weights(())}; add --weights {key}=DIR")
        found = network(self.runtime.weights[key], config.modality)
        if found.content != config.network:
            raise ConfigError(
                f"{found.folder} has changed since this run was planned: expected the network with the SHA-256 "
                f"{config.network[:16]}, found {found.content[:16]}. Give the command again"
            )
        self.weights = (f"weights {config.foreign_weights}", found.content)
        if self.kind.channels is not None:
            return DepthNetwork(found), [], found.architecture
        table = conversions.table(found.labels, config.numbering)
        return ClassNetwork(found, table), provenance.names_of(found.labels, config.numbering), found.architecture

    def do(self, piece: str, device: torch.device, shard: Shard, progress: Progress) -> list[dict[str, Any]]:
        if piece == SHEET:
            if shard.index == 0:
                self._draw()
            return []
        self.labeller.to(device)
        batches = self._batches(self.blocks[piece])
        mine = batches[shard.index :: shard.count]
        with ThreadPoolExecutor(max(READERS, self.runtime.workers or 0)) as pool:
            read, writing = self._read(pool, mine), list[Future]()
            for first in range(0, len(batches), shard.count):
                if photographs := next(read, None):
                    writing += self._label(pool, photographs)
                progress(sum(map(len, batches[: first + shard.count])), len(self.blocks[piece]))
            for file in writing:
                file.result()
        return []

    # ---- what is seen together

    def _batches(self, block: range) -> list[list[int]]:
        """Photographs of one size, as many as a network takes at once."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for index in block:
            sizes.setdefault(_upright_size(self.data.path(index, self.field)), []).append(index)
        size = self.runtime.micro_batch_size or TOGETHER
        return [same[start : start + size] for same in sizes.values() for start in range(0, len(same), size)]

    def _read(self, pool: ThreadPoolExecutor, batches: list[list[int]]) -> Iterator[list["Photograph"]]:
        """Batch by batch; an empty one where all labels are there."""
        ahead: deque[list[Future]] = deque()
        for batch in batches:
            todo = not all(map(self._labelled, batch))
            ahead.append([pool.submit(self._photograph, index) for index in batch] if todo else [])
            if len(ahead) > AHEAD:
                yield _results(ahead.popleft())
        while ahead:
            yield _results(ahead.popleft())

    def _photograph(self, index: int) -> "Photograph | None":
        path = self.data.path(index, self.field)
        try:
            image = self.data.sample(index, (self.field,))[self.field].permute(1, 2, 0).numpy()
        except ValueError as error:
            if isinstance(error.__cause__, OSError) or not self.allow_missing:
                raise
            print(f"warning: left out {error}", flush=True)
            return None
        turn = _orientation(path)
        upright = conversions.upright(image, turn)
        return Photograph(index, self.labeller.seen(upright), upright.shape[:2], turn)

    def _label(self, pool: ThreadPoolExecutor, photographs: "list[Photograph]") -> list[Future]:
        """Labels of one batch, on their way to the disk."""
        seen = torch.stack([photograph.seen for photograph in photographs])
        try:
            labels = self.labeller.label(seen, photographs[0].size)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{len(photographs)} photographs of {' x '.join(map(str, photographs[0].size))} px at once take more "
                "memory than the device has: --batch 1, or a smaller number than now"
            ) from error
        return [pool.submit(self._write, one, label.cpu()) for one, label in zip(photographs, labels, strict=True)]

    def _write(self, photograph: "Photograph", label: Tensor) -> None:
        try:
            image = label.numpy()
            if self.kind.channels is not None:
                image = conversions.counts(conversions.metres(label, self.config.conversion), self.kind)
        except ValueError as error:
            raise ValueError(f"{self.data.path(photograph.index, self.field)}: {error}") from None
        image = np.ascontiguousarray(conversions.turned_back(image, photograph.turn))
        write_atomic(self._file(photograph.index), conversions.png(image))

    def _file(self, index: int) -> Path:
        inner = self.data.path(index, self.field).relative_to(self.data.root / self.data.split / self.field)
        return self.folder / inner.with_suffix(self.kind.files.endings[0])

    def _labelled(self, index: int) -> bool:
        """Whether its labels are there, and not those of a photograph that has been replaced since."""
        try:
            label, photograph = os.stat(self._file(index)), os.stat(self.data.path(index, self.field))
        except OSError:
            return False
        return label.st_size > 0 and label.st_mtime_ns >= photograph.st_mtime_ns

    def _draw(self) -> None:
        first = [index for block in self.blocks.values() for index in block if self._labelled(index)][:SHOWN]
        if not first:
            return
        photographs = [self.data.sample(index, (self.field,))[self.field] for index in first]
        labels = [read(self._file(index), self.config.field, self.runtime.max_pixels) for index in first]
        folder = self.runtime.runs / self.config.signature / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        sheet = label_sheet(photographs, labels, self.kind, self.config.field)
        write_atomic(folder / "labels.png", lambda file: sheet.save(file, "PNG"))


class Photograph:
    """One that is decoded: `seen` by the network, of `size` (height, width) upright, by EXIF turned by `turn`."""

    def __init__(self, index: int, seen: Tensor, size: tuple[int, int], turn: int):
        self.index, self.seen, self.size, self.turn = index, seen, size, turn


class Trained:
    """A run's transfer as a labeller: the photograph is made square, and what is predicted as large as it again."""

    def __init__(self, config: Any, weights: Path, runtime: Runtime):
        assert isinstance(config, Transfer)
        self.task = load_trained(config, weights, runtime)
        self.size, self.classes = config.model.image_size, isinstance(config, Segment)
        self.names = [f"class {number}" for number in range(config.classes)] if isinstance(config, Segment) else []
        self.modality = next(name for name, kind in MODALITIES.items() if kind.photograph)
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self.device = device
        self.task.model.to(device)

    def seen(self, image: np.ndarray) -> Tensor:
        view = View((0, 0, *image.shape[:2]), (self.size, self.size), (0, 0), self.size)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return view.numbers(pixels, MODALITIES[self.modality])

    @torch.inference_mode()
    def label(self, images: Tensor, size: tuple[int, int]) -> list[Tensor]:
        answer = self.task.answer(self.task.model(normalize({self.modality: images}, self.device)))
        if self.classes:
            return [interpolate(one[None, None].float(), size, mode="nearest-exact")[0, 0].byte() for one in answer]
        return [interpolate(one[None], size, mode="bilinear")[0, 0] for one in answer]


def _results(futures: list[Future]) -> list[Photograph]:
    return [photograph for future in futures if (photograph := future.result()) is not None]


def _orientation(path: Path) -> int:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.getexif().get(conversions.ORIENTATION, 1)
    except Exception:  # whatever is wrong with its EXIF: the photograph is as it lies
        return 1


def _upright_size(path: Path) -> tuple[int, int]:
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
    return (width, height) if _orientation(path) > 4 else (height, width)
