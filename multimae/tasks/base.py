"""What the tasks share: the splits of a run's data, batch by batch, and how a result is reported."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..config import Runtime, TrainingConfig
from ..data.about import check
from ..data.datasets import Dataset, open_dataset
from ..data.loaders import eval_batches, train_batches
from ..data.sharing import of_first
from ..data.workers import chosen
from ..metrics import Better
from ..shards import Batch, Shard

Progress = Callable[[int, int], None]  # (samples done, of how many), of all processes together


class ImageTask:
    """The part of a task that reads images; each kind of run adds its model, its losses and its metrics.

    `sets` are the splits by what they are for: "train", "eval", and "val" where weights are selected. A task that does
    not train (`trains`) opens none.
    """

    class_names: Sequence[str] = ()
    selection: tuple[str, Better] | None = None
    weights: tuple[str, str] | None = None  # (name, SHA-256) of a file that it starts from
    transform: type

    def __init__(self, config: TrainingConfig, runtime: Runtime, trains: bool = True):
        self.config, self.runtime = config, runtime
        self.transforms = {train: self.transform(config, train) for train in (True, False)}
        self.sets: dict[str, Dataset] = {}
        if trains:
            if root := runtime.data_roots.get(config.data.name):
                of_first(lambda: check(config, root))
            self.train_set = self.sets["train"] = open_dataset(config.data, "train", runtime, config.fields)
            self.eval_set = self.sets["eval"] = open_dataset(config.data, "eval", runtime, config.fields)
            self.train_samples = len(self.train_set)

    def batches(self, first_step: int, shards: list[Shard], workers: int | None) -> Iterator[list[Batch]]:
        workers = chosen(self.runtime) if workers is None else workers
        return train_batches(self.train_set, self.transforms[True], self.config, shards, first_step, workers)

    def eval_batches(
        self, dataset: Dataset, shard: Shard, progress: Progress | None = None
    ) -> Iterator[tuple[Batch, int]]:
        """(a batch of `dataset` without padding, how many of its rows count). `progress` is called after each, with
        what all processes have done.

        Every process computes as many batches as the others, so the last may be all padding: then one row is computed,
        because sharded parameters are gathered together, and none counts.
        """
        size, workers, done = self.runtime.eval_batch_size, chosen(self.runtime), 0
        for batch in eval_batches(dataset, self.transforms[False], size, shard, workers):
            rows = batch["real"].nonzero().flatten()
            count = len(rows)
            rows = rows if count else torch.zeros(1, dtype=torch.long)
            yield {key: value[rows] for key, value in batch.items()}, count
            done = min(done + size * shard.count, len(dataset))
            if progress:
                progress(done, len(dataset))

    def examples(self, count: int) -> Batch:
        """The first samples of the evaluation split, for pictures."""
        return next(eval_batches(self.eval_set, self.transforms[False], count))


def result(dataset: Dataset, metrics: dict[str, float]) -> dict[str, Any]:
    """Numbers with their conditions: the data set, the split, the number of samples and their fingerprint."""
    conditions = {"dataset": dataset.source, "split": dataset.split, "n": len(dataset)}
    return conditions | {"fingerprint": dataset.fingerprint, "metrics": metrics}
