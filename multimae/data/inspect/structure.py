"""What is wrong with what lies where: partners, names, kinds and sizes of files, classes, splits, copies."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...config import SCENES_SPLITS, ConfigError
from ...modalities import FIELDS, MASK
from ..about import FILE
from ..listing import PHOTOGRAPHS, Listing, images_folder
from ..packs import facts_of
from ..walking import lacking
from .expected import Expected
from .findings import Findings, Level
from .survey import Some, Survey, twins

LARGE = 25_000_000  # pixels: to decode one takes longer than to train on it
OBLONG = 4  # sides: a crop shows little of such an image


def open_splits(root: Path, expected: Expected, findings: Findings) -> Iterable[Listing]:
    """The listings of the splits, one at a time. Raises ConfigError where there is none."""
    folders = sorted(path.name for path in root.iterdir() if not lacking(path) and not path.name.startswith("."))
    known = {*expected.splits, *SCENES_SPLITS}
    there_are = [name for name in folders if name in known or _fields(root / name)]
    if not there_are and not expected.reads:
        raise ConfigError(
            f"{root} holds no split, but {', '.join(folders) or 'no folder'}: expected folders named "
            f"{', '.join(SCENES_SPLITS)}, or with one for each modality in them, such as {root / 'train' / PHOTOGRAPHS}"
        )
    splits = list(expected.reads) or list(dict.fromkeys([*expected.splits, *there_are]))
    if not expected.reads and (
        others := [name for name in folders if not any(split.split("/")[0] == name for split in splits)]
    ):
        findings.add(Level.NOTE, "others", "taken for no split, and not looked at", "fine where they are none", others)
    there = {split: _fields(root / split) or [PHOTOGRAPHS] for split in splits if not lacking(root / split)}
    for split in splits:
        if split not in there:
            by = expected.by if split in expected.reads else FILE
            findings.add(Level.STOPS, split, f"is not there, and {by} reads it", f"make {root / split}")
    # A split that the data set does not speak of, such as a link to ImageNet's own, does not say what others lack.
    its = [split for split in there if split in expected.splits] or there
    some = {name for split in its for name in there[split]}
    wanted = [name for name in FIELDS if name in (expected.fields if expected.fields is not None else some)]
    for split, fields in there.items():
        for name in wanted:
            if name not in fields:
                why = f"{expected.by} reads it" if expected.fields is not None else "other splits have it"
                mend = f"make {root / split / name}" + ", or --set masked=false" * (name == MASK.name)
                findings.add(Level.STOPS, split, f"has no folder {name}, and {why}", mend)
        try:
            yield Listing(root / split, [name for name in wanted if name in fields] or None)
        except ValueError as error:
            findings.add(Level.STOPS, split, f"cannot be listed: {error}", "mend that, and check again")


def _fields(split: Path) -> list[str]:
    facts = facts_of(split)
    return [name for name in FIELDS if (name in facts["files"] if facts else not lacking(split / name))]


def judge_listing(listing: Listing, split: str, expected: Expected, findings: Findings) -> None:
    stems, total = listing.stems, len(listing.stems)
    told: set[frozenset[str]] = set()
    findings.among(
        Level.STOPS, split, total, "files", "are none that is read", "convert, mend or move them",
        listing.faults.values(),
    )  # fmt: skip
    for name, found in listing.found.items():
        lost = [stem for stem in stems if stem not in found and stem not in listing.faults]
        if not lost:
            continue
        alike = {_folded(stem): stem for stem in found}
        renamed = [(stem, alike[_folded(stem)]) for stem in lost if _folded(stem) in alike]
        without = {stem for stem, _ in renamed}
        renamed = [pair for pair in renamed if frozenset(pair) not in told]  # the other lacks what this one has
        told |= set(map(frozenset, renamed))
        findings.among(
            Level.STOPS, split, total, "samples", f"lack {name}, and a file differs from theirs only by capitals or "
            "form of Unicode", "give the files of a sample one name",
            (f"{listing.example(name, stem)}, and there is {found[other][0]}" for stem, other in renamed),
        )  # fmt: skip
        findings.among(
            Level.STOPS, split, total, "samples", f"lack {name}",
            f"make or copy what is missing, or leave them out: --set data.allow_missing=true (of {name} there are "
            f"{len(found):,} files)", (listing.example(name, stem) for stem in lost if stem not in without),
        )  # fmt: skip
    if not total:
        findings.add(Level.STOPS, split, "holds no sample", f"expected {listing.expected()}")


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFKC", stem).casefold()


def judge_survey(found: Survey, split: str, expected: Expected, findings: Findings) -> None:
    for (name, _), (reason, some) in sorted(found.unusable.items()):
        findings.among(
            Level.STOPS, f"{split}/{name}", found.files[name], "files",
            reason if some.count == 1 else f"like this: {reason}", _mended(name, reason),
            some.first, some.count,
        )  # fmt: skip
    findings.among(
        Level.STOPS, split, found.samples, "samples", "have files of different sizes",
        "resize labels to their photograph (classes and masks by nearest), or make them anew", found.differ.first,
        found.differ.count,
    )  # fmt: skip
    sizes = found.sizes
    small = {size: n for size, n in sizes.items() if min(size) < expected.size}
    large = {size: n for size, n in sizes.items() if size[0] * size[1] > LARGE}
    oblong = {size: n for size, n in sizes.items() if max(size) > OBLONG * min(size)}
    for some_sizes, what, mend in (
        (small, f"have a side below {expected.size} px", "they are enlarged; leave them out, or take larger originals"),
        (large, f"have more than {LARGE:,} pixels", "decoding them takes longer than training: make them smaller"),
        (oblong, f"have a side more than {OBLONG} times the other", "a crop shows little of them; look at some"),
    ):
        examples = [f"{w} x {h} px" for w, h in list(some_sizes)[:3]]
        findings.among(
            Level.NOTE, split, found.samples, "samples", what, mend, examples, sum(some_sizes.values())
        )  # fmt: skip


def _mended(name: str, reason: str) -> str:
    kind = FIELDS[name]
    if "found mode" in reason or " bits" in reason.partition("found")[2] or "found JPEG" in reason:
        if kind.photograph:
            return "write 8 bits a channel"
        if kind.channels is None:
            return "write class numbers, not colours, as PNG of 8 bits: grey, or with a palette"
        return f"export it again as {kind.files.expected}: fewer bits have lost what lay between"
    if "it holds" in reason:
        return "write 255 where there is a value and 0 where there is none: mask * 255"
    return "get or make the file anew, or remove the sample"


# ---- classes


def judge_classes(
    root: Path, surveys: Mapping[str, Survey], train: str, expected: Expected, findings: Findings
) -> None:
    """Of folders that are classes, by all that is known of them."""
    counted = {split: {name: n for name, n in found.classes.items() if name} for split, found in surveys.items()}
    of_train = counted.get(train, {})
    others = {split: names for split, names in counted.items() if split != train and names}
    shared = any(2 * len(names.keys() & of_train.keys()) >= len(names) for names in others.values())
    labelled = expected.labelled if expected.labelled is not None else shared
    level = Level.STOPS if labelled else Level.NOTE
    doubt = "" if labelled else "; fine where folders are no classes, but buildings or scenes"
    for split, names in others.items():
        if of_train and (unknown := sorted(names.keys() - of_train.keys())):
            findings.among(
                level, split, len(names), "classes", f"are not in {train}{doubt}",
                f"add them to {train}, or remove them", unknown,
            )  # fmt: skip
        if labelled and (lost := sorted(of_train.keys() - names.keys())):
            findings.among(
                Level.NOTE, split, len(of_train), "classes", "have no sample: the accuracy is of the others",
                "add samples, if they are to be measured", lost,
            )  # fmt: skip
    for split, found in surveys.items():
        loose = found.classes[""]
        if counted[split] and loose:
            findings.among(
                level, split, found.samples, "samples", f"lie beside the class folders{doubt}",
                "move them into their class, or remove them", found.loose, loose,
            )  # fmt: skip
        if expected.labelled and not counted[split] and found.samples:
            findings.add(Level.STOPS, split, "has no class folders", f"expected {root / split}/.../<class>/<image>")
        empty = sorted(set(_subfolders(images_folder(root / split))) - counted[split].keys())
        findings.among(
            Level.STOPS if split == train and labelled else Level.NOTE, split, len(empty) + len(counted[split]),
            "class folders", "hold no image: classes are numbered without them", "fill or remove them", empty,
        )  # fmt: skip
    if expected.labels and of_train and len(of_train) != expected.labels:
        findings.add(
            Level.STOPS, train, f"has {len(of_train):,} classes, and {expected.by} is told {expected.labels:,}",
            f"--set classes={len(of_train)}",
        )  # fmt: skip
    if expected.about and expected.about.categories:
        named = expected.about.categories.keys()
        findings.among(
            Level.WRONG, train, len(of_train), "classes", f"have no name in {FILE}", "is it of this data set?",
            sorted(of_train.keys() - named),
        )  # fmt: skip
        findings.among(
            Level.WRONG, train, len(named), "classes", f"that {FILE} names have no sample",
            "prepare the data set again", sorted(named - of_train.keys()),
        )  # fmt: skip
    few, most = (min(of_train.values()), max(of_train.values())) if of_train else (0, 0)
    if labelled and most > 20 * few:
        rare = sorted(of_train, key=lambda name: of_train[name])[:3]
        findings.add(
            Level.NOTE, train, f"classes have {few:,} to {most:,} samples",
            "the accuracy over all samples hides the rare", (f"{name}: {of_train[name]:,}" for name in rare),
        )  # fmt: skip


def _subfolders(folder: Path) -> Sequence[str]:
    with os.scandir(folder) as entries:
        return [
            unicodedata.normalize("NFC", entry.name)
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".")
        ]


# ---- splits


def judge_splits(samples: Mapping[str, int], expected: Expected, findings: Findings) -> None:
    """`samples`: how many of each are whole."""
    for split, whole in samples.items():
        said, asked = expected.splits.get(split), expected.reads.get(split)
        if said is not None and said != whole:
            findings.add(
                Level.WRONG, split, f"has {whole:,} whole samples, and {FILE} says {said:,}",
                "prepare the data set again: it is the same command, and makes what is missing"
                if whole < said else f"remove what is not of it, or mend `splits` in {FILE}",
            )  # fmt: skip
        if asked and asked > whole:
            findings.add(
                Level.STOPS, split, f"has {whole:,} whole samples, and {expected.by} asks for {asked:,}",
                "--set data.train_samples=null --set data.eval_samples=null, for all there are",
            )  # fmt: skip


def judge_copies(surveys: Mapping[str, Survey], findings: Findings) -> None:
    names = {found.folder: split for split, found in surveys.items()}
    copies: dict[tuple[str, ...], Some] = {}
    for group in twins(surveys.values()) if surveys else ():
        splits = tuple(sorted({names[found.folder] for found, _ in group}))
        extra = len(group) - 1 if len(splits) == 1 else len(group)
        some = copies.setdefault(splits, Some())
        some.add(" = ".join(f"{names[found.folder]}/{file}" for found, file in group[:3]))
        some.count += extra - 1
    for splits, some in copies.items():
        total = sum(surveys[split].samples for split in splits)
        if len(splits) > 1:
            findings.among(
                Level.WRONG, " and ".join(splits), total, "samples",
                "are in both, byte for byte: what is measured was seen", "remove them from one", some.first, some.count,
            )  # fmt: skip
        else:
            findings.among(
                Level.NOTE, splits[0], total, "samples", "are copies of others in it, byte for byte",
                "remove the copies",
                some.first, some.count,
            )  # fmt: skip
