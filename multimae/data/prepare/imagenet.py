"""ImageNet-1K (ILSVRC2012), and the pseudo labels that MultiMAE's authors publish for it. No torch.

Photographs keep their bytes: n02105855_2933.JPEG is a PNG, and some JPEGs are CMYK; both are read as what they are.
Pseudo labels are told apart from a data set's own where it has both; ImageNet has no depth and no classes of pixels, so
theirs are `depth` and `semseg`, which the paper's pre-training reads.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...config import ConfigError
from ...modalities import MODALITIES
from ..about import About, FieldFacts
from .archives import Archive, Member, Tar, Tree, copy, named, pieces
from .coco import COCO
from .devkit import KIT, SOLUTION, Classes, classes_of
from .pieces import Piece, Whole, Writer

HOME = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
LABELS = "https://github.com/EPFL-VILAB/MultiMAE/tree/main/tools/pseudolabel_links"
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KAGGLE = "ILSVRC/Data/CLS-LOC"
WNID = re.compile(r"n\d{8}")
EACH = 50  # validation images of a class
SPLITS = {"train": 1_281_167, "val": 50_000}
# Their folders, and the bits and the colours that a PNG says it has: grey, or of a palette.
PSEUDO = {"depth": (16, b"\0"), "semseg": (8, b"\0\3")}
PREDICTED = "depth and semseg are pseudo labels: what networks predicted from rgb."
PUBLISHED = {TRAIN: 147_897_477_120, VAL: 6_744_924_160}  # bytes


@dataclass(frozen=True)
class ImageNet:
    partial: bool = False
    classes: tuple[str, ...] = ()  # of these alone; empty: of all
    as_they_are = True
    about = About(
        name="imagenet",
        home="https://image-net.org",
        fields={
            "depth": FieldFacts(unit=MODALITIES["depth"].unit),
            "semseg": FieldFacts(classes=COCO),
        },
        splits=SPLITS,
    )

    def expected(self) -> str:
        return (
            f"{TRAIN} (148 GB), {VAL} (6.7 GB) and {KIT}.tar.gz (which\n"
            f"  class a validation image is of, and names), for who is registered:\n  {HOME}\n"
            f"or Kaggle's copy, unpacked: {KAGGLE}/{{train,val}}/ and {SOLUTION}\n"
            "or folders: train/n01440764/*.JPEG, val/n01440764/*.JPEG\n"
            "  (files of folders become hard links, or are copied where DEST is on another file system)\n"
            "beside them, for pre-training: {train,val}/{depth,semseg}_tar/n01440764.tar (or\n"
            f"  {{train,val}}/{{depth,semseg}}/n01440764/*.png), the pseudo labels of MultiMAE's authors:\n  {LABELS}\n"
            "--classes takes some of the classes: ImageNet-100, say"
        )

    def pieces(self, source: Path) -> list[Piece]:
        train = _train(source)
        val = _val(source, classes_of(source))
        lost = [name for name, there in ((TRAIN, train), (VAL, val)) if there is None]
        if lost and (len(lost) == 2 or not self.partial):
            lying = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
            raise ConfigError(
                f"{source} has no {' and no '.join(lost)}, and no folders of it; it has {lying}. Expected:\n"
                f"{self.expected()}" + ("" if len(lost) == 2 else "\nTo take what is there: --partial")
            )
        photographs = [*(train or []), *(val or [])]
        there = {piece.name.rpartition("/")[2] for piece in photographs}
        if strange := sorted(set(self.classes) - there):
            raise ConfigError(
                f"--classes: {len(strange)} of {len(self.classes)} are not in {source}: {', '.join(strange[:5])}"
            )
        return [
            piece
            for piece in [*photographs, *_pseudo(source)]
            if not self.classes or piece.name.rpartition("/")[2] in self.classes
        ]

    def whole(self, source: Path) -> Whole:
        known = classes_of(source) or Classes()
        numbers = {"train": known.train, "val": dict(Counter(known.val.values()))}
        splits = dict(SPLITS)
        if self.classes:
            numbers = {split: {name: each[name] for name in self.classes if name in each} for split, each in
                       numbers.items()}  # fmt: skip
            splits = {split: sum(each.values()) for split, each in numbers.items() if each}
            splits.setdefault("val", EACH * len(self.classes))
        notes = (PREDICTED,) if _pseudo(source) else ()
        update = {"splits": splits, "categories": dict(sorted(known.words.items())), "notes": notes}
        about = self.about.model_copy(update=update)
        return Whole(about, numbers)


IMAGENET = ImageNet()


# ---- photographs


def _train(source: Path) -> list[Piece] | None:
    """A piece for each class; None where nothing of it is there."""
    if (path := source / TRAIN).is_file():
        inner = _listed(Tar(path))
        tars = {member.name.removesuffix(".tar"): member for member in inner if member.name.endswith(".tar")}
        if not tars or not all(map(WNID.fullmatch, tars)) or len(tars) < len(inner):
            raise ConfigError(f"{path}: expected n01440764.tar and so on, found {named(Tar(path))}")
        return [
            Piece(f"train/rgb/{wnid}", tar.size, partial(_unpack, Tar(path, tar.start, tar.size, tar.name), "train"))
            for wnid, tar in sorted(tars.items())
        ]
    for folder in (source / KAGGLE / "train", source / "train", source / TRAIN.removesuffix(".tar")):
        if found := _folders(folder, "train/rgb") or _tars(folder, "train"):
            return found
    return None


def _val(source: Path, known: Classes | None) -> list[Piece] | None:
    if (path := source / VAL).is_file():
        return _by_class(Tar(path), _listed(Tar(path)), known)
    for folder in (source / KAGGLE / "val", source / "val", source / VAL.removesuffix(".tar")):
        if found := _folders(folder, "val/rgb"):
            return found
        if folder.is_dir() and any(file.suffix == ".JPEG" for file in folder.iterdir()):
            return _by_class(Tree(folder), list(Tree(folder).members()), known)
    return None


def _listed(tar: Tar) -> list[Member]:
    try:
        return list(tar.members())
    except ValueError as error:
        raise ConfigError(f"{error}; as published, it has {PUBLISHED[tar.path.name]:,} bytes") from None


def _by_class(archive: Archive, members: list[Member], known: Classes | None) -> list[Piece]:
    """Validation images lie in one folder; what they are of stands in a list."""
    images = [member for member in members if member.name.endswith(".JPEG")]
    if known is None:
        raise ConfigError(
            f"{archive.path} does not say what its images are of: expected {KIT}.tar.gz ({HOME}) or Kaggle's "
            f"{SOLUTION} beside it"
        )
    strange = [member.name for member in images if PurePosixPath(member.name).stem not in known.val]
    if strange or not images:
        raise ConfigError(
            f"{archive.path}: expected ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{len(known.val):08}.JPEG, found "
            f"{', '.join(strange[:5]) or named(archive)}"
        )
    places: dict[str, list[Member]] = {}
    for member in images:
        places.setdefault(f"val/rgb/{known.val[PurePosixPath(member.name).stem]}", []).append(member)
    return pieces(archive, places)


def _folders(folder: Path, place: str) -> list[Piece]:
    return [
        Piece(f"{place}/{path.name}", 0, partial(_link, Tree(path), f"{place}/{path.name}"))
        for path in _classes_in(folder)
        if path.is_dir()
    ]


def _tars(folder: Path, split: str) -> list[Piece]:
    return [
        Piece(f"{split}/rgb/{path.stem}", path.stat().st_size, partial(_unpack, Tar(path, within=path.name), split))
        for path in _classes_in(folder)
        if path.suffix == ".tar"
    ]


def _classes_in(folder: Path) -> Iterator[Path]:
    """What in a folder is called as a class is."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if WNID.fullmatch(path.stem))


def _unpack(tar: Tar, split: str, writer: Writer) -> None:
    """The photographs of a class's archive."""
    wnid = PurePosixPath(tar.within).stem
    members = list(tar.members())
    wrong = [member.name for member in members if not PurePosixPath(member.name).name.startswith(f"{wnid}_")]
    if wrong or not members:
        raise ValueError(f"{tar}: expected {wnid}_<number>.JPEG, found {wrong[0] if wrong else 'nothing'}")
    copy(tar, {f"{split}/rgb/{wnid}": members}, writer)


def _link(tree: Tree, place: str, writer: Writer) -> None:
    copy(tree, {place: list(tree.members())}, writer)


# ---- pseudo labels


def _pseudo(source: Path) -> list[Piece]:
    """A piece for each class's archive, or folder. What the authors say of the archives (SETUP.md of their repository):
    a class is a tar, of single-channel PNGs with the names of the photographs. Whether those lie in a folder there, it
    does not say: a file is known by the last part of its name."""
    return [piece for split in SPLITS for field in PSEUDO for piece in _labels(source, split, field)]


def _labels(source: Path, split: str, field: str) -> list[Piece]:
    for top in (source / split, source / "imagenet_multitask" / split):
        if tars := [path for path in _classes_in(top / f"{field}_tar") if path.suffix == ".tar"]:
            names = [f"{split}/{field}/{tar.stem}" for tar in tars]
            return [
                Piece(name, tar.stat().st_size, partial(_unpack_labels, Tar(tar), field, name))
                for name, tar in zip(names, tars)
            ]
        if found := _folders(top / field, f"{split}/{field}"):
            return found
    return []


def _unpack_labels(tar: Tar, field: str, place: str, writer: Writer) -> None:
    bits, colours = PSEUDO[field]
    for member in tar.members():
        data = tar.read(member)
        # A PNG's head: https://www.w3.org/TR/png-3/#11IHDR
        if data[:8] != b"\x89PNG\r\n\x1a\n" or data[24:25] != bytes([bits]) or data[25:26] not in colours:
            raise ValueError(f"{member.name} in {tar}: expected a PNG with one channel of {bits} bits, for {field}")
        writer.write(f"{place}/{PurePosixPath(member.name).name}", data)
