"""Dense regression of one target in [0, 1] (paper Section B.4)."""

import torch
from torch import Tensor

from ..config import Regress
from ..data.transforms import RegressTransform
from ..metrics import MeanAbsoluteError
from .dense import DenseTask, errors_of


class RegressTask(DenseTask):
    config: Regress
    transform = RegressTransform
    answers = "the target, its range as 0 to 1"

    def loss(self, predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """L1, the mean over the valid values of a micro-batch; micro-batches count alike, as in segmentation."""
        errors, count = errors_of(predicted, truth)
        return {self.config.target: errors.sum() / count}

    def make_metric(self, device: torch.device) -> MeanAbsoluteError:
        return MeanAbsoluteError(self.config.channels, device)
