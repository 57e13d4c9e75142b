"""Semantic segmentation (paper Section B.2)."""

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..modalities import IGNORE
from .fields import Fraction, Number, Size, between
from .flops import linear
from .schema import Choice, Section
from .sections import AnyData, Classes, ColorJitter, Epochs, Folder, LayerwiseOptimizer, Model
from .training import BatchSize
from .transfer import Transfer

CONVNEXT_KERNEL = 7 * 7
STRIDE = 4  # pixels of a sub-patch, along a side


class SegmentAugmentation(ColorJitter):
    """Paper Section B.2: large-scale jitter, then colour jitter."""

    # Of the image resized to fit the training size.
    jitter_scale: Annotated[tuple[Number, Number], between(0.01, 10)] = (0.1, 2.0)
    flip: Fraction = 0.5


class ConvNeXt(Section):
    """ConvNeXt blocks on a feature map of a quarter of the resolution."""

    kind: Literal["convnext"] = "convnext"
    dim: Size = 6144  # of a token, after the projection: 16 sub-patches of 384
    depth: Annotated[Size, Field(le=1000)] = 4

    def width(self, patch_size: int) -> int:
        return self.dim // (patch_size // STRIDE) ** 2


class Linear(Section):
    """Class scores of each sub-patch by one linear layer: how much the tokens say by themselves."""

    kind: Literal["linear"] = "linear"


class Segment(Transfer, task="segment", runs="multimae.tasks.segment:SegmentTask"):
    """Semantic segmentation. Defaults: paper Table 8, ADE20K."""

    task: Literal["segment"] = "segment"
    epochs: Epochs = 64
    batch_size: BatchSize = 16
    classes: Annotated[Classes, Field(le=IGNORE)] = 150  # label files have 8 bits, and 255 is unlabelled
    zero_is_unlabelled: bool = True  # label files count classes from 1 (ADE20K, NYUv2, Hypersim)
    head: Annotated[ConvNeXt | Linear, Choice("kind")] = ConvNeXt()
    data: AnyData = Folder(name="ade20k")
    model: Model = Model(image_size=512, semseg_unlabelled=True)  # images are padded to a square
    optimizer: LayerwiseOptimizer = LayerwiseOptimizer(
        base_lr=1e-4, base_batch=None, betas=(0.9, 0.999), layer_decay=0.75, warmup_epochs=1
    )
    augmentation: SegmentAugmentation = SegmentAugmentation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = (self.model.patch_size // STRIDE) ** 2
        if isinstance(self.head, ConvNeXt) and self.head.dim % parts:
            raise ValueError(
                f"head.dim {self.head.dim} is not a multiple of {parts}, the 4x4 sub-patches of a patch of "
                f"{self.model.patch_size} px"
            )
        if self.zero_is_unlabelled and self.classes >= IGNORE:
            raise ValueError(
                f"classes {self.classes} do not fit into 8 bits beside 0 and 255, which are unlabelled; expected "
                f"{IGNORE - 1} at most, or zero_is_unlabelled=false"
            )
        return self

    @property
    def truth_field(self) -> str:
        return "semseg"

    def idle(self) -> set[str]:
        return super().idle() | self.augmentation.idle(self.modalities)

    def own_data(self, classes: Collection[str]) -> dict[str, Any]:
        return super().own_data(classes) | {"classes": 133, "zero_is_unlabelled": False}

    def head_flops(self) -> dict[str, float]:
        model, places = self.model, self.model.tokens * (self.model.patch_size // STRIDE) ** 2
        if isinstance(self.head, Linear):
            return {"linear": linear(places, model.dim, self.classes)}
        width = self.head.width(model.patch_size)
        block = 2 * places * CONVNEXT_KERNEL * width + linear(places, width, 8 * width)
        widen, scores = linear(model.tokens, model.dim, self.head.dim), linear(places, width, self.classes)
        return {"convnext": widen + self.head.depth * block + scores}

    def head_parameters(self) -> int:
        model, head = self.model, self.head
        if isinstance(head, Linear):
            return model.dim * self.classes * (model.patch_size // STRIDE) ** 2
        width = head.width(model.patch_size)
        return model.dim * head.dim + 8 * head.depth * width**2 + width * self.classes
