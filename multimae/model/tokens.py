"""Patches to tokens, and where a token is (paper Section 3.1)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..config import Model
from ..modalities import MODALITIES
from ..patches import Grid, Patches


def sincos_positions(dim: int, grid: Grid) -> Float[Tensor, "1 dim down across"]:
    """Fixed 2D sin-cos embeddings, temperature 10000: sin and cos of the row, then of the column."""
    frequencies = 10000 ** -(torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    down, across = (torch.outer(frequencies, torch.arange(n, dtype=torch.float32)) for n in grid)
    row = torch.cat([down.sin(), down.cos()])[:, :, None].expand(-1, *grid)
    column = torch.cat([across.sin(), across.cos()])[:, None, :].expand(-1, *grid)
    return torch.cat([row, column])[None]


def resize_positions(
    positions: Float[Tensor, "1 dim _ _"], grid: Grid, interpolation: str
) -> Float[Tensor, "1 dim down across"]:
    """The table for `grid`, interpolated where it was made for another."""
    if tuple(positions.shape[-2:]) == grid:
        return positions
    return F.interpolate(positions, size=grid, mode=interpolation, align_corners=False)


def position_rows(positions: Float[Tensor, "1 dim _ _"], grid: Grid, interpolation: str) -> Float[Tensor, "tokens dim"]:
    """The same, one row per token."""
    return resize_positions(positions, grid, interpolation).flatten(2).transpose(1, 2)[0]


class Tokens(nn.Module):
    """Patch projection of one modality. Class indices are embedded before they are projected."""

    positions: Tensor

    def __init__(self, modality: str, model: Model):
        super().__init__()
        kind = MODALITIES[modality]
        self.patches = Patches(modality, model.patch_size)
        self.interpolation = kind.interpolation
        self.embedding = None
        if kind.channels is None:
            rows = getattr(model, f"{modality}_classes") + getattr(model, f"{modality}_unlabelled")
            self.embedding = nn.Embedding(rows, kind.encoded(model))
        self.project = nn.Linear(kind.encoded(model) * self.patches.side**2, model.dim)
        side = model.image_size // model.patch_size
        self.register_buffer("positions", sincos_positions(model.dim, (side, side)))

    def forward(self, rows: Shaped[Tensor, "rows values"]) -> Float[Tensor, "rows dim"]:
        """Tokens of unprojected patches, without positions."""
        if self.embedding is not None:
            rows = self.embedding(rows).transpose(1, 2).flatten(1)  # channel, patch row, patch column
        return self.project(rows.to(self.project.weight.dtype))

    def positions_at(self, grid: Grid) -> Float[Tensor, "tokens dim"]:
        return position_rows(self.positions, grid, self.interpolation)


def learned_token(dim: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))


def learned_tokens(names: Iterable[str], dim: int) -> nn.ParameterDict:
    return nn.ParameterDict({name: learned_token(dim) for name in names})


def initialize(module: nn.Module) -> None:
    """MAE's initialisation (He et al.), as the paper names no other: Xavier-uniform matrices, zero biases, 0.02 for
    embeddings. A patch projection counts as the matrix it is; joined query, key and value as separate matrices."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            parts = {"qkv": 3, "kv": 2}.get(name.rpartition(".")[-1], 1)
            for weight in child.weight.data.chunk(parts):
                nn.init.xavier_uniform_(weight)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)
