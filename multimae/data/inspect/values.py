"""What is wrong with the numbers in files: units of depth, classes, values that mean nothing. No torch."""

from collections.abc import Sequence

import numpy as np

from ...config import Model
from ...modalities import FIELDS, IGNORE, SOURCES
from ..about import FILE
from .expected import IN_METRES, NOBODY, Classes, Expected, Unit
from .findings import EXAMPLES, Findings, Level
from .survey import NUMBERS, Survey, Values

FULL = NUMBERS - 1
MILLIMETRE = 0.001
# What one more in a file of depth may mean, in metres: conventions of data sets that people have.
UNITS = {
    "millimetres": MILLIMETRE,
    "65535 = 128 m": 128 / FULL,
    "65536 = 10 m (NYUv2)": 10 / 65536,  # of MultiMAE's authors
    "1/256 m (KITTI)": 1 / 256,  # https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction
    "1/512 m (Taskonomy)": 1 / 512,  # https://github.com/StanfordVL/taskonomy/tree/master/data
    "1/5000 m (TUM)": 1 / 5000,  # https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats
}
NEAR, FAR = 0.3, 60.0  # metres: between them is the median of what people photograph, desks and streets
# Of a sensor's millimetres, the farthest hundredth: a room to a hall. As 65535 = 128 m it looks like a depth, too.
SENSOR = range(800, 20_000)
UNSAID = "nobody says its unit"
SATURATED = 0.01  # of the pixels
ZEROS = 0.3  # of the pixels: class 0 is hardly so rare, or so frequent, where it is a class
INVERTED = 0.4  # mean correlation of depth with how far down it is: what is lower is nearer, mostly
MANY = 20  # files, before their mean is worth a word


def judge_values(found: Survey, split: str, expected: Expected, findings: Findings) -> None:
    for name, values in found.values.items():
        place, kind = f"{split}/{name}", FIELDS[name]
        if name in IN_METRES:
            _judge_depth(place, name, values, expected, findings)
        if kind.channels is None:
            _judge_classes(place, name, values, expected, findings)
        elif kind.files.modes == ("L",):
            findings.among(
                Level.NOTE, place, values.files, "files looked into", "have no valid pixel at all",
                "leave those samples out", values.empty.first, values.empty.count,
            )  # fmt: skip
        else:
            findings.among(
                Level.WRONG, place, values.files, "files looked into", "hold one value everywhere",
                "nothing can be learnt from them: make them anew, or remove the samples",
                [*values.flat.first, *values.empty.first][:EXAMPLES], values.flat.count + values.empty.count,
            )  # fmt: skip


# ---- depth


def metres(values: Values, unit: float) -> list[float]:
    """The 1 %, 50 % and 99 % quantiles of a depth; empty where nothing is known."""
    return [unit * number for number in values.quantiles(0.01, 0.5, 0.99)]


def _judge_depth(place: str, name: str, values: Values, expected: Expected, findings: Findings) -> None:
    unit, field_unit = expected.units[name], f"data.{SOURCES[name]}_unit"
    if not (raw := values.quantiles(0.01, 0.5, 0.99)):
        return
    nobody = unit.by == NOBODY and not any(  # once is enough
        finding.place.endswith(f"/{name}") and UNSAID in finding.what for finding in findings.found.values()
    )
    # What a network predicted is of no certain scale, and pre-training standardises each image: less is at stake.
    level = Level.WRONG if name == SOURCES[name] and expected.metric else Level.NOTE
    low, median, high = (unit.metres * number for number in raw)
    reading = f"its median is {median:.3g} m (1% to 99%: {low:.3g} to {high:.3g} m)"
    if not NEAR <= median <= FAR:
        fits = [
            f"{what}: {raw[1] * other:.3g} m, {field_unit}={other:.6g}"
            for what, other in UNITS.items()
            if NEAR <= raw[1] * other <= FAR
        ]
        findings.add(
            level, place, f"read as {_said(unit)}, {reading}, which hardly is what was seen",
            _state(name, field_unit, None) + ("; the median would be, in" if fits else ""), fits,
        )  # fmt: skip
    elif nobody and raw[2] in SENSOR:
        as_mm = [MILLIMETRE * number for number in raw]
        findings.add(
            level, place,
            f"{UNSAID}. Read as {_said(unit)}, {reading}; if it is in millimetres, as most sensors write, "
            f"that is {unit.metres / MILLIMETRE:.3g} times too far: the median is {as_mm[1]:.3g} m ({as_mm[0]:.3g} to "
            f"{as_mm[2]:.3g} m)",
            _state(name, field_unit, MILLIMETRE) + f"; if it is right as it is, say so: unit {unit.metres!r}",
        )  # fmt: skip
    elif nobody:
        findings.add(Level.NOTE, place, f"{UNSAID}; read as {_said(unit)}, {reading}", _state(name, field_unit, None))
    total = values.pixels.sum()
    if full := int(values.pixels[FULL]):
        findings.add(
            level if full > SATURATED * total else Level.NOTE, place,
            f"{full / total:.1%} of the pixels, in {values.images[FULL]:,} of {values.files:,} files looked into, hold "
            f"65535: that often means unknown, and is read as {FULL * unit.metres:.4g} m",
            "write 0 where depth is unknown; or say by mask_valid which pixels are known, which depth transfers heed",
        )  # fmt: skip
    slopes = values.slopes
    if len(slopes) >= MANY and np.mean(slopes) > INVERTED:
        findings.add(
            Level.NOTE, place, f"what lies lower is farther (correlation {np.mean(slopes):.2f}), "
            "where the ground usually is near: this may be disparity or inverse depth",
            "look: `multimae data show`; depth is baseline x focal length / disparity",
        )  # fmt: skip


def _said(unit: Unit) -> str:
    by = f" ({unit.by})" if unit.by else ""
    return ("65535 = 128 m" if unit.metres == 128 / FULL else f"{unit.metres:.6g} m a step") + by


def _state(name: str, setting: str, unit: float | None) -> str:
    value = f"{unit:g}" if unit else "METRES"
    return f"say it: {setting}={value} (--set), or in {FILE}: fields: {{{name}: {{unit: {value}}}}}"


# ---- classes


def _judge_classes(place: str, name: str, values: Values, expected: Expected, findings: Findings) -> None:
    (there,) = values.pixels.nonzero()
    labels = sorted(set(there.tolist()) - {IGNORE})
    usual = getattr(Model(), f"{SOURCES[name]}_classes")
    classes = expected.classes.get(name) or Classes(usual, 0, NOBODY, setting=f"model.{SOURCES[name]}_classes")
    known = [label for label in labels if classes.first <= label <= classes.last]
    by = f"{classes.by} says" if classes.by else "nobody says how many; pre-training reads, unless told otherwise,"
    says = f"{by} {classes.count} classes, {classes.first} to {classes.last}"
    zero = int(values.pixels[0]) / max(values.pixels.sum(), 1)
    if beyond := [label for label in labels if label > classes.last]:
        held = f"hold {_numbers(beyond)}, and {says}"
        if classes.by and beyond == [classes.count] and not classes.first:
            lacks = "0 never occurs, so that it seems to count from 1" if not zero else (
                f"0 covers {zero:.1%}: it may count from 1, 0 being unlabelled, or have a class more"
            )  # fmt: skip
            held, mend = f"{held}. {lacks}", f"if it counts from 1: {_from_one(name, classes)}"
            mend += f"; if there is a class more: {_counted(classes, beyond[-1])}" if zero else ""
        else:
            mend = f"convert the labels, or say how many there are: {_counted(classes, beyond[-1])}"
        findings.among(
            Level.STOPS, place, values.files, "files looked into", held, mend, [],
            int(values.images[beyond].max()),
        )  # fmt: skip
    elif classes.first and zero > ZEROS and not values.pixels[classes.last]:
        findings.add(
            Level.WRONG, place, f"0 covers {zero:.1%} and is read as unlabelled, and {classes.last} never occurs: "
            "it may count from 0, its classes being read as the ones before them",
            f"if it does: --set zero_is_unlabelled=false, or `first: 0` for {name} in {FILE}",
        )  # fmt: skip
    elif classes.by and not classes.first and not zero and len(known) > 1 and values.files >= MANY:
        findings.add(
            Level.NOTE,
            place,
            "0 never occurs: class 0 is rare, or it counts from 1",
            f"if it does: {_from_one(name, classes)}",
        )
    if not known and not beyond:
        findings.add(
            Level.STOPS, place, f"no pixel has a class: all are {' or '.join(map(str, there))}, and {says}",
            "give labels, or see to where they count from (zero_is_unlabelled)",
        )  # fmt: skip
    if values.pixels[IGNORE] and not classes.unlabelled:
        findings.among(
            Level.STOPS, place, values.files, "files looked into", f"have pixels without a label ({IGNORE})",
            f"--set model.{SOURCES[name]}_unlabelled=true", [], int(values.images[IGNORE]),
        )  # fmt: skip
    if classes.by and len(known) < classes.count and not beyond:
        never = [number for number in range(classes.first, classes.last + 1) if not values.pixels[number]]
        findings.among(
            Level.NOTE, place, classes.count, "classes", "occur in no file looked into", "look at more: --deep",
            map(classes.name, never), len(never),
        )  # fmt: skip


def _from_one(name: str, classes: Classes) -> str:
    in_file = f"`first: 1` for {name} in {FILE}"
    return f"--set zero_is_unlabelled=true, or {in_file}" if classes.truth or classes.by != FILE else in_file


def _counted(classes: Classes, last: int) -> str:
    count = last + 1 - classes.first
    return {"--classes": f"--classes {count}", FILE: f"`classes` in {FILE}"}.get(
        classes.by, f"--set {classes.setting}={count}"
    )


def _numbers(numbers: Sequence[int]) -> str:
    return f"class {numbers[0]}" if len(numbers) == 1 else f"classes up to {numbers[-1]} ({len(numbers)} of them)"
