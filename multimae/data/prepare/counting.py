"""What is there at the end of a preparation, counted on the disk and held against what should be. No torch."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..about import About
from ..listing import Listing, class_of, lacking
from .pieces import Whole

SHOWN = 5  # classes or samples that are named


@dataclass(frozen=True)
class Count:
    """Of a split."""

    samples: int  # that have all of their files
    fields: tuple[str, ...] = ()
    classes: Mapping[str, int] | None = None
    alone: tuple[str, ...] = ()  # what is said of samples that lack a file


def count(root: Path, splits: Collection[str]) -> dict[str, Count]:
    """Raises ValueError where a split's files cannot be told apart."""
    return {split: _count(root / split) for split in splits if not lacking(root / split)}


def _count(folder: Path) -> Count:
    listing = Listing(folder, None)
    alone = listing.missing()
    whole = [stem for stem in listing.stems if stem not in alone]
    return Count(
        len(whole), tuple(listing.found), Counter(map(class_of, whole)), tuple(alone[s] for s in sorted(alone))
    )


def differences(found: Mapping[str, Count], whole: Whole) -> list[str]:
    """What is not as it should be, in lines; none where all is."""
    lines = []
    for split in [*whole.about.splits, *(split for split in found if split not in whole.about.splits)]:
        there, expected = found.get(split, Count(0)), whole.about.splits.get(split)
        if there.alone:
            lines.append(f"{split}: {len(there.alone):,} samples lack a file:")
            lines += [f"  {line}" for line in there.alone[:SHOWN]]
            lines += [f"  and {len(there.alone) - SHOWN:,} more"] * (len(there.alone) > SHOWN)
        if expected is not None and there.samples != expected:
            lines.append(f"{split}: expected {expected:,} samples, found {there.samples:,}")
            lines += _short(there.classes or {}, whole.classes.get(split, {})) if there.samples else []
    return lines


def _short(found: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    short = [
        f"{name} ({found.get(name, 0):,} of {number:,})"
        for name, number in sorted(expected.items())
        if found.get(name, 0) != number
    ]
    if not short:
        return []
    more = f" and {len(short) - SHOWN:,} more" if len(short) > SHOWN else ""
    return [f"  {len(short):,} of {len(expected):,} classes: {', '.join(short[:SHOWN])}{more}"]


def as_found(about: About, found: Mapping[str, Count], partial: bool) -> About:
    """The description of what is there."""
    fields = {field for there in found.values() for field in there.fields}
    classes = {name for there in found.values() for name in there.classes or ()}
    note = ("A part of it: whoever prepared this took what there was.",) if partial else ()
    return about.model_copy(
        update={
            "splits": {split: there.samples for split, there in found.items() if there.samples},
            "fields": {name: facts for name, facts in about.fields.items() if name in fields},
            "categories": {name: words for name, words in about.categories.items() if name in classes},
            "notes": (*about.notes, *note),
        }
    )
