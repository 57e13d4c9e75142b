"""Ray casting of a scene of convex solids in a room, to RGB, depth, normals and maps of classes and instances.

A scene is a table with one row per surface (`COLUMNS`), a camera and a light. Every solid is a unit shape (sphere, box,
cylinder along z) that a matrix maps into the world, so a ray meets it in one interval of its length: `near` to `far`.
All of a scene's solids and pixels are computed together, in float32, and nothing depends on other scenes. Rays that
cannot meet a solid, because they miss the sphere around it, are left out first.
"""

from dataclasses import dataclass

import numpy as np

SPHERE, BOX, CYLINDER, ROOM = range(4)
PLAIN, STRIPES, RINGS, CHECKS, DOTS, MARBLE = range(6)

# The table's first rows share one box, seen from inside: floor, ceiling, and the walls at -x, +x, -y and +y.
ROOM_NORMALS = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], np.float32)
ROOM_SURFACES = len(ROOM_NORMALS)

# A pattern is a sum of three waves along the axes, their product and a constant; see `_albedo`.
WEIGHTS = np.zeros((6, 5), np.float32)
WEIGHTS[PLAIN, 4] = -1e6
WEIGHTS[STRIPES, 0] = WEIGHTS[RINGS, 2] = WEIGHTS[CHECKS, 3] = WEIGHTS[MARBLE, 0] = 1
WEIGHTS[DOTS] = 1, 1, 1, 0, -1.6

COLUMNS = {
    name: i
    for i, name in enumerate(
        "shape semseg glow gloss pattern x y z sx sy sz cos sin fx fy fz r0 g0 b0 r1 g1 b1".split()
    )
}
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


def render(scene: Scene, size: int, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Images of `scene`, size x size pixels; those of `fields`.

    rgb uint8 (3, S, S); depth float32 (1, S, S), metres along the optical axis; semseg uint8 (S, S); instance uint8
    (S, S), the row of the surface table; normals int8 (3, S, S), 127 x the unit normal in camera axes (right, down,
    forward).
    """
    rays = _rays(scene, size)  # their forward part is 1, so length along a ray is depth
    depth, hit = _first_hit(scene, rays)
    images = {}
    if "depth" in fields:
        images["depth"] = depth.reshape(1, size, size)
    if "semseg" in fields:
        images["semseg"] = scene.surfaces[:, COLUMNS["semseg"]].astype(np.uint8)[hit].reshape(size, size)
    if "instance" in fields:
        images["instance"] = hit.astype(np.uint8).reshape(size, size)
    if "rgb" not in fields and "normals" not in fields:
        return images

    points = scene.camera[:, None] + rays * depth
    local, normals = _surfaces(scene.surfaces, points, hit)
    if "normals" in fields:
        images["normals"] = np.rint(127 * (scene.axes @ normals)).astype(np.int8).reshape(3, size, size)
    if "rgb" in fields:
        color = _albedo(scene.surfaces, hit, local, 0.5 * size * scene.focal / depth)
        color *= _light(scene, points, normals, rays, hit)
        _glow(scene.surfaces, hit, local, color)
        np.minimum(color, 1, out=color)
        images["rgb"] = (np.sqrt(color) * 255 + 0.5).astype(np.uint8).reshape(3, size, size)  # gamma 2
    return images


# ---- geometry


def _rays(scene: Scene, size: int) -> np.ndarray:
    x = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1) / np.float32(scene.focal)
    right, down, forward = scene.axes[:, :, None, None]
    return (forward + down * x[:, None] + right * x).reshape(3, -1)


def _first_hit(scene: Scene, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length to, and table row of, the first surface on each ray: (pixels,) float32 and intp."""
    table = scene.surfaces
    # From inside, a ray leaves the room through the nearest of the three faces that it runs towards.
    exits = np.copysign(table[0, SIZE][:, None], rays)
    exits += (table[0, CENTER] - scene.camera)[:, None]
    exits /= rays
    nearest = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
    hit = np.where(exits[2] == nearest, rays[2] > 0, np.where(exits[0] == nearest, 2 + (rays[0] > 0), 4 + (rays[1] > 0)))
    for row, pixels, near, _ in _intervals(table, scene.camera, rays):
        closer = (near < nearest[pixels]) & (near > 0)
        pixels = pixels[closer]
        nearest[pixels] = near[closer]
        hit[pixels] = row
    return nearest, hit


def _intervals(table: np.ndarray, origin: np.ndarray, rays: np.ndarray):
    """For each solid: its table row, the rays that meet it, and where they enter and leave it, in lengths of the ray.

    All rays start at `origin` (3,) and run along `rays` (3, n).
    """
    solids = table[ROOM_SURFACES:]
    to_center = solids[:, CENTER] - origin
    squared = (to_center * to_center).sum(1)
    size = solids[:, SIZE]
    around = np.where(solids[:, COLUMNS["shape"]] == SPHERE, size[:, 0] ** 2, (size * size).sum(1))
    # A ray meets the sphere around a solid if its angle to the centre is small enough; from inside, every ray does.
    cosine = np.sqrt(np.maximum(squared - around, 0))  # times the distance to the centre
    limit = np.where(squared > around, cosine, np.float32(-1e6))
    lengths = np.sqrt((rays * rays).sum(0))
    solid, pixel = np.nonzero(to_center @ rays >= limit[:, None] * lengths)
    starts = np.searchsorted(solid, np.arange(len(solids) + 1))
    frames = _frames(solids)
    origins = np.einsum("nij,nj->ni", frames, -to_center)
    for i, (first, last) in enumerate(zip(starts, starts[1:])):
        if first == last:
            continue
        pixels = pixel[first:last]
        near, far = _SOLIDS[int(solids[i, 0])](origins[i], frames[i] @ rays[:, pixels])
        met = near < far
        yield ROOM_SURFACES + i, pixels[met], near[met], far[met]


def _frames(solids: np.ndarray) -> np.ndarray:
    """Matrices (solids, 3, 3) from the world to the unit shapes."""
    frames = np.zeros((len(solids), 3, 3), np.float32)
    cos, sin = solids[:, COLUMNS["cos"]], solids[:, COLUMNS["sin"]]
    frames[:, 0, 0], frames[:, 0, 1] = cos, sin
    frames[:, 1, 0], frames[:, 1, 1] = -sin, cos
    frames[:, 2, 2] = 1
    return frames / solids[:, SIZE, None]


def _sphere(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _quadric(d[0] * d[0] + d[1] * d[1] + d[2] * d[2], o @ d, o @ o - 1)


def _box(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near, far = _slab(o[:, None], d)
    return np.maximum(np.maximum(near[0], near[1]), near[2]), np.minimum(np.minimum(far[0], far[1]), far[2])


def _cylinder(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near, far = _quadric(d[0] * d[0] + d[1] * d[1], o[:2] @ d[:2], o[:2] @ o[:2] - 1)
    low, high = _slab(o[2], d[2])
    return np.maximum(near, low), np.minimum(far, high)


_SOLIDS = {SPHERE: _sphere, BOX: _box, CYLINDER: _cylinder}


def _slab(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where o + t d lies between -1 and 1."""
    inverse = 1 / d
    middle = -o * inverse
    half = np.abs(inverse)
    return middle - half, middle + half


def _quadric(a: np.ndarray, b: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Between the roots of a t^2 + 2 b t + c; an empty interval where there are none."""
    d = b * b - a * c
    root = np.sqrt(np.maximum(d, 0))
    return (-b - root) / a, (root - b) / a


def _surfaces(table: np.ndarray, points: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points in the frames of their unit shapes, and outward unit normals in the world; (3, pixels) each."""
    local = (points - table[0, CENTER][:, None]) / table[0, SIZE][:, None]
    normals = ROOM_NORMALS.T[:, np.minimum(hit, ROOM_SURFACES - 1)]
    solid = np.flatnonzero(hit >= ROOM_SURFACES)
    if not len(solid):
        return local, normals
    rows = hit[solid]
    frames = _frames(table)[rows].transpose(1, 2, 0)  # (3, 3, pixels)
    at = np.einsum("ijp,jp->ip", frames, points[:, solid] - table[rows, CENTER].T)
    local[:, solid] = at
    shape = table[rows, COLUMNS["shape"]]
    side = np.abs(at)
    cap = (shape == CYLINDER) & (side[2] > 0.9995)
    box = shape == BOX
    # Gradients of the unit shapes: the point itself for a sphere, its nearest face for a box.
    gradient = np.where(box, np.where(side >= side.max(0), np.sign(at), 0), at)
    gradient[:2, cap] = 0
    gradient[2, (shape == CYLINDER) & ~cap] = 0
    out = np.einsum("ijp,ip->jp", frames, gradient)
    normals[:, solid] = out / np.sqrt((out * out).sum(0))
    return local, normals


# ---- colour


def _albedo(table: np.ndarray, hit: np.ndarray, local: np.ndarray, pixels_per_metre: np.ndarray) -> np.ndarray:
    """Solid textures: linear colours (3, pixels) of points of the unit shapes.

    Waves peak where a coordinate is half-integer and the frequencies are half-integers, so a face of a box never lies
    on an edge of its own checks. They are cut off to flat bands as sharply as the pixels allow, and fade far away.
    """
    frequency = table[:, FREQUENCY]
    pattern = table[:, COLUMNS["pattern"]].astype(int)
    sharpness = 0.7 / (frequency / table[:, SIZE]).max(1)
    columns = np.column_stack([frequency / 2, WEIGHTS[pattern], sharpness, table[:, FIRST], table[:, SECOND] - table[:, FIRST]])
    surface = columns.T.astype(np.float32)[:, hit]
    q = local * surface[:3]
    q -= 0.25
    q -= np.rint(q)
    wave = np.abs(q, out=q)
    wave *= -4
    wave += 1  # period 2 in local * frequency
    x, y, z = wave
    veined = np.flatnonzero((pattern == MARBLE)[hit])
    if len(veined):
        bent = 2.2 * x[veined] + y[veined] * z[veined] + local[:, veined].sum(0) * 3
        x[veined] = np.sin(bent) * 0.5 + 0.3 * y[veined]
    weights = surface[3:8]
    mix = weights[0] * x + weights[1] * y + weights[2] * z + weights[3] * (x * y * z) + weights[4]
    mix *= np.where((pattern == MARBLE)[hit], np.float32(1), surface[8] * pixels_per_metre)
    np.clip(mix, -1, 1, out=mix)
    mix *= 0.5
    mix += 0.5
    return surface[9:12] + mix * surface[12:15]


def _light(scene: Scene, points: np.ndarray, normals: np.ndarray, rays: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Light (3, pixels) that leaves each point towards the camera, before its own colour."""
    from_light = points - scene.light[:, None]
    squared = (from_light * from_light).sum(0)
    distance = np.sqrt(squared)
    seen = _seen(scene, from_light)
    direct = np.maximum((from_light * normals).sum(0), np.float32(-1e9)) / -distance
    np.maximum(direct, 0, out=direct)
    direct *= seen
    direct *= 12 / (6 + squared)
    gloss = scene.surfaces[:, COLUMNS["gloss"]][hit]
    shiny = np.flatnonzero(gloss)
    if len(shiny):
        view = rays[:, shiny]
        halfway = from_light[:, shiny] / distance[shiny] + view / np.sqrt((view * view).sum(0))
        halfway /= np.sqrt((halfway * halfway).sum(0))
        gleam = np.maximum(-(halfway * normals[:, shiny]).sum(0), 0)
        for _ in range(5):
            gleam *= gleam  # to the 32nd power
        direct[shiny] += gloss[shiny] * gleam * seen[shiny]
    ambient = scene.ambient * (0.8 + 0.2 * normals[2])
    return direct * scene.light_color[:, None] + ambient


def _seen(scene: Scene, from_light: np.ndarray) -> np.ndarray:
    """1 where the light is seen, 0 in full shadow.

    Rays that cross only a thin part of a solid run near its outline, as the light sees it; letting them through in
    part gives the shadow of a light with an extent, at the cost of one ray.
    """
    seen = np.ones(from_light.shape[1], np.float32)
    for _, pixels, near, far in _intervals(scene.surfaces, scene.light, from_light):
        through = np.minimum(far, 1) - np.maximum(near, 0)  # as a share of the way from the light to the point
        seen[pixels] *= 1 - np.clip(12 * through, 0, 1)
    return seen


def _glow(table: np.ndarray, hit: np.ndarray, local: np.ndarray, color: np.ndarray) -> None:
    """Windows and lamps shine by themselves: a sky that pales towards the horizon. Added to `color`."""
    glow = table[:, COLUMNS["glow"]][hit]
    shining = np.flatnonzero(glow)
    if len(shining):
        sky = np.array([[0.35], [0.6], [1.0]], np.float32)
        up = 0.5 + 0.5 * local[2, shining]
        color[:, shining] += glow[shining] * (1 - up * (1 - sky))
