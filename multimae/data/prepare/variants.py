"""ImageNet-A, -R, -Sketch and -C: what a classifier of ImageNet is evaluated on (paper Section E). No torch.

They are splits without a training split, and a class's number is its place among the folders of that: an evaluation
needs ImageNet's beside them, as a link (`NOTE`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ...config import ConfigError
from ..about import About
from ..listing import PHOTOGRAPHS
from .archives import Archive, Member, Tar, Tree, Zip, named, pieces
from .imagenet import EACH, WNID
from .pieces import Piece, Whole

NOTE = "An evaluation numbers the classes by ImageNet's training split: ln -s IMAGENET/train DEST/train"
IMAGE = re.compile(r".*\.(jpe?g|png)", re.IGNORECASE)
# https://github.com/hendrycks/robustness: the mean is of these fifteen, each at five severities.
CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
SEVERITIES = range(1, 6)


@dataclass(frozen=True)
class ClassArchive:
    """One archive of class folders, that may lie in a folder."""

    about: About
    archive: str  # its name
    folder: str  # what it is called where it is unpacked
    where: str
    classes: tuple[str, ...] = ()
    as_they_are = True

    def expected(self) -> str:
        return f"{self.archive}, or {self.folder}/n01440764/ and so on, unpacked:\n  {self.where}"

    def pieces(self, source: Path) -> list[Piece]:
        archive = _archive(source, self.archive, self.folder)
        if archive is None:
            raise ConfigError(
                f"{source} has no {self.archive} and no folder {self.folder}. Expected:\n{self.expected()}"
            )
        places: dict[str, list[Member]] = {}
        for member in _members(archive):
            *_, wnid, file = ("", *member.name.split("/"))
            if WNID.fullmatch(wnid) and IMAGE.fullmatch(file) and (not self.classes or wnid in self.classes):
                places.setdefault(f"val/{PHOTOGRAPHS}/{wnid}", []).append(member)
        return _pieces(archive, places)

    def whole(self, source: Path) -> Whole:
        """How many images some of the classes have is published nowhere."""
        return Whole(self.about.model_copy(update={"splits": {}}) if self.classes else self.about, {})


@dataclass(frozen=True)
class Corrupted:
    """ImageNet-C. A split is a corruption at a severity: `fog/3`."""

    partial: bool = False
    classes: tuple[str, ...] = ()
    as_they_are = True
    about = About(
        name="imagenet-c",
        home="https://zenodo.org/records/2235448",
        splits={f"{name}/{level}": 50_000 for names in CORRUPTIONS.values() for name in names for level in SEVERITIES},
        notes=(NOTE, "A split is a corruption at a severity: --set data.eval_split=fog/3"),
    )

    def expected(self) -> str:
        return (
            f"{', '.join(f'{group}.tar' for group in CORRUPTIONS)}, or {CORRUPTIONS['noise'][0]}/1/n01440764/\n"
            f"  and so on, unpacked: {self.about.home}\n"
            "extra.tar is left out: the mean over corruptions does not have it"
        )

    def pieces(self, source: Path) -> list[Piece]:
        found: list[Piece] = []
        lost = []
        for group, names in CORRUPTIONS.items():
            if (path := source / f"{group}.tar").is_file():
                found += self._of(Tar(path), names)
                continue
            for name in names:
                folder = next((f for f in (source / name, source / group / name) if f.is_dir()), None)
                if folder is None:
                    lost.append(f"{name} (of {group}.tar)")
                else:
                    found += self._of(Tree(folder.parent), (name,))
        if not found or (lost and not self.partial):
            take = "\nTo take what is there: --partial" if found else ""
            raise ConfigError(f"{source} has no {', '.join(lost)}. Expected:\n{self.expected()}{take}")
        return found

    def whole(self, source: Path) -> Whole:
        each = EACH * len(self.classes)
        splits = {split: each or samples for split, samples in self.about.splits.items()}
        return Whole(self.about.model_copy(update={"splits": splits}), {})

    def _of(self, archive: Archive, names: tuple[str, ...]) -> list[Piece]:
        places: dict[str, list[Member]] = {}
        levels = [str(level) for level in SEVERITIES]
        for member in _members(archive) if isinstance(archive, Tar) else _within(archive, names[0]):
            *_, name, level, wnid, _ = ("", "", "", *member.name.split("/"))
            if name in names and level in levels and (not self.classes or wnid in self.classes):
                places.setdefault(f"{name}/{level}/{PHOTOGRAPHS}/{wnid}", []).append(member)
        return _pieces(archive, places)


def _archive(source: Path, name: str, folder: str) -> Archive | None:
    path = source / name
    if path.is_file():
        return Zip(path) if path.suffix == ".zip" else Tar(path)
    for place in (source / folder, source):
        if place.is_dir() and any(WNID.fullmatch(inner.name) for inner in place.iterdir()):
            return Tree(place)
    return None


def _members(archive: Archive) -> list[Member]:
    try:
        return list(archive.members())
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _within(archive: Archive, name: str) -> list[Member]:
    """Of a folder, those below the folder `name`."""
    inner = Tree(archive.path / name)
    return [Member(f"{name}/{member.name}", member.size) for member in inner.members()]


def _pieces(archive: Archive, places: dict[str, list[Member]]) -> list[Piece]:
    if not places:
        raise ConfigError(f"{archive.path}: expected n01440764/<image> and so on, found {named(archive)}")
    return pieces(archive, places)


def _variant(letter: str, samples: int, home: str, archive: str, folder: str, where: str) -> ClassArchive:
    about = About(name=f"imagenet-{letter}", home=home, splits={"val": samples}, notes=(NOTE,))
    return ClassArchive(about, archive, folder, where)


IMAGENET_A = _variant(
    "a", 7_500, "https://github.com/hendrycks/natural-adv-examples", "imagenet-a.tar", "imagenet-a",
    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
)  # fmt: skip
IMAGENET_R = _variant(
    "r", 30_000, "https://github.com/hendrycks/imagenet-r", "imagenet-r.tar", "imagenet-r",
    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
)  # fmt: skip
IMAGENET_SKETCH = _variant(
    "sketch", 50_889, "https://github.com/HaohanWang/ImageNet-Sketch", "ImageNet-Sketch.zip", "sketch",
    "the link in https://github.com/HaohanWang/ImageNet-Sketch",
)  # fmt: skip
IMAGENET_C = Corrupted()
