"""Checkpoints: one format for every ZeRO stage and number of processes, each complete or invisible. No pickle.

    checkpoints/step-00001234/tensors.safetensors   full float32 tensors (keys: DistributedOptimizer.state)
    checkpoints/step-00001234/progress.json         where the run was; size and SHA-256 of tensors.safetensors,
                                                    which says where the run was, too: the hash covers it

A checkpoint is written to `.writing-...`, fsynced and renamed. The last two are kept: should the newest turn out to be
damaged, the run continues from the one before. A damaged one is moved aside at once, to `.damaged-...`: it must neither
hold the place of one that is whole nor count as how far the run came. It goes when the next one is written.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..files import sha256
from ..record.saved import Damaged, name_of, progress_of
from .task import RunFailed

KEPT = 2


class CheckpointError(RunFailed):
    """A checkpoint could not be written."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` optimizer steps."""

    path: Path
    progress: dict[str, Any] = field(repr=False)

    @property
    def step(self) -> int:
        return self.progress["step"]

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "tensors.safetensors")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path

    def save(self, tensors: dict[str, torch.Tensor], progress: dict[str, Any]) -> int:
        """Write one of CPU tensors, and drop those that are no longer needed. Returns its bytes.

        `progress` is JSON and has `step`. Raises CheckpointError where it cannot be written; the previous checkpoints
        are then untouched.
        """
        final = self._path(progress["step"])
        writing = self.folder / f".writing-{final.name}"
        try:
            for torn in self.folder.glob(".writing-*"):
                _remove(torn)
            writing.mkdir(parents=True)
            file = writing / "tensors.safetensors"
            save_file(tensors, file, {"progress": json.dumps(progress)})  # one entry: see loop.finish
            size = _sync(file)
            progress = progress | {"bytes": size, "sha256": sha256(file)}
            (writing / "progress.json").write_text(json.dumps(progress))
            file.chmod((writing / "progress.json").stat().st_mode)  # save_file makes what its user alone may read
            _sync(writing / "progress.json")
            _sync(writing)
            os.replace(writing, final)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(writing, ignore_errors=True)
            raise CheckpointError(
                f"cannot write a checkpoint to {self.folder}: {error}. The previous one is still there: see to the "
                "folder (room, permissions, its server), then start the run again"
            ) from error
        for old in (*self._found()[KEPT:], *self.folder.glob(".damaged-*")):
            _remove(old)
        return size

    def newest(self, run: str, steps: float = math.inf) -> tuple[Checkpoint | None, list[str]]:
        """The newest complete checkpoint of a run, by its signature, and what was wrong with newer ones, which are
        moved aside. `steps`: of the whole run. Reads it all, to check its hash. Raises OSError: a file server that
        stalls has damaged nothing."""
        faults: list[str] = []
        for path in self._found():
            try:
                progress = progress_of(path)
                hashed = {key: progress[key] for key in ("bytes", "sha256")}
                if sha256(path / "tensors.safetensors") != progress["sha256"]:
                    raise Damaged("tensors.safetensors is not what was written")
                if (of := progress.get("run", run)) != run:
                    raise Damaged(f"it is of run {of}")
                written = _written(path / "tensors.safetensors")
                if written is not None and written | hashed != progress:
                    raise Damaged("progress.json is not what was written")
                if progress["step"] > steps:
                    raise Damaged(f"the run has {steps} steps")
                return Checkpoint(path, progress), faults
            except Damaged as error:
                faults.append(f"{path.name}: {error}")
                aside = path.with_name(f".damaged-{path.name}")
                _remove(aside)
                os.replace(path, aside)
        return None, faults

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step, which another process has looked through."""
        return Checkpoint(self._path(step), progress_of(self._path(step)))

    def _path(self, step: int) -> Path:
        return self.folder / name_of(step)

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _written(tensors: Path) -> dict[str, Any] | None:
    """What was saved as `progress` with these tensors; None in a checkpoint of an older version."""
    with safe_open(tensors, "pt") as file:
        return json.loads((file.metadata() or {}).get("progress", "null"))


def _remove(path: Path) -> None:
    """What a file system does not let go is removed with the next checkpoint."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> int:
    """Make a file or a folder durable. Returns its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
