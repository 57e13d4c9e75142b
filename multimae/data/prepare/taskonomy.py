"""Taskonomy, its tiny split: photographs of scanned buildings, and what was computed of each (Zamir et al. 2018).
No torch.

Files are copied byte for byte where training reads them as they are. Depth is 65535 where the scan has a hole
(github.com/EPFL-VILAB/omnidata/issues/4); it becomes 0 there, which is unknown, and `mask_valid` is made of it.

The paper takes 800 and 200 images at random for training and validation. Its authors' code has lists of all images,
in an order that was drawn, and takes the first 800 and 200. Where tiny_train.csv, tiny_val.csv or tiny_test.csv lies
in the source, just those are made; else all images of the buildings, of which a recipe draws as many.
"""

import functools
import io
import itertools
import re
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ...config.settings import ConfigError
from ...modalities import FIELDS
from ..about import About
from .arrays import DAMAGED, LAST, contents, flags, png, rows, some
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
BYTES = 2_000_000  # of an image and what was computed of it, about
NAME = re.compile(r"point_(\d+)_view_(\d+)_domain_(\w+)\.png")
PHOTOGRAPH = TASKS["rgb"]
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
        lists = {split: source / f"tiny_{split}.csv" for split in BUILDINGS}
        asked: dict[str, dict[str, list[View]] | dict[str, None]] = {
            split: _listed(path, split) if path.is_file() else dict.fromkeys(BUILDINGS[split])
            for split, path in lists.items()
        }
        wanted = [(task, name) for buildings in asked.values() for name in buildings for task in TASKS.values()]
        places = {pair: place for pair in wanted if (place := _place(source, *pair))}
        if lost := [" of ".join(pair) for pair in wanted if pair not in places]:
            raise ConfigError(
                f"{len(lost)} of {len(wanted)} folders or archives are not in {source}: {some(lost)}; "
                f"{contents(source)}. {EXPECTED}"
            )
        pieces = []
        for split, buildings in asked.items():
            for building, views in buildings.items():
                of_task = {task: places[task, building] for task in TASKS.values()}
                found = _found(of_task[PHOTOGRAPH]).keys()
                if missing := sorted(set(views or ()) - found):
                    raise ConfigError(
                        f"{of_task[PHOTOGRAPH]} has {len(missing)} images less than {lists[split]} names, such as "
                        f"{_name(missing[0], PHOTOGRAPH)}. {EXPECTED}"
                    )
                views = views or sorted(found)
                for start in range(0, len(views), RUN):
                    run = views[start : start + RUN]
                    make = partial(_make, of_task, split, building, run)
                    pieces.append(Piece(f"{split}_{building}_{start:05d}", len(run) * BYTES, make))
        return pieces


def _listed(path: Path, split: str) -> dict[str, list[View]]:
    """Of each building, the views that a list of the authors has, as far as their code reads it."""
    others = {building for other, buildings in BUILDINGS.items() if other != split for building in buildings}
    listed: dict[str, set[View]] = {}
    for line, row in itertools.islice(rows(path, ("building", "point", "view")), FIRST[split]):
        building, point, view = row["building"], row["point"], row["view"]
        if not building.isalnum() or building in others or not (point.isdecimal() and view.isdecimal()):
            raise ConfigError(
                f"{path}, line {line}: expected a building of {split} and numbers, found {building}, {point}, {view}"
            )
        listed.setdefault(building, set()).add((int(point), int(view)))
    return {building: sorted(listed[building]) for building in sorted(listed)}


def _name(view: View, task: str) -> str:
    """Of a file."""
    return f"point_{view[0]}_view_{view[1]}_domain_{task}.png"


def _place(source: Path, task: str, building: str) -> Path | None:
    """The folder or the archive that holds a task of a building."""
    names = (building, f"taskonomy/{building}", f"{building}_{task}.tar", f"{task}__taskonomy__{building}.tar")
    places = [source / task / name for name in names] + [source / name for name in names[2:]]
    return next((place for place in places if place.exists()), None)


@functools.lru_cache(maxsize=2 * len(TASKS))  # pieces of a building come one after the other
def _found(place: Path) -> dict[View, tuple[int, int]]:
    """Of each view, where its bytes begin in an archive and how many they are. Raises ConfigError."""
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
    matches = ((NAME.fullmatch(name.rpartition("/")[2]), start, size) for name, start, size in names)
    found = {(int(match[1]), int(match[2])): (start, size) for match, start, size in matches if match}
    if not found:
        raise ConfigError(f"{place}: expected files such as {_name((0, 0), PHOTOGRAPH)}, found none")
    return found


def _make(places: dict[str, Path], split: str, building: str, views: list[View], writer: Writer) -> None:
    for view in views:
        files = {field: _checked(field, *_read(places[task], view, task)) for field, task in TASKS.items()}
        sizes = {name: image.size for name, image, _ in files.values()}
        if len(set(sizes.values())) > 1:
            raise ValueError("sizes differ: " + ", ".join(f"{name} {w} x {h}" for name, (w, h) in sizes.items()))
        data = {field: data for field, (_, _, data) in files.items()}
        _, depth, _ = files["depth"]
        steps = np.array(depth)
        known = (steps > 0) & (steps < LAST)
        data["mask_valid"] = png(flags(known))
        if (steps == LAST).any():
            data["depth"] = png(np.where(known, steps, 0).astype(np.uint16))
        for field, content in data.items():
            writer.write(f"{split}/{field}/{building}/point_{view[0]}_view_{view[1]}.png", content)


def _read(place: Path, view: View, task: str) -> tuple[str, bytes]:
    """(what to call it, its bytes) of a task of a view. Raises ValueError where it is not there."""
    name = _name(view, task)
    try:
        if place.is_dir():
            return str(place / name), (place / name).read_bytes()
        start, size = _found(place)[view]
    except (FileNotFoundError, KeyError):
        raise ValueError(f"{place} has no {name}, though its {PHOTOGRAPH} is there") from None
    with open(place, "rb") as file:
        file.seek(start)
        return f"{place}: {name}", file.read(size)


def _checked(field: str, name: str, data: bytes) -> tuple[str, Image.Image, bytes]:
    """(what to call it, the image, its bytes as training reads them). Raises ValueError."""
    expected, modes = FIELDS[field].files.expected, FIELDS[field].files.modes
    try:
        Image.open(io.BytesIO(data), formats=["PNG"]).verify()  # the checksums of all that is in it
        image = Image.open(io.BytesIO(data), formats=["PNG"])
    except DAMAGED as error:
        raise ValueError(f"{name}: expected {expected}, found: {error}. Download it again") from None
    if field == "reshading" and image.mode == "L":
        return name, image, png(np.array(image.convert("RGB")))
    if image.mode not in modes:
        raise ValueError(f"{name}: expected {expected}, found mode {image.mode}")
    return name, image, data


TASKONOMY = Taskonomy()
