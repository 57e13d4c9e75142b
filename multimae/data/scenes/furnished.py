"""Rooms of a home, composed as `composing.py` composes rooms with toys: what the scene is about is a bed, a sofa, a
table, a desk or shelves, and furniture stands along the walls. Its classes begin with those of the rooms with toys."""

import math

from . import rendering
from .composing import KINDS, SEMSEG, Composer, Material, Triple

FURNITURE = ("bed", "chair", "sofa", "cabinet", "shelf", "door", "picture", "plant")
ROOMS = ("bedroom", "living room", "dining room", "office", "storage")

Spot = tuple[float, float]

RADII = {  # of the floor that a piece needs
    "chair": 0.4, "plant": 0.35, "lamp": 0.3, "toy": 0.35, "column": 0.35, "table": 0.75, "cabinet": 0.6, "shelf": 0.55,
    "sofa": 1.1,
}  # fmt: skip
BACKS = {"cabinet": 0.28, "shelf": 0.23, "sofa": 0.44}  # metres from its middle to the wall behind it


class Home(Composer):
    """How many pieces a room has beside those that it is about is a range of `pieces`."""

    classes = (*SEMSEG, *FURNITURE)
    labels: tuple[str, ...] = ROOMS
    numbers = 1536
    sides = (2.6, 4.2)
    pieces: tuple[int, int] = (2, 5)

    # ---- the room

    def room(self) -> None:
        self.occupied: set[int] = set()  # walls that have a window
        super().room()
        for side in range(4):
            if side not in self.occupied and self.u() < 0.7:
                self.hang(self.pick(("door", "picture", "picture")), side)

    def window(self, side: int) -> None:
        self.occupied.add(side)
        super().window(side)

    def hang(self, name: str, side: int) -> None:
        """A door or a picture on the wall `side`, numbered as windows are."""
        u = self.u
        if name == "door":
            across, tall, along = u(0.4, 0.5), u(0.95, 1.05), u(-0.6, 0.6)
            z, material = tall, self.wood(gloss=0.2)
        else:
            across, tall, along, z = u(0.25, 0.6), u(0.2, 0.45), u(-0.6, 0.6), u(1.4, 1.8)
            colors = self.colors(saturation=(0.2, 0.9), value=(0.3, 0.95), contrast=0.8)
            pattern = self.pick((rendering.MARBLE, rendering.CHECKS, rendering.DOTS))
            f = int(u(1, 4)) + 0.5
            material = Material(colors, pattern, (f, f, f), gloss=0.0)
        sign, (hx, hy) = 2 * (side % 2) - 1, self.half
        if side < 2:
            self.add(name, rendering.BOX, (sign * hx, along * hy, z), (0.03, across, tall), material)
        else:
            self.add(name, rendering.BOX, (along * hx, sign * hy, z), (across, 0.03, tall), material)

    def furniture(self, camera: Triple) -> None:
        low, high = self.pieces
        for _ in range(low + int(self.u(0, high - low + 1))):
            kind = self.piece()
            for _ in range(6):
                x, y = self.by_a_wall(BACKS[kind]) if kind in BACKS else self.somewhere(RADII[kind])
                if self.free(x, y, RADII[kind], camera):
                    self.taken.append((x, y, RADII[kind]))
                    getattr(self, f"_{kind}")(x, y)
                    break

    def piece(self) -> str:
        return self.pick((*RADII, "cabinet", "shelf", "chair"))

    def somewhere(self, radius: float) -> Spot:
        self.heading = self.u(0, 6.3)
        x, y = (self.u(-1, 1) * min(half - radius - 0.1, 2.6) for half in self.half)
        return x, y

    def by_a_wall(self, back: float) -> Spot:
        """With its back, which is across its heading, to a wall."""
        side, along = int(self.u(0, 4)), self.u(-0.75, 0.75)
        self.heading = (math.pi / 2, -math.pi / 2, math.pi, 0.0)[side]
        sign, (hx, hy) = 2 * (side % 2) - 1, self.half
        return (sign * (hx - back), along * hy) if side < 2 else (along * hx, sign * (hy - back))

    # ---- pieces

    def wood(self, gloss: float | None = None) -> Material:
        colors = self.colors(saturation=(0.1, 0.6), value=(0.3, 0.9), contrast=0.3)
        pattern = self.pick((rendering.PLAIN, rendering.PLAIN, rendering.MARBLE))
        f = int(self.u(1, 4)) + 0.5
        return Material(colors, pattern, (f, f, f), self.pick((0.0, 0.2, 0.6)) if gloss is None else gloss)

    def fabric(self) -> Material:
        colors = self.colors(saturation=(0.1, 0.8), value=(0.4, 0.95), contrast=0.4)
        pattern = self.pick((rendering.PLAIN, rendering.PLAIN, rendering.STRIPES, rendering.CHECKS))
        f = int(self.u(2, 5)) + 0.5
        return Material(colors, pattern, (f, f, f), gloss=0)

    def part(self, name: str, spot: Spot, offset: Spot, z: tuple[float, float], half: Spot, material: Material) -> None:
        """A box from height z[0] to z[1], `offset` along and across the heading from `spot`."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        x, y = spot[0] + cos * offset[0] - sin * offset[1], spot[1] + sin * offset[0] + cos * offset[1]
        size = (half[0], half[1], (z[1] - z[0]) / 2)
        self.add(name, rendering.BOX, (x, y, (z[0] + z[1]) / 2), size, material, self.heading)

    def around(self, spot: Spot, along: float, across: float) -> Spot:
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return spot[0] + cos * along - sin * across, spot[1] + sin * along + cos * across

    def thing(self, spot: Spot, z: float, low: float = 0.08, high: float = 0.15) -> None:
        """A toy that lies on a piece of furniture."""
        self.toy(self.pick(KINDS), *spot, z, self.some(low, high))

    def _chair(self, x: float, y: float) -> None:
        u, material = self.u, self.fabric()
        wide, seat = u(0.2, 0.26), u(0.38, 0.48)
        self.part("chair", (x, y), (0, 0), (seat - 0.08, seat), (wide, wide), material)
        self.part("chair", (x, y), (0, wide - 0.03), (seat, seat + u(0.4, 0.55)), (wide, 0.035), material)
        leg = (seat - 0.08) / 2
        self.add("chair", rendering.CYLINDER, (x, y, leg), (0.06, 0.06, leg), self.wood())

    def _sofa(self, x: float, y: float) -> None:
        u, material = self.u, self.fabric()
        wide, seat, back = u(0.7, 0.95), u(0.36, 0.44), u(0.7, 0.85)
        self.part("sofa", (x, y), (0, 0), (0, seat), (wide, 0.4), material)
        self.part("sofa", (x, y), (0, 0.34), (seat, back), (wide, 0.09), material)
        for end in (-1, 1):
            self.part("sofa", (x, y), (end * (wide + 0.08), 0), (0, seat + 0.18), (0.09, 0.42), material)

    def _bed(self, x: float, y: float) -> None:
        u, wood = self.u, self.wood()
        long, wide, tall = u(0.9, 1.05), u(0.5, 0.85), u(0.4, 0.55)
        self.part("bed", (x, y), (0, 0), (0, tall - 0.15), (long, wide), wood)
        self.part("bed", (x, y), (0, 0), (tall - 0.15, tall), (long - 0.03, wide - 0.03), self.fabric())
        self.part("bed", (x, y), (-long, 0), (0, tall + u(0.3, 0.6)), (0.05, wide), wood)
        self.part("bed", (x, y), (-long + 0.3, 0), (tall, tall + 0.12), (0.2, wide * 0.7), self.fabric())

    def _cabinet(self, x: float, y: float) -> None:
        u, wood = self.u, self.wood()
        wide, tall = u(0.35, 0.5), self.pick((u(0.6, 1.0), u(1.5, 2.1)))
        self.part("cabinet", (x, y), (0, 0.02), (0, tall), (wide, 0.25), wood)
        self.part("cabinet", (x, y), (0, 0), (tall, tall + 0.05), (wide + 0.03, 0.28), wood)
        if tall < 1.1:
            self.thing(self.around((x, y), u(-0.2, 0.2), 0), tall + 0.05)

    def _shelf(self, x: float, y: float) -> None:
        u, wood = self.u, self.wood()
        wide, boards, gap = u(0.35, 0.5), 2 + int(u(0, 2)), u(0.4, 0.5)
        tall = boards * gap
        self.part("shelf", (x, y), (0, 0.2), (0, tall), (wide, 0.02), wood)
        for end in (-1, 1):
            self.part("shelf", (x, y), (end * wide, 0), (0, tall), (0.025, 0.22), wood)
        for board in range(boards):
            z = board * gap + 0.05
            self.part("shelf", (x, y), (0, 0), (z, z + 0.04), (wide, 0.22), wood)
            if u() < 0.8:
                self.thing(self.around((x, y), u(-0.2, 0.2), -0.02), z + 0.04, 0.09, 0.14)

    def _plant(self, x: float, y: float) -> None:
        u = self.u
        pot, r = u(0.12, 0.2), u(0.2, 0.35)
        self.add("plant", rendering.CYLINDER, (x, y, pot), (pot, pot, pot), self.wood(gloss=0.3))
        green = ((u(0.02, 0.1), u(0.2, 0.4), u(0.02, 0.1)), (0.01, u(0.05, 0.12), 0.01))
        leaves = Material(green, rendering.MARBLE, (2.5, 2.5, 2.5), gloss=0)
        self.add("plant", rendering.SPHERE, (x, y, 2 * pot + 0.7 * r), (r, r, r), leaves)

    # ---- what a room is about: one method for each of ROOMS; each returns the height of its top

    def bedroom(self) -> float:
        self._bed(0, 0)
        self.at(1.0, 0.3)
        side = self.pick((-1, 1))
        spot = self.at(-0.8, side * 1.2)
        self.part("cabinet", spot, (0, 0), (0, 0.5), (0.2, 0.2), self.wood())
        self.thing(spot, 0.5)
        return 0.8

    def living_room(self) -> float:
        facing = self.heading
        self._sofa(*self.at(0, 0.5))
        top = self._table(*self.at(0, -0.7))
        self.thing(self.at(self.u(-0.2, 0.2), -0.7), top, 0.08, 0.1)
        if self.u() < 0.6:
            spot = self.at(self.pick((-1.2, 1.2)), -0.3)
            self.heading += self.u(1, 5)
            self._chair(*spot)
        self.heading = facing
        return 0.8

    def dining_room(self) -> float:
        facing, top = self.heading, self._table(0, 0)
        for i in (-1, 1):
            self.thing(self.at(0.25 * i), top)
        turns = [angle for angle in (0.0, 0.5, 1.0, 1.5) if self.u() < 0.75] or [0.0]
        for angle in turns:
            spot = self.at(0.85 * math.sin(angle * math.pi), 0.85 * math.cos(angle * math.pi))
            self.heading = facing - angle * math.pi + self.u(-0.2, 0.2)
            self._chair(*spot)
            self.heading = facing
        return top + 0.3

    def office(self) -> float:
        u, wood, facing = self.u, self.wood(), self.heading
        tall, wide = u(0.65, 0.75), u(0.6, 0.8)
        self.part("table", (0, 0), (0, 0), (tall - 0.05, tall), (wide, 0.38), wood)
        for end in (-1, 1):
            self.part("table", (0, 0), (end * (wide - 0.05), 0), (0, tall - 0.05), (0.04, 0.34), wood)
        screen = Material(((0.01, 0.012, 0.015),) * 2, gloss=0.7)
        self.part("crate", (0, 0), (0, 0.15), (tall + 0.1, tall + 0.5), (0.32, 0.03), screen)
        self.part("crate", (0, 0), (0, 0.15), (tall, tall + 0.1), (0.05, 0.05), screen)
        for i in (-1, 1):
            self.thing(self.at(0.45 * i, u(-0.15, 0.1)), tall, 0.06, 0.1)
        spot = self.at(u(-0.2, 0.2), -0.6)
        self.heading += math.pi + u(-0.5, 0.5)
        self._chair(*spot)
        self.heading = facing
        return tall + 0.4

    def storage(self) -> float:
        spots = [self.at(-0.5), self.at(0.5)]
        for spot in spots:
            getattr(self, self.pick(("_shelf", "_shelf", "_cabinet")))(*spot)
        for _ in range(2):
            self.thing(self.at(self.u(-0.7, 0.7), -0.55), 0, 0.12, 0.2)
        return 1.2
