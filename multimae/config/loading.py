"""The published settings, read from multimae/recipes/<name>.yaml, and at which scales they can be run."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .base import RunConfig, build
from .schema import changed, validate
from .settings import ConfigError, nearest, parse_overrides, read_mapping, shown

RECIPES = Path(__file__).parents[1] / "recipes"
PAPER = "paper"  # the scale of what is published
SCALES = ("smoke", "laptop", "mini", "lab", PAPER)


def load(path: Path | str, overrides: Iterable[str] = ()) -> RunConfig:
    """The config in a YAML file (`scales` in it, of a recipe, are passed over), or of a recipe's name, such as
    `smoke/pretrain`, with `key.sub=value` overrides applied."""
    try:
        if str(path) in recipes():
            scale, _, name = str(path).partition("/")
            config = recipe(name, scale)
        else:
            config = build({key: value for key, value in read_mapping(Path(path)).items() if key != "scales"})
        return config.edit(parse_overrides(overrides))
    except FileNotFoundError:
        known = recipes()
        raise ConfigError(
            f"no recipe at {shown(str(path))[1:-1]}{nearest(str(path), known)} Recipes that come with this project: "
            f"{', '.join(known)}"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


@functools.cache  # a large study asks for the same recipes again and again, and YAML is slow to read
def recipe(name: str, scale: str) -> RunConfig:
    """A published setting at a scale: `recipe("pretrain", "smoke")`.

    Scales other than the paper's are overlays: first what all recipes have otherwise (recipes/scales/<scale>.yaml),
    then what those of its task have (`scales` in <task>.yaml), then this one (`scales` in its file).
    """
    if scale not in SCALES:
        raise ConfigError(f"scale: expected one of {', '.join(SCALES)}, found '{scale}'")
    values = dict(_contents(f"{name}.yaml"))
    own = values.pop("scales", {})
    config = build(values)
    if scale == PAPER:
        return config
    kind, settings = type(config), config.resolved()
    of_task = _contents(f"{config.task}.yaml").get("scales", {}) if name != config.task else {}
    for layer in _layers(scale):
        common = {key: value for key, value in _contents(f"scales/{layer}.yaml").items() if key in settings}
        for overlay in (common, of_task.get(layer, {}), own.get(layer, {})):
            settings = changed(kind, settings, overlay)
    return validate(kind, settings)


def _layers(scale: str) -> list[str]:
    """The overlays of a scale: those that it lies over come first."""
    below = _contents(f"scales/{scale}.yaml").get("over")
    return [*(_layers(below) if below else []), scale]


@functools.cache
def _contents(file: str) -> Mapping[str, Any]:
    return read_mapping(RECIPES / file)


def recipes() -> list[str]:
    """The names of all recipes at all scales: `scale/name`."""
    return [f"{scale}/{path.stem}" for scale in SCALES for path in sorted(RECIPES.glob("*.yaml"))]
