"""What transfers share that predict numbers for each pixel (paper Sections B.3 and B.4)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ..modalities import FIELDS, MASK
from .fields import Size
from .flops import linear
from .schema import Section
from .transfer import Transfer

KERNEL = 3 * 3
OUTPUT_WIDTH = 32  # channels before the last layer (Ranftl et al.)

Layer = Annotated[Size, Field(le=1000)]


class DPT(Section):
    """The head of Ranftl et al.: tokens of four layers, at four resolutions, fused from coarse to fine."""

    layers: tuple[Layer, Layer, Layer, Layer] = (3, 6, 9, 12)  # 1: the first block
    # Channels of the maps of the layers, the finest first: 4, 2, 1 and 1/2 times the resolution of the tokens.
    widths: tuple[Size, Size, Size, Size] = (96, 192, 384, 768)
    dim: Size = 256  # channels of all after that

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.layers) != sorted(self.layers):
            raise ValueError(f"expected four layers, from the first on; found {list(self.layers)}")
        if self.dim % 2:
            raise ValueError(f"dim {self.dim} is halved before the output: expected an even number")
        return self


class DenseTransfer(Transfer):
    """What is predicted is a field of numbers."""

    head: DPT = DPT()
    masked: bool = True  # samples say by `mask_valid` which pixels hold a value
    mask_block: Annotated[Size, Field(le=64)] = 1  # px: squares with one that holds none are left out as a whole

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if max(self.head.layers) > self.model.depth:
            raise ValueError(f"head.layers {list(self.head.layers)}: the encoder has {self.model.depth}")
        return self

    def idle(self) -> set[str]:
        return super().idle() | (set() if self.masked else {"mask_block"})

    @property
    def fields(self) -> tuple[str, ...]:
        return (*super().fields, *([MASK.name] if self.masked else []))

    @property
    def channels(self) -> int:
        """Of the target."""
        channels = FIELDS[self.truth_field].channels
        assert channels
        return channels

    # ---- cost

    def head_flops(self) -> dict[str, float]:
        """Of the convolutions; see `model.heads.DPTHead`."""
        head, tokens = self.head, self.model.tokens
        places = [tokens * scale**2 for scale in (4, 2, 1, 0.5)]
        total = 0.0
        for place, width, scale in zip(places, head.widths, (4, 2, 0, 0)):
            total += linear(tokens, self.model.dim, width)  # to the layer's width
            total += linear(tokens, width, width * scale**2) if scale else 0  # transposed: each token a square
            total += linear(place, KERNEL * width, head.dim)
        total += linear(places[3], KERNEL * head.widths[3], head.widths[3])  # of stride 2
        for place, convolutions in zip(places, (4, 4, 4, 2)):
            total += convolutions * linear(place, KERNEL * head.dim, head.dim)
            total += linear(4 * place, head.dim, head.dim)  # when it is enlarged
        total += linear(4 * places[0], KERNEL * head.dim, head.dim // 2)
        pixels = tokens * self.model.patch_size**2
        return {"dpt": total + linear(pixels, KERNEL * head.dim // 2, OUTPUT_WIDTH) + linear(pixels, OUTPUT_WIDTH, 1)}

    def head_parameters(self) -> int:
        head = self.head
        layers = sum(width * (self.model.dim + KERNEL * head.dim) for width in head.widths)
        resized = 16 * head.widths[0] ** 2 + 4 * head.widths[1] ** 2 + KERNEL * head.widths[3] ** 2
        fused = (14 * KERNEL + 4) * head.dim**2
        return layers + resized + fused + KERNEL * head.dim // 2 * (head.dim + OUTPUT_WIDTH)
