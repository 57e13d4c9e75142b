"""Images per second on one core: rendering scenes, reading scenes, and reading a folder of JPEG and PNG at 224 px.

The folder holds 500 x 375 images: a rendered scene with film grain as JPEG of quality 92, its depth as 16-bit and its
classes as 8-bit PNG. The same files also go through a plain pipeline of torchvision's transforms, in turns with ours,
so that a busy machine slows both alike. Times are processor time of one thread.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
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
from .datasets import open_dataset
from .loaders import train_batches
from .scenes import composing
from .scenes.rendering import render
from .transforms import PretrainTransform

FILES = 12  # different samples in the folder; each is read many times
BATCH = 12
TURNS = 7
FIELDS = ("rgb", "depth", "semseg")


def benchmark(console: Console) -> dict[str, float]:
    """Measure, print a table, and return images per second by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rates = _measure(Path(folder))
    finally:
        torch.set_num_threads(threads)
    table = Table("Data, one thread", "images/s", title="Images per second and core (median of turns)")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}")
    console.print(table)
    return rates


def _measure(folder: Path) -> dict[str, float]:
    _write_folder(folder / "images")
    runtime = Runtime(runs=folder, data_roots={"images": folder / "images"})
    indices = iter(range(10**9))

    def rendering() -> None:
        render([composing.scene("train", next(indices)) for _ in range(BATCH)], 64, FIELDS)

    work: dict[str, Callable[[], object]] = {
        "scenes rendered, 64 px": rendering,
        "scenes read, 64 px to 32 px": _loading("scenes", 32, runtime),
        "scenes read, 64 px to 64 px": _loading("scenes", 64, runtime),
        "folder read, 500 x 375 to 224 px": _loading("images", 224, runtime),
        "the same, plain torchvision v2": _plain(folder / "images" / "train"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(TURNS + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - start)
    return {name: BATCH / statistics.median(times) for name, times in seconds.items()}


def _loading(name: str, size: int, runtime: Runtime) -> Callable[[], object]:
    """What reads a batch of pre-training as the engine gets it, without workers."""
    config = Pretrain(
        batch_size=BATCH,
        data=Scenes(train_samples=512) if name in SCENES else Folder(name=name),
        model=Model(image_size=size, patch_size=8),
        masking=Dirichlet(visible_tokens=4),
    )
    dataset = open_dataset(config.data, "train", runtime, FIELDS)
    batches = train_batches(dataset, PretrainTransform(config, train=True), config, [Shard()], first_step=0)
    return lambda: next(batches)


def _write_folder(root: Path) -> None:
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
