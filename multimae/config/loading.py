"""The published settings, read from multimae/recipes/<scale>/<name>.yaml."""

import functools
from collections.abc import Iterable
from pathlib import Path

from .base import RunConfig, build
from .settings import ConfigError, nearest, parse_overrides, read_mapping, shown

RECIPES = Path(__file__).parents[1] / "recipes"
SCALES = ("smoke", "mini", "paper")


def load(path: Path | str, overrides: Iterable[str] = ()) -> RunConfig:
    """The config in a YAML file, with `key.sub=value` overrides applied."""
    path = Path(path)
    try:
        values = read_mapping(path)
    except FileNotFoundError:
        known = recipes()
        raise ConfigError(
            f"no recipe at {shown(str(path))[1:-1]}{nearest(str(path), known)} Recipes that come with this project: "
            f"{', '.join(known)}"
        ) from None
    try:
        return build(values).edit(parse_overrides(overrides))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


@functools.cache  # a large study asks for the same recipes again and again, and YAML is slow to read
def recipe(name: str, scale: str) -> RunConfig:
    """A published setting at a scale: `recipe("pretrain", "smoke")`."""
    if scale not in SCALES:
        raise ConfigError(f"scale: expected one of {', '.join(SCALES)}, found '{scale}'")
    return load(RECIPES / scale / f"{name}.yaml")


def recipes() -> list[str]:
    return sorted(str(p.relative_to(RECIPES).with_suffix("")) for p in RECIPES.glob("*/*.yaml"))
