"""The embedded data set: rooms with furniture and toys, composed at random and rendered with `rendering.py`.

Scene (split, index) is the same whatever else is rendered with it. The class of a solid is told by its shape and its
texture together (a striped box is a crate, a plain one a block), its colour is free; the class of a scene is how its
main group of objects is arranged, from objects of any class, seen from any side.
"""

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...config import SCENES_SPLITS
from . import rendering
from .rendering import Scene

VERSION = 4  # of everything that changes a pixel; part of the cache's name and of the fingerprint
SPLITS = {split: number for number, split in enumerate(SCENES_SPLITS)}
FIELDS = ("rgb", "depth", "semseg", "normals", "instance")

SEMSEG = (
    "floor", "wall", "ceiling", "rug", "window", "block", "crate", "ball", "beach ball", "tin", "drum", "column",
    "table", "lamp",
)  # fmt: skip
LABELS = ("row", "ring", "tower", "pyramid", "bridge", "table", "steps", "pedestal", "wall", "scatter")

# Patterns that make a class of a shape.
TOYS = {
    "block": (rendering.BOX, (rendering.PLAIN, rendering.MARBLE)),
    "crate": (rendering.BOX, (rendering.STRIPES, rendering.RINGS)),
    "ball": (rendering.SPHERE, (rendering.PLAIN, rendering.MARBLE)),
    "beach ball": (rendering.SPHERE, (rendering.STRIPES, rendering.CHECKS)),
    "tin": (rendering.CYLINDER, (rendering.PLAIN, rendering.DOTS)),
    "drum": (rendering.CYLINDER, (rendering.RINGS, rendering.CHECKS)),
}
KINDS = tuple(TOYS)
FLAT_TOPPED = ("block", "crate", "tin", "drum")
LONG = ("block", "crate")


Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks. `frequency` is half-integer, in half sizes of the solid (see `render._albedo`)."""

    colors: tuple[Triple, Triple]  # linear RGB
    pattern: int = rendering.PLAIN
    frequency: Triple = (1.5, 1.5, 1.5)
    gloss: float = 0.2
    glow: float = 0.0


def scene(split: str, index: int) -> Scene:
    """Scene `index` of `split` (train, val or test)."""
    return Composer(generator(split, index)).compose()


def generator(split: str, index: int, stream: int = 0) -> np.random.Generator:
    """Random numbers that no other split, index or stream has."""
    if split not in SPLITS:
        raise ValueError(f"scenes have the splits {', '.join(SPLITS)}; found '{split}'")
    return np.random.Generator(np.random.Philox(key=[stream * len(SPLITS) + SPLITS[split], index]))


class Composer:
    """Puts one scene together. `u` draws uniform numbers, in the order in which they are asked for."""

    classes: tuple[str, ...] = SEMSEG
    labels: tuple[str, ...] = LABELS  # a method each
    numbers = 768  # that are drawn at most
    sides = (3.2, 5.5)  # metres: half of a room's

    def __init__(self, rng: np.random.Generator):
        self.draws: Iterator[float] = iter(rng.random(self.numbers).tolist())
        self.rows: list[tuple[float, ...]] = []  # in the order of COLUMNS
        self.taken: list[tuple[float, float, float]] = []  # x, y, radius of what stands on the floor

    def u(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * next(self.draws)

    def pick(self, options):
        return options[int(self.u() * len(options))]

    # ---- the scene

    def compose(self) -> Scene:
        u = self.u
        self.half = (u(*self.sides), u(*self.sides))
        self.height = u(2.6, 3.8)
        self.hue = u()
        self.room()
        label = int(u() * len(self.labels))
        self.heading = u(0, 2 * math.pi)
        self.reach = 0.0
        top = getattr(self, self.labels[label].replace(" ", "_"))()
        camera, axes, focal = self.view(top)
        self.furniture(camera)
        warm = u(-0.12, 0.12)
        light = (u(-0.6, 0.6) * self.half[0], u(-0.6, 0.6) * self.half[1], self.height - u(0.15, 0.5))
        f = np.float32
        return Scene(
            surfaces=np.array(self.rows, f),
            camera=np.array(camera, f),
            axes=np.array(axes, f),
            focal=focal,
            light=np.array(light, f),
            light_color=np.array([1 + warm, 1, 1 - warm], f) * f(u(0.85, 1.25)),
            ambient=u(0.28, 0.5),
            label=label,
        )

    def room(self) -> None:
        (hx, hy), height, u = self.half, self.height, self.u
        center, size = (0, 0, height / 2), (hx, hy, height / 2)
        floor = self.colors(saturation=(0.05, 0.55), value=(0.5, 0.9), contrast=0.3)
        ceiling = self.colors(saturation=(0.0, 0.12), value=(0.85, 0.97))
        wall = self.colors(saturation=(0.05, 0.5), value=(0.65, 0.97), contrast=0.3)
        floor_pattern = self.pick((rendering.PLAIN,) * 2 + (rendering.STRIPES, rendering.CHECKS, rendering.MARBLE))
        wall_pattern = self.pick(
            (rendering.PLAIN,) * 6 + (rendering.STRIPES, rendering.CHECKS, rendering.MARBLE, rendering.DOTS)
        )
        frequency = int(u(3, 12)) + 0.5
        for name, pattern, colors, f in (
            ("floor", floor_pattern, floor, frequency),
            ("ceiling", rendering.PLAIN, ceiling, 0.5),
            *[("wall", wall_pattern, wall, int(u(3, 9)) + 0.5)] * 4,
        ):
            self.add(name, rendering.ROOM, center, size, Material(colors, pattern, (f, f, 2.5), gloss=0))
        if u() < 0.5:
            self.rug()
        for side in range(4):
            if u() < 0.45:
                self.window(side)

    def rug(self) -> None:
        u = self.u
        shape = self.pick((rendering.BOX, rendering.CYLINDER))
        size = (u(0.8, 1.8), u(0.8, 1.8), 0.01)
        pattern = self.pick((rendering.PLAIN, rendering.STRIPES, rendering.CHECKS, rendering.DOTS))
        f = int(u(2, 7)) + 0.5
        place = (u(-0.8, 0.8), u(-0.8, 0.8), 0.01)
        colors = self.colors(saturation=(0.2, 0.7), value=(0.4, 0.9))
        self.add("rug", shape, place, size, Material(colors, pattern, (f, f, 0.5), gloss=0), turn=u(0, 3.2))

    def window(self, side: int) -> None:
        u = self.u
        across, tall = u(0.5, 1.2), u(0.35, 0.65)
        along = u(-0.5, 0.5)
        z = u(1.3, 1.7)
        if side < 2:
            place, size = ((2 * side - 1) * self.half[0], along * self.half[1], z), (0.03, across, tall)
        else:
            place, size = (along * self.half[0], (2 * side - 5) * self.half[1], z), (across, 0.03, tall)
        frame = ((0.9, 0.9, 0.9),) * 2
        self.add("window", rendering.BOX, place, size, Material(frame, gloss=0, glow=u(0.5, 0.9)))

    def view(self, top: float):
        """A camera in the room that looks at the group. Returns its place, axes and focal length."""
        u = self.u
        # Within 50 degrees of broadside, on either side: seen from its end, a row looks like a tower.
        azimuth = self.heading + self.pick((0.5, 1.5)) * math.pi + u(-0.9, 0.9)
        distance = u(1.1, 1.6) + 0.7 * self.reach + 0.45 * top
        x, y = distance * math.cos(azimuth), distance * math.sin(azimuth)
        inside = min(1.0, (self.half[0] - 0.2) / abs(x), (self.half[1] - 0.2) / abs(y))
        camera = (x * inside, y * inside, u(0.9, 2.0))
        target = (u(-0.15, 0.15), u(-0.15, 0.15), top * u(0.3, 0.7) + u(0, 0.15))
        x, y, z = (a - b for a, b in zip(target, camera))
        level, length = math.hypot(x, y), math.hypot(x, y, z)
        forward = np.array((x, y, z)) / length
        right = np.array((y, -x, 0)) / level
        down = np.array((x * z, y * z, -level * level)) / (level * length)
        roll = u(-0.06, 0.06)
        cos, sin = math.cos(roll), math.sin(roll)
        return camera, (cos * right + sin * down, cos * down - sin * right, forward), u(1.5, 2.0)

    def furniture(self, camera: tuple[float, float, float]) -> None:
        """Up to four things that are no part of the group."""
        u = self.u
        for _ in range(1 + int(u(0, 4))):
            kind = self.pick(("toy", "toy", "column", "lamp", "table"))
            radius = {"toy": 0.35, "column": 0.35, "lamp": 0.3, "table": 0.6}[kind]
            for _ in range(6):
                x, y = (u(-1, 1) * min(half - radius - 0.1, 2.6) for half in self.half)
                if self.free(x, y, radius, camera):
                    self.taken.append((x, y, radius))
                    self.heading = u(0, 6.3)
                    getattr(self, f"_{kind}")(x, y)
                    break

    def free(self, x: float, y: float, radius: float, camera: tuple[float, float, float]) -> bool:
        """Whether something fits here: apart from all others, and out of the camera's line to the group."""
        if math.hypot(x, y) < self.reach + radius + 0.3:
            return False
        if any(math.hypot(x - tx, y - ty) < radius + r for tx, ty, r in self.taken):
            return False
        along = (x * camera[0] + y * camera[1]) / (camera[0] ** 2 + camera[1] ** 2)
        away = math.hypot(x - along * camera[0], y - along * camera[1])
        return along < 0 or away > radius + self.reach * max(0.2, 1 - along) + 0.25

    # ---- things

    def toy(self, kind: str, x: float, y: float, z: float, size: Triple) -> float:
        """A toy that stands at height z, with half sizes `size`. Returns the height of its top."""
        shape, patterns = TOYS[kind]
        f = int(self.u(1, 4)) + 0.5
        if shape == rendering.SPHERE:
            size = (min(size),) * 3
        elif shape == rendering.CYLINDER:
            size = (min(size[:2]),) * 2 + (size[2],)
        colors = self.colors(saturation=(0.3, 0.95), value=(0.55, 1.0))
        gloss = self.pick((0.0, 0.3, 0.7))
        material = Material(colors, self.pick(patterns), (f, f, f), gloss)
        self.add(kind, shape, (x, y, z + size[2]), size, material, self.heading)
        return z + 2 * size[2]

    def _toy(self, x: float, y: float) -> None:
        s = self.u(0.18, 0.36)
        self.toy(self.pick(KINDS), x, y, 0, (s, s, s * self.u(0.7, 1.4)))

    def _column(self, x: float, y: float) -> None:
        u = self.u
        r = u(0.13, 0.28)
        colors = self.colors(saturation=(0.0, 0.5), value=(0.6, 0.95))
        pattern = self.pick((rendering.PLAIN, rendering.MARBLE, rendering.RINGS))
        material = Material(colors, pattern, (1.5, 1.5, int(u(3, 8)) + 0.5))
        self.add("column", rendering.CYLINDER, (x, y, self.height / 2), (r, r, self.height / 2), material)

    def _lamp(self, x: float, y: float) -> None:
        u = self.u
        tall, r = u(0.8, 1.5), u(0.18, 0.3)
        pole = self.colors(saturation=(0.0, 0.3), value=(0.2, 0.6))
        self.add("lamp", rendering.CYLINDER, (x, y, tall / 2), (0.045, 0.045, tall / 2), Material(pole))
        shade = self.colors(saturation=(0.05, 0.5), value=(0.85, 1.0))
        shape = self.pick((rendering.SPHERE, rendering.SPHERE, rendering.CYLINDER))
        self.add("lamp", shape, (x, y, tall + 0.6 * r), (r, r, r), Material(shade, glow=u(0.1, 0.3)))

    def _table(self, x: float, y: float) -> float:
        u = self.u
        tall, thick = u(0.45, 0.7), 0.05
        colors = self.colors(saturation=(0.2, 0.7), value=(0.35, 0.85))
        pattern = self.pick((rendering.PLAIN, rendering.STRIPES, rendering.MARBLE))
        shape = self.pick((rendering.BOX, rendering.CYLINDER))
        size = (u(0.5, 0.75), u(0.45, 0.6), thick)
        if shape == rendering.CYLINDER:
            size = (size[1], size[1], thick)
        top = Material(colors, pattern, (4.5, 4.5, 0.5), gloss=0.3)
        self.add("table", shape, (x, y, tall - thick), size, top, self.heading)
        leg = u(0.05, 0.12)
        legs = tall / 2 - thick
        self.add("table", rendering.CYLINDER, (x, y, legs), (leg, leg, legs), Material(colors))
        return tall

    # ---- arrangements: one method for each of LABELS; each returns the height of its top

    def at(self, along: float, across: float = 0.0) -> tuple[float, float]:
        """A place relative to the group's centre, in the group's own heading."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        self.reach = max(self.reach, math.hypot(along, across) + 0.25)
        return cos * along - sin * across, sin * along + cos * across

    def some(self, low: float = 0.17, high: float = 0.27) -> Triple:
        s = self.u(low, high)
        return s, s, s * self.u(0.8, 1.2)

    def row(self) -> float:
        count = 3 + int(self.u(0, 2))
        gap = self.u(0.55, 0.7)
        places = [self.at((i - (count - 1) / 2) * gap) for i in range(count)]
        return max(self.toy(self.pick(KINDS), *place, 0, self.some()) for place in places)

    def ring(self) -> float:
        count = 5 + int(self.u(0, 2))
        r = self.u(0.65, 0.85)
        turns = [2 * math.pi * i / count for i in range(count)]
        places = [self.at(r * math.cos(a), r * math.sin(a)) for a in turns]
        return max(self.toy(self.pick(KINDS), *place, 0, self.some(0.15, 0.22)) for place in places)

    def tower(self) -> float:
        z = 0.0
        for i in range(3):
            kinds = KINDS if i == 2 else FLAT_TOPPED
            z = self.toy(self.pick(kinds), *self.at(0), z, self.some(0.18, 0.27))
        return z

    def pyramid(self) -> float:
        s = self.u(0.18, 0.25)
        size = (s, s, s)
        for i in (-1, 0, 1):
            self.toy(self.pick(FLAT_TOPPED), *self.at(2.1 * s * i), 0, size)
        for half in (-0.5, 0.5):
            self.toy(self.pick(KINDS), *self.at(2.1 * s * half), 2 * s, size)
        return 4 * s

    def bridge(self) -> float:
        s, tall, span = self.u(0.13, 0.2), self.u(0.2, 0.4), self.u(0.4, 0.6)
        for side in (-1, 1):
            self.toy(self.pick(FLAT_TOPPED), *self.at(side * span), 0, (s, s, tall))
        return self.toy(self.pick(LONG), *self.at(0), 2 * tall, (span + 1.3 * s, s, self.u(0.07, 0.13)))

    def table(self) -> float:
        top = self._table(0, 0)
        self.reach = 0.7
        for i in (-1, 1):
            self.toy(self.pick(KINDS), *self.at(0.25 * i), top, self.some(0.12, 0.18))
        return top + 0.4

    def steps(self) -> float:
        s, rise = self.u(0.18, 0.25), self.u(0.13, 0.18)
        places = [self.at((i - 1.5) * 2.05 * s) for i in range(4)]
        return max(
            self.toy(self.pick(FLAT_TOPPED), *place, 0, (s, s, rise * (i + 1))) for i, place in enumerate(places)
        )

    def pedestal(self) -> float:
        r = self.u(0.28, 0.36)
        z = self.toy(self.pick(FLAT_TOPPED), *self.at(0), 0, (r, r, self.u(0.3, 0.5)))
        s = self.u(0.12, 0.18)
        return self.toy(self.pick(KINDS), *self.at(0), z, (s, s, s))

    def wall(self) -> float:
        s = self.u(0.18, 0.25)
        for level in range(2):
            for i in (-1, 0, 1):
                self.toy(self.pick(FLAT_TOPPED), *self.at(2.05 * s * i), 2 * s * level, (s, s, s))
        return 4 * s

    def scatter(self) -> float:
        top = 0.0
        spots: list[tuple[float, float]] = []
        for _ in range(60):
            spot = (self.u(-1.0, 1.0), self.u(-1.0, 1.0))
            if all(math.dist(spot, other) > 0.55 for other in spots):
                spots.append(spot)
            if len(spots) == 5:
                break
        for spot in spots:
            top = max(top, self.toy(self.pick(KINDS), *self.at(*spot), 0, self.some()))
        return top

    # ---- rows

    def colors(
        self, saturation: tuple[float, float], value: tuple[float, float], contrast: float = 0.6
    ) -> tuple[Triple, Triple]:
        """Two colours that go together, the second darker by up to `contrast`. Linear RGB (the gamma is 2)."""
        u = self.u
        # Half of all hues are near the room's own or its complement, so that a room has a mood.
        hue = self.hue + self.pick((0.0, 0.5)) + u(-0.07, 0.07) if u() < 0.5 else u()
        first = (hue, u(*saturation), u(*value))
        shift = self.pick((0.0, 0.06, 0.5 if contrast > 0.5 else -0.06))
        second = (hue + shift, first[1] * u(0.2, 1.0), first[2] * (1 - contrast * u(0.3, 1)))
        return _linear(*first), _linear(*second)

    def add(self, name: str, shape: int, place: Triple, size: Triple, material: Material, turn: float = 0.0) -> None:
        """One solid of the semantic class `name`: its centre, half sizes, and turn about the vertical."""
        m = material
        self.rows.append((
            shape, self.classes.index(name), m.glow, m.gloss, m.pattern, *place, *size, math.cos(turn), math.sin(turn),
            *m.frequency, *m.colors[0], *m.colors[1],
        ))  # fmt: skip


def _linear(hue: float, saturation: float, value: float) -> Triple:
    r, g, b = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return r * r, g * g, b * b
