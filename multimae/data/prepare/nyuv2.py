"""NYUv2: 1,449 labelled images of a Kinect, from the MATLAB files of its makers (Silberman et al. 2012). No torch.

Depth is `depths`, which the makers filled in where the Kinect measured none. `mask_valid`: the paper's authors take the
masks that Eigen published with Ladicky's surface normals (github.com/EPFL-VILAB/MultiMAE/issues/14); they went offline
in 2022, and are taken where the source has them. Else a pixel is valid where the Kinect measured a distance: where
`rawDepths` is neither 0 nor 10 m, which are what the makers' toolbox fills in (fill_depth_colorization.m).
"""

import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ...config.settings import ConfigError
from ..about import About, FieldFacts
from .arrays import DAMAGED, contents, dataset, flags, hdf5, matlab, png, required, steps
from .pieces import Piece, Writer

HOME = "https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html"
LABELLED, SPLITS, MAPPING, MASKS = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat", "normals_gt/masks"
EXPECTED = f"""The folder holds
  {LABELLED}   http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat (2.8 GB)
  {SPLITS}                 http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat
  {MAPPING}         https://github.com/ankurhanda/nyuv2-meta-data (the 40 classes of Gupta et al. 2013)
  {MASKS}/*.png     from https://cs.nyu.edu/~deigen/dnl/normals_gt.tgz, unpacked, where one has it; optional
The makers' page: {HOME}"""
IMAGES, HEIGHT, WIDTH = 1449, 480, 640
SIZES = {"train": 795, "test": 654}
FINE = 894  # classes, of which 40 are made
FARTHEST = 10.0  # metres
UNIT = FARTHEST / 2**16  # as the paper's authors write it
RUN = 8  # images of a piece: their arrays are compressed together
# The names of `className` in classMapping40.mat, spelt as there.
NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip


class NYUv2:
    """See `pieces.Maker`."""

    about = About(
        name="nyuv2",
        home=HOME,
        fields={"depth": FieldFacts(unit=UNIT), "semseg": FieldFacts(classes=NAMES, first=1)},
        splits=SIZES,
        notes=(
            "depth is `depths` of nyu_depth_v2_labeled.mat, filled in by its makers; a step is 10/65536 m, rounded.",
            "mask_valid is that of Ladicky's normals where normals_gt/masks was in the source, as the paper's authors "
            "have it; else it is where the Kinect measured a distance (rawDepths is neither 0 nor 10 m).",
            "A stem is the place of an image in nyu_depth_v2_labeled.mat, counted from 0.",
        ),
    )

    def expected(self) -> str:
        return EXPECTED

    def pieces(self, source: Path) -> list[Piece]:
        labelled, splits, mapping = (required(source, name, EXPECTED) for name in (LABELLED, SPLITS, MAPPING))
        try:
            with hdf5(labelled, str(labelled)) as opened:
                _arrays(opened, str(labelled))
            classes, split_of = _classes(mapping), _split_of(splits)
        except ValueError as error:
            raise ConfigError(f"{error}\n{EXPECTED}") from None
        masks = _masks(source / MASKS)
        size = labelled.stat().st_size // IMAGES
        return [
            Piece(
                f"{start:04d}-{stop - 1:04d}",
                (stop - start) * size,
                partial(_make, labelled, masks[start:stop], split_of[start:stop], classes, start),
            )
            for start, stop in ((start, min(start + RUN, IMAGES)) for start in range(0, IMAGES, RUN))
        ]


def _arrays(opened, name: str) -> tuple:
    """Images, depths, raw depths and labels. MATLAB stores columns first, so axes are in the reverse of the order that
    the makers' page gives: their H x W x 3 x N is (N, 3, W, H) here."""
    flat = (IMAGES, WIDTH, HEIGHT)
    return (
        dataset(opened, "images", name, (IMAGES, 3, WIDTH, HEIGHT), "u"),
        dataset(opened, "depths", name, flat, "f"),
        dataset(opened, "rawDepths", name, flat, "f"),
        dataset(opened, "labels", name, flat, "ui"),
    )


def _classes(path: Path) -> bytes:
    """Class (0 to 40) of each of the 895 labels, of which 0 is unlabelled in both."""
    found = matlab(path, ("mapClass", "className"))
    mapped = found["mapClass"].ravel()
    if mapped.size != FINE or mapped.min() < 1 or mapped.max() > len(NAMES):
        raise ValueError(
            f"{path}: expected 'mapClass' as {FINE} classes from 1 to {len(NAMES)}, found {mapped.size} from "
            f"{mapped.min()} to {mapped.max()}"
        )
    names = tuple(str(np.squeeze(name)) for name in found["className"].ravel())
    if names != NAMES:
        other = next((pair for pair in zip(NAMES, names) if len(set(pair)) > 1), (f"{len(NAMES)}", f"{len(names)}"))
        raise ValueError(
            f"{path}: expected the classes {', '.join(NAMES[:3])}, ..., with '{other[0]}', found '{other[1]}'"
        )
    return bytes([0, *mapped.tolist()])


def _split_of(path: Path) -> list[str]:
    """Of each image, in order. The file counts them from 1."""
    found = matlab(path, ("trainNdxs", "testNdxs"))
    split_of: dict[int, str] = {}
    for split, key in (("train", "trainNdxs"), ("test", "testNdxs")):
        numbers = [int(number) for number in found[key].ravel()]
        if len(numbers) != SIZES[split]:
            raise ValueError(f"{path}: expected {SIZES[split]} numbers in '{key}', found {len(numbers)}")
        for number in numbers:
            if not 1 <= number <= IMAGES or number in split_of:
                what = "twice" if number in split_of else f"that is not within 1 to {IMAGES}"
                raise ValueError(f"{path}: expected each image once, found {number} {what} in '{key}'")
            split_of[number] = split
    return [split_of[number] for number in range(1, IMAGES + 1)]


def _masks(folder: Path) -> list[Path | None]:
    """Of each image, in order; None where there are none."""
    if not folder.is_dir():
        return [None] * IMAGES
    found = sorted(folder.glob("*.png"))
    if len(found) != IMAGES:
        raise ConfigError(f"{folder}: expected {IMAGES} PNG files, found {len(found)}: {contents(folder)}")
    return list(found)


def _make(
    labelled: Path, masks: list[Path | None], splits: list[str], classes: bytes, start: int, writer: Writer
) -> None:
    name, stop = str(labelled), start + len(splits)
    with hdf5(labelled, name) as opened:
        images, depths, raw, labels = (array[start:stop] for array in _arrays(opened, name))
    if max(depths.max(), raw.max()) > 2 * FARTHEST:  # of which no unit that is smaller stays below
        raise ValueError(
            f"{name}: expected depth in metres, {FARTHEST:g} at most, found {max(depths.max(), raw.max()):g} in images "
            f"{start} to {stop - 1}; is it in another unit?"
        )
    if labels.max() > FINE:
        raise ValueError(
            f"{name}: expected labels from 0 to {FINE}, found {labels.max()} in images {start} to {stop - 1}"
        )
    numbers = np.frombuffer(classes, np.uint8)
    for n, split in enumerate(splits):
        mask = masks[n]
        known = _mask(mask) if mask else (raw[n].T > 0) & (raw[n].T < FARTHEST)
        pixels = {
            "rgb": np.ascontiguousarray(images[n].T),
            "depth": steps(depths[n].T, UNIT),
            "semseg": numbers[labels[n].T],
            "mask_valid": flags(known),
        }
        for field, values in pixels.items():
            writer.write(f"{split}/{field}/data/{start + n:04d}.png", png(values))


def _mask(path: Path) -> np.ndarray:
    """Bool (H, W). Raises ValueError."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            values = np.array(image.convert("L") if image.mode == "1" else image)
    except DAMAGED as error:
        raise ValueError(f"{path}: expected a PNG file that is whole, found: {error}") from None
    if values.shape != (HEIGHT, WIDTH) or not set(np.unique(values).tolist()) <= {0, 255}:
        raise ValueError(
            f"{path}: expected {WIDTH} x {HEIGHT} pixels of 0 and 255, found {values.shape} of {values.min()} to "
            f"{values.max()}"
        )
    return values == 255


NYUV2 = NYUv2()
