"""The kinds of settings: numbers, names and text that mean what they look like, and the sections that hold them.

A yes or no is no number, and infinity only where it is allowed; bounds are far above what a study needs and far below
what a machine can carry. Imports no torch.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .settings import SHOWN, ConfigError, shown, unknown_key

AnyModel = TypeVar("AnyModel", bound=BaseModel)

# As a person writes it in quotes or on a command line. ASCII, and few enough digits for any number that is meant.
WHOLE = re.compile(r"[-+]?[0-9]{1,40}(_[0-9]{1,10}){0,9}")
DECIMAL = re.compile(r"[-+]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(e[-+]?[0-9]{1,3})?|[-+]?\.?inf")
TOLD = 5  # mistakes in a message
LONGEST = 10_000  # characters of a text


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    if isinstance(value, str):
        text = value.strip().lower()
        if not WHOLE.fullmatch(text) and not DECIMAL.fullmatch(text):
            raise ValueError("expected a number")
        value = int(text) if WHOLE.fullmatch(text) else float(text.replace(".inf", "inf"))
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("expected a number below 2^63")
    return value or 0 if isinstance(value, float) else value  # -0.0 is 0.0, or equal experiments would be told apart


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters, in one line")
    return text


def _name(text: str) -> str:
    if text != text.strip() or text in (".", "..") or "/" in text or "=" in text:
        raise ValueError("expected a name: not a path, no =, no space at its ends")
    return text


def _path(value: Any) -> Any:
    """With ~ filled in, which a shell leaves alone after `NAME=`."""
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    if not value.strip() or not value.isprintable():
        raise ValueError("expected a path")
    return os.path.expanduser(value)


Unbounded = Annotated[float, BeforeValidator(_number)]  # infinity is one, and NaN until it is compared
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Share = Annotated[Number, Field(ge=0, lt=1)]  # a fraction that must leave something
Count = Annotated[Whole, Field(ge=1, le=10**9)]
Size = Annotated[Whole, Field(ge=1, le=65_536)]  # of a part of a model or an image
Text = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_printable)]
Name = Annotated[Text, AfterValidator(_name)]
PathTo = Annotated[Path, BeforeValidator(_path)]


def between(least: float, most: float) -> AfterValidator:
    """Two numbers in order, within bounds."""

    def check(ends: tuple[float, float]) -> tuple[float, float]:
        if not least <= ends[0] <= ends[1] <= most:
            raise ValueError(f"expected two numbers, the smaller first, from {least:g} to {most:g}")
        return ends

    return AfterValidator(check)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def validate(cls: type[AnyModel], values: Mapping[str, Any]) -> AnyModel:
    """`cls(**values)`, with errors that name the key and the nearest valid one."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        told = [_explain(cls, e) for e in error.errors()]
        more = [f"and {len(told) - TOLD} settings more"] if len(told) > TOLD else []
        raise ConfigError("\n".join(told[:TOLD] + more)) from None


def _explain(cls: type[BaseModel], error: Mapping[str, Any]) -> str:
    *parents, last = error["loc"] or ("",)
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown_key(key, str(last), _keys(_section(cls, parents)))
    if error["type"] in ("model_type", "model_attributes_type"):
        keys = ", ".join(_keys(_section(cls, error["loc"])))
        return f"{key} is a section, with the keys {keys}; found {shown(error['input'])}"
    message = error["msg"].removeprefix("Value error, ")
    secret = any(field.repr is False and key.startswith(name) for name, field in cls.model_fields.items())
    found = "" if secret or isinstance(error["input"], Mapping | BaseModel) else f", found {shown(error['input'])}"
    return f"{key[:SHOWN]}: {message}{found}" if key else message


def _section(cls: Any, loc: Iterable[str]) -> type[BaseModel]:
    """In `loc`, the kind of a section that chooses follows its name; where none is told, its first stands for it."""
    for name in loc:
        cls = _kinds(cls)[name] if get_args(cls) else cls.model_fields[name].annotation
    return next(iter(_kinds(cls).values())) if get_args(cls) else cls


def _kinds(union: Any) -> dict[str, type[BaseModel]]:
    return {kind.model_fields["kind"].default: kind for kind in get_args(union)}


def _keys(cls: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in cls.model_fields.items()]
