"""Evaluation metrics: torchmetrics, accumulated over a whole split and reduced over processes.

What is computed from a value that is not finite is not a number either: the largest of scores that are NaN would be
class 0, and right now and then.
"""

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric
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

    The mean is over the classes that occur in labels or predictions. `mIoU_constant`: that of the best constant class.
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
        labelled = confusion.sum(1)  # the best constant class has an IoU of its share, and the others of 0
        constant = labelled.max() / labelled.sum() / (labelled > 0).sum()
        return self.finite.of(
            {
                "mIoU": 100 * iou.mean().item(),
                "pixel_accuracy": 100 * accuracy.item(),
                "mIoU_constant": 100 * constant.item(),
            }
        )


class MeanAbsoluteError:
    """Over all valid values of the split, each once. `truth` is in [0, 1], and NaN where it holds no value.

    `l1_constant` is that of the best constant prediction, the median of each channel.
    """

    better: ClassVar[Mapping[str, Better]] = {"l1": "lower"}
    BINS = 65_536  # as many as files of 16 bits have values

    def __init__(self, channels: int, device: torch.device):
        self.sum, self.count = _total(device), _total(device)
        self.shape = (channels, self.BINS)
        self.histogram = _total(device, self.shape)
        self.finite = Finite(device)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        valid = truth.isfinite()
        errors = torch.where(valid, predicted.double() - truth, 0).abs()
        self.sum.update(errors.sum())
        self.count.update(valid.sum())
        self.finite.update(torch.where(valid, predicted, 0))
        bins = (torch.where(valid, truth, 0).clamp(0, 1) * (self.BINS - 1)).round().long()
        counted = torch.zeros(self.shape, dtype=torch.float64, device=truth.device)
        by_channel = bins.transpose(0, 1).flatten(1), valid.transpose(0, 1).flatten(1).double()
        self.histogram.update(counted.scatter_add_(1, *by_channel))

    def compute(self) -> dict[str, float]:
        total, counts = self.count.compute().item(), self.histogram.compute()
        if not total:
            raise Unmeasured("no pixel that holds a value")
        values = torch.linspace(0, 1, self.BINS, dtype=torch.float64, device=counts.device)
        medians = values[(counts.cumsum(1) >= counts.sum(1, keepdim=True) / 2).double().argmax(1)]
        constant = (counts * (values - medians[:, None]).abs()).sum().item() / total
        return self.finite.of({"l1": self.sum.compute().item() / total, "l1_constant": constant})


class DepthErrors:
    """Of depth in metres, over all valid pixels of the split, each once. `truth` is NaN where it holds no value.

    `delta1`: percent of the pixels whose ratio to the truth, or the truth's to them, is below 1.25; `rmse` in metres;
    `abs_rel`, the mean of |error| / truth; `log10`, that of |log10 of the ratio|. `delta1_constant` is that of the best
    constant prediction. Predictions below a millimetre count as one. `metres`: from what is predicted.
    """

    better: ClassVar[Mapping[str, Better]] = {
        "delta1": "higher", "rmse": "lower", "abs_rel": "lower", "log10": "lower"
    }  # fmt: skip
    RATIO, LEAST = 1.25, 1e-3
    WINDOW = 100  # bins of the histogram in a ratio of 1.25; it reaches from a millimetre to 10 km
    BINS = 7300

    def __init__(self, device: torch.device, metres: Callable[[Tensor], Tensor] = lambda values: values):
        self.metres = metres
        self.sums, self.count = _total(device, (4,)), _total(device)
        self.histogram = _total(device, (self.BINS,))
        self.finite = Finite(device)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        valid = truth.isfinite()
        truth, found = truth[valid].double(), self.metres(predicted)[valid].double()
        self.finite.update(found)
        known, truth = found.clamp(min=self.LEAST), truth.clamp(min=self.LEAST)
        ratio = (known / truth).log()
        within = ratio.abs() < math.log(self.RATIO)
        errors = (known - truth).abs()
        self.sums.update(torch.stack([e.sum() for e in (within.double(), errors**2, errors / truth, ratio.abs())]))
        self.count.update(valid.sum())
        bins = ((truth / self.LEAST).log() * (self.WINDOW / math.log(self.RATIO))).long()
        self.histogram.update(bins.clamp(max=self.BINS - 1).bincount(minlength=self.BINS).double())

    def compute(self) -> dict[str, float]:
        total = self.count.compute().item()
        if not total:
            raise Unmeasured("no pixel that holds a depth")
        within, squared, relative, logarithm = (self.sums.compute() / total).tolist()
        before = torch.cat([self.histogram.compute().new_zeros(1), self.histogram.compute().cumsum(0)])
        constant = (before[2 * self.WINDOW :] - before[: -2 * self.WINDOW]).max().item() / total
        return self.finite.of(
            {
                "delta1": 100 * within,
                "rmse": math.sqrt(squared),
                "abs_rel": relative,
                "log10": logarithm / math.log(10),
                "delta1_constant": 100 * constant,
            }
        )


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


def _total(device: torch.device, shape: tuple[int, ...] = ()) -> Metric:
    """In double precision, so that the order of summing shows in no digit; a NaN stays (torchmetrics would drop it)."""
    return _Sum(shape).to(device)


class _Sum(Metric):
    """Of tensors of a shape, over updates and processes."""

    value: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.add_state("value", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        self.value = self.value + values

    def compute(self) -> Tensor:
        return self.value
