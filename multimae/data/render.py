"""Ray casting of a scene of convex solids in a room, to RGB, depth, normals and maps of classes and instances.

A scene is a table with one row per surface (`COLUMNS`), a camera and a light. Every solid is a unit shape (sphere, box,
cylinder along z) that a matrix maps into the world, so a ray meets it in one interval of its length: `near` to `far`.
All of a scene's solids and pixels are computed together, in float32, and nothing depends on other scenes.
"""

from dataclasses import dataclass

import numpy as np

SPHERE, BOX, CYLINDER, ROOM = range(4)
PLAIN, STRIPES, RINGS, CHECKS, DOTS, MARBLE = range(6)
ROOM_SURFACES = 6  # the table's first rows: floor, ceiling and four walls, which share one box seen from inside

COLUMNS = {
    name: i
    for i, name in enumerate(
        "shape semseg glow gloss pattern x y z sx sy sz cos sin fx fy fz r0 g0 b0 r1 g1 b1".split()
    )
}


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
    """Images of `scene`, size x size pixels.

    rgb uint8 (3, S, S); depth float32 (1, S, S), metres along the optical axis; semseg uint8 (S, S); instance uint8
    (S, S), the row of the surface table; normals int8 (3, S, S), 127 x the unit normal in camera axes (right, down,
    forward).
    """
    table = scene.surfaces
    col = COLUMNS
    rays = _rays(scene, size)  # the forward part is 1, so length along a ray is depth
    depth, hit = _first_hit(table, scene.camera, rays)

    images = {}
    if "depth" in fields:
        images["depth"] = depth.reshape(1, size, size)
    if "semseg" in fields:
        images["semseg"] = table[:, col["semseg"]].astype(np.uint8)[hit].reshape(size, size)
    if "instance" in fields:
        images["instance"] = hit.astype(np.uint8).reshape(size, size)
    if "rgb" not in fields and "normals" not in fields:
        return images

    surface = np.take(np.ascontiguousarray(table.T), hit, axis=1)  # (COLUMNS, pixels)
    points = scene.camera[:, None] + rays * depth
    local = _to_local(surface, points)
    normals = _normals(surface, local)
    normals *= np.where(surface[col["shape"]] == ROOM, np.float32(-1), np.float32(1))
    if "normals" in fields:
        images["normals"] = np.rint(127 * (scene.axes @ normals)).astype(np.int8).reshape(3, size, size)
    if "rgb" in fields:
        color = _shade(scene, surface, points, rays, normals)
        color *= _albedo(surface, local, 0.5 * size * scene.focal / depth)
        color += _glow(surface, local)
        np.clip(color, 0, 1, out=color)
        images["rgb"] = (np.sqrt(color) * 255 + 0.5).astype(np.uint8).reshape(3, size, size)  # gamma 2
    return images


def _rays(scene: Scene, size: int) -> np.ndarray:
    x = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1) / np.float32(scene.focal)
    right, down, forward = scene.axes[:, :, None, None]
    return (forward + down * x[:, None] + right * x).reshape(3, -1)


def _first_hit(table: np.ndarray, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length to, and table row of, the first surface on each ray. (pixels,) float32 and intp."""
    room = table[0]
    half = room[[COLUMNS["sx"], COLUMNS["sy"], COLUMNS["sz"]], None]
    center = room[[COLUMNS["x"], COLUMNS["y"], COLUMNS["z"]], None]
    # From inside, the ray leaves the room through the nearest of the three faces it runs towards.
    exits = (np.copysign(half, rays) + center - origin[:, None]) / rays
    axis = exits.argmin(0)
    nearest = exits.min(0)
    towards = np.take_along_axis(rays, axis[None], 0)[0] > 0
    # Table rows: 0 floor, 1 ceiling, 2 and 3 the walls of the x axis, 4 and 5 of the y axis.
    hit = np.array([2, 4, 0])[axis] + towards
    for rows, near, _ in _intervals(table, origin[:, None], rays):
        for row, length in zip(rows, near, strict=True):
            closer = length < nearest
            np.copyto(nearest, length, where=closer)
            np.copyto(hit, row, where=closer)
    return nearest, hit


def _intervals(table: np.ndarray, origin: np.ndarray, rays: np.ndarray):
    """For each shape: table rows, and where rays enter and leave those solids, (rows, pixels) each.

    A ray that misses, or meets the solid behind its origin, enters at infinity.
    """
    c = COLUMNS
    shapes = table[:, c["shape"]]
    for shape in (SPHERE, BOX, CYLINDER):
        rows = np.flatnonzero(shapes == shape)
        if not len(rows):
            continue
        solid = table[rows].T[:, :, None]  # (COLUMNS, rows, 1)
        o = _to_local(solid, origin[:, None] if origin.ndim == 2 else origin)
        d = _rotate(solid, rays[:, None])
        if shape == BOX:
            near, far = _slab(o[0], d[0])
            for i in (1, 2):
                low, high = _slab(o[i], d[i])
                np.maximum(near, low, out=near)
                np.minimum(far, high, out=far)
        elif shape == SPHERE:
            a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
            b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
            near, far = _quadric(a, b, o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1)
        else:
            near, far = _quadric(d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - 1)
            low, high = _slab(o[2], d[2])
            np.maximum(near, low, out=near)
            np.minimum(far, high, out=far)
        near[(near > far) | (near < 1e-3)] = np.inf
        yield rows, near, far


def _slab(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inverse = 1 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    middle = -o * inverse
    half = np.abs(inverse)
    return middle - half, middle + half


def _quadric(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Roots of a t^2 + 2 b t + c; (inf, -inf) where there are none."""
    d = b * b - a * c
    root = np.sqrt(np.maximum(d, 0))
    near, far = -(b + root) / a, (root - b) / a
    near[d <= 0] = np.inf
    return near, far


def _rotate(surface: np.ndarray, v: np.ndarray) -> np.ndarray:
    """World directions to the unit shape's frame."""
    c = COLUMNS
    cos, sin = surface[c["cos"]], surface[c["sin"]]
    x = (cos * v[0] + sin * v[1]) / surface[c["sx"]]
    y = (cos * v[1] - sin * v[0]) / surface[c["sy"]]
    return np.stack(np.broadcast_arrays(x, y, v[2] / surface[c["sz"]]))


def _to_local(surface: np.ndarray, points: np.ndarray) -> np.ndarray:
    return _rotate(surface, points - surface[[COLUMNS["x"], COLUMNS["y"], COLUMNS["z"]]])


def _normals(surface: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Outward unit normals in the world, (3, pixels), from points on the unit shapes."""
    c = COLUMNS
    shape = surface[c["shape"]]
    size = np.abs(local)
    box = (shape == BOX) | (shape == ROOM)
    top = size.max(0)
    face = box & (size >= top)  # (3, pixels)
    cap = (shape == CYLINDER) & (size[2] > 0.9995)
    g = np.where(face, np.sign(local), np.where(box, np.float32(0), local))
    g[:2, cap] = 0
    g[2, (shape == CYLINDER) & ~cap] = 0
    g[0] /= surface[c["sx"]]
    g[1] /= surface[c["sy"]]
    g[2] /= surface[c["sz"]]
    cos, sin = surface[c["cos"]], surface[c["sin"]]
    g = np.stack([cos * g[0] - sin * g[1], sin * g[0] + cos * g[1], g[2]])
    g /= np.sqrt((g * g).sum(0)) + np.float32(1e-12)
    return g


def _albedo(surface: np.ndarray, local: np.ndarray, pixels_per_metre: np.ndarray) -> np.ndarray:
    """Solid textures: colours (3, pixels) of points of the unit shapes.

    Waves peak where a coordinate is half-integer and the frequencies are half-integers, so a face of a box never lies
    on an edge of its own checks. Waves are cut off to flat bands as sharply as the pixels allow, and fade far away.
    """
    c = COLUMNS
    frequency = surface[[c["fx"], c["fy"], c["fz"]]]
    q = local * frequency
    q *= 0.5
    q -= 0.25
    q -= np.rint(q)
    wave = 1 - 4 * np.abs(q)  # period 2 in local * frequency
    pattern = surface[c["pattern"]]
    sharp = 0.7 * pixels_per_metre / (frequency / surface[[c["sx"], c["sy"], c["sz"]]]).max(0)
    mix = np.select(
        [pattern == STRIPES, pattern == RINGS, pattern == CHECKS, pattern == DOTS, pattern == MARBLE],
        [
            wave[0] * sharp,
            wave[2] * sharp,
            wave[0] * wave[1] * wave[2] * sharp,
            (wave[0] + wave[1] + wave[2] - np.float32(1.6)) * sharp,
            np.sin(2.5 * (wave[0] + 0.6 * wave[1] * wave[2]) + 4 * local[0] + 3 * local[2]),
        ],
        np.float32(-1),
    )
    np.clip(mix, -1, 1, out=mix)
    mix = 0.5 * mix + 0.5
    first = surface[c["r0"] : c["r0"] + 3]
    return first + mix * (surface[c["r1"] : c["r1"] + 3] - first)


def _shade(scene: Scene, surface: np.ndarray, points: np.ndarray, rays: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Light (3, pixels) that leaves each point towards the camera, before its own colour."""
    to_light = scene.light[:, None] - points
    squared = (to_light * to_light).sum(0)
    distance = np.sqrt(squared)
    facing = (to_light * normals).sum(0) / distance
    np.maximum(facing, 0, out=facing)
    shadow = _shadow(scene.surfaces, points + 2e-3 * normals, to_light)
    direct = facing * shadow * (12 / (6 + squared))
    # A bounce from the floor and a soft sky: darker below, and darker where the room's faces meet.
    bounce = scene.ambient * (0.8 + 0.2 * normals[2])
    view = rays / np.sqrt((rays * rays).sum(0))
    halfway = to_light / distance - view
    halfway /= np.sqrt((halfway * halfway).sum(0))
    gleam = np.maximum((halfway * normals).sum(0), 0)
    for _ in range(5):
        gleam *= gleam  # to the 32nd power
    direct += surface[COLUMNS["gloss"]] * gleam * shadow
    return direct * scene.light_color[:, None] + bounce


def _shadow(table: np.ndarray, points: np.ndarray, to_light: np.ndarray) -> np.ndarray:
    """1 where the light is seen, 0 in full shadow.

    Rays that cross only a thin part of a solid lie near its outline, as seen from the light; letting them through in
    part gives the shadow of a light with an extent, at the cost of one ray.
    """
    seen = np.ones(points.shape[1], np.float32)
    for _, near, far in _intervals(table, points, to_light):
        through = np.minimum(far, 1) - near  # as a share of the way to the light; -inf for a miss
        np.clip(12 * through, 0, 1, out=through)
        seen *= (1 - through).prod(0)
    return seen


def _glow(surface: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Windows and lamps shine by themselves: a sky that pales towards the horizon."""
    glow = surface[COLUMNS["glow"]]
    up = 0.5 + 0.5 * local[2]
    sky = np.array([[0.35], [0.6], [1.0]], np.float32)
    return glow * (1 - up * (1 - sky))
