"""`runs/studies/<study>/<scale>/<row>/<stage>`: run folders by names that a person can read. Safe to delete."""

import contextlib
import os
from pathlib import Path

LONGEST = 100  # characters of a name


def link(run: Path, *names: str) -> None:
    """Let `studies/<names>` beside a run's folder lead to it; without links, a file that says where.

    Nothing depends on it, so nothing fails by it.
    """
    path = run.parent.joinpath("studies", *(name.strip().replace("/", "-")[:LONGEST] for name in names))
    target = os.path.relpath(run, path.parent)
    with contextlib.suppress(OSError):
        if path.is_symlink() and os.readlink(path) == target:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.symlink_to(target)
        except OSError:
            beside.write_text(f"{target}\n")
        os.replace(beside, path)
