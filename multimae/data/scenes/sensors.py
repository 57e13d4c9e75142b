"""What cameras, depth sensors and people who draw labels make of what is there."""

from collections.abc import Sequence

import numpy as np

from ...modalities import IGNORE
from .composing import SEMSEG
from .rendering import Scene, Shot
from .targets import reshading

RANGE = 7.0  # metres: the end of what a scanner measures
KINECT_RANGE = 6.0
BASELINE = 0.1  # metres from the Kinect's camera to its projector, on the right
GRAZING = 0.2  # the cosine to the normal under which a pattern that is thrown on a surface cannot be read
GLARE = 0.85  # the cosine over which a glossy surface throws it straight back
GLOSSY = 0.5
BORDER = 48  # the part of an image's side that is left unlabelled around it, and at the borders of classes


def within_range(shot: Shot) -> np.ndarray:
    """Where depth is known: bool (scenes, pixels). Windows let light through."""
    return (shot.depth < RANGE) & (shot.column("semseg") != SEMSEG.index("window"))


def kinect(shot: Shot) -> np.ndarray:
    """Where a Kinect knows depth: bool (scenes, pixels). Not beyond its range, in windows, at grazing angles, where a
    glossy surface glares, and beside what is near: there its projector does not see what its camera does."""
    cosine = reshading(shot)
    right = shot.batch.axes[:, 0].T.astype(np.float32)
    known = within_range(shot) & (shot.depth < KINECT_RANGE) & (cosine > GRAZING)
    known &= ~((shot.column("gloss") > GLOSSY) & (cosine > GLARE))
    return known & (shot.seen_from(shot.batch.camera + np.float32(BASELINE) * right) > 0.5)


def grainy(rgb: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Photographs uint8 (scenes, 3, S, S) with the noise of each scene."""
    noisy = np.empty_like(rgb)
    for image, scene, out in zip(rgb, scenes, noisy):
        noise = np.random.Generator(np.random.Philox(key=scene.seed)).standard_normal(image.shape, np.float32)
        out[:] = np.clip(np.rint(image + np.float32(scene.grain) * noise), 0, 255)
    return noisy


def drawn_by_hand(semseg: np.ndarray) -> np.ndarray:
    """Classes uint8 (scenes, S, S) as people draw them: nothing along the image's sides, nor where classes meet."""
    side = semseg.shape[-1]
    width = max(1, side // BORDER)
    inside = np.zeros((side, side), bool)
    inside[width:-width, width:-width] = True
    drawn = np.where(inside, semseg, np.uint8(IGNORE))
    for step in range(1, width + 1):
        drawn[:, step:][semseg[:, step:] != semseg[:, :-step]] = IGNORE
        drawn[..., step:][semseg[..., step:] != semseg[..., :-step]] = IGNORE
    return drawn
