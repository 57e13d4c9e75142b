"""What the tasks share: a reported evaluation, and the rows of a batch that count."""

from typing import Any

import torch
from torch import Tensor

EVAL_BATCH = 64  # samples of a process at a time; changes no metric


def evaluation(dataset: Any, metrics: dict[str, float]) -> dict[str, Any]:
    """Numbers with their conditions: the split, the number of samples and the dataset's fingerprint."""
    return {"split": dataset.split, "n": len(dataset), "fingerprint": dataset.fingerprint, "metrics": metrics}


def real_rows(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """(the batch without padding, how many of its rows count).

    Every process computes as many batches as the others, so the last may be all padding: then one row is computed,
    because sharded parameters are gathered together, and none counts.
    """
    rows = batch["real"].nonzero().flatten()
    count = len(rows)
    rows = rows if count else torch.zeros(1, dtype=torch.long)
    return {key: value[rows] for key, value in batch.items()}, count
