"""Which pixels hold a value, and how values become what a model takes: functions that `multimae.modalities` names."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..modalities import DEPTH_QUANTILES, RGB_MEAN, RGB_STD, STANDARDIZE_EPS, Modality, named


def validity(image: Tensor, kind: Modality) -> Tensor | None:
    """Which pixels of (channels, height, width) are valid, bool (1, height, width); None where all are."""
    return named(kind.valid)(image) if kind.valid else None


def standardized(image: Tensor, kind: Modality) -> Tensor:
    """An image as its modality is standardised. Invalid pixels do not count, and become 0."""
    if not kind.standardize:
        return image
    valid = validity(image, kind)
    image = named(kind.standardize)(image, valid)
    return image if valid is None else torch.where(valid, image, 0)


def positive(image: Tensor) -> Tensor | None:
    """Of a sensor's depth: neither 0 nor NaN nor infinite."""
    values = image.numpy()
    if values.min() > 0 and values.max() < np.inf:  # False for NaN too
        return None
    return (image > 0) & image.isfinite()


def standardize_depth(depth: Tensor, valid: Tensor | None) -> Tensor:
    """Mean 0 and variance 1 over the values between the 10 % and 90 % quantiles (paper Section 3.4); over all, where
    those do not differ."""
    values = depth.numpy()
    known = values.ravel() if valid is None else values[valid.numpy()]
    low, high = (int(q * len(known)) for q in DEPTH_QUANTILES)
    if high - low < 2:
        return torch.zeros_like(depth)
    kept = np.partition(known, (low, high - 1))[low:high]
    if kept[0] == kept[-1]:  # all one, as the sky is that a network cut off: the rest would be anything
        kept = known
    mean = kept.mean()
    kept = kept - mean
    return torch.from_numpy((values - mean) / np.sqrt(kept @ kept / (len(kept) - 1) + np.float32(STANDARDIZE_EPS)))


def imagenet(images: Tensor) -> Tensor:
    """8-bit rgb as float32, with ImageNet's mean and deviation."""
    scale, shift = _constants(images.device)
    return torch.addcmul(shift, images.float(), scale)


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """(scale, shift) of 8-bit rgb, made once: making them on a GPU waits for it."""
    scale = 1 / (255 * torch.tensor(RGB_STD, device=device).view(3, 1, 1))
    return scale, -torch.tensor(RGB_MEAN, device=device).view(3, 1, 1) * 255 * scale
