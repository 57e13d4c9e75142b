"""Images per second: rendering scenes, reading scenes, and reading a folder of JPEG and PNG, or its pack, at 224 px, as
pre-training does; and what the reading of both is made of.

The folder holds 500 x 375 images: a rendered scene with film grain as JPEG of quality 92, its depth as 16-bit and its
classes as 8-bit PNG. The same files also go through PIL alone, and through a plain pipeline of torchvision's
transforms. All take turns, so that a busy machine slows them alike. Times are processor time of one thread; with
workers, what passes by the clock, which other work on the machine lengthens.
"""

import contextlib
import io
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..config import SCENES, Dirichlet, Folder, Model, Pretrain, Runtime, Scenes
from ..modalities import MODALITIES, RGB_MEAN, RGB_STD
from ..shards import Shard
from ..units import counted
from . import decoders, packing
from .datasets import open_dataset
from .imagefolder import FolderDataset
from .images import decode
from .loaders import train_batches
from .pixels import standardized
from .scenes import composing
from .scenes.rendering import render
from .transforms import PretrainTransform

FILES = 12  # different samples in the folder; each is read many times
BATCH = 12
TURNS = 9
WORKERS = (1, 2)
READ_AHEAD = 2  # batches that a worker has ready, as torch's DataLoader does it
FIELDS = ("rgb", "depth", "semseg")


def benchmark(console: Console) -> dict[str, float]:
    """Measure, print tables, and return images per second by name."""
    with images() as runtime:
        rates = _rates(runtime)
        stages = {name: _stages(name, runtime) for name in ("folder", "pack")}
    table = Table("Data", "images/s", "quartiles", title=f"Images per second (median of {TURNS} turns; {load()})")
    for name, turns in rates.items():
        low, median, high = statistics.quantiles(turns, n=4)
        table.add_row(name, f"{median:,.0f}", f"{low:,.0f} - {high:,.0f}")
    console.print(table)
    table = Table("Part of an image", title="Processor time of each part, alone (median)")
    for name in stages:
        table.add_column(f"{name}, us", justify="right")
        table.add_column("share", justify="right")
    for part in stages["folder"]:
        cells = [(parts[part], parts[part] / sum(parts.values())) for parts in stages.values()]
        table.add_row(part, *(text for seconds, share in cells for text in (f"{1e6 * seconds:,.0f}", f"{share:.0%}")))
    console.print(table)
    return {name: statistics.median(turns) for name, turns in rates.items()}


def load() -> str:
    return "load " + " ".join(f"{load:.1f}" for load in os.getloadavg())


@contextlib.contextmanager
def images(copies: int = 1) -> Iterator[Runtime]:
    """The data sets `folder` and `pack`, of the same FILES * `copies` samples; meanwhile torch has one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            _write_folder(root / "folder", copies)
            with contextlib.redirect_stdout(io.StringIO()):
                packing.main([str(root / "folder"), str(root / "pack")])
            yield Runtime(runs=root, data_roots={name: root / name for name in ("folder", "pack")})
    finally:
        torch.set_num_threads(threads)


def _rates(runtime: Runtime) -> dict[str, list[float]]:
    """Images per second of each turn."""
    indices = iter(range(10**9))

    def rendering() -> None:
        render([composing.scene("train", next(indices)) for _ in range(BATCH)], 64, FIELDS)

    folder = loading("folder", 224, runtime)
    work: dict[str, Callable[[], object]] = {
        "scenes rendered, 64 px": rendering,
        "scenes read, 64 px to 32 px": loading("scenes", 32, runtime),
        "scenes read, 64 px to 64 px": loading("scenes", 64, runtime),
        "folder read, 500 x 375 to 224 px": folder,
        "the same, PIL alone": _by_pil(folder),
        "the same, plain torchvision v2": _plain(runtime.data_roots["folder"] / "train"),
        "its pack": loading("pack", 224, runtime),
    }
    workers = {(name, count): loading(name, 224, runtime, count) for count in WORKERS for name in ("folder", "pack")}
    rates: dict[str, list[float]] = {}
    for turn in range(TURNS + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if turn:  # the first warms up
                rates.setdefault(name, []).append(BATCH / (time.process_time() - start))
        for (name, count), run in workers.items():
            for _ in range(READ_AHEAD * count):  # while others had their turn
                run()
            start = time.perf_counter()
            for _ in range(2 * READ_AHEAD * count):
                run()
            rate = 2 * READ_AHEAD * count * BATCH / (time.perf_counter() - start)
            if turn:
                rates.setdefault(f"the {name}, {counted(count, 'worker')}, by the clock", []).append(rate)
    return rates


def _stages(name: str, runtime: Runtime) -> dict[str, float]:
    """Seconds of an image in each part of reading a data set."""
    config = _config(name, 224)
    dataset = open_dataset(config.data, "train", runtime, FIELDS)
    assert isinstance(dataset, FolderDataset)
    transform = PretrainTransform(config, train=True)

    def read(index: int) -> dict[str, bytes]:
        return dict(dataset.read(index, FIELDS))

    files = [read(index) for index in range(FILES)]
    samples = [dataset.sample(index, FIELDS) for index in range(FILES)]
    height, width = samples[0][FIELDS[0]].shape[-2:]
    views = [transform.view((height, width), random.Random(index)) for index in range(FILES)]

    def seen(field: str, index: int) -> torch.Tensor | np.ndarray:
        kind, image = MODALITIES[field], samples[index][field]
        return views[index].numbers(image, kind) if kind.channels else views[index].classes(image, kind.stride)

    stages: dict[str, list[Callable[[], object]]] = {"files read": [partial(read, index) for index in range(FILES)]}
    for field in FIELDS:
        kind = MODALITIES[field]
        stages[f"{field} decoded"] = [partial(decode, sample[field], field, runtime.max_pixels) for sample in files]
        stages[f"{field} cropped and resized"] = [partial(seen, field, index) for index in range(FILES)]
        if kind.standardize:
            images = [view.numbers(sample[field], kind) for view, sample in zip(views, samples, strict=True)]
            stages[f"{field} standardised"] = [partial(standardized, image, kind) for image in images]
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(TURNS):
        for name, calls in stages.items():
            start = time.process_time()
            for call in calls:
                call()
            seconds[name].append((time.process_time() - start) / FILES)
    return {name: statistics.median(turns) for name, turns in seconds.items()}


def _config(name: str, size: int, batch: int = BATCH) -> Pretrain:
    return Pretrain(
        batch_size=batch,
        data=Scenes(train_samples=512) if name in SCENES else Folder(name=name),
        model=Model(image_size=size, patch_size=8),
        masking=Dirichlet(visible_tokens=4),
    )


def loading(name: str, size: int, runtime: Runtime, workers: int = 0, batch: int = BATCH) -> Callable[[], object]:
    """What reads a batch of pre-training as the engine gets it."""
    config = _config(name, size, batch)
    dataset = open_dataset(config.data, "train", runtime, FIELDS)
    batches = train_batches(dataset, PretrainTransform(config, train=True), config, [Shard()], 0, workers)
    return lambda: next(batches)


def _by_pil(run: Callable[[], object]) -> Callable[[], object]:
    """The same as if nothing faster were installed."""

    def slowly() -> object:
        kept, decoders.rust = decoders.rust, None
        try:
            return run()
        finally:
            decoders.rust = kept

    return slowly


def _write_folder(root: Path, copies: int) -> None:
    grain = np.random.default_rng(0)
    for field in FIELDS:
        (root / "train" / field / "scene").mkdir(parents=True)
    for index in range(FILES):
        scene = composing.scene("train", index)
        images = {field: image[0, ..., :375, :] for field, image in render([scene], 500, FIELDS).items()}
        rgb = images["rgb"].transpose(1, 2, 0)
        rgb = np.clip(rgb + grain.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)
        depth = (images["depth"][0] / MODALITIES["depth"].unit).astype(np.uint16)
        Image.fromarray(rgb).save(root / "train" / "rgb" / "scene" / f"{index}.jpg", quality=92)
        Image.fromarray(depth).save(root / "train" / "depth" / "scene" / f"{index}.png")
        Image.fromarray(images["semseg"]).save(root / "train" / "semseg" / "scene" / f"{index}.png")
        for field, ending in zip(FIELDS, ("jpg", "png", "png"), strict=True):
            first = root / "train" / field / "scene" / f"{index}.{ending}"
            for copy in range(1, copies):
                shutil.copy(first, first.with_stem(str(index + copy * FILES)))


def _plain(split: Path) -> Callable[[], None]:
    """What one would write first: PIL, tv_tensors, one v2 transform, and quantiles by sorting."""
    augment = v2.Compose([v2.RandomResizedCrop(224, scale=(0.2, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(RGB_MEAN, RGB_STD)])

    def read(index: int) -> dict[str, torch.Tensor]:
        def load(field: str, ending: str) -> np.ndarray:
            return np.array(Image.open(split / field / "scene" / f"{index}.{ending}"))

        rgb = tv_tensors.Image(torch.from_numpy(load("rgb", "jpg")).permute(2, 0, 1))
        depth = tv_tensors.Image(torch.from_numpy(load("depth", "png").astype(np.float32))[None])
        semseg = tv_tensors.Mask(torch.from_numpy(load("semseg", "png"))[None])
        rgb, depth, semseg = augment(rgb, depth, semseg)
        kept = depth.flatten().sort().values[depth.numel() // 10 : -(depth.numel() // 10)]
        semseg = v2.functional.resize(semseg, [56, 56])
        return {"rgb": normalize(rgb), "depth": (depth - kept.mean()) / (kept.var() + 1e-6).sqrt(), "semseg": semseg}

    def batch() -> None:
        samples = [read(index % FILES) for index in range(BATCH)]
        for field in FIELDS:
            torch.stack([sample[field] for sample in samples])

    return batch
