"""What replaces the decoders at transfer: one head per task, on the encoder's tokens."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

STRIDE = 4  # pixels along a side of the sub-patches that a dense head cuts its patches into


class Head(nn.Module):
    """Predicts from the tokens after the encoder's last block, or after each of `layers` (1: the first), one argument
    for each. With `per_pixel` they are those of one modality, row by row, and `grid` is given: patches down and across.
    """

    layers: tuple[int, ...] = ()
    per_pixel = False


def pooled(tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
    """The features of an image: the mean of all tokens, the global one too as in the authors' code."""
    return tokens.mean(1)


class ClassificationHead(Head):
    """Mean of all tokens, LayerNorm, linear (paper Section B.1)."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.linear = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=2e-5)  # MAE's fine-tuning: start from near-uniform predictions
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        return self.linear(self.norm(pooled(tokens)))


class ConvNeXtHead(Head):
    """Dense prediction from the tokens of one modality (paper Section B.2).

    A linear layer widens each token to `head_dim`, which is cut into sub-patches of 4x4 pixels: a feature map of a
    quarter of the resolution, on which ConvNeXt blocks run before the class scores are resized bilinearly to full size.
    """

    per_pixel = True

    def __init__(self, dim: int, head_dim: int, depth: int, classes: int, patch_size: int):
        super().__init__()
        self.sub = patch_size // STRIDE  # sub-patches along a side of a patch
        width = head_dim // self.sub**2
        self.widen = nn.Linear(dim, head_dim)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, ls_init_value=None) for _ in range(depth)))
        self.scores = nn.Conv2d(width, classes, 1)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], grid: tuple[int, int]
    ) -> Float[Tensor, "batch classes height width"]:
        x = sub_patches(self.widen(tokens), grid, self.sub)
        return F.interpolate(self.scores(self.blocks(x)), scale_factor=STRIDE, mode="bilinear")


class LinearHead(Head):
    """Class scores of each sub-patch of 4x4 pixels from its token alone, by one linear layer; resized bilinearly."""

    per_pixel = True

    def __init__(self, dim: int, classes: int, patch_size: int):
        super().__init__()
        self.sub = patch_size // STRIDE
        self.scores = nn.Linear(dim, classes * self.sub**2)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], grid: tuple[int, int]
    ) -> Float[Tensor, "batch classes height width"]:
        """As of `ConvNeXtHead`."""
        x = sub_patches(self.scores(tokens), grid, self.sub)
        return F.interpolate(x, scale_factor=STRIDE, mode="bilinear")


class DPTHead(Head):
    """Dense regression from the tokens of four layers (Ranftl et al.; paper Sections B.3 and B.4).

    The tokens of each layer become a map of `widths` channels at 4, 2, 1 and 1/2 times the resolution of the tokens;
    from the coarsest on, each is added to what was enlarged from the one before. There is no read-out token.
    """

    per_pixel = True

    def __init__(
        self, dim: int, layers: Sequence[int], widths: Sequence[int], features: int, channels: int, patch_size: int
    ):
        super().__init__()
        self.layers, self.patch_size = tuple(layers), patch_size
        resized = (
            lambda width: nn.ConvTranspose2d(width, width, 4, stride=4),
            lambda width: nn.ConvTranspose2d(width, width, 2, stride=2),
            lambda width: nn.Identity(),
            lambda width: nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, width, 1), resize(width), nn.Conv2d(width, features, 3, padding=1, bias=False))
            for width, resize in zip(widths, resized, strict=True)
        )
        self.fusions = nn.ModuleList(Fusion(features, first=i == len(widths) - 1) for i in range(len(widths)))
        self.halve = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output = nn.Sequential(nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, channels, 1))

    def forward(
        self, *tokens: Float[Tensor, "batch tokens dim"], grid: tuple[int, int]
    ) -> Float[Tensor, "batch channels height width"]:
        """One argument for each of `layers`."""
        maps = [layer(x.transpose(1, 2).unflatten(2, grid)) for layer, x in zip(self.maps, tokens, strict=True)]
        x = None
        for i in reversed(range(len(maps))):
            finer = maps[i - 1].shape[-2:] if i else [2 * side for side in maps[0].shape[-2:]]
            x = self.fusions[i](maps[i], x, finer)
        return self.output(enlarged(self.halve(x), [side * self.patch_size for side in grid]))


class Fusion(nn.Module):
    """Adds a map to what was fused before it, and enlarges the sum."""

    def __init__(self, features: int, first: bool):
        super().__init__()
        self.before = nn.Identity() if first else Residual(features)  # there is nothing to add to
        self.after = Residual(features)
        self.mix = nn.Conv2d(features, features, 1)

    def forward(self, new: Tensor, fused: Tensor | None, size: Sequence[int]) -> Tensor:
        x = self.before(new)
        return self.mix(enlarged(self.after(x if fused is None else fused + x), size))


class Residual(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)  # as Ranftl et al. do


def sub_patches(
    tokens: Float[Tensor, "batch tokens dim"], grid: tuple[int, int], sub: int
) -> Float[Tensor, "batch channels height width"]:
    """The map of a `grid` of tokens, row by row, each cut into `sub` x `sub` places of dim / sub² channels."""
    x = tokens.unflatten(1, grid).unflatten(-1, (-1, sub, sub))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
