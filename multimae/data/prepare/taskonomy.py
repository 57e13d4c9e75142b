"""Taskonomy, its tiny split: photographs of scanned buildings, and what was computed of each (Zamir et al. 2018).
No torch.

Files are copied byte for byte where training reads them as they are. Depth is 65535 where the scan has a hole
(github.com/EPFL-VILAB/omnidata/issues/4); it becomes 0 there, which is unknown, and `mask_valid` is made of it.

The paper takes 800 and 200 images at random for training and validation. Its authors' code has lists of all images,
in an order that was drawn, and takes the first 800 and 200. Where tiny_train.csv, tiny_val.csv or tiny_test.csv lies
in the source, just those are made; else all images of the buildings, of which a recipe draws as many.
"""

import csv
import functools
import io
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ...config.settings import ConfigError
from ...modalities import FIELDS
from ..about import About
from .arrays import LAST, contents, flags, png
from .pieces import Piece, Writer

HOME = "https://github.com/StanfordVL/taskonomy/tree/master/data"
# Of a field, the makers' task.
TASKS = {
    "rgb": "rgb",
    "depth": "depth_zbuffer",
    "curvature": "principal_curvature",
    "edges": "edge_texture",
    "occlusion": "edge_occlusion",
    "keypoints2d": "keypoints2d",
    "keypoints3d": "keypoints3d",
    "normals": "normal",
    "reshading": "reshading",
}
# The makers' tiny split (data/assets/splits_taskonomy.zip) has woodbine and wiconisco too. Of woodbine their downloader
# has nothing, and texture edges of wiconisco are damaged (github.com/EPFL-VILAB/omnidata/issues/3); the paper's authors
# validate without it.
BUILDINGS = {
    "train": (
        "allensville", "beechwood", "benevolence", "coffeen", "cosmos", "forkland", "hanson", "hiteman", "klickitat",
        "lakeville", "leonardo", "lindenwood", "marstons", "merom", "mifflinburg", "newfields", "onaga", "pinesdale",
        "pomaria", "ranchester", "shelbyville", "stockman", "tolstoy", "wainscott",
    ),
    "val": ("collierville", "corozal", "darden", "markleeville"),
    "test": ("ihlen", "mcdade", "muleshoe", "noxapater", "uvalda"),
}  # fmt: skip
FIRST = {"train": 800, "val": 200, "test": None}  # images of the authors' lists that their code takes; None: all
EXPECTED = f"""The folder holds, for each of {", ".join(TASKS.values())}
  TASK/BUILDING/point_P_view_V_domain_TASK.png, or TASK/taskonomy/BUILDING/ as the makers' downloader unpacks them,
  or BUILDING_TASK.tar, as they lie on its server, or TASK__taskonomy__BUILDING.tar, as it keeps them:
    pip install omnidata-tools
    omnitools.download {" ".join(TASKS.values())} --components taskonomy --subset tiny --dest DIR
To have just the images of the paper's authors: tiny_train.csv, tiny_val.csv and tiny_test.csv of
  https://github.com/EPFL-VILAB/MultiMAE/tree/main/utils/taskonomy/splits
The makers' page: {HOME}"""
RUN = 50  # images of a piece
BYTES = 2_500_000  # of an image and what was computed of it, about
NAME = re.compile(r"point_(\d+)_view_(\d+)_domain_(\w+)\.png")
View = tuple[int, int]  # the numbers of a point and of a view of it


class Taskonomy:
    """See `pieces.Maker`."""

    about = About(
        name="taskonomy",
        home=HOME,
        splits={"test": 54514},
        notes=(
            "Files are the makers', byte for byte, but for depth with holes, and reshading where it has one channel.",
            "depth is depth_zbuffer; the makers' step is 1/512 m, 15 millionths less than 128/65535 m. Where theirs is "
            "65535, a hole of the scan, it is 0; mask_valid is 255 elsewhere.",
            "The tiny split without woodbine, which the makers no longer publish, and wiconisco, of which files are "
            "damaged.",
            "train and val are all images of their buildings, or the 800 and 200 that the code of the paper's authors "
            "takes, where its lists were in the source.",
        ),
    )

    def expected(self) -> str:
        return EXPECTED

    def pieces(self, source: Path) -> list[Piece]:
        if not source.is_dir():
            raise ConfigError(f"{contents(source)}. {EXPECTED}")
        pieces = []
        for split, buildings in BUILDINGS.items():
            listed = _listed(source / f"tiny_{split}.csv", buildings, FIRST[split])
            for building in buildings:
                places = {task: _place(source, task, building) for task in TASKS.values()}
                found = sorted(_found(places["rgb"]))
                views = found if listed is None else listed[building]
                if lost := sorted(set(views) - set(found)):
                    raise ConfigError(
                        f"{places['rgb']} has {len(lost)} images less than tiny_{split}.csv lists, such as "
                        f"point_{lost[0][0]}_view_{lost[0][1]}_domain_rgb.png. {EXPECTED}"
                    )
                for start in range(0, len(views), RUN):
                    run = views[start : start + RUN]
                    make = partial(_make, places, split, building, run)
                    pieces.append(Piece(f"{building}_{start:05d}", len(run) * BYTES, make))
        return pieces


def _listed(path: Path, buildings: tuple[str, ...], count: int | None) -> dict[str, list[View]] | None:
    """Of each building, the views that a list has in its first `count` lines; None where there is no list."""
    if not path.is_file():
        return None
    listed: dict[str, list[View]] = {building: [] for building in buildings}
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file, restval="")
        if reader.fieldnames != ["building", "point", "view"]:
            raise ConfigError(f"{path}: expected the columns building, point, view, found {reader.fieldnames}")
        for n, row in enumerate(reader):
            if n == count:
                break
            if row["building"] not in listed or not (row["point"].isdecimal() and row["view"].isdecimal()):
                raise ConfigError(
                    f"{path}, line {reader.line_num}: expected one of {', '.join(buildings)} and two numbers, found {row}"
                )
            listed[row["building"]].append((int(row["point"]), int(row["view"])))
    return {building: sorted(views) for building, views in listed.items()}


def _place(source: Path, task: str, building: str) -> Path:
    """The folder or the archive that holds a task of a building. Raises ConfigError."""
    names = (building, f"taskonomy/{building}", f"{building}_{task}.tar", f"{task}__taskonomy__{building}.tar")
    places = [source / task / name for name in names] + [source / name for name in names[2:]]
    if found := next((place for place in places if place.exists()), None):
        return found
    raise ConfigError(
        f"{task} of {building} is not in {source}: expected one of {', '.join(map(str, places))}; {contents(source)}. "
        f"{EXPECTED}"
    )


@functools.lru_cache(maxsize=2 * len(TASKS))  # pieces of a building come one after the other
def _found(place: Path) -> dict[View, tuple[str, int, int]]:
    """Of each view, its file: the name, and in an archive where its bytes begin and how many they are. Raises
    ValueError."""
    if place.is_dir():
        names = [(path.name, 0, 0) for path in place.iterdir()]
    else:
        try:
            with tarfile.open(place, "r:") as archive:
                names = [(member.name, member.offset_data, member.size) for member in archive if member.isfile()]
        except tarfile.TarError as error:
            raise ConfigError(
                f"{place}: expected an archive that is whole, found: {error}. Download it again"
            ) from None
    matches = ((NAME.fullmatch(name.rpartition("/")[2]), name, start, size) for name, start, size in names)
    found = {(int(match[1]), int(match[2])): (name, start, size) for match, name, start, size in matches if match}
    if not found:
        raise ConfigError(f"{place}: expected files such as point_0_view_0_domain_rgb.png, found none")
    return found


def _read(place: Path, view: View, task: str) -> tuple[str, bytes]:
    """(what to call it, its bytes) of a task of a view. Raises ValueError where it is not there."""
    if view not in _found(place):
        raise ValueError(f"{place} has no point_{view[0]}_view_{view[1]}_domain_{task}.png, though there is an rgb")
    name, start, size = _found(place)[view]
    if place.is_dir():
        return str(place / name), (place / name).read_bytes()
    with open(place, "rb") as file:
        file.seek(start)
        return f"{place}: {name}", file.read(size)


def _make(places: dict[str, Path], split: str, building: str, views: list[View], writer: Writer) -> None:
    for view in views:
        sizes = {}
        for field, name, data in _fields(places, view):
            sizes[name] = Image.open(io.BytesIO(data)).size
            writer.write(f"{split}/{field}/{building}/point_{view[0]}_view_{view[1]}.png", data)
        if len(set(sizes.values())) > 1:
            raise ValueError("sizes differ: " + ", ".join(f"{name} {w} x {h}" for name, (w, h) in sizes.items()))


def _fields(places: dict[str, Path], view: View) -> Iterator[tuple[str, str, bytes]]:
    """(field, what to call the file, its bytes as training reads them) of a view. Raises ValueError."""
    for field, task in TASKS.items():
        name, data = _read(places[task], view, task)
        expected, modes = FIELDS[field].files.expected, FIELDS[field].files.modes
        try:
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            image.verify()  # the checksums of all that is in it
            image = Image.open(io.BytesIO(data), formats=["PNG"])  # which `verify` leaves unusable
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name}: expected {expected}, found: {error}. Download it again") from None
        if field == "reshading" and image.mode == "L":
            data = png(np.array(image.convert("RGB")))
        elif image.mode not in modes:
            raise ValueError(f"{name}: expected {expected}, found mode {image.mode}")
        elif field == "depth":
            steps = np.array(image)
            known = (steps > 0) & (steps < LAST)
            yield "mask_valid", name, png(flags(known))
            data = data if (steps < LAST).all() else png(np.where(known, steps, 0).astype(np.uint16))
        yield field, name, data


TASKONOMY = Taskonomy()
