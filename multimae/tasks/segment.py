"""Semantic segmentation with the ConvNeXt head (paper Section B.2).

Evaluation is the paper's: the longest side resized to the training size, padded, no sliding window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ConfigError, Linear, Segment
from ..data.datasets import Dataset
from ..data.transforms import SegmentTransform
from ..metrics import MeanIoU
from ..modalities import IGNORE
from ..model.heads import ConvNeXtHead, LinearHead
from ..pictures import class_map, dense_sheet
from ..shards import Batch
from .transfer import TransferTask


class SegmentTask(TransferTask):
    config: Segment
    transform = SegmentTransform
    truth = "target"
    answers = "the class of each pixel, as training numbers them"

    def make_head(self) -> ConvNeXtHead | LinearHead:
        model, head, classes = self.config.model, self.config.head, self.config.classes
        if isinstance(head, Linear):
            return LinearHead(model.dim, classes, model.patch_size)
        return ConvNeXtHead(model.dim, head.dim, head.depth, classes, model.patch_size)

    def loss(self, scores: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, the mean over the labelled pixels of a micro-batch (the authors' code too).

        Micro-batches count alike whatever part of them is labelled, so this loss depends a little on their size. One
        that is all padding or unlabelled has no pixel to average over: it counts zero.
        """
        total = F.cross_entropy(scores.float(), target, ignore_index=IGNORE, reduction="sum")
        return {"pixels": total / (target != IGNORE).sum().clamp(min=1)}

    def make_metric(self, device: torch.device) -> MeanIoU:
        return MeanIoU(self.config.classes, device)

    def answer(self, scores: Tensor) -> Tensor:
        return scores.argmax(1).to(torch.uint8)

    def picture(self, images: Batch, scores: Tensor, target: Tensor):
        return dense_sheet(images, scores.argmax(1), target, class_map)

    def check(self, dataset: Dataset) -> None:
        known = dataset.semseg_classes
        if known is not None and known != self.config.classes:
            raise ConfigError(f"classes: '{dataset.source}' has {known} semantic classes, found {self.config.classes}")

    def advice(self, dataset: Dataset) -> str:
        zero = self.config.zero_is_unlabelled
        values, mend = (f"0 or {IGNORE}", "zero_is_unlabelled=false") if zero else (IGNORE, "data.eval_split")
        return (
            f"all of its semseg is {values} (classes={self.config.classes}, zero_is_unlabelled={str(zero).lower()}). "
            f"Give labels, or set {mend}" + (" where 0 is a class" if zero else " to a split that has them")
        )
