"""Checkpoints: one format for every ZeRO stage and number of processes, each complete or invisible. No pickle.

    checkpoints/step-00001234/tensors.safetensors   full float32 tensors (keys: Optimizer.state)
    checkpoints/step-00001234/progress.json         where the run was; size and SHA-256 of the tensors

A checkpoint is written to `.writing-...`, fsynced and renamed. The last two are kept: should the newest turn out to be
damaged, the run continues from the one before.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

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
            self._clean()
            writing.mkdir(parents=True)
            file = writing / "tensors.safetensors"
            save_file(tensors, file)
            size = _sync(file)
            progress = progress | {"bytes": size, "sha256": _sha256(file)}
            (writing / "progress.json").write_text(json.dumps(progress))
            file.chmod((writing / "progress.json").stat().st_mode)  # save_file makes what its user alone may read
            _sync(writing / "progress.json")
            _sync(writing)
            if final.exists():  # a run that continued from the one before, because this one was damaged
                shutil.rmtree(final)
            os.replace(writing, final)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(writing, ignore_errors=True)
            raise CheckpointError(
                f"cannot write a checkpoint to {self.folder}: {error}. The previous one is still there: see to the "
                "folder (room, permissions, its server), then start the run again"
            ) from error
        for old in self._found()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)  # what a file system does not let go is removed after the next one
        return size

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest complete checkpoint, and what was wrong with newer ones. Reads it all, to check its hash."""
        faults = []
        for path in self._found():
            try:
                checkpoint = self._read(path)
                file = path / "tensors.safetensors"
                size, digest = checkpoint.progress["bytes"], checkpoint.progress["sha256"]
                if file.stat().st_size != size or _sha256(file) != digest:
                    raise ValueError("tensors.safetensors is not what was written")
                return checkpoint, faults
            except (OSError, ValueError, KeyError) as error:
                faults.append(f"{path.name}: {error}")
        return None, faults

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step, unchecked."""
        return self._read(self._path(step))

    def _read(self, path: Path) -> Checkpoint:
        return Checkpoint(path, json.loads((path / "progress.json").read_text()))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _clean(self) -> None:
        for torn in self.folder.glob(".writing-*"):
            shutil.rmtree(torn)


def _sync(path: Path) -> int:
    """Make a file or a folder durable. Returns its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
