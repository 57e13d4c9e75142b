"""From a data set to batches. Which samples a step sees and how they are augmented is a function of the seed, the
epoch and the sample alone: workers, processes and interruptions change nothing."""

import random
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from ..config import TrainingConfig
from ..modalities import MODALITIES, named
from ..seeds import derive
from ..shards import Batch, Shard
from .datasets import Dataset
from .transforms import Transform
from .workers import Watch


def train_batches(
    dataset: Dataset,
    transform: Transform,
    config: TrainingConfig,
    shards: list[Shard],
    first_step: int,
    workers: int = 0,
) -> Iterator[list[Batch]]:
    """Endless: for each optimizer step from `first_step` on, one batch for each of `shards`. `index`, int64 (batch,),
    says which sample each row is. Workers begin with the call, before the first batch is asked for."""
    steps = config.steps_per_epoch(len(dataset))
    rows = [shard.rows(config.batch_size) for shard in shards]

    def keys() -> Iterator[list[tuple[int, int]]]:
        for epoch in count(first_step // steps):
            order = epoch_order(config.seed, epoch, len(dataset))
            first = first_step % steps if epoch == first_step // steps else 0
            for step in range(first, steps):
                batch = order[step * config.batch_size : (step + 1) * config.batch_size]
                for shard in rows:
                    yield [(epoch, int(index)) for index in batch[shard]]

    micro_batches = _load(_Fetch(dataset, transform, config.seed), keys(), workers)
    return ([next(micro_batches) for _ in rows] for _ in count())


def eval_batches(
    dataset: Dataset, transform: Transform, batch_size: int, shard: Shard = Shard(), workers: int = 0
) -> Iterator[Batch]:
    """All samples once, over all shards. Every shard yields the same number of batches of the same size; `index` holds
    each row's sample, and `real`, bool (batch,), is False for the rows that only fill a batch up.

    There are fewer `workers` where one would not read two batches: it takes longer to start than to read them.
    """
    samples = len(dataset)
    together = batch_size * shard.count
    starts = range(shard.index * batch_size, -(-samples // together) * together, together)
    keys = [[(None, index) for index in range(start, start + batch_size)] for start in starts]
    return _load(_Fetch(dataset, transform, seed=0), keys, min(workers, len(keys) // 2))


def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of the samples in an epoch: int64 (samples,)."""
    return np.random.Generator(np.random.Philox(key=derive(seed, "order", epoch))).permutation(samples)


def normalize(batch: Batch, device: torch.device | str = "cpu") -> Batch:
    """The images of a batch as the model takes them: numbers as their modality normalises them, classes int64."""
    images = {name: batch[name].to(device, non_blocking=True) for name in MODALITIES if name in batch}
    for name, image in images.items():
        kind = MODALITIES[name]
        if kind.channels is None:
            images[name] = image.long()
        elif kind.normalize:
            images[name] = named(kind.normalize)(image)
    return images


class _Fetch(data.Dataset[Any]):
    """Reads, transforms and stacks the samples of a batch. A key is (epoch or None, index)."""

    def __init__(self, dataset: Dataset, transform: Transform, seed: int):
        missing = [field for field in transform.fields if field not in dataset.fields]
        if missing:
            raise ValueError(
                f"the task needs {', '.join(transform.fields)}, but '{dataset.split}' holds only "
                f"{', '.join(dataset.fields)}; missing: {', '.join(missing)}"
            )
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.watch = Watch(0, dataset.name)

    def __getitems__(self, keys: list[tuple[int | None, int]]) -> Batch | ValueError:
        try:
            samples = [self._one(epoch, min(index, len(self.dataset) - 1)) for epoch, index in keys]
        except ValueError as error:  # raised in the process that asked: a worker's would arrive as a traceback
            return error
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        index = torch.tensor([index for _, index in keys])
        batch["index"] = index.clamp(max=len(self.dataset) - 1)
        if keys[0][0] is None:
            batch["real"] = index < len(self.dataset)
        return batch

    def _one(self, epoch: int | None, index: int) -> dict[str, Tensor]:
        rng = None if epoch is None else random.Random(derive(self.seed, "augment", epoch, index))
        self.watch.reads(index)
        sample = self.dataset.sample(index, self.transform.fields)
        try:
            return self.transform(sample, rng)
        except ValueError as error:
            raise ValueError(f"{self.dataset.name(index)}: {error}") from error


def _load(fetch: _Fetch, batches, workers: int) -> Iterator[Batch]:
    """Raises ValueError with the name of a sample that cannot be used, and WorkerLost."""
    fetch.watch = Watch(workers, fetch.dataset.name)
    loader = data.DataLoader(
        fetch, batch_sampler=batches, num_workers=workers, collate_fn=_as_is, pin_memory=torch.cuda.is_available()
    )  # fmt: skip
    return _batches(iter(loader), fetch.watch, workers)


def _batches(loaded: Iterator[Any], watch: Watch, workers: int) -> Iterator[Batch]:
    ended = threading.Event()
    if workers:
        threading.Thread(target=watch.tell_slow, args=(ended,), daemon=True).start()
    try:
        while True:
            with watch.waiting():
                batch = next(loaded, None)
            if batch is None:
                return
            if isinstance(batch, ValueError):
                raise batch
            yield batch
    finally:
        ended.set()


def _as_is(batch: Any) -> Any:
    return batch
