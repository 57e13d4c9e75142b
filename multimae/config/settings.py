"""Settings as nested mappings: compared, merged, changed by a dotted key, and errors that name the key."""

import difflib
import math
import re
import stat
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 100_000  # bytes of a YAML file, which take a second to read: a recipe or a profile has two thousand
DEEPEST = 20  # sections within each other
SHOWN = 100  # characters of what was found


class ConfigError(ValueError):
    """A setting that cannot be used. The message names the key, what was found and what would do."""


class Loader(yaml.SafeLoader):
    """YAML as a person means it. Numbers are decimal: 1e3 is one; 0123, 24:00:00, dates and `no` stay the text they
    are. A key is the text that is written, and stands once. No tags, and no anchors, by which a few lines could stand
    for gigabytes."""

    yaml_implicit_resolvers = {}

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) not in (None, "!"):
            raise _refused("anchors (*name) and tags (!name) are not read here; write the value itself", event)
        if self.depth == DEEPEST:
            raise _refused(f"more than {DEEPEST} sections within each other", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        values: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key is a word, not a list or a mapping", key)
            if key.value in values:
                raise _refused(f"the key {shown(key.value)} stands twice", key)
            values[key.value] = self.construct_object(value, deep=True)
        return values

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = super().construct_yaml_float(node)
        if math.isinf(value) and "inf" not in node.value.lower():
            raise _refused(f"the number {shown(node.value)} is too large; infinity is written .inf", node)
        return value


def _refused(problem: str, at: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)  # type: ignore[arg-type]  # never libyaml's


for kind, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]{0,99})", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?(0|[1-9][0-9]*)[eE][-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"), first)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_yaml_float)


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # not every build has libyaml
    """Quotes a text that YAML 1.1 or `Loader` would take for something else: a data set may be called 1e3."""

    yaml_implicit_resolvers = {
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + Loader.yaml_implicit_resolvers.get(first, [])
        for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **Loader.yaml_implicit_resolvers}
    }


def parse_yaml(text: str) -> Any:
    """The value of YAML text. Raises ConfigError that says what is wrong in which line."""
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or ""
        if type(error) is not yaml.MarkedYAMLError:  # the reader quotes what it found, which may hold a password
            problem = re.sub(r"'(?:\\?.|<[a-z ]+>)'|('.*')", lambda found: "'...'" if found[1] else found[0], problem)
        tab = "; YAML is indented with spaces, not tabs" if "\\t" in problem else ""
        place = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{place}{problem}{tab}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"character {error.position} is not printable ({error.character!r})") from None


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["masking.alpha=.inf"]` -> `{"masking.alpha": inf}`; values are YAML. A key given twice is a ConfigError too."""
    parsed = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"an override is written key=value, for example epochs=20; found {shown(text)}")
        if key in parsed:
            raise ConfigError(f"{shown(key)} is given twice; give it once")
        try:
            parsed[key] = parse_yaml(value)
        except ConfigError as error:
            found = f"{key}=..." if "://" in value else text  # a URI may hold a password
            raise ConfigError(f"{shown(found)} is not a YAML value: {error}") from None
    for key in parsed:
        if within := next((other for other in parsed if other.startswith(f"{key}.")), None):
            raise ConfigError(f"{shown(within)} is within {shown(key)}, and both are given; give it once")
    return parsed


def pairs(texts: Iterable[str], option: str, form: str) -> dict[str, str]:
    """`["a=b"]` -> `{"a": "b"}`. Raises ConfigError for another form, and for a name given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{option}: expected {form}, found {shown(text)}")
        if name in found:
            raise ConfigError(f"{option}: {shown(name)} is given twice; give it once")
        found[name] = value
    return found


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises FileNotFoundError, and ConfigError for what is no such file."""
    try:
        file = path.stat()
        if not stat.S_ISREG(file.st_mode) and not stat.S_ISDIR(file.st_mode):
            raise ConfigError(f"{path} is no regular file")  # a pipe would be waited for
        if file.st_size > LARGEST:
            raise ConfigError(f"{path} has {file.st_size:,} bytes; expected a YAML file of {LARGEST:,} at most")
        values = parse_yaml(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: byte {error.start} is not UTF-8 text") from None
    except ConfigError as error:
        at = "" if str(error).startswith(str(path)) else f"{path} is not valid YAML: "
        raise ConfigError(f"{at}{error}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: expected a mapping of settings, found {found}")
    return values


def shown(value: Any) -> str:
    """What was found, for a message: as Python writes it, not more than a line."""
    if isinstance(value, int) and abs(value) > 10**SHOWN:  # Python refuses to print thousands of digits
        return f"a number of about {value.bit_length() * 3 // 10} digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unknown_key(key: str, last: str, valid: list[str]) -> str:
    """Says so, with the nearest valid key."""
    return f"unknown key {shown(key)}{nearest(last, valid)} Valid here: {', '.join(map(str, valid))}"


def nearest(name: str, valid: list[str], alike: float = 0.6) -> str:
    """`; did you mean 'x'?` where one of `valid` is `alike`, as difflib counts (0 to 1), else a full stop."""
    found = difflib.get_close_matches(name[:SHOWN], map(str, valid), n=1, cutoff=alike)
    return f"; did you mean '{found[0]}'?" if found else "."


def plain(value: Any) -> Any:
    """What pydantic dumps, as YAML can hold it: no tuples, no paths."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def difference(values: dict[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What in `values` differs from `base`; a section of another kind has other keys."""
    delta: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            if inner := difference(value, base.get(key, {})):
                delta[key] = inner
        elif key not in base or value != base[key]:
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
    """Change `a.b.c` in place; of a section, what `value` names. Raises ConfigError for a key that is not there."""
    *parents, last = dotted.split(".")
    here = values
    for i, parent in enumerate(parents):
        key = ".".join(parents[: i + 1])
        if parent not in here:
            raise ConfigError(unknown_key(key, parent, list(here)))
        if not isinstance(here[parent], dict):
            raise ConfigError(f"unknown key {shown(dotted)}: {key} is a value, not a section; write {key}=VALUE")
        here = here[parent]
    if last not in here:
        raise ConfigError(unknown_key(dotted, last, list(here)))
    section = isinstance(here[last], dict) and isinstance(value, Mapping)
    here[last] = merged(here[last], value) if section else value
