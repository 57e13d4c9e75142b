"""How images are cut into patches, one row each (paper Section 3.1)."""

from jaxtyping import Shaped
from torch import Tensor

from .modalities import MODALITIES

Grid = tuple[int, int]  # patches down and across


def patchify(image: Shaped[Tensor, "batch channels height width"], side: int) -> Shaped[Tensor, "rows values"]:
    """One row per patch of the whole batch, row by row of the grid; values ordered channel, patch row, patch column."""
    image = image.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))  # batch, channels, down, side, across, side
    return image.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


def unpatchify(
    rows: Shaped[Tensor, "rows values"], side: int, grid: Grid
) -> Shaped[Tensor, "batch channels height width"]:
    """The reverse of `patchify`."""
    patches = rows.unflatten(-1, (-1, side, side)).unflatten(0, (-1, *grid))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


class Patches:
    """How images of one modality are cut up: one row per patch."""

    def __init__(self, modality: str, patch_size: int):
        self.modality = modality
        self.side = patch_size // MODALITIES[modality].stride

    def grid(self, image: Shaped[Tensor, "batch ..."]) -> Grid:
        """Patches down and across of (batch, channels, height, width) or, of class indices, (batch, height, width)."""
        height, width = image.shape[-2:]
        if height % self.side or width % self.side:
            patch = f"{self.side}x{self.side}"
            raise ValueError(f"{self.modality}: {height}x{width} does not divide into patches of {patch}")
        return height // self.side, width // self.side

    def rows(self, image: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "rows values"]:
        return patchify(image if image.ndim == 4 else image[:, None], self.side)

    def image(self, rows: Shaped[Tensor, "rows values"], grid: Grid) -> Shaped[Tensor, "batch channels height width"]:
        return unpatchify(rows, self.side, grid)
