"""Image files as tensors, and what tells that one is damaged.

A PNG says so itself: every part of it has a checksum. A JPEG has none, and its decoder makes up what is missing without
a word. But the blocks of a whole one use up its data to the last byte, and a file that lost, gained or garbled a part
hardly ever does. What stays unseen: damage that happens to leave the length right (a few flipped bits, mostly), and all
of it in progressive JPEG and in WebP files that can be decoded at all.
"""

import io
import re
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image

from ..modalities import FIELDS, Modality, named
from . import packs
from .decoders import decoded

FORMATS = ("JPEG", "PNG", "WEBP")  # by content, whatever the ending says
GREY_16 = dict.fromkeys(("I;16", "I;16B", "I"), " (16-bit grey)")  # as PIL's versions name it
PNG_START = b"\x89PNG\r\n\x1a\n"
OBLONG = 100  # the most that one side of an image may be of the other
STRAY = 8  # bytes after the last block of a JPEG, or missing in it, that are passed over: some cameras write a few more

Image.MAX_IMAGE_PIXELS = None  # `max_pixels` is the limit here, and says which setting it is
# Broken EXIF and odd palettes change no pixel that is read; what does is refused, with the name of the file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Unusable(ValueError):
    """The content of a file is not what it should be. Reading it again changes nothing, unlike an OSError."""


def open_image(file: IO[bytes], field: str, max_pixels: int) -> Image.Image:
    """The image in a file, its head read and judged, its pixels not yet. Raises Unusable, and OSError of the system."""
    kind = FIELDS[field]
    expected = kind.files.expected
    try:
        image = Image.open(file, formats=FORMATS)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unusable(f"cannot be read as {expected}: {_reason(file, error)}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise Unusable(
            f"has {width} x {height} pixels; max_pixels={max_pixels} allows fewer: make it smaller, or raise the limit "
            f"(--runtime max_pixels=N, or `runtime` in a profile)"
        )
    if max(image.size) > OBLONG * min(image.size):
        raise Unusable(f"is {width} x {height}: one side may be {OBLONG} times the other, no more")
    if image.mode not in kind.files.modes:
        raise Unusable(f"expected {expected}, found mode {image.mode}{GREY_16.get(image.mode, '')}")
    if kind.photograph and image.mode == "P" and image.palette is None:
        raise Unusable(f"cannot be read as {expected}: its palette is missing")
    if not kind.photograph and (image.format != "PNG" or (image.mode == "L" and _bit_depth(file) != 8)):
        found = image.format if image.format != "PNG" else f"{_bit_depth(file)} bits"
        raise Unusable(f"expected {expected}, found {found}")
    return image


def read(path: Path, field: str, max_pixels: int, unit: float | None = None) -> torch.Tensor:
    """What lies in a file of `field`: see `decode`. Raises OSError of the system too."""
    return decode(path.read_bytes(), field, max_pixels, unit)


def decode(data: bytes, field: str, max_pixels: int, unit: float | None = None) -> torch.Tensor:
    """What the bytes of a file of `field` hold: a photograph, numbers or classes, as the functions below say. `unit`:
    what one more in the file means, where that is not what the modality declares.

    Raises Unusable where the file is damaged or no such image.
    """
    kind = FIELDS[field]
    pixels = pixels_of(data, field, max_pixels)
    try:
        return named(kind.files.read)(pixels, replace(kind, unit=unit) if unit else kind)
    except ValueError as error:
        raise Unusable(f"cannot be read as {kind.files.expected}: {error}") from None


def pixels_of(data: bytes, field: str, max_pixels: int) -> np.ndarray:
    """(H, W) or (H, W, channels), as they are in the file; of a photograph uint8 RGB. Raises Unusable."""
    if data.startswith(packs.MARK):
        return packs.decode(data)
    if data.startswith(PNG_START):
        _check_png(data)
    with open_image(io.BytesIO(data), field, max_pixels) as image:
        pixels = decoded(data, image, FIELDS[field].photograph)
    return _by_pil(data, field, max_pixels) if pixels is None else pixels


def _by_pil(data: bytes, field: str, max_pixels: int) -> np.ndarray:
    """The pixels of any image that is allowed, of a photograph RGB. Raises Unusable."""
    kind, scan = FIELDS[field], _scan(data)
    watched = _Watched(data, *scan) if scan else None
    with open_image(watched or io.BytesIO(data), field, max_pixels) as image:
        if watched:
            watched.watching = True
        try:
            pixels = np.array(image.convert("RGB") if kind.photograph else image)
        except (OSError, SyntaxError, ValueError) as error:
            raise Unusable(f"cannot be read as {kind.files.expected}: {error}") from None
    if watched:
        watched.judge()
    return pixels


def photograph(pixels: np.ndarray, kind: Modality) -> torch.Tensor:
    """uint8 (3, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def numbers(pixels: np.ndarray, kind: Modality) -> torch.Tensor:
    """float32 (channels, H, W), in the unit that `kind` declares."""
    values = pixels.astype(np.float32)
    if kind.zero:
        values -= np.float32(kind.zero)
    values *= np.float32(kind.unit)
    return torch.from_numpy(values[None] if values.ndim == 2 else values.transpose(2, 0, 1)[: kind.channels])


def flags(pixels: np.ndarray, kind: Modality) -> torch.Tensor:
    """float32 (1, H, W), of 0 and 1. Raises ValueError for other values than 0 and 255: a mask of 0 and 1 would be read
    as one of nothing."""
    if others := sorted(set(np.unique(pixels).tolist()) - {0, 255}):
        raise ValueError(f"it holds {others[0]}")
    return torch.from_numpy((pixels == 255)[None].astype(np.float32))


def classes(pixels: np.ndarray, kind: Modality) -> torch.Tensor:
    """uint8 (H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _reason(file: IO[bytes], error: Exception) -> str:
    start = file.seek(0) or file.read(16)
    if not start:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is no {', '.join(FORMATS)}, or its head is damaged (it begins with {start!r})"
    return str(error)


# ---- PNG


def _bit_depth(file: IO[bytes]) -> int:
    """Of a PNG's channel. Fewer than 8 bits: PIL scales a grey value, so that class 3 of 4 bits would be read as 51."""
    here = file.tell()
    file.seek(24)
    (bits,) = file.read(1)
    file.seek(here)
    return bits


def _check_png(data: bytes) -> None:
    """Raises Unusable where a checksum is wrong; PIL does not look at those of the pixels."""
    at = len(PNG_START)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if int.from_bytes(data[end : end + 4]) != zlib.crc32(memoryview(data)[at + 4 : end]):
            break
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise Unusable(f"is damaged or cut short: a checksum is wrong after byte {at}")


# ---- JPEG

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # that ends a scan: 0xFF 0 is a datum, 0xFF 0xD0 a restart
_SEQUENTIAL = (0xC0, 0xC1)  # the frames whose one scan is decoded as it is read


def _scan(data: bytes) -> tuple[int, int] | None:
    """Where the data of a JPEG's blocks begin and end; None where they are in several scans, or it is no JPEG."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at, components = 2, None
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if kind == 0xFF:  # fill
            at += 1
            continue
        if kind in _SEQUENTIAL:
            components = data[at + 9 : at + 10]
        if kind == 0xDA:
            start = at + 2 + length
            end = _MARKER.search(data, start)
            return (start, end.start()) if end and components and components == data[at + 4 : at + 5] else None
        at += 2 + length
    return None


class _Watched(io.BytesIO):
    """A JPEG whose scan is given to the decoder in portions and ends in zeros: what it takes tells what it lacks."""

    def __init__(self, data: bytes, start: int, end: int):
        super().__init__(data[:end] + bytes(STRAY))
        self.portions = (max(start, end - STRAY), end, end + STRAY)  # the ends of portions
        self.given = 0  # the end of the last portion that was asked for
        self.watching = False

    def read(self, size: int | None = -1) -> bytes:
        if not self.watching:
            return super().read(size)
        here = self.tell()
        self.given = next((end for end in self.portions if end > here), self.portions[-1] + 1)
        if here == self.portions[-1]:
            return b"\xff\xd9"  # the end of an image, so that the decoder stops asking
        return super().read(self.given - here if size is None or size < 0 else min(size, self.given - here))

    def judge(self) -> None:
        """Raises Unusable. To be called when the image is decoded."""
        _, end, filled = self.portions
        if self.given > filled:
            raise Unusable("is damaged: its data end before its last block")
        if self.given < end:
            raise Unusable("is damaged: data are left over after its last block")
