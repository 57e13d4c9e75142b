"""What tasks share that predict numbers for each pixel with the DPT head. A truth is NaN where it holds no value."""

import torch
from PIL import Image
from torch import Tensor

from ..config import DenseTransfer
from ..data.datasets import Dataset
from ..modalities import FIELDS, named
from ..model.heads import DPTHead
from ..pictures import dense_sheet
from ..shards import Batch
from .transfer import TransferTask


class DenseTask(TransferTask):
    """Each kind gives its transform, its loss, its measure and the `values` of what is predicted."""

    config: DenseTransfer
    truth = "target"
    answers = "numbers in the unit of the truth"

    def make_head(self) -> DPTHead:
        config, head = self.config, self.config.head
        return DPTHead(config.model.dim, head.layers, head.widths, head.dim, config.channels, config.model.patch_size)

    def values(self, predicted: Tensor) -> Tensor:
        """In the unit of the truth."""
        return predicted

    def answer(self, predicted: Tensor) -> Tensor:
        return self.values(predicted).float()

    def picture(self, images: Batch, predicted: Tensor, truth: Tensor) -> Image.Image:
        draw = named(FIELDS[self.config.truth_field].draw)
        return dense_sheet(images, self.values(predicted), truth, draw)

    def advice(self, dataset: Dataset) -> str:
        masked = " `mask_valid` is 0 everywhere, or" if self.config.masked else ""
        return f"{masked} all of its {self.config.truth_field} is; choose another data.eval_split".strip()


def errors_of(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(absolute errors, 0 where the truth holds no value; how many values there are, at least 1)."""
    valid = truth.isfinite()
    return torch.where(valid, predicted.float() - truth, 0).abs(), valid.sum().clamp(min=1)
