"""Folders of small images, good and bad, as users have them on disk."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 24  # px


def picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Grain over a gradient: enough of it that a JPEG's blocks hold something."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 150, size[0])[:, None, None] + rng.uniform(0, 60)
    return Image.fromarray((ramp + rng.uniform(0, 40, (*size, 3))).astype(np.uint8))


def write(root: Path, classes: Sequence[str], each: int, fields=("rgb",), splits=("train", "val")) -> Path:
    """`root/<split>/<field>/<class>/<n>.jpg` or `.png`. Classes of semseg: 0 to 9."""
    for split in splits:
        for c, name in enumerate(classes):
            for n in range(each):
                for field in fields:
                    file = root / split / field / name / f"{n}.{'jpg' if field == 'rgb' else 'png'}"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    if field == "rgb":
                        picture(c * each + n).save(file, quality=95)
                    elif field == "depth":
                        Image.fromarray(np.full((SIZE, SIZE), 1000 * (n + 1), np.uint16)).save(file)
                    else:
                        Image.fromarray(np.full((SIZE, SIZE), (c + n) % 10, np.uint8)).save(file)
    return root


def without_palette(path: Path) -> None:
    """A PNG of palette entries, and no palette."""
    picture(0).convert("P").save(path, "PNG")
    data = path.read_bytes()
    start = data.index(b"PLTE") - 4
    path.write_bytes(data[:start] + data[start + 12 + int.from_bytes(data[start : start + 4]) :])


def png_header(path: Path, width: int, height: int, bits: int = 8, color: int = 2) -> None:
    """A PNG whose head promises an image of this size, and no more than that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def four_bits(path: Path, value: int) -> None:
    """A PNG of one grey channel of 4 bits, as some tools write label maps."""
    rows = b"".join(b"\0" + bytes([value * 17] * (SIZE // 2)) for _ in range(SIZE))
    png_header(path, SIZE, SIZE, bits=4, color=0)
    data = path.read_bytes()
    body = zlib.compress(rows)
    idat = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    path.write_bytes(data[:33] + idat + data[-12:])


def cut_inside(path: Path) -> None:
    """Take a part out of the middle of a JPEG's scan: it still ends well."""
    data = path.read_bytes()
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    path.write_bytes(data[: middle - 60] + data[middle + 60 :])


WIDE, HIGH = 48, 40  # px


def rooms(root: Path, each: int = 6, splits: Sequence[str] = ("train", "val"), unit: float = 0.001) -> Path:
    """A data set in which nothing is wrong: `<split>/{rgb,depth,semseg,mask_valid}/{cat,dog}/<n>`, no two images alike.

    Depth is 1 to 4 m, with a hole; semseg has classes 0 to 3 and unlabelled pixels; `dataset.yaml` says all of it.
    """
    y, x = np.mgrid[:HIGH, :WIDE]
    number = 0
    for split in splits:
        for name in ("cat", "dog"):
            for n in range(each):
                number += 1
                depth = ((4 - 3 * y / HIGH + 0.01 * number) / unit).astype(np.uint16)
                depth[:4, :5] = 0
                labels = ((y // 10 + x // 12 + n) % 4).astype(np.uint8)
                labels[0] = 255
                files = {
                    "rgb": picture(number, (HIGH, WIDE)),
                    "depth": Image.fromarray(depth),
                    "semseg": Image.fromarray(labels),
                    "mask_valid": Image.fromarray(np.where(depth > 0, 255, 0).astype(np.uint8)),
                }
                for field, image in files.items():
                    file = root / split / field / name / f"{n}.{'jpg' if field == 'rgb' else 'png'}"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    image.save(file)
    fields = f"{{depth: {{unit: {unit!r}}}, semseg: {{classes: [floor, wall, box, ball]}}}}"
    counts = ", ".join(f"{split}: {2 * each}" for split in splits)
    (root / "dataset.yaml").write_text(f"name: rooms\nfields: {fields}\nsplits: {{{counts}}}\n")
    return root
