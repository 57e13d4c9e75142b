"""Ordinary JPEG and PNG files, decoded faster than by PIL and to the same bits.

What is not ordinary, and every file of which there is a word to be said, is left to PIL, which then decides. So the
package changes how long reading takes and nothing else; without it, all files are PIL's.

One thing is told by PIL alone: a PNG each of whose chunks is whole, with a checksum that holds, but which do not belong
together. It was made wrong: what happens to a file on its way breaks a chunk.
"""

import contextlib
import importlib
import zlib
from typing import Any

import numpy as np
from PIL import Image

rust: Any = None
with contextlib.suppress(ImportError):
    rust = importlib.import_module("kornia_rs.io")

# Where a PNG's head has what, and its colour types: https://www.w3.org/TR/png-3/#11IHDR
IHDR, BITS, COLOUR, HOW = slice(12, 16), 24, 25, slice(26, 29)  # HOW: compression, filters, interlaced
GREY, RGB, PALETTE = 0, 2, 3
RGB_MODE, GREY_MODE = "rgb", "mono"  # as kornia_rs calls what it returns
IEND = b"\0\0\0\0IEND\xaeB`\x82"


def decoded(data: bytes, image: Image.Image, photograph: bool) -> np.ndarray | None:
    """The pixels of a file that PIL opened as `image`, their checksums right: as PIL has them, (H, W) or (H, W, 3), of
    a photograph RGB. None where PIL is to read them."""
    if not rust or (photograph and image.mode != "RGB" and (image.format, image.mode) != ("JPEG", "L")):
        return None
    try:
        # JPEG: libjpeg-turbo, as PIL, but a warning is an error: of data left over, missing, or making no sense.
        pixels = _png(data, image) if image.format == "PNG" else rust.decode_image_jpegturbo(data, RGB_MODE)
    except Exception:  # of no kind more narrow
        return None
    return pixels if pixels is not None and pixels.shape[1::-1] == image.size else None


def _png(data: bytes, image: Any) -> np.ndarray | None:
    """From the head and the pixels' chunks alone, so that no other can matter."""
    if data[IHDR] != b"IHDR" or any(data[HOW]):
        return None
    bits, colour, head = data[BITS], data[COLOUR], data[:33]
    if (bits, colour) == (8, PALETTE):  # the entries are wanted, not their colours
        head = data[:COLOUR] + bytes([GREY]) + data[COLOUR + 1 : 29]
        head += zlib.crc32(head[12:]).to_bytes(4)
    elif (bits, colour) not in ((8, GREY), (16, GREY), (8, RGB)):
        return None
    start = end = image.tile[0][2] - 8  # of the first chunk of pixels; the others follow
    while data[end + 4 : end + 8] == b"IDAT":
        end += 12 + int.from_bytes(data[end : end + 4])
    decode = rust.decode_image_png_u8 if bits == 8 else rust.decode_image_png_u16
    pixels = decode(head + data[start:end] + IEND, image.size[::-1], RGB_MODE if colour == RGB else GREY_MODE)
    return pixels if colour == RGB else pixels[..., 0]
