"""The embedded data sets, each in place of one or two of the paper's, as different as those are.

| name | in place of | rooms | classes | depth |
|---|---|---|---|---|
| scenes | ImageNet, ADE20K | with toys | 14 | complete |
| scenes_hypersim | Hypersim | of homes, crowded, lit from one side | 9 | complete |
| scenes_nyuv2 | NYUv2 | of homes, dark, with a camera's noise | 11, and unlabelled parts | with a Kinect's holes |
| scenes_taskonomy | Taskonomy | of homes, half of them with a group of toys | 22 | complete |
| scenes_labeller | what pseudo labels' networks learnt from | with toys | 14 | complete |

Each draws from random numbers of its own, so no scene of one occurs in another.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...config import SCENES
from ...modalities import IGNORE
from . import composing, sensors, targets
from .composing import SEMSEG, Composer
from .furnished import ROOMS, Home
from .rendering import Scene, Shot, paint

UNLABELLED = "(unlabelled)"
TOYS = dict.fromkeys(composing.TOYS, "object")
# What a labeller that knows the classes of the rooms with toys calls what it has not seen there.
CALLED = {
    "bed": "block", "chair": "block", "sofa": "block", "cabinet": "block", "shelf": "crate", "door": "wall",
    "picture": "wall", "plant": "ball",
}  # fmt: skip


ROUND = {"block": "tin", "crate": "drum"}


class Crowded(Home):
    pieces = (4, 8)
    sides = (3.0, 5.0)


class Building(Home):
    """With toys, half of whose boxes are round: there is hardly a curved surface on furniture."""

    labels = (*composing.LABELS, *ROOMS)
    pieces = (3, 6)

    def toy(self, kind: str, x: float, y: float, z: float, size: composing.Triple) -> float:
        return super().toy(ROUND.get(kind, kind) if self.u() < 0.5 else kind, x, y, z, size)

    def piece(self) -> str:
        return self.pick(("column", "lamp", "plant", "toy")) if self.u() < 0.5 else super().piece()


@dataclass(frozen=True)
class StandIn:
    """One embedded data set. `render` gives what `rendering.render` does, of its scenes and as its camera sees them."""

    name: str
    version: int  # of everything that changes a pixel; part of the cache's name and of the fingerprint
    composer: type[Composer] = Home
    called: Mapping[str, str] = field(default_factory=dict)  # a thing -> its class, where that has another name
    classes: tuple[str, ...] = Home.classes
    ambient: float = 1.0  # light from everywhere, as a part of what there is in a room with toys,
    light: float = 1.0  # and from the lamp
    grain: float = 0.0  # of photographs, in 255ths
    kinect: bool = False  # depth has the holes of a Kinect's, and labels are drawn by hand

    @property
    def labels(self) -> Sequence[str]:
        return self.composer.labels

    @property
    def own(self) -> tuple[str, ...]:
        """Pseudo labels that are not made of the truth: a labeller knows other classes, a network leaves no holes."""
        return ("pseudo_semseg",) * (self.classes != SEMSEG) + ("pseudo_depth",) * self.kinect

    def scene(self, split: str, index: int) -> Scene:
        """Scene `index` of `split` (train, val or test)."""
        stream = SCENES.index(self.name)
        scene = self.composer(composing.generator(split, index, stream)).compose()
        return replace(
            scene,
            ambient=scene.ambient * self.ambient,
            light_color=scene.light_color * np.float32(self.light),
            grain=self.grain,
            seed=(stream * len(composing.SPLITS) + composing.SPLITS[split], index),
        )

    def render(self, scenes: Sequence[Scene], size: int, fields: Collection[str]) -> dict[str, np.ndarray]:
        """Images (scenes, ...) of those of `fields` that are images. As `rendering.render` and `targets.targets` say;
        unknown depth is 0, unlabelled is 255. One dense target is all of them."""
        shot, dense = Shot(scenes, size), not set(targets.NAMES).isdisjoint(fields)
        wanted = {f.removeprefix("pseudo_") for f in fields} | ({"rgb"} if dense else set())
        images = paint(shot, wanted)
        if self.grain and "rgb" in images:
            images["rgb"] = sensors.grainy(images["rgb"], scenes)
        if dense or (self.kinect and "depth" in images):
            known = sensors.kinect(shot) if self.kinect else sensors.within_range(shot)
            if dense:
                images |= targets.targets(shot, images["rgb"], known)
            if self.kinect and "depth" in images:
                images["pseudo_depth"] = images["depth"]
                images["depth"] = np.where(known.reshape(images["depth"].shape), images["depth"], np.float32(0))
        if self.classes != SEMSEG and "semseg" in images:
            images["pseudo_semseg"] = _lookup(self.composer.classes, CALLED, SEMSEG)[images["semseg"]]
            images["semseg"] = _lookup(self.composer.classes, self.called, self.classes)[images["semseg"]]
            if self.kinect:
                images["semseg"] = sensors.drawn_by_hand(images["semseg"])
        return {name: image for name, image in images.items() if name in fields}


def _lookup(things: Sequence[str], called: Mapping[str, str], classes: Sequence[str]) -> np.ndarray:
    names = [called.get(thing, thing) for thing in things]
    return np.array([IGNORE if name == UNLABELLED else classes.index(name) for name in names], np.uint8)


STANDINS = {
    standin.name: standin
    for standin in (
        StandIn("scenes", composing.VERSION, Composer, classes=SEMSEG),
        StandIn(
            "scenes_hypersim",
            version=1,
            composer=Crowded,
            classes=("floor", "wall", "ceiling", "window", "seat", "table", "cabinet", "lamp", "object"),
            called=TOYS | {
                "rug": "floor", "door": "wall", "picture": "wall", "chair": "seat", "sofa": "seat", "bed": "seat",
                "shelf": "cabinet", "plant": "object", "column": "wall",
            },
            ambient=0.5,
            light=1.25,
        ),
        StandIn(
            "scenes_nyuv2",
            version=1,
            classes=(
                "floor", "wall", "ceiling", "window", "picture", "bed", "chair", "sofa", "table", "cabinet", "object",
            ),
            called=TOYS | {
                "rug": "floor", "door": UNLABELLED, "column": "wall", "lamp": "object", "shelf": "cabinet",
                "plant": UNLABELLED,
            },
            ambient=0.6,
            light=0.6,
            grain=6.0,
            kinect=True,
        ),
        StandIn("scenes_taskonomy", version=2, composer=Building),
        StandIn("scenes_labeller", composing.VERSION, Composer, classes=SEMSEG),
    )
}  # fmt: skip
assert tuple(STANDINS) == SCENES
