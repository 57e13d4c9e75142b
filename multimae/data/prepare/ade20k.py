"""ADE20K as the scene parsing challenge of 2016 has it: 150 classes. No torch.

Its layout: https://github.com/CSAILVision/sceneparsing. In a class map, 0 is "other objects", which nothing is measured
on, and 1 to 150 are the lines of objectInfo150.txt.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...config import ConfigError
from ..about import About, FieldFacts
from .archives import Archive, Member, Tree, Zip, copy, named
from .pieces import Piece, Whole

ARCHIVE, FOLDER = "ADEChallengeData2016.zip", "ADEChallengeData2016"
NAMES = "objectInfo150.txt"
HOME = "http://sceneparsing.csail.mit.edu"
SPLITS = {"training": "train", "validation": "val"}
PLACES = {"images": ("rgb", ".jpg"), "annotations": ("semseg", ".png")}  # field, ending
CLASSES = 150
TOGETHER = 500  # samples of a piece


@dataclass(frozen=True)
class Ade20k:
    as_they_are = True
    about = About(
        name="ade20k",
        home=HOME,
        fields={"semseg": FieldFacts(first=1)},
        splits={"train": 20_210, "val": 2_000},
    )

    def expected(self) -> str:
        return (
            f"{ARCHIVE}, or {FOLDER}/, unpacked, with images/{{training,validation}}/*.jpg,\n"
            f"  annotations/{{training,validation}}/*.png and {NAMES}: {HOME}"
        )

    def pieces(self, source: Path) -> list[Piece]:
        archive = self._archive(source)
        samples: dict[str, dict[str, list[tuple[str, Member]]]] = {"train": {}, "val": {}}  # split -> stem -> its files
        try:
            for member in archive.members():
                path = PurePosixPath(member.name)
                *_, place, part, _ = ("", "", *path.parts)
                field, ending = PLACES.get(place, ("", ""))
                if field and part in SPLITS and path.suffix == ending:
                    split = SPLITS[part]
                    samples[split].setdefault(path.stem, []).append((f"{split}/{field}", member))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if not any(samples.values()):
            raise ConfigError(
                f"{archive.path}: expected images/training/ADE_train_00000001.jpg and so on, found {named(archive)}"
            )
        pieces = []
        for split, found in samples.items():
            stems = sorted(found)
            for start in range(0, len(stems), TOGETHER):
                some = stems[start : start + TOGETHER]
                places: dict[str, list[Member]] = {}
                for stem in some:
                    for place, member in found[stem]:
                        places.setdefault(place, []).append(member)
                size = sum(member.size for members in places.values() for member in members)
                pieces.append(Piece(f"{split}/{some[0]}", size, partial(copy, archive, places)))
        return pieces

    def whole(self, source: Path) -> Whole:
        archive = self._archive(source)
        info = next((member for member in archive.members() if PurePosixPath(member.name).name == NAMES), None)
        if info is None:
            raise ConfigError(f"{archive.path} has no {NAMES}, which names its classes")
        lines = archive.read(info).decode("utf-8", "replace").splitlines()
        # Idx, Ratio, Train, Val, in some copies Stuff, and Name, with tabs between them
        rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
        names = tuple(row[-1] for row in rows[1:])
        if [row[0] for row in rows[1:]] != [str(number + 1) for number in range(CLASSES)]:
            raise ConfigError(f"{info.name} in {archive.path}: expected a head and {CLASSES} lines, Idx 1 to {CLASSES}")
        fields = {"semseg": FieldFacts(classes=names, first=1)}
        return Whole(self.about.model_copy(update={"fields": fields}), {})

    def _archive(self, source: Path) -> Archive:
        if (source / ARCHIVE).is_file():
            return Zip(source / ARCHIVE)
        for folder in (source / FOLDER, source):
            if (folder / "images").is_dir():
                return Tree(folder)
        raise ConfigError(f"{source} has no {ARCHIVE} and no folder {FOLDER}. Expected:\n{self.expected()}")


ADE20K = Ade20k()
