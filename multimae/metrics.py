"""Evaluation metrics: torchmetrics, accumulated over a whole split and reduced over processes.

What is computed from a value that is not finite is not a number either: the largest of scores that are NaN would be
class 0, and right now and then.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from .modalities import IGNORE

Better = Literal["higher", "lower"]


class Unmeasured(ValueError):
    """Nothing in a split counts, so there is no number; the message says what was looked for."""


class SplitMetric(Protocol):
    """What a transfer is judged by, accumulated over a split; `update` is called alike often in every process."""

    better: ClassVar[
        Mapping[str, Better]
    ]  # which way each metric of `compute` is better; the first chooses checkpoints

    def update(self, predicted: Tensor, truth: Tensor, /) -> None:
        """Of a batch, samples first. A process may have none."""

    def compute(self) -> dict[str, float]:
        """Of all processes together. Raises Unmeasured."""


class Finite:
    """Turns the metrics of scores into NaN where one score was not finite, in whichever process."""

    def __init__(self, device: torch.device):
        self.bad = _total(device)

    def update(self, scores: Tensor) -> None:
        self.bad.update((~scores.isfinite()).sum())

    def of(self, metrics: dict[str, float]) -> dict[str, float]:
        return dict.fromkeys(metrics, math.nan) if self.bad.compute().item() else metrics


class Accuracy:
    """Top-1, in percent of the samples."""

    better: ClassVar[Mapping[str, Better]] = {"accuracy": "higher"}

    def __init__(self, classes: int, device: torch.device):
        self.metric = MulticlassAccuracy(classes, average="micro").to(device)
        self.finite = Finite(device)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        if len(labels):  # a process may have only padding, where there are few samples
            self.metric.update(scores, labels)
            self.finite.update(scores)

    def compute(self) -> dict[str, float]:
        return self.finite.of({"accuracy": 100 * self.metric.compute().item()})


class MeanIoU:
    """Intersection over union in percent, from one confusion matrix of all pixels of the split.

    The mean is over the classes that occur in labels or predictions.
    """

    better: ClassVar[Mapping[str, Better]] = {"mIoU": "higher", "pixel_accuracy": "higher"}

    def __init__(self, classes: int, device: torch.device):
        self.metric = MulticlassConfusionMatrix(classes, ignore_index=IGNORE).to(device)
        self.finite = Finite(device)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.metric.update(scores.argmax(1), labels)
        self.finite.update(scores)

    def compute(self) -> dict[str, float]:
        confusion = self.metric.compute().double()  # rows: truth
        if not confusion.any():
            raise Unmeasured("no labelled pixel")
        hits, union = confusion.diag(), confusion.sum(0) + confusion.sum(1) - confusion.diag()
        iou = hits[union > 0] / union[union > 0]
        accuracy = hits.sum() / confusion.sum()
        return self.finite.of({"mIoU": 100 * iou.mean().item(), "pixel_accuracy": 100 * accuracy.item()})


class MeanLosses:
    """The mean of named losses over samples, each over those that have it."""

    def __init__(self, names: tuple[str, ...], device: torch.device):
        self.sums = {name: _total(device) for name in names}
        self.samples = {name: _total(device) for name in names}

    def update(self, losses: Mapping[str, Tensor], samples: Mapping[str, int | Tensor]) -> None:
        """Add the means `losses` over `samples` samples each. The mean of none, whatever its value, adds nothing."""
        for name, loss in losses.items():
            count = torch.as_tensor(samples[name], device=loss.device)
            self.sums[name].update(torch.where(count > 0, loss.double() * count, 0.0))
            self.samples[name].update(count)

    def compute(self) -> dict[str, float]:
        """`loss` is the sum of the others. A loss that no sample has is left out: it is unknown, not zero."""
        counts = {name: metric.compute().item() for name, metric in self.samples.items()}
        losses = {f"loss_{name}": m.compute().item() / counts[name] for name, m in self.sums.items() if counts[name]}
        return {"loss": sum(losses.values()), **losses}


def _total(device: torch.device) -> Metric:
    """In double precision, so that the order of summing shows in no digit; a NaN stays (torchmetrics would drop it)."""
    return SumMetric(nan_strategy=math.nan).set_dtype(torch.float64).to(device)
