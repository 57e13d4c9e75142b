"""A folder in which labels can lie beside photographs that lie elsewhere, or otherwise: links, no copies. No torch."""

import os
from pathlib import Path

from ..config import ConfigError
from ..data.listing import ENDINGS, PHOTOGRAPHS, Listing
from ..data.packs import facts_of
from ..data.walking import lacking, printable
from ..seeds import derive

TRAIN, HELD = "train", "val"
ONE_IN = 10  # photographs without splits: which are evaluated on


def splits(folder: Path) -> list[str]:
    """The splits of a folder whose photographs labels can lie beside. Raises ConfigError where there are none."""
    if lack := lacking(folder):
        raise ConfigError(f"{printable(folder)} {lack}: expected a folder of photographs")
    found = _folders(folder)
    for name in found:
        _not_packed(folder / name)
    if ready := [name for name in found if not lacking(folder / name / PHOTOGRAPHS)]:
        return ready
    where = f"expected {folder}/{TRAIN}/{PHOTOGRAPHS}/<class>/<name>{ENDINGS[PHOTOGRAPHS][0]}, where labels lie beside"
    raise ConfigError(
        f"{where}: to lay that out by links, without a copy, give --out NEW (a folder that is not there yet)"
    )


def _not_packed(split: Path) -> None:
    if facts_of(split):
        raise ConfigError(
            f"{split} is packed, and labels lie beside files: multimae data unpack first, label, pack again"
        )


def lay_out(source: Path, out: Path) -> None:
    """Make `out` a folder with the photographs of `source` in the layout, by links: of its splits, or where it has none
    of its files, one in ten of them to evaluate on. What is there is left. Raises ConfigError."""
    if lack := lacking(source):
        raise ConfigError(f"{printable(source)} {lack}: expected a folder of photographs")
    source, real = Path(os.path.abspath(source)), os.path.realpath(out)
    if real == os.path.realpath(source) or real.startswith(f"{os.path.realpath(source)}/"):
        raise ConfigError(f"--out {out} lies in {source}: choose a folder outside of the photographs'")
    links: dict[str, Path] = {}
    try:
        if TRAIN in (names := _folders(source)):
            for name in names:
                _not_packed(source / name)
                photographs = source / name / PHOTOGRAPHS
                links[f"{name}/{PHOTOGRAPHS}"] = source / name if lacking(photographs) else photographs
        else:
            listing = Listing(source, [PHOTOGRAPHS])
            for path, held in _dealt([path for path, _, _ in listing.found[PHOTOGRAPHS].values()]):
                inner = path.removeprefix(f"{PHOTOGRAPHS}/")
                links[f"{HELD if held else TRAIN}/{PHOTOGRAPHS}/{inner}"] = source / path
        if not links:
            raise ConfigError(f"{source} has no photographs: expected {', '.join(ENDINGS[PHOTOGRAPHS])} in it")
        for name, target in links.items():
            _link(out / name, target)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"--out {out}: {error}") from None


def _dealt(paths: list[str]) -> list[tuple[str, bool]]:
    """Each path, and whether it is held out: of each folder one in ten, and one at least of all."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(os.path.dirname(path), []).append(path)
    held: set[str] = set()
    for inner in folders.values():
        held.update(sorted(inner, key=lambda path: derive(0, "held", path))[: len(inner) // ONE_IN])
    largest = max(folders.values(), key=len, default=[])
    held |= {max(largest)} if len(largest) > 1 and not held else set()
    return [(path, path in held) for path in sorted(paths)]


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and os.readlink(path) == str(target):
        return
    if path.is_symlink() or path.exists():
        raise ConfigError(f"{path} is there already, and is no link to {target}; give --out a folder that is not there")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be listed: {error.strerror}") from None
