"""A photograph with its true depth, cut into a data set: the Motorcycle of Middlebury's stereo benchmark, which comes
with scikit-image. Where two views saw no common point, there is no depth.

    python tests/motorcycle.py DIR [CROPS]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import stereo_motorcycle

from multimae.data.about import About, FieldFacts

# Calibration of the image as scikit-image has it (its docstring): px, px, metres.
FOCAL, OFFSET, BASELINE = 994.978, 31.086, 0.193001
UNIT = 0.0001  # metres: 6.5 m in 16 bits
SIDES = (128, 256)  # px, of a crop


def scene() -> tuple[np.ndarray, np.ndarray]:
    """(rgb uint8 (500, 741, 3), depth in metres float (500, 741), 0 where it is not known)."""
    left, _, disparity = stereo_motorcycle()
    known = np.isfinite(disparity)
    return left, np.where(known, BASELINE * FOCAL / (np.where(known, disparity, 0) + OFFSET), 0)


def write(root: Path, crops: int = 256, evaluated: int = 32) -> Path:
    """`root/{train,val}/{rgb,depth}/<n>.png`, square crops of all sizes. Those of both splits overlap: they tell
    whether something is learnt, not whether it is true of other photographs."""
    rgb, depth = scene()
    height, width = depth.shape
    rng = np.random.default_rng(0)
    for split, count in (("train", crops), ("val", evaluated)):
        for n in range(count):
            side = int(rng.integers(SIDES[0], SIDES[1] + 1))
            top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            box = (slice(top, top + side), slice(left, left + side))
            images = {"rgb": rgb[box], "depth": np.round(depth[box] / UNIT).astype(np.uint16)}
            for field, image in images.items():
                file = root / split / field / f"{n:04}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
    About(
        name="motorcycle",
        home="https://vision.middlebury.edu/stereo/data/scenes2014/",
        fields={"depth": FieldFacts(unit=UNIT)},
        splits={"train": crops, "val": evaluated},
        notes=("crops of one image; 0: unknown",),
    ).write(root)
    return root


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(int, sys.argv[2:]))
