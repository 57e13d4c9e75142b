"""What a run tells the world: journal, heartbeat, and lines for a person. Only the first process tells anything."""

import json
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from ..config import RunConfig, TrainingConfig
from ..config.settings import flatten
from ..files import write_atomic
from ..record import epochs
from ..record.environment import capture
from ..record.folder import RunFolder
from ..record.heartbeat import Heartbeat
from ..units import duration
from .distributed import Processes
from .retry import PATIENCE, Written, retry
from .task import RunFailed
from .training_log import TrainingLog


class Recorder:
    def __init__(self, folder: RunFolder, config: RunConfig, processes: Processes):
        self.folder, self.config, self.processes = folder, config, processes
        if processes.main:
            epochs = {"epochs": config.epochs} if isinstance(config, TrainingConfig) else {}
            self._heartbeat = Heartbeat(folder, **epochs)
            self._log = TrainingLog(folder.log, f"{config.task} {folder.signature}")
            self._epochs: list[dict[str, Any]] = []  # records

    def close(self) -> None:
        if self.processes.main:
            self._log.close()

    def write(self, kind: str, **fields: Any) -> None:
        """One journal record. Raises RunFailed."""
        if self.processes.main:
            seconds = PATIENCE if kind != "failed" else 0
            record = self.retry(lambda: self.folder.journal.write(kind, **fields), seconds)
            if kind in epochs.KINDS:
                self._epochs.append(record)
                self._heartbeat.know(waited=epochs.waited(self._epochs))

    def retry(self, write: Callable[[], Written], seconds: float = PATIENCE) -> Written:
        """Write into the run's folder, and try for a while. Raises RunFailed."""
        try:
            return retry(write, OSError, self.say, seconds)
        except OSError as error:
            raise RunFailed(
                f"cannot write to {self.folder.path}: {error}. The last checkpoint is still there: see to the folder "
                "(room, permissions, its server), then start the run again"
            ) from error

    def say(self, text: str) -> None:
        """Tell a person."""
        if self.processes.main:
            self._log.say(text)

    def show(self, text: str) -> None:
        """Tell a person how far it is: replaced by what is shown next."""
        if self.processes.main:
            self._log.show(text)

    def start(self, **fields: Any) -> None:
        """The first record of an attempt, and environment.json."""
        if not self.processes.main:
            return
        self._epochs = self.folder.journal.records(*epochs.KINDS)
        environment = capture(self.processes.device.type, self.processes.count)
        self.retry(lambda: write_atomic(self.folder.environment, json.dumps(environment, indent=1)))
        self.write(
            "start",
            attempt=sum(record["kind"] == "start" for record in self._epochs) + 1,
            host=socket.gethostname(),
            pid=os.getpid(),
            processes=self.processes.count,
            device=environment["gpu"] or environment["cpu"],
            threads=environment["threads"],
            params=flatten(self.config.resolved()),
            delta=flatten(self.config.delta()),
            commit=environment["commit"],
            **fields,
        )
        self._log.say(f"from step {fields['step']} of {fields['total_steps']}")

    def beat(self, state: str, **fields: Any) -> None:
        """Update heartbeat.json and what a person sees."""
        if not self.processes.main:
            return
        self._heartbeat.beat(state, **fields)
        now = self._heartbeat.fields
        if state == "training" and now.get("loss") is not None:
            self._log.show(
                f"epoch {now['epoch']:.1f}/{now['epochs']:g}  step {now['step']}/{now['total_steps']}  "
                f"{now['images_per_second']:.0f} images/s  loss {now['loss']:.4f}  left {duration(now['seconds_left'])}"
            )
        elif state == "working" and now.get("seconds_left") is not None:
            rate = f"{now['images_per_second']:.1f} images/s  " if now.get("images_per_second") else ""
            self._log.show(f"piece {now['step']}/{now['total_steps']}  {rate}left {duration(now['seconds_left'])}")

    def end(self, kind: str, **fields: Any) -> None:
        """The last record of an attempt (finished, interrupted or failed), and its last heartbeat. Raises RunFailed."""
        if self.processes.main:  # first, because the failure may be that no record can be written
            if kind == "failed":
                self._log.log(traceback.format_exc())
            self._log.say(f"{kind}: {fields['reason']}" if "reason" in fields else kind)
        self.write(kind, **fields)
        self.beat(kind, step=fields["step"])
