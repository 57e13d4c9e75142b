"""Image classification (paper Section B.1)."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..modalities import MODALITIES
from .fields import Number, Share, Text, between
from .sections import Augmentation, Classes, Epochs, LayerwiseOptimizer
from .settings import ConfigError
from .training import BatchSize
from .transfer import Transfer

# timm's notation: magnitude, operations an image, probability, deviation, highest magnitude, increasing, a set of them
RAND_AUGMENT = re.compile(
    r"rand(-(m\d{1,2}|n[1-9]|p(0\.\d{1,9}|[01])|mstd\d{1,9}(\.\d{1,9})?|mmax\d{1,2}|inc[01]|t(weights|3aw?)))*",
    re.ASCII,
)
Mixing = Annotated[Number, Field(ge=0, le=1000)]  # the parameter of a beta distribution; 0: none


class ClassifyAugmentation(Augmentation):
    """Paper Table 6."""

    # MAE's fine-tuning, which the paper follows
    crop_scale: Annotated[tuple[Number, Number], between(0.001, 1)] = (0.08, 1.0)
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


class Classify(Transfer, task="classify", runs="multimae.tasks.classify:ClassifyTask"):
    """Image classification. Defaults: paper Table 6."""

    task: Literal["classify"] = "classify"
    epochs: Epochs = 100
    batch_size: BatchSize = 1024
    classes: Classes = 1000
    optimizer: LayerwiseOptimizer = LayerwiseOptimizer(
        base_lr=5e-4, betas=(0.9, 0.999), layer_decay=0.65, warmup_epochs=5
    )
    augmentation: ClassifyAugmentation = ClassifyAugmentation()
    # The short side at evaluation / image_size, which is cut from its centre.
    eval_resize: Annotated[Number, Field(ge=1, le=4)] = 256 / 224

    @property
    def truth_field(self) -> str:
        return "label"

    @property
    def mixes(self) -> bool:
        return bool(self.augmentation.mixup or self.augmentation.cutmix)

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = {source: MODALITIES[modality] for modality, source in self.sources.items()}
        others = [source for source, kind in kinds.items() if not kind.photograph]
        if self.augmentation.rand_augment and others:
            raise ValueError(
                "augmentation.rand_augment shears and shifts photographs alone, away from the other inputs "
                f"({', '.join(others)}): set augmentation.rand_augment=null"
            )
        classes = [source for source, kind in kinds.items() if kind.channels is None]
        if self.mixes and classes:
            raise ValueError(
                f"augmentation: the classes of {', '.join(classes)} cannot be mixed; set augmentation.mixup=0 and "
                "augmentation.cutmix=0"
            )
        if self.mixes and self.batch_size % 2:
            raise ValueError(
                f"augmentation: mixup and cutmix pair the samples of a batch, but batch_size is {self.batch_size}; "
                "choose an even one, or set augmentation.mixup=0 and augmentation.cutmix=0"
            )
        return self

    def check_micro_batch(self, size: int) -> None:
        if self.mixes and size % 2:
            raise ConfigError(
                f"mixup and cutmix pair the samples of a micro-batch, but of batch_size {self.batch_size} each has "
                f"{size}; choose an even micro_batch_size or fewer processes"
            )

    def own_data(self, classes: Collection[str]) -> dict[str, Any]:
        return super().own_data(classes) | ({"classes": len(classes)} if len(classes) > 1 else {})

    def head_flops(self) -> dict[str, float]:
        return {"linear": 2 * self.model.dim * self.classes}

    def head_parameters(self) -> int:
        return self.model.dim * self.classes
