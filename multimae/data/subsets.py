"""Which samples of a folder a run takes, and the mark by which they are known again. Imports no torch."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Folder, RunConfig
from ..seeds import derive
from .listing import ENDINGS, class_of, listed, summary


def choose(stems: Sequence[str], data: Folder, split: str) -> list[str]:
    """As many samples as `data` asks for of `split` ("train" or "eval"), in the order of `stems`. What it holds out is
    a part of those asked for of "train", and is what is "eval" then.

    Of a `subset` that is "first", those; else all classes keep their shares, as exactly as whole numbers allow, and
    which samples is a function of `data.subset_seed`, the split's name and the stems alone; not of the run's seed, so
    that runs with different seeds share their samples.
    Raises ValueError where there are fewer, or a class would have none.
    """
    if not data.held_out:
        return _asked(stems, data, split)
    asked = _asked(stems, data, "train")
    held = _held_out(asked, data)
    return [stem for stem in asked if (stem in held) == (split == "eval")]


def _asked(stems: Sequence[str], data: Folder, split: str) -> list[str]:
    folder, count = data.split(split)
    if count is None or count == len(stems):
        return list(stems)
    if count > len(stems):
        raise ValueError(
            f"data.{split}_samples: {count} were asked for, but '{folder}' of '{data.name}' has {len(stems)} samples; "
            f"set data.{split}_samples={len(stems)}, or null for all there are"
        )
    if data.subset == "first":
        return list(stems[:count])
    sizes, drawn = _draw(stems, data, "subset", folder)
    shares = _shares(sizes, count)
    if empty := [name for name, share in shares.items() if not share]:
        raise ValueError(
            f"data.{split}_samples: {count} of the {len(stems)} samples of '{folder}' leave {len(empty)} of "
            f"{len(sizes)} classes without one, such as '{min(empty)}'; the smallest number that works is "
            f"data.{split}_samples={_smallest(sizes)}"
        )
    chosen = {stem for name, members in drawn.items() for stem in members[: shares[name]]}
    return [stem for stem in stems if stem in chosen]


def _held_out(stems: Sequence[str], data: Folder) -> set[str]:
    """Of each class its share, and never all of it."""
    sizes, drawn = _draw(stems, data, "held out", data.train_split)
    spare, count = {name: size - 1 for name, size in sizes.items()}, data.held(len(stems))
    if not 0 < count <= sum(spare.values()):
        raise ValueError(
            f"data.held_out: {data.held_out:g} of {len(stems)} samples of {len(sizes)} classes is {count}, and what is "
            f"held out are 1 to {sum(spare.values())}, so that each class keeps one to train on; choose another share"
        )
    shares = _shares(spare, count)
    return {stem for name, members in drawn.items() for stem in members[: shares[name]]}


def _draw(stems: Sequence[str], data: Folder, *what: str) -> tuple[dict[str, int], dict[str, list[str]]]:
    """By class, in an order that is drawn: how many there are, and they, in an order that is drawn too."""
    classes: dict[str, list[str]] = {}
    for stem in stems:
        classes.setdefault(class_of(stem), []).append(stem)
    rank = functools.partial(derive, data.subset_seed, *what)
    order = sorted(classes, key=rank)
    return {name: len(classes[name]) for name in order}, {name: sorted(classes[name], key=rank) for name in order}


def _shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Samples of each class: its share rounded down, and one more for the largest remainders; of equals, the first."""
    total = sum(sizes.values())
    shares = {name: count * size // total for name, size in sizes.items()}
    remainders = sorted(sizes, key=lambda name: -(count * sizes[name] % total))
    return shares | {name: shares[name] + 1 for name in remainders[: count - sum(shares.values())]}


def _smallest(sizes: Mapping[str, int]) -> int:
    """The smallest number of samples with which every class has one."""
    size = np.array(list(sizes.values()))
    total = int(size.sum())
    for count in range(len(size), total):
        shares = count * size
        whole, rest = shares // total, shares % total
        more = count - int(whole.sum())
        if (whole == 0).sum() <= more and (whole[np.argsort(-rest, kind="stable")[more:]] > 0).all():
            return count
    return total


def fingerprint(stems: Sequence[str], sizes: np.ndarray, data: Folder, whole: bool) -> str:
    """Of stems and file sizes, which change when samples are added, lost or rewritten; cheap at a million files.

    Not of the `whole` split: how many samples, and what chose them, stand beside it.
    """
    digest = hashlib.sha256(np.ascontiguousarray(sizes).tobytes())
    digest.update("\n".join(stems).encode())
    return digest.hexdigest()[:12] + ("" if whole else f"-{len(stems)}-{data.drawn}")


@functools.cache  # many runs of a study read the same
def contents(
    root: Path, reads: tuple[tuple[str, Folder, str], ...], fields: tuple[str, ...]
) -> dict[str, dict[str, str | int]]:
    """What a run on this folder would journal of its samples, where none is damaged. `reads`: what for, which data, and
    which split of them, as of `RunConfig.reads`.

    `fields` may hold "label", which is no file. Raises ValueError where files are missing.
    """
    fields = tuple(field for field in ENDINGS if field in fields)
    found: dict[str, dict[str, str | int]] = {}
    for purpose, data, split in reads:
        listing = listed(Path(root) / data.split(split)[0], fields)
        if problems := listing.missing():
            raise ValueError(summary(problems, len(listing.stems), listing.folder))
        stems = choose(listing.stems, data, split)
        mark = fingerprint(stems, listing.sizes(stems), data, whole=len(stems) == len(listing.stems))
        found[purpose] = {"n": len(stems), "fingerprint": mark}
    return found


def folder_reads(config: RunConfig) -> tuple[tuple[str, Folder, str], ...]:
    """`config.reads` of folders, as `contents` takes them."""
    return tuple((what, data, split) for what, (data, split) in config.reads.items() if isinstance(data, Folder))


def differing(begun: Mapping[str, Any], root: Path, config: RunConfig) -> list[str] | None:
    """What the samples are for (`train`, ...) that in the folder `root` are not those of a run's `data` record.

    None where a listing cannot tell: the record names no fields, or the data leave out what is damaged. Raises
    ValueError where `root` cannot be what the run read.
    """
    if begun.get("fields") is None or not isinstance(config.data, Folder) or config.data.allow_missing:
        return None
    now = contents(Path(root), folder_reads(config), tuple(begun["fields"]))
    return [split for split, samples in now.items() if samples != begun.get(split)]
