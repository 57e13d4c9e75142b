"""Where labels come from, beside them: `labels.yaml` in their folder, and what `dataset.yaml` says of the field.

No torch. Labels of two networks, or of two settings of one, are never mixed in a folder.
"""

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..config import ConfigError
from ..config.label import Disparity, Label, Relative
from ..config.settings import flatten, read_mapping, shown
from ..data.about import About, FieldFacts
from ..files import Locked, locked, write_atomic
from ..modalities import FIELDS, IGNORE

FILE = "labels.yaml"
HEAD = "# Where these labels come from. Those of another network, or of other settings, lie in a folder of their own.\n"
VERSIONS = ("multimae", "torch", "torchvision", "transformers", "pillow")


def begin(root: Path, config: Label, architecture: str) -> Path:
    """The folder for a run's labels, which says whose they are. Raises ConfigError where those of others lie there."""
    folder = root / config.data.eval_split / config.field
    settings = config.settings()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".labels.lock", 60):
            check(folder, config)
            if not (folder / FILE).exists():
                versions = {name: version for name in VERSIONS if (version := _version(name))}
                about = {"network": config.called, "architecture": architecture, "settings": settings}
                text = yaml.safe_dump(about | {"versions": versions}, sort_keys=False, allow_unicode=True)
                write_atomic(folder / FILE, HEAD + text)
    except Locked as error:
        raise ConfigError(f"{folder}: {error.holder} has been writing {FILE} for a minute; try again") from None
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot take labels ({error.strerror}): choose a folder that you may write to with --out NEW, "
            "which has links to the photographs"
        ) from None
    return folder


def check(folder: Path, config: Label) -> None:
    """Raises ConfigError where the labels in a folder are not those of these settings."""
    away = f"to keep them: mv {folder} {folder}.old; or label into another folder, with --out NEW"
    try:
        begun = read_mapping(folder / FILE)
    except FileNotFoundError:
        if label := _any(folder):
            raise ConfigError(
                f"{label} lies there already, and no {FILE} says which network made it; labels of two are never mixed; "
                f"{away}"
            ) from None
        return
    then, now = _flat(begun.get("settings")), _flat(config.settings())
    if then != now:
        keys = [key for key in dict.fromkeys((*then, *now)) if then.get(key) != now.get(key)]
        told = "; ".join(f"{key}: {shown(then.get(key))} there, {shown(now.get(key))} here" for key in keys[:3])
        raise ConfigError(
            f"{folder} has labels of {begun.get('network')}, and these would be others ({told}); labels of two are "
            f"never mixed; {away}"
        )


def _flat(settings: Any) -> dict[str, Any]:
    return flatten(settings) if isinstance(settings, Mapping) else {}


def _any(folder: Path) -> Path | None:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                return Path(where, name)
    return None


def say(root: Path, config: Label, class_names: Sequence[str]) -> None:
    """Say of the data set what the field means. Raises ConfigError."""
    kind, field = FIELDS[config.field], config.field
    facts = FieldFacts(classes=tuple(class_names)) if kind.channels is None else FieldFacts(unit=kind.unit)
    by = f"{config.called} ({(config.network or '')[:16]})"
    note = f"{field}: predicted from {config.fields[0]} by {by}; {_words(config)}"
    try:
        with locked(root / ".dataset.lock", 60):
            about = About.of(root) or About(name=root.resolve().name or "photographs")
            notes = [line for line in about.notes if not line.startswith(f"{field}: ")]
            new = about.model_copy(update={"fields": {**about.fields, field: facts}, "notes": (*notes, note)})
            if new != about:
                new.write(root)
    except (OSError, Locked) as error:
        raise ConfigError(f"{root}/dataset.yaml cannot be written: {error}") from None


def _words(config: Label) -> str:
    """The conversion."""
    if FIELDS[config.field].channels is None:
        return "of each pixel the class with the largest score" + (", renumbered" if config.classes else "")
    how = config.conversion
    if isinstance(how, Disparity):
        return (
            f"its disparity inverted: the nearest pixel of each image at {how.nearest:g} m, what is beyond "
            f"{how.farthest:g} m there; larger is farther"
        )
    if isinstance(how, Relative):
        return f"its depth of 0 to 1 times {how.scale:g} m; larger is farther"
    return "its metres; larger is farther"


def names_of(labels: Sequence[str], numbering: Mapping[str, int]) -> list[str]:
    """By number, where a network calls its classes so."""
    if not numbering:
        return list(labels)
    called: dict[int, list[str]] = {}
    for name, number in numbering.items():
        if number != IGNORE:
            called.setdefault(number, []).append(name)
    return ["/".join(called.get(number, ["none"])) for number in range(max(called, default=-1) + 1)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
