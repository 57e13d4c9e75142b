"""What a data set says of itself, in `dataset.yaml` beside its splits: units, class names, split sizes. No torch.

`multimae data prepare` writes it; a folder without one is what the recipe says of it.
"""

import functools
import json
import math
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from ..config import Segment, TrainingConfig
from ..config.fields import Positive, Text, Whole
from ..config.schema import Section, validate
from ..config.sections import SplitName
from ..config.settings import ConfigError, read_mapping
from ..files import write_atomic
from ..modalities import FIELDS, IGNORE

FILE = "dataset.yaml"


class FieldFacts(Section):
    """Of one field of a sample, such as `depth` or `pseudo_semseg`."""

    unit: Positive | None = None  # what one more in a file means: of depth, metres
    classes: tuple[Text, ...] = ()  # names, of a class map
    first: Annotated[Whole, Field(ge=0, le=1)] = 0  # the number in a file of the first class. 1: 0 is unlabelled

    @property
    def numbers(self) -> range:
        """Of the classes, in a file. 255 is unlabelled too."""
        return range(self.first, self.first + len(self.classes))


class About(Section):
    """A data set."""

    name: Text
    home: Text | None = None  # where its makers publish it
    fields: dict[str, FieldFacts] = {}  # by the name of their folder; those that need saying
    splits: dict[SplitName, Annotated[Whole, Field(ge=0)]] = {}  # how many samples each has
    categories: dict[str, Text] = {}  # class folder -> what a person calls it
    notes: tuple[Text, ...] = ()  # what a reader should know of how it was made

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unknown := sorted(self.fields.keys() - FIELDS.keys()):
            raise ValueError(f"fields: no field of a sample is {unknown[0]}; there are {', '.join(FIELDS)}")
        for name, facts in self.fields.items():
            if len(facts.classes) > IGNORE - facts.first:
                raise ValueError(f"fields.{name}.classes: {len(facts.classes)} do not fit into 8 bits")
        return self

    def write(self, folder: Path) -> None:
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude_defaults=True))
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
        write_atomic(
            folder / FILE,
            "# What this data set says of itself; training and `multimae data check` hold it to that.\n" + text,
        )

    @classmethod
    def of(cls, folder: Path) -> "About | None":
        """What stands in a data set's folder; None where nothing does. Raises ConfigError."""
        file = folder / FILE
        if file.is_symlink() and not file.exists():
            raise ConfigError(f"{file} is a link to {file.readlink()}, which is not there; mend or remove it")
        try:
            values = read_mapping(file)
        except FileNotFoundError:
            return None
        try:
            return validate(cls, values)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None


def check(config: TrainingConfig, folder: Path) -> None:
    """Raises ConfigError where a run's settings say other than the data set in a folder does."""
    about = About.of(folder)
    for key, (given, value) in contradictions(about, config).items() if about else ():
        raise ConfigError(
            f"{key} is {given}, and {folder / FILE} says {value}: give --set {key}={value} (of a study: --set "
            f"STAGE.{key}={value}), or correct that file"
        )


def contradictions(about: About, config: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """What a run's settings say, and what the data set says, by setting; of those that differ."""
    found: dict[str, tuple[Any, Any]] = {}
    for key, value in settings(about, config).items():
        given: Any = functools.reduce(getattr, key.split("."), config)
        same = math.isclose(given, value, rel_tol=1e-6) if isinstance(value, float) else given == value
        if not same and not (key.startswith("model.") and given > value):  # classes that do not occur do no harm
            found[key] = given, value
    return found


def settings(about: About, config: TrainingConfig) -> dict[str, Any]:
    """The settings by which a run reads such a data set: units, and numbers of classes."""
    found: dict[str, Any] = {}
    for modality, source in config.sources.items():
        if (facts := about.fields.get(source)) and facts.classes:
            found[f"model.{modality}_classes"] = facts.numbers.stop
    for field in (*config.fields, getattr(config, "truth_field", "")):
        facts = about.fields.get(field)
        if facts and facts.unit and f"{field}_unit" in type(config.data).model_fields:
            found[f"data.{field}_unit"] = facts.unit
        if facts and facts.classes and isinstance(config, Segment) and field == config.truth_field:
            found |= {"classes": len(facts.classes), "zero_is_unlabelled": bool(facts.first)}
    return found
