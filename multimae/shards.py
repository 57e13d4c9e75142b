"""How a global batch is split, so that the number of processes changes no result."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Batch = dict[str, Any]  # tensors by name, the samples first


@dataclass(frozen=True)
class Shard:
    """Slice `index` of `count` equal slices of every global batch: one micro-batch of one process."""

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> np.ndarray:
        """Positions (int64) of this shard's samples in a global batch.

        timm's mixup pairs sample i with sample -1-i. A shard therefore takes whole pairs of the global batch, laid
        out so that its own mirror images are those pairs: the same samples are mixed however many shards there are.
        """
        if batch_size % self.count:
            raise ValueError(
                f"batch_size {batch_size} cannot be split into {self.count} equal micro-batches; choose processes x "
                "accumulation steps that divide it"
            )
        size = batch_size // self.count
        if size % 2:
            return np.arange(self.index * size, (self.index + 1) * size)
        front = np.arange(self.index * size // 2, (self.index + 1) * size // 2)
        return np.concatenate([front, batch_size - 1 - front[::-1]])
