"""Settings as nested mappings: compared, merged, changed by a dotted key, and errors that name the key."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


class ConfigError(ValueError):
    """A setting that cannot be used. The message names the key, what was found and what would do."""


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["masking.alpha=.inf"]` -> `{"masking.alpha": inf}`; values are YAML."""
    parsed = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"an override is written key=value, for example epochs=20; found '{text}'")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{text}: '{value}' is not a YAML value") from None
    return parsed


def read_mapping(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    """The mapping in a YAML file. Raises FileNotFoundError, and ConfigError for what is no such file."""
    try:
        values = yaml.load(path.read_text(), loader)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of an encoding, a date or a number that is none
        raise ConfigError(f"{path} is not valid YAML: {_problem(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def _problem(error: Exception) -> str:
    """What is wrong with a YAML text, and where; not the text itself, which may hold a password."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if not mark:
        return str(error) if isinstance(error, UnicodeDecodeError) else "a number or date that is none"
    # Single characters and <tokens> may be quoted; an alias or a tag may be a value that begins with * or !.
    said = re.sub(r"'(?:.|<[a-z ]+>)'|('.*')", lambda found: "'...'" if found[1] else found[0], str(error.problem))
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}; values with special characters stand in quotes"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unknown_key(key: str, last: str, valid: list[str]) -> str:
    """Says so, with the nearest valid key."""
    return f"unknown key '{key}'{nearest(last, valid)} Valid here: {', '.join(valid)}"


def nearest(name: str, valid: list[str]) -> str:
    """`; did you mean 'x'?` where one of `valid` is close to `name`, else a full stop."""
    found = difflib.get_close_matches(name, valid, n=1)
    return f"; did you mean '{found[0]}'?" if found else "."


def plain(value: Any) -> Any:
    """As YAML can hold it: no tuples, no paths."""
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def difference(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What in `values` differs from `base`, which has the same keys."""
    delta = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            if inner := difference(value, base[key]):
                delta[key] = inner
        elif value != base[key]:
            # JSON has no infinity; a string keeps the hash portable.
            delta[key] = "inf" if isinstance(value, float) and math.isinf(value) else value
    return delta


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section."""
    values = dict(base)
    for key, value in changes.items():
        inner = base.get(key)
        values[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return values


def set_dotted(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Change `a.b.c` in place. Raises ConfigError for a key that is not there."""
    *parents, last = dotted.split(".")
    here = values
    for i, parent in enumerate(parents):
        if not isinstance(here.get(parent), dict):
            raise ConfigError(unknown_key(".".join(parents[: i + 1]), parent, list(here)))
        here = here[parent]
    if last not in here:
        raise ConfigError(unknown_key(dotted, last, list(here)))
    here[last] = value
