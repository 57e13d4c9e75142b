"""The code as it is when jobs are submitted, beside the runs: editing the checkout while jobs wait changes nothing."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from multimae.files import write_atomic
from multimae.record.environment import checkout, may_be_secret

ROOT = Path(__file__).parents[2]
WHAT = ("multimae", "slurm", "sweeps", "analysis", "pyproject.toml")
RECORD = "snapshot.json"  # multimae.record.environment reads it


def take(runs: Path, root: Path = ROOT) -> Path:
    """Copy the code of `root` to `<runs>/.code/<name>`, if it is not there yet: what jobs run in, first on their path.

    What is named by its commit is clean; otherwise a hash of the content makes the name. Of a git checkout, tracked
    files are copied and those that git does not ignore; else the packages as they are installed. Others can read the
    copy: it has no profiles, no keys and the like, and nothing that the diff of the checkout leaves out.
    """
    path, files, record = _of(runs, root)
    if not path.exists():
        _copy(root, files, path, record)
    return path


def expected(runs: Path, root: Path = ROOT) -> Path:
    """What `take` would return now; writes nothing."""
    return _of(runs, root)[0]


def _of(runs: Path, root: Path) -> tuple[Path, list[Path], dict[str, Any]]:
    record = checkout(root, *WHAT)
    files = _tracked(root, record.get("left_out", [])) if record["commit"] else _installed(root)
    name = record["commit"][:12] if record["commit"] else "installed"
    if record["dirty"] is not False:
        name += f"-{_content(root, files)}"
    return Path(os.path.abspath(runs)) / ".code" / name, files, record


def _tracked(root: Path, left_out: list[str]) -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *WHAT]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout.split("\0")
    kept = {name for name in names if (root / name).is_file() and not _stays(name)}
    # The checkout may lie in a larger one, from whose top these are named.
    return sorted(Path(name) for name in kept if not any(f"/{out}".endswith(f"/{name}") for out in left_out))


def _installed(root: Path) -> list[Path]:
    files = (path for name in WHAT for path in [root / name, *(root / name).rglob("*")] if path.is_file())
    names = (path.relative_to(root) for path in files if "__pycache__" not in path.parts)
    return sorted(name for name in names if not _stays(name.as_posix()))


def _stays(name: str) -> bool:
    """What others must not see, or no job needs."""
    return may_be_secret(name) or name.startswith("analysis/results/")


def _content(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0{(root / file).stat().st_size}\0".encode())
        digest.update((root / file).read_bytes())
    return digest.hexdigest()[:8]


def _copy(root: Path, files: list[Path], path: Path, record: dict[str, Any]) -> None:
    """Beside, then renamed, so that a snapshot is whole or not there; of two that copy at once, either will do."""
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        for file in files:
            (beside / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, beside / file)  # not its mode: a checkout may be private
        write_atomic(beside / RECORD, json.dumps(record))
        beside.rename(path)
    except OSError:
        if not path.exists():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
