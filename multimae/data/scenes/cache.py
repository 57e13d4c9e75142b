"""Where scenes lie once they are rendered: one folder of a user on a machine, whatever runs read them."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...units import size

NAMED = re.compile(r"(\w+)-v(\d+)-\d+px")  # the folder of a data set's scenes of a size
BESIDE = ".cache"  # in the folder of all runs: where nothing else can be written


def usual_folder() -> Path:
    """Raises OSError where this user has no home."""
    # A relative path there is to be ignored: https://specifications.freedesktop.org/basedir-spec/latest/
    given = os.environ.get("XDG_CACHE_HOME", "")
    folder = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    if not os.path.isabs(folder):
        raise FileNotFoundError(f"{folder}: this user has no home")
    return Path(folder) / "multimae" / "scenes"


@contextlib.contextmanager
def shared_as(folder: Path) -> Iterator[None]:
    """What is made meanwhile the group may write, if it may write the folder, whatever the umask."""
    umask = os.umask(0o077)
    os.umask(umask & ~stat.S_IRWXG if folder.stat().st_mode & stat.S_IWGRP else umask)
    try:
        yield
    finally:
        os.umask(umask)


def holds(folder: Path) -> int:
    """Bytes; what vanishes meanwhile does not count."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(top, name)).st_size
    return total


def outdated(cache: Path, versions: Mapping[str, int]) -> str:
    """What to tell of the scenes of older versions that lie there; empty where there are none. `versions`: today's."""
    old = []
    for folder in sorted(cache.iterdir()):
        named = NAMED.fullmatch(folder.name)
        if named and int(named[2]) < versions.get(named[1], 0):
            old.append(folder)
    if not old:
        return ""
    total = size(sum(holds(folder) for folder in old))
    return f"scenes of older versions, which nothing reads any more, take {total}: rm -r {' '.join(map(str, old))}"
