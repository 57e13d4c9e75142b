"""Ray casting of scenes of convex solids in rooms, to RGB, depth, normals and maps of classes and instances.

A scene is a table with one row per surface (`COLUMNS`), a camera and a light. Every solid is a unit shape (sphere, box,
cylinder along z) that a matrix maps into the world, so a ray meets it in one interval of its length: `near` to `far`.
Rays that cannot meet a solid, because they miss the sphere around it, are left out first; the others are computed in
one list for a batch of scenes, in float32, each for itself: an image does not depend on what is rendered with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SPHERE, BOX, CYLINDER, ROOM = range(4)
PLAIN, STRIPES, RINGS, CHECKS, DOTS, MARBLE = range(6)

# The table's first rows share one box, seen from inside: floor, ceiling, and the walls at -x, +x, -y and +y.
ROOM_NORMALS = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], np.float32)
ROOM_SURFACES = len(ROOM_NORMALS)
TINY = np.float32(1e-12)  # added to divisors that may be zero: rays along a face
FLAT = 0.03  # metres: half the thickness of a solid that casts no shadow
CAP = 0.9995  # of a unit cylinder's half height: what is higher is its flat end

# A pattern is a sum of three waves along the axes, their product and a constant; see `_albedo`.
WEIGHTS = np.zeros((6, 5), np.float32)
WEIGHTS[PLAIN, 4] = -1e6
WEIGHTS[STRIPES, 0] = WEIGHTS[RINGS, 2] = WEIGHTS[CHECKS, 3] = WEIGHTS[MARBLE, 0] = 1
WEIGHTS[DOTS] = 1, 1, 1, 0, -1.6

NAMES = "shape semseg glow gloss pattern x y z sx sy sz cos sin fx fy fz r0 g0 b0 r1 g1 b1"
COLUMNS = {name: i for i, name in enumerate(NAMES.split())}
CENTER, SIZE, FREQUENCY, FIRST, SECOND = (
    slice(COLUMNS[name], COLUMNS[name] + 3) for name in ("x", "sx", "fx", "r0", "r1")
)


@dataclass(frozen=True)
class Scene:
    """Units are metres; z points up, the floor is z = 0."""

    surfaces: np.ndarray  # float32 (surfaces, COLUMNS): the ROOM_SURFACES, then the solids
    camera: np.ndarray  # float32 (3,)
    axes: np.ndarray  # float32 (3, 3): the camera's right, down and forward in the world
    focal: float  # in half image sides
    light: np.ndarray  # float32 (3,)
    light_color: np.ndarray  # float32 (3,)
    ambient: float
    label: int
    grain: float = 0.0  # deviation of the photograph's noise, in 255ths
    seed: tuple[int, int] = (0, 0)  # of that noise


def render(scenes: Sequence[Scene], size: int, fields: Iterable[str]) -> dict[str, np.ndarray]:
    """Images (scenes, ...) of `size` x `size` pixels; those of `fields`.

    rgb uint8 (3, S, S); depth float32 (1, S, S), metres along the optical axis; semseg uint8 (S, S); instance uint8
    (S, S), the row of the surface table; normals int8 (3, S, S), 127 x the unit normal in camera axes (right, down,
    forward).
    """
    return paint(Shot(scenes, size), fields)


class Shot:
    """What the cameras of some scenes see, pixel by pixel. `hit`: the row of the batch's table that is seen."""

    def __init__(self, scenes: Sequence[Scene], size: int):
        self.scenes, self.size = scenes, size
        self.batch = Batch(scenes)
        self.rays = _rays(self.batch, size)  # their forward part is 1, so length along a ray is depth
        self.depth, self.hit = _first_hit(self.batch, self.rays)  # (scenes, pixels) each

    @cached_property
    def points(self) -> np.ndarray:
        """In the world: (3, scenes, pixels)."""
        return self.batch.camera[:, :, None] + self.rays * self.depth

    @cached_property
    def surfaces(self) -> tuple[np.ndarray, np.ndarray]:
        """Points in the frames of their unit shapes, and outward unit normals in the world: (3, scenes, pixels)."""
        return _surfaces(self.batch, self.points, self.hit)

    def column(self, name: str) -> np.ndarray:
        """What the table says in that column of each pixel's surface: (scenes, pixels)."""
        return self.batch.column(name)[self.hit]

    def seen_from(self, place: np.ndarray) -> np.ndarray:
        """1 where a light at `place` (3, scenes) shines on what is seen, 0 in its full shadow: (scenes, pixels)."""
        return _seen(self.batch, place, self.points - place[:, :, None])


def paint(shot: Shot, fields: Iterable[str]) -> dict[str, np.ndarray]:
    """As `render`, of scenes that have been looked at."""
    batch, rays, depth, hit = shot.batch, shot.rays, shot.depth, shot.hit
    shape = (len(shot.scenes), -1, shot.size, shot.size)
    images = {}
    if "depth" in fields:
        images["depth"] = depth.reshape(shape)
    if "semseg" in fields:
        images["semseg"] = batch.column("semseg").astype(np.uint8)[hit].reshape(shape)[:, 0]
    if "instance" in fields:
        images["instance"] = (hit - batch.starts[:, None]).astype(np.uint8).reshape(shape)[:, 0]
    if "normals" in fields:
        seen = np.einsum("bij,jbp->bip", batch.axes, shot.surfaces[1])
        images["normals"] = np.rint(127 * seen).astype(np.int8).reshape(shape)
    if "rgb" in fields:
        local, normals = shot.surfaces
        color = _albedo(batch, hit, local, 0.5 * shot.size * batch.focal[:, None] / depth)
        color *= _light(batch, shot.points, normals, rays, hit)
        _glow(batch, hit, local, color)
        np.minimum(color, 1, out=color)
        color = (np.sqrt(color) * 255 + 0.5).astype(np.uint8)  # gamma 2
        images["rgb"] = np.ascontiguousarray(color.swapaxes(0, 1)).reshape(shape)
    return images


class Batch:
    """Scenes side by side. Arrays of pixels are (scenes, pixels) or (3, scenes, pixels), `hit` a row of `table`."""

    def __init__(self, scenes: Sequence[Scene]):
        self.table = np.concatenate([scene.surfaces for scene in scenes])
        counts = [len(scene.surfaces) for scene in scenes]
        self.scene = np.repeat(np.arange(len(scenes)), counts)  # of each row
        self.starts = np.cumsum([0, *counts[:-1]])
        self.camera = np.stack([scene.camera for scene in scenes], axis=1)  # (3, scenes)
        self.light = np.stack([scene.light for scene in scenes], axis=1)
        self.light_color = np.stack([scene.light_color for scene in scenes], axis=1)
        self.axes = np.stack([scene.axes for scene in scenes])
        self.focal = np.array([scene.focal for scene in scenes], np.float32)
        self.ambient = np.array([scene.ambient for scene in scenes], np.float32)
        self.shape = self.column("shape").astype(int)
        cos, sin = self.column("cos"), self.column("sin")
        x, y, z = self.table[:, SIZE].T
        # What maps world directions to the frames of the unit shapes: xx, xy, yx, yy, zz. (5, rows)
        self.frames = np.stack([cos / x, sin / x, -sin / y, cos / y, 1 / z])
        self.centers = np.ascontiguousarray(self.table[:, CENTER].T)
        self.solid = np.flatnonzero(self.shape != ROOM)
        # Rugs and windows lie flat on the room and hide no light.
        self.casting = self.solid[self.table[self.solid, SIZE].min(1) > FLAT]
        self.room_center = self.centers[:, self.starts, None]  # (3, scenes, 1)
        self.room_size = self.table[self.starts, SIZE].T[:, :, None]

    def column(self, name: str) -> np.ndarray:
        return self.table[:, COLUMNS[name]]


# ---- geometry


def _rays(batch: Batch, size: int) -> np.ndarray:
    x = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x = x / batch.focal[:, None]
    right, down, forward = batch.axes.transpose(1, 2, 0)[..., None, None]  # (3, scenes, 1, 1) each
    return (forward + down * x[:, :, None] + right * x[:, None, :]).reshape(3, len(batch.focal), -1)


def _first_hit(batch: Batch, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length to, and table row of, the first surface on each ray: (scenes, pixels)."""
    # From inside, a ray leaves the room through the nearest of the three faces that it runs towards.
    exits = np.copysign(batch.room_size, rays)
    exits += batch.room_center - batch.camera[:, :, None]
    exits /= rays + TINY
    nearest = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
    sides = np.where(exits[0] == nearest, 2 + (rays[0] > 0), 4 + (rays[1] > 0))
    hit = np.where(exits[2] == nearest, rays[2] > 0, sides) + batch.starts[:, None]

    rows, pixels, near, _ = _intervals(batch, batch.solid, batch.camera, rays)
    flat = nearest.reshape(-1)
    before = np.flatnonzero((near > 0) & (near < flat[pixels]))
    rows, pixels, near = rows[before], pixels[before], near[before]
    np.minimum.at(flat, pixels, near)
    first = near == flat[pixels]
    hit.reshape(-1)[pixels[first]] = rows[first]
    return nearest, hit


def _intervals(batch: Batch, solids: np.ndarray, origin: np.ndarray, rays: np.ndarray):
    """All meetings of rays and `solids` (rows of the table, ascending): rows, pixels, and where the ray enters and
    leaves, in lengths of the ray.

    The rays (3, scenes, pixels) of a scene all start at its `origin` (3, scenes).
    """
    pixels_each = rays.shape[2]
    pairs = []
    for scene in range(rays.shape[1]):
        rows, pixels = _candidates(batch, solids[batch.scene[solids] == scene], origin[:, scene], rays[:, scene])
        pairs.append((rows, pixels + scene * pixels_each))
    rows, pixels = (np.concatenate(parts) for parts in zip(*pairs))

    origins = _to_frames(batch.frames, origin[:, batch.scene] - batch.centers)  # (3, rows)
    flat = rays.reshape(3, -1)
    shapes = batch.shape[rows]
    found = []
    for shape, cut in _SOLIDS.items():
        chosen = np.flatnonzero(shapes == shape)
        row, pixel = rows[chosen], pixels[chosen]
        directions = _to_frames(batch.frames.take(row, axis=1), flat.take(pixel, axis=1))
        near, far = cut(origins.take(row, axis=1), directions)
        met = np.flatnonzero(near < far)
        found.append((row[met], pixel[met], near[met], far[met]))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def _candidates(
    batch: Batch, solids: np.ndarray, origin: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solids of one scene, and rays that meet the sphere around them: those at a small enough angle to its centre."""
    to_center = batch.centers[:, solids].T - origin
    size = batch.table[solids, SIZE]
    squared = (to_center * to_center).sum(1)
    around = np.where(batch.shape[solids] == SPHERE, size[:, 0] ** 2, (size * size).sum(1)) * np.float32(1.001)
    # From inside the sphere, every ray meets it.
    limit = np.where(squared > around, np.sqrt(np.maximum(squared - around, 0)), np.float32(-1e6))
    lengths = np.sqrt((rays * rays).sum(0))
    meet = to_center @ rays >= limit[:, None] * lengths
    solid = np.repeat(np.arange(len(limit)), np.count_nonzero(meet, axis=1))  # twice as fast as np.nonzero in 2-D
    return solids[solid], np.flatnonzero(meet) - solid * rays.shape[1]


def _to_frames(frames: np.ndarray, v: np.ndarray) -> np.ndarray:
    xx, xy, yx, yy, zz = frames
    return np.stack([xx * v[0] + xy * v[1], yx * v[0] + yy * v[1], zz * v[2]])


def _from_frames(frames: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The transposed map, which takes gradients to the world."""
    xx, xy, yx, yy, zz = frames
    return np.stack([xx * v[0] + yx * v[1], xy * v[0] + yy * v[1], zz * v[2]])


def _sphere(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _quadric((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1)


def _box(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near, far = _slab(o, d)
    return np.maximum(np.maximum(near[0], near[1]), near[2]), np.minimum(np.minimum(far[0], far[1]), far[2])


def _cylinder(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near, far = _quadric((d[:2] * d[:2]).sum(0), (o[:2] * d[:2]).sum(0), (o[:2] * o[:2]).sum(0) - 1)
    low, high = _slab(o[2], d[2])
    return np.maximum(near, low), np.minimum(far, high)


_SOLIDS = {SPHERE: _sphere, BOX: _box, CYLINDER: _cylinder}


def _slab(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where o + t d lies between -1 and 1."""
    inverse = 1 / (d + TINY)
    middle = -o * inverse
    half = np.abs(inverse)
    return middle - half, middle + half


def _quadric(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Between the roots of a t^2 + 2 b t + c; an empty interval where there are none."""
    a = a + TINY
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    return (-b - root) / a, (root - b) / a


def _surfaces(batch: Batch, points: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points in the frames of their unit shapes, and outward unit normals in the world; (3, scenes, pixels) each."""
    local = points - batch.room_center
    local /= batch.room_size
    surface = np.minimum(hit - batch.starts[:, None], ROOM_SURFACES - 1)
    normals = ROOM_NORMALS.T.take(surface, axis=1)
    solid = np.flatnonzero(batch.shape[hit] != ROOM)
    rows = hit.reshape(-1)[solid]
    frames = batch.frames.take(rows, axis=1)
    at = _to_frames(frames, points.reshape(3, -1).take(solid, axis=1) - batch.centers.take(rows, axis=1))
    local.reshape(3, -1)[:, solid] = at
    shape = batch.shape[rows]
    side = np.abs(at)
    # Gradients of the unit shapes: of a sphere the point itself, of a box and a cylinder those of the face it is on.
    cap = (shape == CYLINDER) & (side[2] > CAP)
    gradient = np.where(shape == BOX, np.where(side >= side.max(0), np.sign(at), 0), at)
    gradient[:2] *= ~cap
    gradient[2] *= (shape != CYLINDER) | cap
    out = _from_frames(frames, gradient)
    normals.reshape(3, -1)[:, solid] = out / np.sqrt((out * out).sum(0))
    return local, normals


# ---- colour


def _albedo(batch: Batch, hit: np.ndarray, local: np.ndarray, pixels_per_metre: np.ndarray) -> np.ndarray:
    """Solid textures: linear colours (3, scenes, pixels) of points of the unit shapes.

    Waves peak where a coordinate is half-integer and the frequencies are half-integers, so a face of a box never lies
    on an edge of its own checks. They are cut off to flat bands as sharply as the pixels allow, and fade far away.
    """
    table = batch.table
    frequency = table[:, FREQUENCY]
    pattern = batch.column("pattern").astype(int)
    sharpness = 0.7 / (frequency / table[:, SIZE]).max(1)
    change = table[:, SECOND] - table[:, FIRST]
    columns = np.column_stack([frequency / 2, WEIGHTS[pattern], sharpness, table[:, FIRST], change])
    surface = np.ascontiguousarray(columns.T, np.float32).take(hit, axis=1)
    q = local * surface[:3]
    q -= 0.25
    q -= np.rint(q)
    wave = np.abs(q, out=q)
    wave *= -4
    wave += 1  # period 2 in local * frequency
    x, y, z = wave
    veins = (pattern == MARBLE)[hit]
    bent = 2.2 * x[veins] + y[veins] * z[veins] + 3 * local[:, veins].sum(0)
    x[veins] = 0.5 * np.sin(bent) + 0.3 * y[veins]
    weights = surface[3:8]
    mix = weights[0] * x + weights[1] * y + weights[2] * z + weights[3] * (x * y * z) + weights[4]
    mix *= np.where(veins, np.float32(1), surface[8] * pixels_per_metre)
    np.clip(mix, -1, 1, out=mix)
    mix *= 0.5
    mix += 0.5
    return surface[9:12] + mix * surface[12:15]


def _light(batch: Batch, points: np.ndarray, normals: np.ndarray, rays: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Light (3, scenes, pixels) that leaves each point towards the camera, before its own colour."""
    from_light = points - batch.light[:, :, None]
    squared = (from_light * from_light).sum(0)
    distance = np.sqrt(squared)
    seen = _seen(batch, batch.light, from_light)
    direct = (from_light * normals).sum(0) / -distance
    np.maximum(direct, 0, out=direct)
    direct *= seen
    direct *= 12 / (6 + squared)
    gloss = batch.column("gloss")[hit]
    shiny = gloss > 0
    view = rays[:, shiny]
    halfway = from_light[:, shiny] / distance[shiny] + view / np.sqrt((view * view).sum(0))
    gleam = np.maximum(-(halfway * normals[:, shiny]).sum(0), 0) / np.sqrt((halfway * halfway).sum(0))
    for _ in range(5):
        gleam *= gleam  # to the 32nd power
    direct[shiny] += gloss[shiny] * gleam * seen[shiny]
    ambient = batch.ambient[:, None] * (0.8 + 0.2 * normals[2])
    return direct * batch.light_color[:, :, None] + ambient


def _seen(batch: Batch, light: np.ndarray, from_light: np.ndarray) -> np.ndarray:
    """1 where the light at `light` (3, scenes) is seen, 0 in full shadow.

    Rays that cross only a thin part of a solid run near its outline, as the light sees it; letting them through in
    part gives the shadow of a light with an extent, at the cost of one ray.
    """
    seen = np.ones(from_light.shape[1:], np.float32)
    _, pixels, near, far = _intervals(batch, batch.casting, light, from_light)
    through = np.minimum(far, 1) - np.maximum(near, 0)  # as a share of the way from the light to the point
    np.multiply.at(seen.reshape(-1), pixels, 1 - np.clip(12 * through, 0, 1))
    return seen


def _glow(batch: Batch, hit: np.ndarray, local: np.ndarray, color: np.ndarray) -> None:
    """Windows and lamps shine by themselves: a sky that pales towards the horizon. Added to `color`."""
    glow = batch.column("glow")[hit]
    shining = glow > 0
    sky = np.array([[0.35], [0.6], [1.0]], np.float32)
    up = 0.5 + 0.5 * local[2, shining]
    color[:, shining] += glow[shining] * (1 - up * (1 - sky))
