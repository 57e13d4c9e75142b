"""`multimae data pack` and `unpack`: a folder of images as some hundred large files, and back (see `packs`)."""

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from ..config import ConfigError, Runtime
from ..config.runtime import cpus
from ..files import Locked, locked, write_atomic
from ..modalities import FIELDS
from ..units import counted, size
from . import about, packs
from .images import Unusable, pixels_of
from .index import Index, index
from .listing import class_of
from .progress import Pace

UNPACKED = ".unpacked"  # in the folder that is unpacked into: of which pack
WORK = ".packing"  # in the pack: what is known of shards until all are there
EXAMPLES = """\
examples:
  multimae data pack /data/imagenet /shared/imagenet-packed         # every split; again after a stop: goes on
  python sweeps/alpha_ablation.py --data imagenet=/shared/imagenet-packed ...
  multimae data unpack /shared/imagenet-packed /scratch/imagenet
"""


def main(argv: Sequence[str]) -> int:
    return _command(_pack_parser().parse_args(argv), pack)


def main_unpack(argv: Sequence[str]) -> int:
    return _command(_unpack_parser().parse_args(argv), unpack)


def _pack_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multimae data pack",
        description="Pack a data set into some hundred large files, for file systems that many machines share. Runs "
        "read a pack as they read its folder, sample for sample.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="folder", type=Path, help="of a data set: its splits are the folders in it")
    parser.add_argument("place", metavar="pack", type=Path, help="the folder to be made")
    parser.add_argument("--shard-mb", type=int, default=1000, metavar="N", help="of a file (default: %(default)s)")
    parser.add_argument(
        "--labels",
        choices=("pixels", "files"),
        default="pixels",
        help="of what is no photograph keep the pixels, which are read faster, or the PNG files as they are, byte for "
        "byte (default: %(default)s)",
    )
    _common(parser)
    return parser


def _unpack_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multimae data unpack",
        description="The folder of a pack again. Photographs are the same files; of labels that were packed as pixels, "
        "the PNG files have the same pixels and may have other sizes.",
    )
    parser.add_argument("source", type=Path, metavar="pack", help="made by `multimae data pack`")
    parser.add_argument("place", type=Path, metavar="folder", help="to be made")
    _common(parser)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=int, default=min(cpus(), 16), metavar="N", help="processes (default: %(default)s)"
    )
    most = Runtime.model_fields["max_pixels"].default
    parser.add_argument("--max-pixels", type=int, default=most, metavar="N", help="of an image (default: %(default)s)")


def _command(args: argparse.Namespace, make: Any) -> int:
    name = make.__name__
    try:
        if args.jobs < 1 or getattr(args, "shard_mb", 1) < 1:
            raise ConfigError("--jobs and --shard-mb: expected 1 or more")
        if args.place.resolve().is_relative_to(args.source.resolve()):
            raise ConfigError(f"{args.place} lies in {args.source}: expected a folder outside it")
        args.place.mkdir(parents=True, exist_ok=True)
        with locked(args.place / f".{name}.lock"):
            make(args)
    except (ConfigError, ValueError, Locked) as error:
        print(f"multimae data {name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"multimae data {name}: {where}{error.strerror or error}. The same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"multimae data {name}: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _splits(root: Path) -> list[Path]:
    """The folders in a data set's, or what its `dataset.yaml` says lies in them (`fog/3`). Raises ConfigError where
    there is none."""
    try:
        found = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"{root} cannot be listed: {error.strerror}; expected the folder of a data set") from None
    if not found:
        raise ConfigError(f"{root} has no folder in it: expected splits, such as {root / 'train'}")
    said = about.About.of(root)
    inner = [root / split for split in (said.splits if said else ()) if "/" in split and (root / split).is_dir()]
    return sorted([*(path for path in found if not any(path in split.parents for split in inner)), *inner])


# ---- packing


@dataclass(frozen=True)
class Part:
    """A shard that is to be made: these samples of a split."""

    index: Index
    source: Path  # the split
    split: Path  # in the pack
    number: int
    rows: range
    labels: str
    max_pixels: int

    @property
    def file(self) -> Path:
        return self.split / f"{self.number:05d}.tar"

    @property
    def notes(self) -> Path:
        """What is known of the shard: of its samples the table (.npy), of the file size and hash (.json)."""
        return self.split / WORK / f"{self.number:05d}.npy"

    def whole(self) -> bool:
        try:
            facts = json.loads(self.notes.with_suffix(".json").read_text())
            return self.file.stat().st_size == facts["bytes"] and len(np.load(self.notes)) == len(self.rows)
        except (OSError, EOFError, ValueError, KeyError):
            return False


def pack(args: argparse.Namespace) -> None:
    """Raises ConfigError and ValueError for what the user can mend, OSError of the file system."""
    splits = _splits(args.source)
    if any(packs.facts_of(split) for split in splits):
        raise ConfigError(f"{args.source} is a pack already")
    runtime = Runtime(runs=args.place / WORK, max_pixels=args.max_pixels)
    parts = {split: _parts(index(split, None, runtime), split, args) for split in splits}
    todo = [part for found in parts.values() for part in found if not part.whole()]
    samples = sum(len(part.rows) for part in todo)
    _check_room(args.place, todo)
    with Pace(f"packing {args.source}", samples) as pace, ProcessPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(_make, part) for part in todo]
        try:
            for part, future in zip(todo, futures):
                future.result()
                pace.done(len(part.rows))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for split, found in parts.items():
        _finish(args.place / split.relative_to(args.source), found)
    if (text := args.source / about.FILE).exists():
        write_atomic(args.place / about.FILE, text.read_bytes())
    shutil.rmtree(args.place / WORK, ignore_errors=True)
    shards = [part for found in parts.values() for part in found]
    total = sum(part.file.stat().st_size for part in shards)
    samples = sum(len(part.rows) for part in shards)
    print(f"{args.place}: {samples:,} samples in {counted(len(shards), 'shard')}, {size(total)}")


def _parts(found: Index, split: Path, args: argparse.Namespace) -> list[Part]:
    """The shards of a split, from its sizes alone. Raises ValueError for samples that cannot be used, and where what is
    there was packed from other files."""
    if found.problems:
        lines = [*found.problems.values()]
        raise ValueError(
            f"{len(lines)} of {len(found.stems)} samples in {split} cannot be used; repair or remove them "
            f"(`multimae data check {split.parent}` lists them): " + "; ".join(lines[:5])
        )
    if not len(found.stems):
        raise ValueError(f"{split} has no samples; move the folder away if it is none of the data set's splits")
    sizes = sum(found.sizes(field) for field in found.fields)
    place = args.place / split.relative_to(args.source)
    begun, now = place / WORK / "source.json", json.dumps([found.facts["digest"], args.shard_mb, args.labels])
    if begun.exists() and begun.read_text() != now:
        raise ValueError(
            f"{place} was begun from other files, or with other options; to pack these there, remove it: rm -r {place}"
        )
    write_atomic(begun, now)
    numbers = np.cumsum(sizes) // (args.shard_mb * 10**6)
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    ranges = [range(start, end) for start, end in pairwise(starts)]
    return [Part(found, split, place, n, rows, args.labels, args.max_pixels) for n, rows in enumerate(ranges)]


def _check_room(place: Path, parts: Sequence[Part]) -> None:
    """Raises ConfigError where the originals' bytes, which a pack hardly exceeds, do not fit."""
    needed = sum(int(part.index.sizes(field)[part.rows].sum()) for part in parts for field in part.index.fields)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(f"{place} has {size(free)} free, and about {size(needed)} are needed")


class _Hashed:
    """A file that is written to, and the hash of what was."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest, self.at = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.at += len(data)


def _make(part: Part) -> None:
    """A shard, whole or not at all. Raises ValueError with the name of a file that is damaged."""
    table = np.empty(len(part.rows), _columns(part.index))
    for name in part.index.samples.dtype.names or ():
        table[name] = part.index.samples[name][part.rows]
    table["shard"] = part.number
    facts: dict[str, Any] = {}

    def write(file: IO[bytes]) -> None:
        out = _Hashed(file)
        for row, sample in zip(part.rows, table):
            for field in part.index.fields:
                _add(out, part, row, field, sample)
        out.write(bytes(-out.at % tarfile.RECORDSIZE or tarfile.RECORDSIZE))
        facts.update(name=part.file.name, bytes=out.at, samples=len(part.rows), sha256=out.digest.hexdigest())

    part.notes.with_suffix(".json").unlink(missing_ok=True)
    write_atomic(part.file, write)
    write_atomic(part.notes, partial(np.save, arr=table))
    write_atomic(part.notes.with_suffix(".json"), json.dumps(facts))


def _columns(found: Index) -> list[tuple[str, Any]]:
    columns: list[tuple[str, Any]] = [(name, found.samples.dtype[name]) for name in found.samples.dtype.names or ()]
    for field in found.fields:
        columns += [(f"{field} at", np.int64), (f"{field} length", np.int64), (f"{field} crc", np.uint32)]
    return [*columns, ("shard", np.int32)]


def _add(out: _Hashed, part: Part, row: int, field: str, sample: np.void) -> None:
    path = part.source / part.index.path(row, field)
    data = path.read_bytes()
    if len(data) != sample[f"{field} size"]:
        raise ValueError(f"{path} has {len(data):,} bytes, and had {sample[f'{field} size']:,} when packing began")
    ending = path.suffix
    try:
        pixels = pixels_of(data, field, part.max_pixels)  # of a photograph, to see that it is whole
    except Unusable as error:
        raise ValueError(f"{path} {error}") from None
    if part.labels == "pixels" and not FIELDS[field].photograph:
        if pixels.dtype.itemsize > 2 and pixels.min() >= 0 and pixels.max() < 1 << 16:
            pixels = pixels.astype(np.uint16)  # PIL's 32 bits of a 16-bit file
        if pixels.dtype in (np.uint8, np.uint16):
            data, ending = packs.encode(pixels), packs.PIXELS
    member = tarfile.TarInfo(f"{sample['stem'].decode()}.{field}{ending}")
    member.size, member.mode = len(data), 0o644
    out.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
    sample[f"{field} at"], sample[f"{field} length"], sample[f"{field} crc"] = out.at, len(data), zlib.crc32(data)
    out.write(data)
    out.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _finish(place: Path, parts: Sequence[Part]) -> None:
    """The index of a split, when all shards are there."""
    found = parts[0].index
    table = np.concatenate([np.load(part.notes) for part in parts])
    classes = sorted({class_of(stem.decode()) for stem in found.stems} - {""})
    facts = {"version": packs.VERSION, "samples": len(table), "classes": classes, "files": found.facts["files"]}
    facts |= {"problems": {}, "shards": [json.loads(part.notes.with_suffix(".json").read_text()) for part in parts]}
    write_atomic(place / packs.TABLE, partial(np.save, arr=table))
    write_atomic(place / packs.FACTS, json.dumps(facts, indent=1))


# ---- unpacking


def unpack(args: argparse.Namespace) -> None:
    """Raises ConfigError and ValueError for what the user can mend, OSError of the file system."""
    found = {split: facts for split in _splits(args.source) if (facts := packs.facts_of(split))}
    if not found:
        raise ConfigError(f"{args.source} is no pack: expected {args.source / 'train' / packs.FACTS}")
    for split, facts in found.items():
        packs.check_shards(split, facts)
    _begin(args.place, hashlib.sha256(json.dumps([*found.values()]).encode()).hexdigest())
    total = sum(facts["samples"] for facts in found.values())
    with Pace(f"unpacking {args.source}", total) as pace, ProcessPoolExecutor(args.jobs) as pool:
        pieces = [
            (split, args.place / split.relative_to(args.source), rows)
            for split, facts in found.items()
            for rows in _pieces(facts)
        ]
        try:
            for (_, _, rows), _ in zip(pieces, pool.map(_unpack, pieces)):
                pace.done(len(rows))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if (text := args.source / about.FILE).exists():
        write_atomic(args.place / about.FILE, text.read_bytes())
    print(f"{args.place}: {total:,} samples")


def _begin(place: Path, pack: str) -> None:
    """Raises ConfigError where files lie that are not of this pack: they would be taken for its own."""
    begun = place / UNPACKED
    hidden = all(path.name.startswith(".") for path in place.iterdir())
    if not (begun.read_text() == pack if begun.exists() else hidden):
        raise ConfigError(f"{place} holds something else than this pack: give a folder that is empty, or not there yet")
    write_atomic(begun, pack)


def _pieces(facts: dict[str, Any]) -> Iterator[range]:
    for start in range(0, facts["samples"], 256):
        yield range(start, min(start + 256, facts["samples"]))


def _unpack(piece: tuple[Path, Path, range]) -> None:
    split, place, rows = piece
    facts = packs.facts_of(split)
    assert facts
    found, files = Index(packs.table_of(split), facts), packs.PackedFiles(split, facts)
    for row in rows:
        paths = {field: place / found.path(row, field) for field in found.fields}
        lacks = [field for field, path in paths.items() if not path.exists()]
        for field, data in files.read(found.samples[row], lacks).items() if lacks else ():
            write_atomic(paths[field], _original(data), durable=False)


def _original(data: bytes) -> bytes:
    """A file with these contents: of pixels, a PNG."""
    if not data.startswith(packs.MARK):
        return data
    out = io.BytesIO()
    Image.fromarray(packs.decode(data)).save(out, "PNG")
    return out.getvalue()
