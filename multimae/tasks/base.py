"""What the tasks share: the two splits of a run's data, batch by batch, and how a result is reported."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..config import RunConfig, Runtime
from ..data.datasets import open_dataset
from ..data.loaders import eval_batches, train_batches
from ..shards import Batch, Shard

EVAL_BATCH = 64  # samples of a process at a time; changes no metric


class ImageTask:
    """The part of a task that reads images; each kind of run adds its model, its losses and its metrics."""

    class_names: Sequence[str] = ()
    transform: type

    def __init__(self, config: RunConfig, runtime: Runtime):
        self.config = config
        self.transforms = {train: self.transform(config, train) for train in (True, False)}
        self.train_set = open_dataset(config.data, "train", runtime, config.fields)
        self.eval_set = open_dataset(config.data, "eval", runtime, config.fields)
        self.train_samples = len(self.train_set)

    def batches(self, first_step: int, shards: list[Shard], workers: int) -> Iterator[list[Batch]]:
        return train_batches(self.train_set, self.transforms[True], self.config, shards, first_step, workers)

    def eval_batches(self, shard: Shard) -> Iterator[tuple[Batch, int]]:
        """(a batch of the evaluation split without padding, how many of its rows count).

        Every process computes as many batches as the others, so the last may be all padding: then one row is computed,
        because sharded parameters are gathered together, and none counts.
        """
        for batch in eval_batches(self.eval_set, self.transforms[False], EVAL_BATCH, shard):
            rows = batch["real"].nonzero().flatten()
            count = len(rows)
            rows = rows if count else torch.zeros(1, dtype=torch.long)
            yield {key: value[rows] for key, value in batch.items()}, count

    def examples(self, count: int) -> Batch:
        """The first samples of the evaluation split, for pictures."""
        return next(eval_batches(self.eval_set, self.transforms[False], count))

    def evaluation(self, metrics: dict[str, float]) -> list[dict[str, Any]]:
        """Numbers with their conditions: the data set, the split, the number of samples and their fingerprint."""
        data = self.eval_set
        made = {"dataset": self.config.data.name, "split": data.split, "n": len(data), "fingerprint": data.fingerprint}
        return [made | {"metrics": metrics}]
