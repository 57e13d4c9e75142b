"""Sections of settings: which one is chosen, how they are changed and compared, and errors that name the key.

A section is a frozen model; a config is one that holds others. Where an experiment has a choice (how tokens are masked,
which head, which data), the section is one of several, each with settings and defaults of its own. Imports no torch.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import core_schema

from .settings import SHOWN, ConfigError, nearest, plain, shown, unknown_key

AnyModel = TypeVar("AnyModel", bound=BaseModel)

TOLD = 5  # mistakes in a message


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


@functools.cache
def defaults_of(cls: type[Section]) -> Mapping[str, Any]:
    """Every setting of a section, as plain values; not to be changed."""
    return plain(cls.model_validate({}).model_dump())


# ---- sections that choose


@dataclass(frozen=True)
class Choice:
    """In the annotation of a union of sections: the section is the one whose literal stands at `key`; where none has
    it, the one that is open to any."""

    key: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        sections = get_args(source) or (source,)

        def tag(value: Any) -> str | None:
            if not isinstance(value, Mapping | BaseModel):
                return None
            found = value.get(self.key) if isinstance(value, Mapping) else getattr(value, self.key, None)
            section = self.among(sections, found)
            return section.__name__ if section else None

        return core_schema.tagged_union_schema({s.__name__: handler.generate_schema(s) for s in sections}, tag)

    def among(self, sections: tuple[type[Section], ...], value: Any) -> type[Section] | None:
        """The section that `value` at the key chooses."""
        closed, open_ = self._literals(sections)
        return closed.get(value, open_) if isinstance(value, str) else open_

    def valid(self, sections: tuple[type[Section], ...]) -> list[str]:
        closed, open_ = self._literals(sections)
        return [*closed, *(["any other"] if open_ else [])]

    @functools.cache  # noqa: B019 - a choice is one of a few, and lives as long as its model
    def _literals(self, sections: tuple[type[Section], ...]) -> tuple[dict[str, type[Section]], type[Section] | None]:
        """({literal: its section}, the section that has none)."""
        literals = {section: get_args(section.model_fields[self.key].annotation) for section in sections}
        closed = {value: section for section, values in literals.items() for value in values}
        return closed, next((section for section, values in literals.items() if not values), None)


@functools.cache
def choice_of(cls: type[BaseModel], name: str) -> tuple[Choice | None, tuple[type[Section], ...]]:
    """(what chooses, the sections that a field can hold): (None, one) of an ordinary section, (None, ()) of a value."""
    field = cls.model_fields[name]
    sections = tuple(s for s in (*get_args(field.annotation), field.annotation) if _is_section(s))
    return next((item for item in field.metadata if isinstance(item, Choice)), None), sections


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _get(values: Any, key: str) -> Any:
    return values.get(key) if isinstance(values, Mapping) else None


def _held(cls: type[BaseModel], name: str, values: Mapping[str, Any]) -> type[Section]:
    """The section that the field `name` has, where its values are `values`."""
    choice, sections = choice_of(cls, name)
    return (choice and choice.among(sections, _get(values, choice.key))) or sections[0]


def changed(cls: type[Section], values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, which are all settings of `cls`, with those of `changes`: dotted keys, or of a section a mapping that
    names some. A section that is chosen anew starts from its defaults. Raises ConfigError for a key that is not there.
    """
    return _changed(cls, values, changes, "", "")


def _changed(
    cls: type[Section], values: Mapping[str, Any], changes: Mapping[str, Any], within: str, chosen: str
) -> dict[str, Any]:
    """`within`: the key of this section and a dot; `chosen`: by which setting it is the one that it is."""
    result, inner = dict(values), dict[str, dict[str, Any]]()
    for dotted, value in changes.items():
        key, dot, rest = str(dotted).partition(".")
        if key not in values:
            raise ConfigError(unknown_key(f"{within}{key}", key, list(values), chosen))
        if dot and not isinstance(values[key], dict):
            name = f"{within}{key}"
            raise ConfigError(
                f"unknown key {shown(f'{within}{dotted}')}: {name} is a value, not a section; write {name}=VALUE"
            )
        if dot:
            inner.setdefault(key, {})[rest] = value
        elif isinstance(values[key], dict) and isinstance(value, Mapping):
            inner.setdefault(key, {}).update(value)
        else:
            result[key] = value
    for key, section_changes in inner.items():
        section, before, by = _held(cls, key, values[key]), values[key], ""
        choice, sections = choice_of(cls, key)
        if choice:
            now = section_changes.get(choice.key, before[choice.key])
            by = f"{within}{key}.{choice.key}={now}"
            other = choice.among(sections, now)
            if other and other is not section:
                section, before = other, _start(cls, key, other)
        result[key] = _changed(section, before, section_changes, f"{within}{key}.", by)
    return result


def usual_section(cls: type[BaseModel], name: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The defaults of the section that the field `name` has, where its values are `values`."""
    return _start(cls, name, _held(cls, name, values))


def _start(cls: type[BaseModel], name: str, section: type[Section]) -> Mapping[str, Any]:
    """The defaults of a section in the field `name`."""
    usual = cls.model_fields[name].default
    return plain(usual.model_dump()) if type(usual) is section else defaults_of(section)


def difference(cls: type[Section], values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What in `values` differs from `base`, both all settings of `cls`: `changed` makes the one of the other. Of a
    section that is chosen otherwise: what chooses it, and what differs from its defaults."""
    delta: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and choice_of(cls, key)[1]:
            section, choice = _held(cls, key, value), choice_of(cls, key)[0]
            if section is _held(cls, key, base[key]):
                inner = difference(section, value, base[key])
            else:
                assert choice
                inner = {choice.key: value[choice.key]} | difference(section, value, _start(cls, key, section))
            if inner:
                delta[key] = inner
        elif value != base[key]:
            delta[key] = value
    return delta


# ---- validation, and its errors


def validate(cls: type[AnyModel], values: Mapping[str, Any]) -> AnyModel:
    """`cls(**values)`, with errors that name the key and the nearest valid one."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        told = [_explain(cls, e) for e in error.errors()]
        more = [f"and {len(told) - TOLD} settings more"] if len(told) > TOLD else []
        raise ConfigError("\n".join(told[:TOLD] + more)) from None


def _explain(cls: type[BaseModel], error: Mapping[str, Any]) -> str:
    path, holder, field = _place(cls, error["loc"])
    key = ".".join(path)
    found = error["input"]
    if error["type"] == "extra_forbidden":
        return unknown_key(key, path[-1], _keys(holder))
    choice, sections = choice_of(holder, field) if field else (None, ())
    if error["type"].startswith("union_tag"):
        assert choice
        valid = choice.valid(sections)
        if isinstance(found, Mapping):
            value = found.get(choice.key)
            hint = nearest(str(value), valid)
            return f"{key}.{choice.key}: expected one of {', '.join(valid)}, found {shown(value)}{hint}"
        return f"{key} is a section, chosen by its {choice.key} ({', '.join(valid)}); found {shown(found)}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{key} is a section, with the keys {', '.join(_keys(sections[0]))}; found {shown(found)}"
    message = error["msg"].removeprefix("Value error, ")
    secret = any(field.repr is False and key.startswith(name) for name, field in cls.model_fields.items())
    told = "" if secret or isinstance(found, Mapping | BaseModel) else f", found {shown(found)}"
    return f"{key[:SHOWN]}: {message}{told}" if key else message


def _place(cls: type[BaseModel], loc: Iterable[str | int]) -> tuple[list[str], type[BaseModel], str]:
    """(the key without the tags of choices, the section that has its last part, the field of that; empty: none)."""
    path: list[str] = []
    holder, field = cls, ""
    sections: dict[str, type[BaseModel]] = {}  # that the next part may name, of a choice
    for part in map(str, loc):
        if part in sections:
            holder, field, sections = sections[part], "", {}
            continue
        if field and (inner := choice_of(holder, field)[1]):
            holder = inner[0]
        path.append(part)
        field = part if part in holder.model_fields else ""
        choice, inner = choice_of(holder, field) if field else (None, ())
        sections = {section.__name__: section for section in inner} if choice else {}
    return path, holder, field


def _keys(cls: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in cls.model_fields.items()]
