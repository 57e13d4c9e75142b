"""What replaces the decoders at transfer: one head per task, on the encoder's tokens."""

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


class ClassificationHead(Head):
    """Mean of all tokens, the global one too as in the authors' code, LayerNorm, linear (paper Section B.1)."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.linear = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=2e-5)  # MAE's fine-tuning: start from near-uniform predictions
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        return self.linear(self.norm(tokens.mean(1)))


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


def sub_patches(
    tokens: Float[Tensor, "batch tokens dim"], grid: tuple[int, int], sub: int
) -> Float[Tensor, "batch channels height width"]:
    """The map of a `grid` of tokens, row by row, each cut into `sub` x `sub` places of dim / sub² channels."""
    x = tokens.unflatten(1, grid).unflatten(-1, (-1, sub, sub))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
