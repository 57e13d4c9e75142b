"""Steps whose loss or gradient is not finite: which process, and which samples."""

from typing import Any

import torch

from ..shards import Batch
from .distributed import Processes


def culprits(processes: Processes, losses: torch.Tensor, micro_batches: list[Batch], size: int) -> list[dict[str, Any]]:
    """A record {rank, loss, samples} for each process with a bad loss, the same on all; a collective call.

    `losses`: (micro-batches,) of this process; `size`: samples of a micro-batch. Samples are known where a batch has an
    `index`. Where the losses are fine and the gradients are not, there is one record, of no process.
    """
    unknown = torch.full((size,), -1)
    indices = torch.stack([torch.as_tensor(batch.get("index", unknown)) for batch in micro_batches])
    all_losses = processes.gather(losses).cpu()  # (processes, micro-batches)
    all_indices = processes.gather(indices.to(processes.device)).cpu()  # (processes, micro-batches, size)
    records = []
    for rank, bad in enumerate(~all_losses.isfinite()):
        if bad.any():
            samples = [index for index in all_indices[rank, bad].flatten().tolist() if index >= 0]
            # JSON has no infinity, so the loss is text.
            records.append({"rank": rank, "loss": str(float(all_losses[rank, bad][0])), "samples": samples})
    return records or [{"rank": None, "loss": None, "samples": []}]
