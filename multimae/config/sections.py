"""The sections that configs of several kinds have: data, model, optimizer, augmentation."""

import json
from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from ..modalities import IGNORE, MODALITIES, SOURCES, TARGETS
from .fields import Count, Fraction, Name, NotNegative, Number, Positive, Share, Size, Text, Whole, between
from .schema import Choice, Section

# The data that are made, not read from a folder: in place of ImageNet and ADE20K, Hypersim, NYUv2 and Taskonomy; and
# what the embedded labellers alone learn from.
SceneName = Literal["scenes", "scenes_hypersim", "scenes_nyuv2", "scenes_taskonomy", "scenes_labeller"]
SCENES = get_args(SceneName)
SCENES_SPLITS = ("train", "val", "test")
MOST_SCENES = 10_000_000  # some 300 GB at 64 px
# Training images of data that a recipe takes whole, to plan by: what a run trains on, its folder tells. ImageNet-100 is
# the list of Tian et al., https://github.com/HobbitLong/CMC/blob/master/imagenet100.txt
USUAL_SIZES = {"imagenet100": 126_689}
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


# ---- data: made, or read from a folder


def _within(split: str) -> str:
    if ".." in split.split("/"):
        raise ValueError("expected a folder within the data's own")
    return split


SplitName = Annotated[Text, Field(pattern=r"^[^/]+(/[^/]+)*$"), AfterValidator(_within)]  # a folder in the data's own
SceneCount = Annotated[Count, Field(le=MOST_SCENES)]


class Data(Section):
    """Which samples; one of `Scenes` and `Folder`, which the name tells apart. A path is never identity."""

    name: Name
    train_split: SplitName = "train"
    eval_split: SplitName = "val"
    train_samples: Count | None = None  # None: all there are. A run refuses a split that has fewer
    eval_samples: Count | None = None

    @property
    def trained(self) -> int | None:
        """How many samples are trained on; None where the data are to tell."""
        return self.train_samples

    @property
    def planned(self) -> int | None:
        """As `trained`, and of data that are taken whole the usual number: what costs are counted by."""
        return self.trained or USUAL_SIZES.get(self.name)

    def said(self, split: str, fields: Collection[str]) -> str:
        """The settings that say which samples of the "train" or "eval" split are read, and what of them."""
        other = "eval_" if split == "train" else "train_"
        settings = {key: value for key, value in self.model_dump().items() if not key.startswith(other)}
        if not settings.get("held_out"):
            settings.pop("held_out", None)
        return json.dumps(settings | {"fields": list(fields)}, sort_keys=True)

    def split(self, name: str) -> tuple[str, int | None]:
        """The name of the "train" or "eval" split, and how many of its samples are asked for."""
        return (self.train_split, self.train_samples) if name == "train" else (self.eval_split, self.eval_samples)


class Scenes(Data):
    """The embedded data set: as many scenes as are asked for, rendered once."""

    name: SceneName = "scenes"
    train_split: Literal["train", "val", "test"] = "train"
    eval_split: Literal["train", "val", "test"] = "val"
    train_samples: SceneCount = 8192
    eval_samples: SceneCount = 1024
    render_size: Annotated[Size, Field(ge=8, le=1024)] = 64  # px

    @field_validator("train_samples", "eval_samples", mode="before")
    @classmethod
    def _as_usual(cls, value: Any, info: ValidationInfo) -> Any:
        """None of a number, as of other data, is the default here: there is no end of scenes."""
        assert info.field_name
        return cls.model_fields[info.field_name].default if value is None else value


class Folder(Data):
    """A folder of images (see `multimae.data.listing`): where it lies is what `Runtime.data_roots` says of its name."""

    name: Name = "imagenet"
    # Of the draw of train_samples and eval_samples, in which each class keeps its share. Never the run's seed: seeds
    # share their samples.
    subset_seed: Annotated[Whole, Field(ge=0)] = 0
    subset: Literal["random", "first"] = "random"  # which samples train_samples and eval_samples ask for
    # This share of those that train_samples asks for is not trained on: it is what is evaluated on, where eval_split is
    # train_split. To choose settings by, on data of two splits.
    held_out: Annotated[Fraction, Field(lt=1)] = 0.0
    allow_missing: bool = False  # drop (and count) samples with a missing or damaged file, instead of refusing
    depth_unit: Positive = MODALITIES["depth"].unit  # metres: what one more in a file of depth means

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.subset_seed and self.subset == "first":
            raise ValueError("subset_seed draws samples, and subset=first draws none: leave it at 0")
        asked = self.train_samples or self.eval_samples
        if self.subset_seed and not asked:
            raise ValueError("subset_seed chooses the samples that train_samples asks for: set that, or leave it at 0")
        if self.subset == "first" and not asked:
            raise ValueError("subset chooses the samples that train_samples asks for: set that, or leave it at random")
        if self.held_out and (self.eval_split != self.train_split or self.eval_samples):
            raise ValueError(
                f"held_out {self.held_out:g} is evaluated on, as a whole, where eval_split is train_split: set "
                f"eval_split to '{self.train_split}' and eval_samples to null"
            )
        return self

    @property
    def trained(self) -> int | None:
        return self.train_samples and self.train_samples - self.held(self.train_samples)

    def held(self, samples: int) -> int:
        """How many of them are held out."""
        return round(self.held_out * samples)

    @property
    def units(self) -> dict[str, float]:
        """By field of a sample: what one more in a file means, where the data set says it."""
        units = {field: getattr(self, f"{modality}_unit", None) for field, modality in SOURCES.items()}
        return {field: unit for field, unit in units.items() if unit}

    @property
    def drawn(self) -> str:
        """How a part of a split is chosen."""
        return "first" if self.subset == "first" else f"subset{self.subset_seed}"


AnyData = Annotated[Scenes | Folder, Choice("name")]


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
    # One more class of the semseg input: pixels without a label, and what pads the images of a transfer.
    semseg_unlabelled: bool = False

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

    def idle(self, inputs: Collection[str], predicted: Collection[str] = ()) -> set[str]:
        """The settings (dotted keys) that change nothing with these modalities."""
        classes = [name for name, kind in MODALITIES.items() if kind.channels is None]
        unread = [name for name in classes if name not in (*inputs, *predicted)]
        idle = {f"model.{name}_{key}" for name in unread for key in ("classes", "unlabelled")}
        return idle | {f"model.{name}_embedding" for name in classes if name not in inputs}


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay to zero."""

    base_lr: Annotated[Number, Field(ge=SMALLEST, le=100)] = 1e-4
    base_batch: Count | None = 256  # lr = base_lr x batch_size / base_batch; None: base_lr is the lr
    weight_decay: NotNegative = 0.05
    betas: tuple[Share, Share] = (0.9, 0.95)
    warmup_epochs: Annotated[NotNegative, Field(le=10**6)] = 40.0
    warmup_lr: NotNegative = 1e-6
    clip_grad: Annotated[Number, Field(ge=SMALLEST)] | None = None

    @field_validator("betas")
    @classmethod
    def _in_order(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if betas[0] > betas[1]:
            raise ValueError("expected that of the mean first, then that of the square, which is no smaller")
        return betas


class LayerwiseOptimizer(Optimizer):
    """Of a fine-tuning, where early layers learn more slowly."""

    layer_decay: Annotated[Positive, Field(le=1)] = 1.0  # block i of 12 learns at lr x layer_decay^(13 - i)


class ColorJitter(Section):
    """Random changes of a photograph's colours."""

    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.2
    hue: Annotated[Fraction, Field(le=0.5)] = 0.1
    color_jitter: Fraction = 0.5  # the probability that a sample's colours are jittered
    grey: Fraction = 0.0  # the probability that it loses them

    def idle(self, inputs: Collection[str]) -> set[str]:
        """The settings (dotted keys) that change nothing with these modalities."""
        colours = {f"augmentation.{key}" for key in ("brightness", "contrast", "saturation", "hue")}
        if not any(MODALITIES[modality].photograph for modality in inputs):
            return colours | {"augmentation.color_jitter", "augmentation.grey"}
        return set() if self.color_jitter else colours


class Augmentation(Section):
    """Random crops and flips, the same for all modalities of a sample."""

    crop_scale: Annotated[tuple[Number, Number], between(0.001, 1)] = (0.2, 1.0)  # of the image's area
    crop_ratio: Annotated[tuple[Number, Number], between(0.1, 10)] = (0.75, 4 / 3)  # width / height
    flip: Fraction = 0.5
