"""What a prediction is compared with, and how (paper Section 3.4)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from .masking import loss_weights
from .modalities import MODALITIES, STANDARDIZE_EPS, TARGETS, named
from .patches import Patches

PATCH_SIZE = 16


def masked_losses(
    predictions: Mapping[str, Float[Tensor, "batch channels _ _"]],
    images: Mapping[str, Shaped[Tensor, "batch ..."]],
    visible: Mapping[str, Bool[Tensor, "batch _"]] | None,
    patch_size: int | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The loss of each target on its masked tokens: the mean of each sample, then the mean over samples that have any.

    `visible` None, or without the modality of a target: the loss is on all of its tokens.
    `patch_size` in pixels of the image; None reads it off the masks, and is 16 without any.
    """
    patch_size = patch_size or _patch_size(images, visible or {})
    losses = {}
    for target, prediction in predictions.items():
        modality = TARGETS[target].modality
        patches = Patches(modality, patch_size)
        errors = token_losses(target, patches.rows(prediction), patches.rows(images[modality]))
        weights = None
        if visible is not None and modality in visible:
            mask = visible[modality]
            weights = (~mask * loss_weights((~mask).sum(1))[:, None]).flatten()
        losses[target] = average(errors, weights)
    return losses


def token_losses(
    target: str, predicted: Float[Tensor, "rows values"], truth: Shaped[Tensor, "rows pixels"]
) -> Float[Tensor, " rows"]:
    """The mean loss over the pixels of each patch. Values are ordered channel, patch row, patch column."""
    kind = TARGETS[target]
    truth = standardize_patches(truth) if kind.standardize_patches and len(truth) else truth  # torch warns of none
    channels = MODALITIES[kind.modality].channels
    truth = truth.unflatten(1, (channels, -1)) if channels else truth
    return LOSSES[target](predicted.float().unflatten(1, (-1, truth.shape[-1])), truth).flatten(1).mean(1)


# ---- what targets declare: (predicted (rows, channels, pixels), truth) -> errors, not yet averaged. The truth has the
# shape of the prediction or, of classes, (rows, pixels)


def mse(predicted: Tensor, truth: Tensor) -> Tensor:
    return F.mse_loss(predicted, truth, reduction="none")


def l1(predicted: Tensor, truth: Tensor) -> Tensor:
    return F.l1_loss(predicted, truth, reduction="none")


def reverse_huber(errors: Tensor, threshold: Tensor | float) -> Tensor:
    """Errors up to the threshold c as they are; above it (error² + c²) / 2c, of the same slope there (Laina et al.)."""
    return torch.where(errors <= threshold, errors, (errors**2 + threshold**2) / (2 * threshold))


def cross_entropy(scores: Tensor, truth: Tensor) -> Tensor:
    """A pixel of the class after the last, the class of padding, is unlabelled: it counts zero."""
    return F.cross_entropy(scores, truth, ignore_index=scores.shape[1], reduction="none")


LOSSES = {target: named(kind.loss) for target, kind in TARGETS.items()}  # a table, which torch.compile can look up


# ---- parts


def standardize_patches(rows: Float[Tensor, "rows pixels"]) -> Float[Tensor, "rows pixels"]:
    """Zero mean and unit variance (unbiased) over all values of a patch (He et al.)."""
    variance, mean = torch.var_mean(rows, dim=1, keepdim=True)
    return (rows - mean) * (variance + STANDARDIZE_EPS).rsqrt()


def average(errors: Float[Tensor, " rows"], weights: Float[Tensor, " rows"] | None) -> Float[Tensor, ""]:
    return errors.mean() if weights is None else torch.dot(errors, weights.to(errors.dtype))


def _patch_size(images: Mapping[str, Tensor], visible: Mapping[str, Tensor]) -> int:
    for modality, mask in visible.items():
        height, width = images[modality].shape[-2:]
        return round((height * width / mask.shape[1]) ** 0.5) * MODALITIES[modality].stride
    return PATCH_SIZE
