"""Why a job failed, from what its processes printed last: `<runs>/.slurm/<job>/<job>_<rank>_log.err`. No torch."""

import os
import re
from pathlib import Path

TAIL = 1 << 15  # bytes read of each file
PREFIX = re.compile(r"^\[rank\d+\]: ?")  # torch puts it before the lines of a traceback
# What the others say when one process has gone: true, and no cause.
SYMPTOM = re.compile(r"closed by peer|connection (reset|refused|closed)|broken pipe|timed? ?out|socket|nccl|gloo", re.I)
KILLED = re.compile(r"(srun|slurmstepd): error: .*(kill|oom|segmentation|bus error|abort|out of memory)", re.I)


def folder_of(runs: Path, job: str) -> Path:
    """Where submitit keeps the files of a job; `job` is `123` or `123_4`."""
    return Path(runs) / ".slurm" / job


def last_errors(folder: Path) -> dict[int, str]:
    """{rank: the last exception that it printed}, of the ranks that printed one."""
    errors = {}
    for file in folder.glob("*_log.err"):
        if (found := re.search(r"_(\d+)_log\.err$", file.name)) and (exceptions := _exceptions(_tail(file))):
            errors[int(found[1])] = exceptions[-1]
    return dict(sorted(errors.items()))


def cause(folder: Path) -> str:
    """The line that says best why the job failed; empty where nothing was printed."""
    errors = list(last_errors(folder).values())
    printed = [line for file in sorted(folder.glob("*_0_log.err")) for line in _tail(file)]  # srun's lines are here too
    own = [line for line in errors if not SYMPTOM.search(line)]
    killed = [line for line in reversed(printed) if KILLED.search(line)]
    return next(iter(own + killed + errors + printed[::-1]), "").strip()


def _exceptions(lines: list[str]) -> list[str]:
    """The line that ends each traceback."""
    found, inside = [], False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif inside and not line.startswith(" "):
            found.append(line)
            inside = False
    return found


def _tail(file: Path) -> list[str]:
    """The last lines that are not empty, without torch's prefix."""
    with open(file, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
        text = stream.read().decode(errors="replace")
    lines = (PREFIX.sub("", line).rstrip() for line in text.splitlines())
    return [line for line in lines if line]
