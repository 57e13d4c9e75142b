"""Floating-point operations of an image, counted from sizes. Imports no torch.

Conventions: matrix products, attention products and convolutions only, two operations a multiply-add. Norms,
activations, softmax, resizing and the loss are left out: together they are below 1 %. A backward pass costs two forward
passes, except that nothing asks for the gradient of an input image. Numbers are expectations over masks. Each kind of
run puts its own parts together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..modalities import MODALITIES

if TYPE_CHECKING:
    from .sections import Model


@dataclass(frozen=True)
class Flops:
    """Of one image, by part; in the forward pass unless said otherwise."""

    projections: float
    encoder: float
    heads: Mapping[str, float]  # a decoder per target, or the transfer's head
    image_gradients: float  # of the projections, which no backward pass computes

    @property
    def forward(self) -> float:
        return self.projections + self.encoder + sum(self.heads.values())

    @property
    def training(self) -> float:
        """Forward and backward."""
        return 3 * self.forward - self.image_gradients


def of_model(model: "Model", tokens: Mapping[str, float], encoded: float, heads: Mapping[str, float]) -> Flops:
    """`tokens` of each modality are projected, `encoded` of them enter the encoder."""
    parts = {m: linear(n, patch_values(model, m), model.dim) for m, n in tokens.items()}
    # Class embeddings are learned, so a class map has a gradient.
    images = sum(f for m, f in parts.items() if MODALITIES[m].channels)
    return Flops(sum(parts.values()), encoder(model, encoded), heads, images)


def encoder_parameters(model: "Model", modalities: Iterable[str]) -> int:
    """Weights: the matrices, which are all but a percent of them."""
    return 12 * model.depth * model.dim**2 + sum(patch_values(model, m) * model.dim for m in modalities)


# ---- parts


def linear(tokens: float, d_in: int, d_out: int) -> float:
    return 2 * tokens * d_in * d_out


def attention(queries: float, keys: float, dim: int) -> float:
    """The two products of attention, without its projections."""
    return 2 * 2 * queries * keys * dim


def block(tokens: float, dim: int) -> float:
    """qkv 3, projection 1 and MLP 8 times dim squared."""
    return linear(tokens, dim, 12 * dim) + attention(tokens, tokens, dim)


def encoder(model: "Model", tokens: float) -> float:
    return model.depth * block(tokens + 1, model.dim)  # the global token


def patch_values(model: "Model", modality: str) -> int:
    """Numbers in a patch, as it is projected."""
    return MODALITIES[modality].encoded(model) * (model.patch_size // MODALITIES[modality].stride) ** 2


def predicted_values(model: "Model", modality: str) -> int:
    """Numbers in a patch, as it is predicted."""
    return MODALITIES[modality].predicted(model) * (model.patch_size // MODALITIES[modality].stride) ** 2
