"""The sections that configs of several kinds have: data, model, optimizer, augmentation."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ..modalities import IGNORE, MODALITIES, SOURCES, TARGETS
from .fields import Count, Fraction, Name, NotNegative, Number, Positive, Section, Share, Size, Text, Whole, between

SCENES = "scenes"  # the data set that is made, not read from a folder
SCENES_SPLITS = ("train", "val", "test")
MOST_SCENES = 10_000_000  # some 300 GB at 64 px
SMALLEST = 1e-12  # of a learning rate, or of a gradient's norm: float32 would add nothing, or take it for 0


def _in_order(table: Iterable[str]):
    order = list(table)

    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [n for n in names if n not in order]
        if unknown or len(set(names)) != len(names) or not names:
            raise ValueError(f"expected one or more of {order}, each once")
        return tuple(n for n in order if n in names)  # a set of names has one spelling, so one signature

    return AfterValidator(check)


def _of_different_modalities(sources: tuple[str, ...]) -> tuple[str, ...]:
    for one, other in pairwise(sources):
        if SOURCES[one] == SOURCES[other]:
            raise ValueError(f"{one} and {other} are two sources of one modality, {SOURCES[one]}; give one of them")
    return sources


Sources = Annotated[tuple[str, ...], _in_order(SOURCES), AfterValidator(_of_different_modalities)]
Targets = Annotated[tuple[str, ...], _in_order(TARGETS)]
Classes = Annotated[Whole, Field(ge=2, le=10**6)]
Epochs = Annotated[Positive, Field(le=10**6)]
SplitName = Annotated[Text, Field(pattern=r"^[^/]+(/[^/]+)*$")]  # a folder in the data's own


class Data(Section):
    """Which samples. `name` is the embedded `scenes` or a key of `Runtime.data_roots`: a path is never identity."""

    name: Name = "imagenet"
    train_split: SplitName = "train"
    eval_split: SplitName = "val"
    # Drawn over all classes, so that each keeps its share; None: all. The run refuses a split that has fewer.
    train_samples: Count | None = None
    eval_samples: Count | None = None
    subset_seed: Annotated[Whole, Field(ge=0)] = 0  # of that draw; never the run's seed: seeds share their samples
    render_size: Annotated[Size, Field(ge=8, le=1024)] = 64  # px; of the embedded scenes only
    allow_missing: bool = False  # drop (and count) samples with a missing or damaged file, instead of refusing

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.subset_seed and self.name == SCENES:
            raise ValueError(f"subset_seed chooses among the images of a folder; '{SCENES}' are made, so leave it at 0")
        if self.subset_seed and not (self.train_samples or self.eval_samples):
            raise ValueError("subset_seed chooses the samples that train_samples asks for: set that, or leave it at 0")
        for key, value in (("train_samples", self.train_samples), ("eval_samples", self.eval_samples)):
            if self.name == SCENES and (value or 0) > MOST_SCENES:
                raise ValueError(f"{key}: at most {MOST_SCENES:,} scenes are rendered, found {value}")
        for key, split in (("train_split", self.train_split), ("eval_split", self.eval_split)):
            if ".." in split.split("/"):
                raise ValueError(f"{key}: expected a folder within the data's own, found '{split}'")
            if self.name == SCENES and split not in SCENES_SPLITS:
                raise ValueError(f"{key}: {SCENES} have the splits {', '.join(SCENES_SPLITS)}; found '{split}'")
        return self

    def split(self, name: str) -> tuple[str, int | None]:
        """The name of the "train" or "eval" split, and how many of its samples are asked for."""
        return (self.train_split, self.train_samples) if name == "train" else (self.eval_split, self.eval_samples)


class Model(Section):
    """The encoder (paper Section 3.1). Defaults: ViT-B/16."""

    image_size: Size = 224
    patch_size: Size = 16
    dim: Size = 768
    depth: Annotated[Size, Field(le=1000)] = 12
    heads: Size = 12
    # Of the semseg *input* and target (COCO panoptic). Files have 8 bits, and 255 is unlabelled.
    semseg_classes: Annotated[Whole, Field(ge=1, le=IGNORE)] = 133
    semseg_embedding: Size = 64
    semseg_padding: bool = False  # one more class of the semseg input, for padding (authors' segmentation transfers)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        for name, kind in MODALITIES.items():
            if self.patch_size % kind.stride:
                raise ValueError(
                    f"patch_size {self.patch_size} is not a multiple of {kind.stride}, the stride of {name}"
                )
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads} and of 4 (sin-cos positions)")
        return self

    @property
    def tokens(self) -> int:
        """Tokens of one modality."""
        return (self.image_size // self.patch_size) ** 2


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

    crop_scale: Annotated[tuple[Number, Number], between(0.001, 1)] = (0.2, 1.0)  # of the image's area
    crop_ratio: Annotated[tuple[Number, Number], between(0.1, 10)] = (0.75, 4 / 3)  # width / height
    flip: Fraction = 0.5
