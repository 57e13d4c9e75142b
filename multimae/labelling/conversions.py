"""From what a network gives to what a label file holds."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.label import Disparity, Metres, Relative
from ..modalities import IGNORE, Modality

MOST = 65535  # of 16 bits


def metres(values: Tensor, conversion: Disparity | Relative | Metres) -> Tensor:
    """(height, width) of what a network gives -> depth, larger where it is farther; never 0, which is unknown.

    Raises ValueError where there is a value that is none, as of damaged weights.
    """
    values = values.float()
    if not values.isfinite().all():
        raise ValueError("the network gives NaN or infinity; its weights are damaged, or bf16 is too coarse for it")
    if isinstance(conversion, Metres):
        return values
    if isinstance(conversion, Relative):
        return values.clamp(0, 1) * conversion.scale
    # Its shift is unknown as well, and taken to be 0, where a network ends in a rectifier: infinitely far.
    closeness = values / values.max().clamp(min=torch.finfo(torch.float32).tiny)
    return conversion.nearest / closeness.clamp(min=conversion.nearest / conversion.farthest)


def counts(depth: Tensor, kind: Modality) -> np.ndarray:
    """uint16 (height, width): metres in the unit of the files. 0 would be unknown, so nothing is nearer than 1."""
    return (depth / kind.unit).round().clamp(1, MOST).cpu().numpy().astype(np.uint16)


def table(labels: tuple[str, ...], numbering: dict[str, int]) -> np.ndarray:
    """uint8 (classes,): the number of each class of a network; its own where nothing is said."""
    if not numbering:
        return np.arange(len(labels), dtype=np.uint8)
    return np.array([numbering.get(name, IGNORE) for name in labels], np.uint8)


def png(image: np.ndarray) -> bytes:
    """uint16 or uint8 (height, width) as the file that `data.images` reads."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=6)
    return file.getvalue()


# ---- EXIF's orientation: labels lie as the pixels of the file do, and networks know upright photographs alone

ORIENTATION = 0x0112  # CIPA DC-008, Exif 2.32, 4.6.4 A: which side of the picture row 0 and column 0 are
_TURNS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}
_BACK = {6: 8, 8: 6}


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """(height, width, ...) of a file, as a viewer turns it."""
    return _TURNS[orientation](image) if orientation in _TURNS else image


def turned_back(image: np.ndarray, orientation: int) -> np.ndarray:
    """The reverse."""
    return upright(image, _BACK.get(orientation, orientation))
