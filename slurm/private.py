"""Files that only their owner may read from the moment they exist, also where the folder is a group's. No torch."""

import os
from pathlib import Path


def write_private(path: Path, data: str | bytes) -> None:
    """Write beside, then rename, as `multimae.engine.folder.write_atomic`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # of a process that was killed: it would keep its mode
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data.encode() if isinstance(data, str) else data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
