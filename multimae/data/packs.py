"""A split packed for file systems that many machines share: some hundred large files in place of millions.

    <split>/00000.tar ...   samples in the order of their stems, the files of each side by side, as in WebDataset
    <split>/pack.npy        of each sample its stem, and of each file the original's size, where it lies, and a checksum
    <split>/pack.json       fields, classes, shards

A shard is an ordinary tar archive. A photograph is in it as it was; a PNG of numbers or classes is `.zpx`: its pixels,
compressed without loss, some times as fast to read (see `encode`). Names and sizes of the originals stand in the index,
so a pack has the fingerprint of its folder, and a run that was begun on one goes on with the other. Imports no torch
before pixels are read.
"""

import functools
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TABLE, FACTS = "pack.npy", "pack.json"
VERSION = 1
PIXELS = ".zpx"
HEAD = struct.Struct("<4sBBII")  # mark, bytes of a value, channels, height, width
MARK = b"zpx1"


class TornPack(ValueError):
    """A pack is not what its index says."""


# ---- pixels


def encode(pixels: np.ndarray) -> bytes:
    """uint8 or uint16 (H, W) or (H, W, channels), without loss: each value less the one on its left, low bytes before
    high ones, by Zstandard."""
    import zstandard

    values = pixels.reshape(*pixels.shape[:2], -1)
    steps = values.copy()
    steps[:, 1:] -= values[:, :-1]
    width = values.dtype.itemsize
    planes = np.ascontiguousarray(steps[..., None].view(np.uint8).reshape(-1, width).T)
    head = HEAD.pack(MARK, width, values.shape[2] if pixels.ndim == 3 else 0, *values.shape[:2])
    return head + zstandard.ZstdCompressor(level=3).compress(planes.tobytes())


@functools.cache
def _decompressor() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor()


def decode(data: bytes) -> np.ndarray:
    """What `encode` was given. Raises TornPack."""
    import torch

    mark, width, channels, height, columns = HEAD.unpack_from(data)
    count = height * columns * (channels or 1)
    if mark != MARK or width not in (1, 2):
        raise TornPack(f"no pixels of a pack: it begins with {bytes(data[:4])!r}")
    planes = np.frombuffer(_decompressor().decompress(data[HEAD.size :], width * count), np.uint8)
    if planes.size != width * count:
        raise TornPack(f"{planes.size} bytes, not {width * count}")
    steps = planes.reshape(width, count)
    values = steps[0].copy() if width == 1 else np.left_shift(steps[1], 8, dtype=np.uint16) | steps[0]
    # Torch adds up several times as fast as numpy. It adds no uint16, of which int16 has the same bits.
    rows = torch.from_numpy(values if width == 1 else values.view(np.int16)).view(height, columns, channels or 1)
    pixels = torch.cumsum(rows, 1, dtype=rows.dtype).numpy().view(values.dtype)
    return pixels if channels else pixels[..., 0]


# ---- a packed split


def facts_of(split: Path) -> dict[str, Any] | None:
    """What stands in a packed split's `pack.json`; None of a folder that is none. Raises ValueError."""
    file = split / FACTS
    try:
        facts = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError:
        raise TornPack(f"{file} is damaged; copy it again, or pack again") from None
    if facts.get("version") != VERSION:
        raise ValueError(f"{file} is of version {facts.get('version')}, and this reads {VERSION}: pack again")
    return facts


def table_of(split: Path) -> np.ndarray:
    """The samples, mapped. Raises TornPack."""
    try:
        return np.load(split / TABLE, mmap_mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise TornPack(f"{split / TABLE} cannot be read ({error}); copy it again, or pack again") from None


def check_shards(split: Path, facts: Mapping[str, Any]) -> None:
    """Raises TornPack for a shard that is missing, or not as long as it was written."""
    wrong = []
    for shard in facts["shards"]:
        path = split / shard["name"]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            wrong.append(f"{path} is missing")
            continue
        if size != shard["bytes"]:
            wrong.append(f"{path} has {size:,} bytes, not {shard['bytes']:,}")
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise TornPack(
            f"{'; '.join(wrong[:5])}{more}. Copy what is wrong again; packing again makes only what is not whole"
        )


class PackedFiles:
    """The files of a packed split. Maps nothing and opens nothing until it is asked; picklable."""

    def __init__(self, split: Path, facts: Mapping[str, Any]):
        self.split, self.shards = split, [shard["name"] for shard in facts["shards"]]
        self._open: dict[int, int] = {}  # shard -> descriptor. Reads give their place, so processes may share it

    def read(self, sample: np.void, fields: Sequence[str]) -> dict[str, bytes]:
        """Of a row of the table. One read, from the first of these files to the last. Raises TornPack, OSError."""
        spans = {field: (int(sample[f"{field} at"]), int(sample[f"{field} length"])) for field in fields}
        start = min(at for at, _ in spans.values())
        end = max(at + length for at, length in spans.values())
        number = int(sample["shard"])
        data = memoryview(os.pread(self._descriptor(number), end - start, start))
        found = {field: data[at - start : at - start + length] for field, (at, length) in spans.items()}
        for field, part in found.items():
            if zlib.crc32(part) != sample[f"{field} crc"]:
                raise TornPack(
                    f"{self.split / self.shards[number]}: what lies at byte {spans[field][0]:,} is not the {field} of "
                    f"{sample['stem'].decode()} that was packed; copy the shard again"
                )
        return {field: bytes(part) for field, part in found.items()}

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            self._open[number] = os.open(self.split / self.shards[number], os.O_RDONLY | os.O_CLOEXEC)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": {}}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
