"""What a data set says of itself, in `dataset.yaml` beside its splits: units, class names, split sizes. No torch.

`multimae data prepare` writes it; a folder without one is what the recipe says of it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from ..config.fields import Positive, Text, Whole
from ..config.schema import Section, validate
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
    home: str = ""  # where its makers publish it
    fields: dict[str, FieldFacts] = {}  # by the name of their folder; those that need saying
    splits: dict[str, Annotated[Whole, Field(ge=0)]] = {}  # how many samples each has
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
        try:
            return validate(cls, read_mapping(file))
        except FileNotFoundError:
            return None
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
