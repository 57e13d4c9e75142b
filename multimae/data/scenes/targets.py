"""Dense targets of scenes, each computed as Taskonomy's labels of that name were, from geometry or from the photograph.

Filters grow with the image, so that a target is the same picture at any size. Everything is computed image by image:
what is rendered together changes nothing.
"""

from functools import cache

import numpy as np

from ...modalities import DENSE, MASK
from .rendering import BOX, CAP, CYLINDER, ROOM, SIZE, SPHERE, Shot

VERSION = 1  # of what changes a target that `render` does not make; part of the cache's and fingerprint's names
RENDERED = ("normals",)  # by `rendering.paint`
NAMES = (*(name for name in DENSE if name not in RENDERED), MASK.name)

CURVED = 2.0  # 1/m: the curvature that is stored as 0.5
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32) / 255
SMOOTH = 64  # the part of an image's side that photographs are smoothed by; a pixel at least
SCALES = (1.0, 1.6, 2.5)  # of blobs and corners, in that unit
INTEREST = 8.0  # what the root of a determinant of second derivatives is multiplied by
BESIDE, BEHIND = 0.05, 0.55  # metres: a surface that lies so far behind another's edge makes an edge of 0, of 1
NEAR = 20  # the part of an image's side within which changes of a surface make a place interesting
STABLE = 0.5  # change of the surface at a place itself, at which its interest falls to 1/e
CORNER = 2.2  # what the root of the smaller eigenvalue is multiplied by


def targets(shot: Shot, rgb: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """All of `NAMES`, of what was seen, how it was photographed (uint8 (scenes, 3, S, S)) and where its depth is known
    (bool (scenes, S, S)): (scenes, channels, S, S), with the largest number of the type for 1.

    mask_valid has 0 and 255; curvature and reshading are uint8; the others are uint16, as Taskonomy's files are.
    """
    grey = (rgb * LUMINANCE[:, None, None]).sum(1)
    gaps = _gaps(shot)
    images = {
        "curvature": _whole(curvature(shot), np.uint8),
        "edges": _whole(edges(grey), np.uint16),
        "occlusion": _whole(occlusion(gaps), np.uint16),
        "keypoints2d": _whole(keypoints2d(grey), np.uint16),
        "keypoints3d": _whole(keypoints3d(shot, gaps), np.uint16),
        "reshading": _whole(reshading(shot), np.uint8),
        "mask_valid": _whole(valid, np.uint8),
    }
    assert set(images) == set(NAMES)
    side = shot.size
    return {name: image.reshape(len(image), -1, side, side) for name, image in images.items()}


def _whole(image: np.ndarray, dtype: type) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * np.float32(np.iinfo(dtype).max)).astype(dtype)


# ---- of the surface itself


def curvature(shot: Shot) -> np.ndarray:
    """Principal curvatures, the larger first: (scenes, 2, pixels). 0 of planes, 0.5 of a radius of 1 / CURVED metres.

    A sphere has the inverse of its radius twice, the side of a cylinder that and 0. All solids are convex, so there is
    one sign; Taskonomy's meshes, which have both, are centred at a half.
    """
    local, _ = shot.surfaces
    shape, size = shot.batch.shape[shot.hit], shot.batch.table[:, SIZE].T.take(shot.hit, axis=1)
    x, y = size[:2]
    round_, side = shape == SPHERE, (shape == CYLINDER) & (np.abs(local[2]) <= CAP)
    # Of an ellipse with half axes x and y.
    flat = (local[0] / x) ** 2 + (local[1] / y) ** 2 + np.float32(1e-9)
    first = np.where(round_, 1 / x, np.where(side, 1 / ((x * y) ** 2 * flat**1.5), 0))
    both = np.stack([first, np.where(round_, 1 / x, 0)], axis=1)
    return both / (both + np.float32(CURVED))


def reshading(shot: Shot) -> np.ndarray:
    """The cosine between the normal and the ray to the camera: matt shading by a light there. (scenes, pixels)."""
    _, normals = shot.surfaces
    return -(normals * shot.rays).sum(0) / np.sqrt((shot.rays * shot.rays).sum(0))


# ---- of the photograph


def edges(grey: np.ndarray) -> np.ndarray:
    """Canny's edges before they are thinned: the size of the gradient of a smoothed photograph (scenes, S, S), in
    brightness over the width of the smoothing. Of a sharp step, 0.4 of its height."""
    width = _width(grey)
    flat, slope = _gauss(width, 0), width * _gauss(width, 1)
    return np.hypot(_filtered(grey, flat, slope), _filtered(grey, slope, flat))


def keypoints2d(grey: np.ndarray) -> np.ndarray:
    """SURF's measure of interest in a photograph (scenes, S, S): the determinant of the second derivatives, positive at
    blobs and corners, its largest over SCALES; of it the root, so that it is in units of brightness."""
    best = np.zeros_like(grey)
    for scale in SCALES:
        width = scale * _width(grey)
        flat, slope, bend = (width**order * _gauss(width, order) for order in range(3))
        determinant = _filtered(grey, flat, bend) * _filtered(grey, bend, flat) - _filtered(grey, slope, slope) ** 2
        np.maximum(best, determinant, out=best)
    return INTEREST * np.sqrt(best)


# ---- of the geometry around


def occlusion(gaps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Edges of what stands clearly before something else, the pixels on both sides of them: (scenes, S, S).

    By how far the surface behind is away, so creases (a wall meets the floor) and contacts have none.
    """
    across, down = map(np.abs, gaps)
    side = across.shape[1]
    edge = np.zeros((len(across), side, side), np.float32)
    for part, gap in ((edge[..., :-1], across), (edge[..., 1:], across), (edge[:, :-1], down), (edge[:, 1:], down)):
        np.maximum(part, gap, out=part)
    return edge


def keypoints3d(shot: Shot, gaps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """As NARF's interest: where the surface itself is stable, and changes in two directions nearby. (scenes, S, S).

    A change is that of the normal or a gap to what lies behind. Both directions: the smaller eigenvalue of the products
    of changes around a place.
    """
    side = shot.size
    normals = shot.surfaces[1].reshape(3, -1, side, side)
    steps = []
    for axis, gap in zip((3, 2), gaps):
        change = np.concatenate([np.diff(normals, axis=axis), gap[None]])
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        both = np.pad(change, pad)
        steps.append((both.take(range(1, side + 1), axis) + both.take(range(side), axis)) / 2)
    x, y = steps
    flat = _gauss(side / NEAR, 0)
    xx, xy, yy = (_filtered((a * b).sum(0), flat, flat) for a, b in ((x, x), (x, y), (y, y)))
    smaller = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
    stable = np.exp(-((x * x + y * y).sum(0)) / np.float32(STABLE))
    return CORNER * np.sqrt(np.maximum(smaller, 0)) * stable


def _gaps(shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Between neighbours across and down, (scenes, S, S - 1) and (scenes, S - 1, S): how clearly one hides a part of
    what lies behind it, 0 to 1, negative where it is the second that stands before the first."""
    side = shot.size
    shape, (local, normals) = shot.batch.shape[shot.hit], shot.surfaces
    is_plane = (shape == BOX) | ((shape == CYLINDER) & (np.abs(local[2]) > CAP))
    values = np.stack([*shot.points, *normals, shot.depth, is_plane, shape == ROOM])
    values, hit = values.reshape(len(values), -1, side, side), shot.hit.reshape(-1, side, side)

    def between(one: tuple, other: tuple) -> np.ndarray:
        p, q, solids = values[one], values[other], hit[one[1:]] != hit[other[1:]]
        step = p[:3] - q[:3]
        from_p, from_q = (step * p[3:6]).sum(0), (step * q[3:6]).sum(0)  # along the normal of each
        return np.where(solids, _before(p, q, from_q, -from_p) - _before(q, p, -from_p, from_q), 0)

    everywhere = slice(None)
    return (
        between((everywhere,) * 3 + (slice(-1),), (everywhere,) * 3 + (slice(1, None),)),
        between((everywhere,) * 2 + (slice(-1),), (everywhere,) * 2 + (slice(1, None),)),
    )


def _before(near: np.ndarray, far: np.ndarray, gap: np.ndarray, above: np.ndarray) -> np.ndarray:
    """How clearly `near` stands before `far`, whose surface is `gap` metres behind it; `above`: how far `far` lies
    before the surface of `near`. What stands on a plane (or before a wall) is not behind it, however far its foot."""
    stands = (near[7] == 1) & (above > 0)
    hides = (near[6] < far[6]) & (near[8] == 0) & ~stands
    return np.where(hides, np.clip((gap - np.float32(BESIDE)) / np.float32(BEHIND - BESIDE), 0, 1), np.float32(0))


# ---- filters


def _width(grey: np.ndarray) -> float:
    return max(1.0, grey.shape[-1] / SMOOTH)


@cache
def _gauss(width: float, order: int) -> np.ndarray:
    """The weights of a Gaussian of deviation `width` pixels, or of a derivative of it."""
    reach = int(np.ceil(3 * width))
    x = np.arange(-reach, reach + 1)
    bell = np.exp(-0.5 * (x / width) ** 2)
    bell /= bell.sum()
    if order == 1:
        bell *= x
        bell /= (bell * x).sum()  # a slope of 1 gives 1
    elif order == 2:
        bell *= x * x - (bell * x * x).sum()  # what is even gives 0,
        bell /= (bell * x * x).sum() / 2  # and x^2 gives 2
    return bell.astype(np.float32)


def _filtered(images: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(scenes, S, S) with these weights around each pixel; beyond its sides, an image is mirrored.

    Weight by weight: a product of matrices would depend on the library that multiplies them, and on its threads.
    """
    for axis, weights in ((1, down), (2, across)):
        pad = [(0, 0)] * 3
        pad[axis] = (len(weights) // 2,) * 2
        padded, side = np.pad(images, pad, mode="symmetric"), images.shape[axis]
        images, part = np.zeros_like(images), np.empty_like(images)
        for start, weight in enumerate(weights):
            window = padded[:, start : start + side] if axis == 1 else padded[..., start : start + side]
            images += np.multiply(window, weight, out=part)
    return images
