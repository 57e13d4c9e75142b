"""The one table of what a model can see (modalities) and what it predicts (targets)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Modality:
    """What enters the encoder. `channels` is None where the input is a map of class indices."""

    channels: int | None
    stride: int  # pixels of the image for one element of this modality: patches are patch_size / stride wide
    interpolation: str  # how its position embeddings are resized to another grid (as the authors' code does)


@dataclass(frozen=True)
class Target:
    """What a decoder predicts, from the queries of `modality`."""

    modality: str
    loss: str  # mse | l1 | cross_entropy (paper Section 3.4)
    standardize_patches: bool = False


# The order of this table is the order of tokens in every sequence.
MODALITIES = {
    "rgb": Modality(channels=3, stride=1, interpolation="bicubic"),
    "depth": Modality(channels=1, stride=1, interpolation="bicubic"),
    # Class indices, a quarter of the image's resolution, so that a patch is 4x4 (paper Section A).
    "semseg": Modality(channels=None, stride=4, interpolation="bilinear"),
}

TARGETS = {
    "rgb": Target("rgb", "mse"),
    "rgb_standardized": Target("rgb", "mse", standardize_patches=True),
    "depth": Target("depth", "l1"),
    "semseg": Target("semseg", "cross_entropy"),
}

IGNORE = 255  # in a class map: unlabelled; counts neither in a loss nor in a metric

# ImageNet statistics, in [0, 1]: what official and timm weights were trained with.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)

# Depth is standardised per image over the values between these quantiles (paper Section 3.4).
DEPTH_QUANTILES = (0.1, 0.9)
STANDARDIZE_EPS = 1e-6  # of the authors' code: under the root, for depth and for patches alike
