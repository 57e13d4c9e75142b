"""Semantic segmentation with the ConvNeXt head (paper Section B.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ConfigError, Linear, Runtime, Segment
from ..data.loaders import normalize
from ..data.transforms import SegmentTransform
from ..metrics import MeanIoU
from ..modalities import IGNORE
from ..model.heads import ConvNeXtHead, LinearHead
from ..pictures import segmentation_sheet
from ..shards import Shard
from .transfer import TransferModel, TransferTask

PICTURES = 6


class TrainingModule(nn.Module):
    """Cross-entropy, the mean over the labelled pixels of a micro-batch (the authors' code too).

    Micro-batches count alike whatever part of them is labelled, so this loss depends a little on their size.
    """

    def __init__(self, model: TransferModel, patch_size: int):
        super().__init__()
        self.model = model
        self.patch_size = patch_size

    def scores(self, images: dict[str, Tensor], size: tuple[int, ...]) -> Tensor:
        """Class scores (batch, classes, height, width) for images of `size` pixels.

        The head sees the tokens of one modality, the first of the inputs: the others reach it through attention.
        """
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        tokens = self.model.encoder(images)[:, : grid[0] * grid[1]]
        return self.model.head(tokens, grid)

    def forward(self, batch: tuple[dict[str, Tensor], Tensor]) -> dict[str, Tensor]:
        images, target = batch
        scores = self.scores(images, target.shape[-2:])
        # An image that is all padding or unlabelled has no pixel to average over: it counts zero.
        total = F.cross_entropy(scores.float(), target, ignore_index=IGNORE, reduction="sum")
        return {"pixels": total / (target != IGNORE).sum().clamp(min=1)}


class SegmentTask(TransferTask):
    config: Segment
    transform = SegmentTransform

    def __init__(self, config: Segment, runtime: Runtime):
        super().__init__(config, runtime)
        known = self.train_set.semseg_classes
        if known is not None and known != config.classes:
            raise ConfigError(f"classes: '{config.data.name}' has {known} semantic classes, found {config.classes}")
        self.module = TrainingModule(self.model, config.model.patch_size)

    def make_head(self) -> nn.Module:
        model, head, classes = self.config.model, self.config.head, self.config.classes
        if isinstance(head, Linear):
            return LinearHead(model.dim, classes, model.patch_size)
        return ConvNeXtHead(model.dim, head.dim, head.depth, classes, model.patch_size)

    def prepare(self, batch: dict[str, Tensor], device: torch.device, step: int, shard: Shard):
        return normalize(batch, device), batch["target"].to(device)

    def evaluate(self, module: nn.Module, device: torch.device, shard: Shard) -> list[dict]:
        """The paper's procedure: the longest side resized to the training size, padded, no sliding window."""
        iou = MeanIoU(self.config.classes, device)
        for batch, count in self.eval_batches(shard):
            images, target = self.prepare(batch, device, 0, Shard())
            iou.update(self.module.scores(images, target.shape[-2:])[:count], target[:count])
        if not iou.labelled:
            zero = self.config.zero_is_unlabelled
            values, mend = (f"0 or {IGNORE}", "zero_is_unlabelled=false") if zero else (IGNORE, "data.eval_split")
            raise ValueError(
                f"no labelled pixel in '{self.eval_set.split}' of '{self.config.data.name}': all of its semseg is "
                f"{values} (classes={self.config.classes}, zero_is_unlabelled={str(zero).lower()}). Give labels, or "
                f"set {mend}" + (" where 0 is a class" if zero else " to a split that has them")
            )
        return self.evaluation(iou.compute())

    def pictures(self, module: nn.Module, device: torch.device):
        images, target = self.prepare(self.examples(PICTURES), device, 0, Shard())
        predicted = self.module.scores(images, target.shape[-2:]).argmax(1)
        return {"predictions": segmentation_sheet(images, predicted, target)}
