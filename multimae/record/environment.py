"""environment.json: what a run was computed with. Never fails, and never holds a secret. Imports no torch itself."""

import fnmatch
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from ..config.runtime import cpus
from ..redact import redact
from .reading import read_json

SNAPSHOT = Path(__file__).parents[2] / "snapshot.json"  # beside the packages, where they are a snapshot (slurm/)
DIFF_BYTES = 200_000
PACKAGES = ("torch", "torchvision", "deepspeed", "timm", "numpy", "safetensors", "torchmetrics", "pydantic", "mlflow")
# Files that hold passwords and keys by custom, wherever they lie.
PASSWORDS: tuple[str, ...] = (".env*", "*.env", ".netrc", "_netrc", ".pgpass", ".npmrc", ".pypirc", ".htpasswd")
PASSWORDS += (".databrickscfg", ".git-credentials", "credentials", "credentials.*", "secrets.*")
PASSWORDS += (".my.cnf", ".s3cfg", "*token*.txt", "*password*.txt", "*.bak")
PASSWORDS += ("*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*")
# An allow-list: an environment may hold tokens under any name.
VARIABLES: tuple[str, ...] = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG")
VARIABLES += ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
VARIABLES += ("MASTER_PORT", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")
VARIABLES += ("SLURM_NTASKS", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION", "SLURM_CPUS_PER_TASK")


def capture(device: str = "cpu", processes: int = 1) -> dict[str, Any]:
    """The commit and its uncommitted diff, package versions, machine, and the variables that change a result."""
    return {
        **(read_json(SNAPSHOT) or checkout(Path(__file__).parent)),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "host": socket.gethostname(),
        "cpu": _cpu(),
        "cpus": cpus(),
        "device": device,
        "processes": processes,
        **_torch(device),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def checkout(folder: Path, *paths: str) -> dict[str, Any]:
    """The commit of the git checkout around `folder`, whether it is dirty, and its diff; None outside of one.

    Of the whole checkout, or of these paths in `folder`. An environment that lies in somebody else's checkout is none
    of it: git tracks nothing there. The diff leaves out (`left_out`) tracked files that git is told to ignore, those
    that may hold a password, and all YAML but the recipes: it may be a profile, and what a run takes from it is in its
    config.yaml. Users, passwords and queries of addresses in it are hidden.
    """
    commit = _git(folder, "rev-parse", "HEAD") if _git(folder, "ls-files", "--", *(paths or ["."])) else None
    if commit is None:
        return {"commit": None, "dirty": None, "diff": None}
    where = ("--", *(paths or [":/"]))
    plain = ("--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative")
    changed = _git(folder, "diff", *plain, "--name-only", "-z", "HEAD", *where)
    ignored = _git(folder, "ls-files", "-z", "--full-name", "--cached", "--ignored", "--exclude-standard", *where)
    untracked = _git(folder, "ls-files", "-z", "--others", "--exclude-standard", *where)
    if changed is None or ignored is None or untracked is None:  # git was stopped: what may be told is not known
        return {"commit": commit, "dirty": None, "diff": None}
    hide = set(ignored.split("\0"))
    left_out = [name for name in changed.split("\0") if name and (name in hide or may_be_secret(name))]
    diff = _git(folder, "diff", *plain, "HEAD", *where, *(f":(top,literal,exclude){name}" for name in left_out)) or ""
    if len(diff) > DIFF_BYTES:
        whole, _, _ = diff[:DIFF_BYTES].rpartition("\n")  # lines: half an address could not be told for one
        diff = f"{whole}\n... cut: {len(diff)} characters in all"
    return {
        "commit": commit,
        "dirty": bool(changed or untracked),
        "diff": redact(diff),
        "left_out": left_out,
        "untracked": untracked.split("\0")[:-1][:100],
    }


def may_be_secret(name: str) -> bool:
    """Whether the file of this name, relative to the checkout, is one that is kept to oneself: a profile, a key, ...;
    and any YAML but recipes and the paper's numbers, because it may be a profile."""
    path = PurePosixPath(name)
    passwords = any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in PASSWORDS)
    ours = "recipes" in path.parts or "analysis" in path.parts
    return passwords or "slurm/profiles/" in name or (path.suffix.lower() in (".yaml", ".yml") and not ours)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="surrogateescape").strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _torch(device: str) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"threads": torch.get_num_threads(), "cuda": torch.version.cuda, "gpu": None}
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return facts
