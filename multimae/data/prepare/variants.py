"""ImageNet-A, -R, -Sketch and -C: what a classifier of ImageNet is evaluated on (paper Section E). No torch.

They are splits without a training split, and a class's number is its place among the folders of that: an evaluation
needs ImageNet's beside them, as a link (`NOTE`).
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...config import ConfigError
from ..about import About
from ..listing import PHOTOGRAPHS
from .archives import Archive, Member, Tar, Tree, Zip, copy, named
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
class Variant:
    """One archive of class folders, that may lie in a folder."""

    about: About
    archive: str  # its name
    folder: str  # what it is called where it is unpacked
    where: str
    partial: bool = False
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
        groups: dict[str, list[tuple[Member, str]]] = {}
        for member in _members(archive):
            path = PurePosixPath(member.name)
            wnid = path.parent.name
            if WNID.fullmatch(wnid) and IMAGE.fullmatch(path.name) and (not self.classes or wnid in self.classes):
                groups.setdefault(wnid, []).append((member, f"val/{PHOTOGRAPHS}/{wnid}/{path.name}"))
        return _pieces(archive, {f"val/{PHOTOGRAPHS}/{wnid}": files for wnid, files in groups.items()})

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
        pieces, lost = [], []
        for group, names in CORRUPTIONS.items():
            if (path := source / f"{group}.tar").is_file():
                pieces += self._of(Tar(path), names)
                continue
            for name in names:
                folder = next((f for f in (source / name, source / group / name) if f.is_dir()), None)
                if folder is None:
                    lost.append(f"{name} (of {group}.tar)")
                else:
                    pieces += self._of(Tree(folder.parent), (name,))
        if not pieces or (lost and not self.partial):
            take = "\nTo take what is there: --partial" if pieces else ""
            raise ConfigError(f"{source} has no {', '.join(lost)}. Expected:\n{self.expected()}{take}")
        return pieces

    def whole(self, source: Path) -> Whole:
        each = EACH * len(self.classes)
        splits = {split: each or samples for split, samples in self.about.splits.items()}
        return Whole(self.about.model_copy(update={"splits": splits}), {})

    def _of(self, archive: Archive, names: tuple[str, ...]) -> list[Piece]:
        groups: dict[str, list[tuple[Member, str]]] = {}
        levels = [str(level) for level in SEVERITIES]
        for member in _members(archive) if isinstance(archive, Tar) else _within(archive, names[0]):
            *_, name, level, wnid, file = ("", "", "", *member.name.split("/"))
            if name in names and level in levels and (not self.classes or wnid in self.classes):
                place = f"{name}/{level}/{PHOTOGRAPHS}/{wnid}"
                groups.setdefault(place, []).append((member, f"{place}/{file}"))
        return _pieces(archive, groups)


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


def _pieces(archive: Archive, groups: dict[str, list[tuple[Member, str]]]) -> list[Piece]:
    if not groups:
        raise ConfigError(f"{archive.path}: expected n01440764/<image> and so on, found {named(archive)}")
    return [
        Piece(place, sum(member.size for member, _ in files), partial(copy, archive, files))
        for place, files in sorted(groups.items())
    ]


def _variant(letter: str, samples: int, home: str, archive: str, folder: str, where: str) -> Variant:
    about = About(name=f"imagenet-{letter}", home=home, splits={"val": samples}, notes=(NOTE,))
    return Variant(about, archive, folder, where)


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
