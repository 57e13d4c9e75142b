"""Semantic segmentation (paper Section B.2)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..modalities import IGNORE
from .fields import Count, Fraction, Number, Section, Size, between
from .sections import Classes, Data, Epochs, Model, Optimizer
from .transfer import Transfer


class SegmentAugmentation(Section):
    """Paper Section B.2: large-scale jitter, then colour jitter."""

    # Of the image resized to fit the training size.
    jitter_scale: Annotated[tuple[Number, Number], between(0.01, 10)] = (0.1, 2.0)
    flip: Fraction = 0.5
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.2
    hue: Annotated[Fraction, Field(le=0.5)] = 0.1
    color_jitter: Fraction = 0.5  # the probability that a sample's colours are jittered


class Segment(Transfer, task="segment"):
    """Semantic segmentation. Defaults: paper Table 8, ADE20K."""

    target: ClassVar[str] = "semseg"  # the data set's own, so that an input can only be the pseudo labels

    task: Literal["segment"] = "segment"
    epochs: Epochs = 64
    batch_size: Annotated[Count, Field(le=10**6)] = 16
    classes: Annotated[Classes, Field(le=IGNORE)] = 150  # label files have 8 bits, and 255 is unlabelled
    zero_is_unlabelled: bool = True  # label files count classes from 1 (ADE20K, NYUv2, Hypersim)
    head: Literal["convnext"] = "convnext"
    head_dim: Size = 6144  # after the projection: 16 sub-patches of 384
    head_depth: Annotated[Size, Field(le=1000)] = 4
    data: Data = Data(name="ade20k")
    model: Model = Model(image_size=512, semseg_padding=True)  # images are padded to a square
    optimizer: Optimizer = Optimizer(
        base_lr=1e-4, base_batch=None, betas=(0.9, 0.999), layer_decay=0.75, warmup_epochs=1
    )
    augmentation: SegmentAugmentation = SegmentAugmentation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target in self.inputs:
            mended = ",".join(f"pseudo_{name}" if name == self.target else name for name in self.inputs)
            raise ValueError(
                f"inputs: {self.target} is what segmentation predicts; as an input there are pseudo labels: set "
                f"inputs=[{mended}]"
            )
        parts = (self.model.patch_size // 4) ** 2
        if self.head_dim % parts:
            raise ValueError(
                f"head_dim {self.head_dim} is not a multiple of {parts}, the 4x4 sub-patches of a patch of "
                f"{self.model.patch_size} px"
            )
        if self.zero_is_unlabelled and self.classes >= IGNORE:
            raise ValueError(
                f"classes {self.classes} do not fit into 8 bits beside 0 and 255, which are unlabelled; expected "
                f"{IGNORE - 1} at most, or zero_is_unlabelled=false"
            )
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (*super().fields, self.target)
