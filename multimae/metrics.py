"""Evaluation metrics: torchmetrics, accumulated over a whole split and reduced over processes."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from .modalities import IGNORE

class Accuracy:
    """Top-1, in percent of the samples."""

    def __init__(self, classes: int, device: torch.device):
        self.metric = MulticlassAccuracy(classes, average="micro").to(device)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        if len(labels):  # a process may have only padding, where there are few samples
            self.metric.update(scores, labels)

    def compute(self) -> dict[str, float]:
        return {"accuracy": 100 * self.metric.compute().item()}


class MeanIoU:
    """Intersection over union in percent, from one confusion matrix of all pixels of the split.

    The mean is over the classes that occur in labels or predictions.
    """

    def __init__(self, classes: int, device: torch.device):
        self.metric = MulticlassConfusionMatrix(classes, ignore_index=IGNORE).to(device)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.metric.update(scores.argmax(1), labels)

    def compute(self) -> dict[str, float]:
        confusion = self.metric.compute().double()  # rows: truth
        hits, union = confusion.diag(), confusion.sum(0) + confusion.sum(1) - confusion.diag()
        iou = hits[union > 0] / union[union > 0]
        return {"mIoU": 100 * iou.mean().item(), "pixel_accuracy": 100 * (hits.sum() / confusion.sum()).item()}


class MeanLosses:
    """The mean of named losses over samples."""

    def __init__(self, names: tuple[str, ...], device: torch.device):
        self.metrics = {name: MeanMetric().to(device) for name in names}

    def update(self, losses: dict[str, Tensor], samples: int) -> None:
        for name, loss in losses.items():
            self.metrics[name].update(loss, samples)

    def compute(self) -> dict[str, float]:
        losses = {f"loss_{name}": metric.compute().item() for name, metric in self.metrics.items()}
        return {"loss": sum(losses.values()), **losses}
