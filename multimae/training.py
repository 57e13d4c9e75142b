"""How a model is trained: the optimizer and the augmentations. Imports no torch."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from .fields import Count, Fraction, NotNegative, Number, Positive, Section, Share, Text, between

# timm's notation: magnitude, operations an image, probability, deviation, highest magnitude, increasing, a set of them
RAND_AUGMENT = re.compile(
    r"rand(-(m\d{1,2}|n[1-9]|p(0\.\d{1,9}|[01])|mstd\d{1,9}(\.\d{1,9})?|mmax\d{1,2}|inc[01]|t(weights|3aw?)))*",
    re.ASCII,
)
SMALLEST = 1e-12  # of a learning rate, or of a gradient's norm: float32 would add nothing, or take it for 0
Mixing = Annotated[Number, Field(ge=0, le=1000)]  # the parameter of a beta distribution; 0: none


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay to zero."""

    base_lr: Annotated[Number, Field(ge=SMALLEST, le=100)] = 1e-4
    base_batch: Count | None = 256  # lr = base_lr x batch_size / base_batch; None: base_lr is the lr
    weight_decay: NotNegative = 0.05
    betas: tuple[Share, Share] = (0.9, 0.95)
    layer_decay: Annotated[Positive, Field(le=1)] = 1.0  # block i of 12 learns at lr x layer_decay^(13 - i)
    warmup_epochs: Annotated[NotNegative, Field(le=10**6)] = 40.0
    warmup_lr: NotNegative = 1e-6
    clip_grad: Annotated[Number, Field(ge=SMALLEST)] | None = None

    @field_validator("betas")
    @classmethod
    def _in_order(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if betas[0] > betas[1]:
            raise ValueError("expected that of the mean first, then that of the square, which is no smaller")
        return betas


class Augmentation(Section):
    """Random crops and flips, the same for all modalities of a sample."""

    crop_scale: between(0.001, 1) = (0.2, 1.0)  # of the image's area
    crop_ratio: between(0.1, 10) = (0.75, 4 / 3)  # width / height
    flip: Fraction = 0.5


class ClassifyAugmentation(Augmentation):
    """Paper Table 6."""

    crop_scale: between(0.001, 1) = (0.08, 1.0)  # MAE's fine-tuning, which the paper follows
    rand_augment: Text | None = "rand-m9-mstd0.5-inc1"  # timm's notation of RandAugment(9, 0.5)
    label_smoothing: Share = 0.1
    mixup: Mixing = 0.8
    cutmix: Mixing = 1.0

    @field_validator("rand_augment")
    @classmethod
    def _in_timms_notation(cls, text: str | None) -> str | None:
        if text is not None and not RAND_AUGMENT.fullmatch(text):
            raise ValueError("expected timm's notation, such as rand-m9-mstd0.5-inc1, or null for none")
        return text

    @field_validator("mixup", "cutmix")
    @classmethod
    def _drawn(cls, value: float) -> float:
        if 0 < value < 0.001:
            raise ValueError("expected 0 (none) or 0.001 to 1000: numpy draws no number from a smaller one")
        return value


class SegmentAugmentation(Section):
    """Paper Section B.2: large-scale jitter, then colour jitter."""

    jitter_scale: between(0.01, 10) = (0.1, 2.0)  # of the image resized to fit the training size
    flip: Fraction = 0.5
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.2
    hue: Annotated[Fraction, Field(le=0.5)] = 0.1
    color_jitter: Fraction = 0.5  # the probability that a sample's colours are jittered
