"""What a model can see and predict: one declaration for each modality or dense target. Imports no torch.

A function is named `room.module:function` within `multimae`, and imported when it is called for: planning reads this.
"""

import functools
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

IGNORE = 255  # in a class map: unlabelled; counts neither in a loss nor in a metric

# ImageNet statistics, in [0, 1]: what official and timm weights were trained with.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)

# Depth is standardised per image over the values between these quantiles (paper Section 3.4).
DEPTH_QUANTILES = (0.1, 0.9)
STANDARDIZE_EPS = 1e-6  # of the authors' code: under the root, for depth and for patches alike


@dataclass(frozen=True)
class Files:
    """The image files that hold a modality, one for each sample. All but photographs are PNG, which keeps numbers."""

    expected: str  # in words
    modes: tuple[str, ...]  # of PIL
    read: str  # (pixels, Modality) -> tensor: see `multimae.data.images`
    endings: tuple[str, ...] = (".png",)


PHOTOGRAPHS = Files(
    "an image of 8 bits a channel",
    modes=("RGB", "RGBA", "L", "LA", "P", "1", "CMYK"),  # the others hold numbers that `convert` clips or scales
    read="data.images:photograph",
    endings=(".jpg", ".jpeg", ".png", ".webp"),
)
NUMBERS_16 = Files("a PNG with one 16-bit channel", modes=("I;16", "I;16B", "I"), read="data.images:numbers")
NUMBERS_8 = Files("a PNG of 8 bits a channel", modes=("RGB", "RGBA"), read="data.images:numbers")
FLAGS_8 = Files("a PNG with one 8-bit channel, of 0 and 255 alone", modes=("L",), read="data.images:flags")
CLASSES_8 = Files("a PNG with one 8-bit channel", modes=("L", "P"), read="data.images:classes")


@dataclass(frozen=True)
class Modality:
    """What enters the encoder, or is predicted from it."""

    name: str
    # Numbers of a pixel, which are projected and predicted as they are. None: a class, which is embedded before, and
    # predicted as scores. `Model` says how many: `<name>_classes`, `<name>_embedding`; `<name>_unlabelled`: one more.
    channels: int | None
    files: Files
    filter: str  # of torch's `interpolate`, to resize it; bicubic is antialiased
    loss: str  # of a prediction: see `multimae.losses`
    draw: str  # (prediction or truth, truth) -> colours: see `multimae.pictures`
    stride: int = 1  # pixels of the image for one of a class map: patches are patch_size / stride wide
    interpolation: str = "bicubic"  # of its position embeddings, to another grid (as the authors' code does)
    zero: float = 0.0  # the number in a file that means 0,
    unit: float = 1.0  # and what one more means
    valid: str | None = None  # which pixels hold a value: see `multimae.data.pixels`. None: all
    standardize: str | None = None  # (image, which pixels are valid); the others then become 0, as padding is
    normalize: str | None = None  # a batch, on its device
    padding: tuple[int, ...] = (0,)  # what lies around an image; of a class map IGNORE
    mirrored: tuple[int, ...] = ()  # channels whose sign changes where the image is flipped: what points to the right
    top: float = 1.0  # as a target of dense regression: 0 to this become 0 to 1, and what is above is cut off
    blur: float = 0.0  # px: the deviation of a Gaussian of 3 x 3, over it as such a target

    @property
    def photograph(self) -> bool:
        """What a camera saw: its colours are augmented, and the other modalities may be predicted from it."""
        return self.files is PHOTOGRAPHS

    def encoded(self, model: Any) -> int:
        """Numbers of a pixel as it is projected, in a model of these settings."""
        return self.channels or getattr(model, f"{self.name}_embedding")

    def predicted(self, model: Any) -> int:
        """Numbers of a pixel as it is predicted."""
        return self.channels or getattr(model, f"{self.name}_classes")


@dataclass(frozen=True)
class Target:
    """What a decoder predicts, from the queries of `modality`."""

    modality: str
    loss: str
    standardize_patches: bool = False


def _by_name(*kinds: Modality) -> dict[str, Modality]:
    return {kind.name: kind for kind in kinds}


# The order of this table is the order of tokens in every sequence.
MODALITIES = _by_name(
    Modality(
        "rgb",
        channels=3,
        files=PHOTOGRAPHS,
        filter="bicubic",
        loss="losses:mse",
        draw="pictures:photograph",
        normalize="data.pixels:imagenet",
        padding=tuple(round(255 * mean) for mean in RGB_MEAN),
    ),
    Modality(
        "depth",
        channels=1,
        files=NUMBERS_16,
        unit=128 / 65535,  # metres
        filter="bilinear",
        valid="data.pixels:positive",
        standardize="data.pixels:standardize_depth",
        loss="losses:l1",
        draw="pictures:depth",
        top=8000 / 512,  # Taskonomy's depth is in 1/512 m, and the authors' code cuts it off at 8000
    ),
    Modality(
        "semseg",
        channels=None,
        files=CLASSES_8,
        filter="nearest-exact",
        stride=4,  # a quarter of the image's resolution, so that a patch is 4x4 (paper Section A)
        interpolation="bilinear",
        loss="losses:cross_entropy",
        draw="pictures:class_map",
    ),
)


def _targets(**others: Target) -> dict[str, Target]:
    """In the order of modalities: each as it is, and after it the others that are predicted of it."""
    plain = {name: Target(name, kind.loss) for name, kind in MODALITIES.items()}
    order = list(MODALITIES)
    return dict(sorted((plain | others).items(), key=lambda item: order.index(item[1].modality)))


def _dense(name: str, channels: int = 1, files: Files = NUMBERS_16, **more: Any) -> Modality:
    """Numbers from 0 to 1 over the range of the file's bits."""
    unit = 1 / (255 if files is NUMBERS_8 else 65535)
    return Modality(name, channels, files, "nearest-exact", "losses:l1", "pictures:numbers", unit=unit, **more)


# What a transfer alone predicts, as Taskonomy's files have it (paper Section B.4; its depth is the modality's). `top`
# and `blur` are those of the authors' code. Of colours, normals are the three and curvatures the first two.
DENSE = _by_name(
    _dense("curvature", channels=2, files=NUMBERS_8),
    _dense("edges", top=0.25),
    _dense("occlusion", blur=1.0),
    _dense("keypoints2d"),
    _dense("keypoints3d"),
    _dense("normals", channels=3, files=NUMBERS_8),
    _dense("reshading", files=NUMBERS_8),
)
# Which pixels of the dense targets hold a value: 255, of NYUv2's and Taskonomy's depth.
MASK = Modality("mask_valid", 1, FLAGS_8, "nearest-exact", "losses:l1", "pictures:numbers")

TARGETS = _targets(rgb_standardized=Target("rgb", "losses:mse", standardize_patches=True))

# What a sample may hold, and of which modality it is: a folder each. `pseudo_depth` is what a network predicted from
# the photograph, `depth` the data set's own: two sources of one modality, and so two experiments.
SOURCES = {
    source: name
    for name, kind in MODALITIES.items()
    for source in ((name,) if kind.photograph else (name, f"pseudo_{name}"))
}

PSEUDO = {modality: source for source, modality in SOURCES.items() if source != modality}  # what a network predicted

FIELDS = {source: MODALITIES[name] for source, name in SOURCES.items()} | DENSE | {MASK.name: MASK}  # of a sample


@functools.cache
def named(function: str) -> Callable[..., Any]:
    """The function that a declaration names."""
    return pkgutil.resolve_name(f"{__package__}.{function}")
