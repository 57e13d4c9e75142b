"""What the samples of a folder should be, and who says so: `dataset.yaml`, an option, or a recipe. No torch."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...config import ConfigError, Folder, Model, RunConfig, TrainingConfig
from ...modalities import FIELDS, SOURCES
from ..about import FILE, About, contradictions
from ..listing import lacking

IN_METRES = Folder().units  # fields whose unit a data set states -> metres, where none does
NOBODY = ""


@dataclass(frozen=True)
class Unit:
    metres: float  # that one more in a file means
    by: str  # who says so, or NOBODY


@dataclass(frozen=True)
class Classes:
    """The numbers of a class map."""

    count: int
    first: int
    by: str
    names: tuple[str, ...] = ()
    unlabelled: bool = True  # whether 255 may occur
    setting: str = "classes"  # of a run, that says how many
    truth: bool = False  # it is what a run predicts, and so counts from 1 where that says zero_is_unlabelled

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    def name(self, number: int) -> str:
        index = number - self.first
        return f"{number} {self.names[index]}" if 0 <= index < len(self.names) else str(number)


@dataclass(frozen=True)
class Expected:
    units: dict[str, Unit]
    classes: dict[str, Classes]  # by field of a sample
    fields: tuple[str, ...] | None = None  # that a sample must hold; None: nobody says
    labelled: bool | None = None  # whether folders are classes; None: nobody says
    labels: int | None = None  # how many
    splits: dict[str, int] = field(default_factory=dict)  # samples of each, as `dataset.yaml` says
    reads: dict[str, int] = field(default_factory=dict)  # samples that a run asks for, of splits that it reads; 0: all
    size: int = 32  # px: what is smaller is told
    by: str = ""  # the recipe
    contradictions: tuple[tuple[str, str], ...] = ()  # (what the recipe and the data set say, what mends it)
    about: About | None = None
    metric: bool = True  # whether the unit changes what is learnt: pre-training standardises each image


def expect(
    folder: Path,
    recipe: tuple[str, RunConfig] | None = None,
    depth_unit: float | None = None,
    classes: int | None = None,
) -> Expected:
    """Raises ConfigError where an option contradicts `dataset.yaml`, or that cannot be read; and where the folder is
    none, or one split."""
    if lack := lacking(folder):
        raise ConfigError(f"{folder} {lack}: expected the folder of a data set, with a folder for each split in it")
    if held := [name for name in FIELDS if not lacking(folder / name)]:
        raise ConfigError(
            f"{folder} holds {', '.join(held)}: it is a split. Give the data set's folder: {folder.absolute().parent}"
        )
    about = About.of(folder)
    facts = about.fields if about else {}
    name, config = recipe or ("", None)
    units, numbers = {}, {}
    for of_field, standard in IN_METRES.items():
        said = facts[of_field].unit if of_field in facts else None
        if said and depth_unit and said != depth_unit and SOURCES[of_field] == of_field:
            raise ConfigError(f"--depth-unit {depth_unit:g}: {folder / FILE} says {said:g}; mend it there")
        reads = config.data.units.get(of_field) if config and isinstance(config.data, Folder) else None
        candidates = (
            (said, FILE),
            (depth_unit, "--depth-unit"),
            (reads, name if config and _metric(config) else NOBODY),
        )
        units[of_field] = next((Unit(unit, by) for unit, by in candidates if unit), Unit(standard, NOBODY))
    for of_field, kind in FIELDS.items():
        if kind.channels is not None:
            continue
        names = facts[of_field].classes if of_field in facts else ()
        first = facts[of_field].first if of_field in facts else 0
        of_run = _classes_of(of_field, name, config) if config and of_field in config.fields else None
        if names:
            if classes and classes != len(names) and SOURCES[of_field] == of_field:
                raise ConfigError(f"--classes {classes}: {folder / FILE} names {len(names)}; mend it there")
            numbers[of_field] = Classes(len(names), first, FILE, names)
            if of_run and not of_run.truth:  # a run reads it as it is: an unlabelled 0 is a class like others
                numbers[of_field] = Classes(first + len(names), 0, FILE, ("unlabelled",) * first + names)
            if of_run:
                of_file = numbers[of_field]
                numbers[of_field] = replace(
                    of_run, count=of_file.count, first=of_file.first, by=FILE, names=of_file.names
                )
        elif classes:
            numbers[of_field] = replace(of_run or Classes(classes, first, ""), count=classes, by="--classes")
        elif of_run:
            numbers[of_field] = of_run
    return Expected(
        units,
        numbers,
        fields=config.fields if config else None,
        labelled="label" in config.fields if config else (True if about and about.categories else None),
        labels=getattr(config, "classes", None) if config and "label" in config.fields else None,
        splits=about.splits if about else {},
        reads=_reads(config) if config else {},
        size=config.model.image_size // 2 if config and hasattr(config, "model") else 32,
        by=name,
        contradictions=_contradictions(about, name, config) if about and isinstance(config, TrainingConfig) else (),
        about=about,
        metric=config is None or _metric(config),
    )


def _reads(config: RunConfig) -> dict[str, int]:
    """Of embedded scenes' splits and numbers a folder need have none."""
    splits = (data.split(what) for data, what in config.reads.values() if isinstance(data, Folder))
    return {split: count or 0 for split, count in splits}


def _contradictions(about: About, name: str, config: TrainingConfig) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{name} has {key}={_shown(given)}, and {FILE} says {_shown(value)}", f"--set {key}={value}")
        for key, (given, value) in contradictions(about, config).items()
    )


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metric(config: RunConfig) -> bool:
    """Whether what a run predicts is in metres."""
    return getattr(config, "truth_field", None) in IN_METRES


def _classes_of(of_field: str, name: str, config: RunConfig) -> Classes:
    """As a run reads a class map: as its truth, or as an input or a target of pre-training."""
    modality, model = SOURCES[of_field], getattr(config, "model", Model())
    if getattr(config, "truth_field", None) == of_field:
        return Classes(config.classes, int(config.zero_is_unlabelled), name, truth=True)  # type: ignore[attr-defined]
    setting, unlabelled = f"model.{modality}_classes", getattr(model, f"{modality}_unlabelled")
    return Classes(getattr(model, f"{modality}_classes"), 0, name, unlabelled=unlabelled, setting=setting)


# ---- options


def count_of(text: str) -> int:
    """For argparse."""
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found '{text}'")
    return int(text)


def above_zero(text: str) -> float:
    """For argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected metres, such as 0.001, found '{text}'")
    return value
