"""A run's folder: where each file lies, how it is written, and who may write. Imports no torch."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import ConfigError, RunConfig, build
from .journal import Journal
from .sharing import check_shared, hinders, share


class RunLocked(RuntimeError):
    """Another process is writing this run."""


def write_atomic(path: Path, data: str | bytes, durable: bool = True) -> None:
    """Write beside, fsync, rename: a reader sees the old file or the new one, never half of one.

    Without `durable` there is no fsync: for a file that is rewritten in a moment and worth nothing after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def make_runs(runs: Path) -> None:
    """Make the folder of all runs, and share what is written in it. Raises ConfigError where nothing can be."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        share(runs)
        if not (reason := hinders(runs)):
            return
    except OSError as error:
        reason = error.strerror
    raise ConfigError(f"--runs: {runs} cannot hold run folders ({reason}); choose a folder that you may write to")


@dataclass(frozen=True)
class RunFolder:
    """`runs/<signature>/`."""

    path: Path

    @classmethod
    def of(cls, runs: Path, signature: str) -> "RunFolder":
        return cls(Path(runs) / signature)

    @property
    def signature(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def journal(self) -> Journal:
        return Journal(self.path / "journal.jsonl")

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def jobs(self) -> Journal:
        """Each submission: when, by whom, for which study, row and stage, and the scheduler's id."""
        return Journal(self.path / "jobs.jsonl")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def saved_step(self) -> int:
        """The step of the newest checkpoint; -1 where there is none."""
        steps = (path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*"))
        return max((int(step) for step in steps if step.isdigit()), default=-1)

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def done(self) -> bool:
        """Whether the run finished. Reads only the end of the journal."""
        last = self.journal.last()
        return last is not None and last["kind"] == "finished"

    def check_shared(self) -> None:
        """Raises ConfigError where this run cannot go on, because a colleague who began it does not share it."""
        own = (self.path, self.path / ".writer", self.jobs.path, self.journal.path, self.checkpoints, self.log)
        check_shared([*own, *self.checkpoints.glob("*")])

    def create(self, config: RunConfig) -> None:
        """Make the folder and write its config, if it is not there yet."""
        if not self.config_file.exists():
            write_atomic(self.config_file, config.to_yaml())

    def config(self) -> RunConfig:
        return build(yaml.safe_load(self.config_file.read_text()))

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Be the one process that writes this run; the lock goes with the process. Raises RunLocked.

        A record lock, because a child does not inherit it: data workers that outlive a killed run do not hold it.
        Raises ConfigError where the run is a colleague's who does not share it.
        """
        self.check_shared()
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".writer", "a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                raise RunLocked(
                    f"run {self.signature} is being written by {file.read().strip()}. If that machine is gone for good "
                    f"and its lock stays, remove {self.path / '.writer'}"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}")
            file.flush()
            for written in (self.heartbeat, self.environment, self.weights):
                for half in self.path.glob(f".{written.name}.*"):  # of a writer that was killed
                    half.unlink()
            yield
