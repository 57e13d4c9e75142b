"""Depth estimation (paper Section B.3)."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from .dense import DenseTransfer
from .fields import Fraction, Number, Positive, Share
from .sections import AnyData, ColorJitter, Epochs, Folder, LayerwiseOptimizer, Model
from .training import BatchSize


class DepthAugmentation(ColorJitter):
    """Paper Section B.3: random crops of the resized image, colour jitter, and images without colour."""

    flip: Fraction = 0.5  # the authors' code; the paper does not say
    brightness: Fraction = 0.1255
    saturation: Fraction = 0.5
    hue: Annotated[Fraction, Field(le=0.5)] = 0.2
    grey: Fraction = 0.3


class Depth(DenseTransfer, task="depth", runs="multimae.tasks.depth:DepthTask"):
    """Depth, by the reverse Huber loss. Defaults: paper Table 9, NYUv2."""

    task: Literal["depth"] = "depth"
    epochs: Epochs = 2000
    batch_size: BatchSize = 128
    mean: Number = 2.0707764  # metres: what is predicted is standardised by these, the data set's, as in the
    deviation: Positive = 0.7775723  # authors' code
    huber: Annotated[Fraction, Field(gt=0)] = 0.2  # c is this share of the largest error: above c, errors are squared
    data: AnyData = Folder(name="nyuv2", eval_split="test", depth_unit=10 / 65536)
    model: Model = Model(image_size=256)
    optimizer: LayerwiseOptimizer = LayerwiseOptimizer(
        base_lr=1e-4, base_batch=None, weight_decay=1e-4, betas=(0.9, 0.999), layer_decay=0.75, warmup_epochs=100
    )
    augmentation: DepthAugmentation = DepthAugmentation()
    drop_path: Share = 0.0

    @property
    def truth_field(self) -> str:
        return "depth"

    def idle(self) -> set[str]:
        return super().idle() | self.augmentation.idle(self.modalities)

    def own_data(self, classes: Collection[str]) -> dict[str, Any]:
        return super().own_data(classes) | {"masked": False}
