"""One geometry for everything that a sample holds: which part of an image is seen, at which size, mirrored or not.

Filters are those that modalities declare; where one would mix in an invalid pixel, the nearest is taken instead, as a
mean over an invalid pixel is no value. They are the kernels of torchvision's v2 transforms, and a test holds that the
results are the same to the bit; v2's dispatch on types takes longer than the kernels themselves where images are small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..modalities import IGNORE, Modality
from .pixels import validity


@dataclass(frozen=True)
class View:
    """A part of an image and where it lands on a square canvas: cut `box`, resize it, cut or pad it to the canvas."""

    box: tuple[int, int, int, int]  # top, left, height, width, pixels of the image
    resized: tuple[int, int]  # height and width to which the box is resized
    offset: tuple[int, int]  # top and left corner of the canvas in the resized box
    size: int  # of the canvas. What the resized box does not cover is padding, at the right and at the bottom
    flip: bool = False  # of the canvas, padding included

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width of the part of the canvas that the image covers, at its top and left unless flipped."""
        height, width = (min(side - start, self.size) for side, start in zip(self.resized, self.offset))
        return height, width

    def numbers(self, image: Tensor, kind: Modality) -> Tensor:
        """(channels, h, w): the part of the canvas that the image covers. Invalid pixels are 0."""
        top, left, height, width = self.box
        image = image[:, top : top + height, left : left + width]
        resized = _resize(image, self.resized, kind.filter)
        if (valid := validity(image, kind)) is not None:
            nearest = _resize(torch.where(valid, image, 0), self.resized, "nearest-exact")
            whole = _resize(valid.float(), self.resized, "bilinear") > 0.999
            resized = torch.where(whole, resized, nearest)
        top, left = self.offset
        part = resized[:, top : top + self.size, left : left + self.size]
        if not self.flip:
            return part
        part = part.flip(-1)
        for channel in kind.mirrored:
            part[channel] *= -1
        return part

    def classes(self, image: Tensor, stride: int) -> np.ndarray:
        """uint8 (size / stride, size / stride): the pixel at the centre of each square of the canvas, or IGNORE."""
        sources, inside = [], []
        for start, extent, resized, offset in zip(self.box, self.box[2:], self.resized, self.offset):
            at = (np.arange(self.size // stride) + 0.5) * stride + offset
            sources.append(start + np.minimum((at * (extent / resized)).astype(np.intp), extent - 1))
            inside.append(at < resized)
        canvas = image.numpy()[sources[0][:, None], sources[1]]
        if not (inside[0][-1] and inside[1][-1]):
            canvas[~(inside[0][:, None] & inside[1])] = IGNORE
        return canvas[:, ::-1].copy() if self.flip else canvas

    def pad(self, image: Tensor, value: Sequence[float]) -> Tensor:
        """(channels, h, w) -> (channels, size, size)."""
        height, width = image.shape[-2:]
        if height == width == self.size:
            return image.contiguous()
        canvas = (
            torch.tensor(value, dtype=image.dtype).view(-1, 1, 1).repeat(len(image) // len(value), *[self.size] * 2)
        )
        left = self.size - width if self.flip else 0
        canvas[:, :height, left : left + width] = image
        return canvas


def _resize(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return interpolate(image[None], size, mode=mode, antialias=mode == "bicubic")[0]
