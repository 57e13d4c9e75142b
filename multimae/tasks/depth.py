"""Depth estimation (paper Section B.3)."""

import torch
from torch import Tensor
from torch.distributed import ReduceOp, all_reduce, is_initialized

from ..config import Depth
from ..data.transforms import DepthTransform
from ..losses import reverse_huber
from ..metrics import DepthErrors
from .dense import DenseTask, errors_of


class DepthTask(DenseTask):
    config: Depth
    transform = DepthTransform
    answers = "depth in metres"

    def values(self, predicted: Tensor) -> Tensor:
        """Metres."""
        return predicted.float() * self.config.deviation + self.config.mean

    def loss(self, predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Reverse Huber, the mean over the valid pixels of a micro-batch, of standardised depth.

        Its threshold is a share of the largest error of the micro-batches that all processes compute at the same time.
        So the number of processes does not change it, and accumulating does: where a step is computed in k parts, one
        after the other, each has a threshold of its own, which is no larger than that of the whole. Micro-batches count
        alike however many of their pixels are valid, so where that differs the loss depends a little on their size.
        """
        errors, count = errors_of(predicted, (truth - self.config.mean) / self.config.deviation)
        largest = errors.detach().amax()
        if is_initialized():
            all_reduce(largest, ReduceOp.MAX)
        threshold = (self.config.huber * largest).clamp(min=1e-5)  # as the authors' code has it
        return {self.config.truth_field: reverse_huber(errors, threshold).sum() / count}

    def make_metric(self, device: torch.device) -> DepthErrors:
        return DepthErrors(device, self.values)
