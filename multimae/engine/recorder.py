"""What a run tells the world: journal, heartbeat, and lines for a person. Only the first process tells anything."""

import json
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from ..config import RunConfig
from ..settings import flatten
from .distributed import Processes
from .environment import capture
from .folder import RunFolder, write_atomic
from .heartbeat import Heartbeat
from .patience import PATIENCE, patiently
from .progress import Progress, duration
from .task import RunFailed


class Recorder:
    def __init__(self, folder: RunFolder, config: RunConfig, processes: Processes):
        self.folder, self.config, self.processes = folder, config, processes
        if processes.main:
            self._heartbeat = Heartbeat(folder, epochs=config.epochs)
            self._progress = Progress(folder.log, f"{config.task} {folder.signature}")

    def close(self) -> None:
        if self.processes.main:
            self._progress.close()

    def write(self, kind: str, **fields: Any) -> None:
        """One journal record. Raises RunFailed."""
        if self.processes.main:
            self.patiently(lambda: self.folder.journal.write(kind, **fields), PATIENCE if kind != "failed" else 0)

    def patiently(self, write: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Write into the run's folder, and try for a while. Raises RunFailed."""
        try:
            patiently(write, OSError, self.say, seconds)
        except OSError as error:
            raise RunFailed(
                f"cannot write to {self.folder.path}: {error}. The last checkpoint is still there: see to the folder "
                "(room, permissions, its server), then start the run again"
            ) from error

    def say(self, text: str) -> None:
        """Tell a person."""
        if self.processes.main:
            self._progress.say(text)

    def start(self, **fields: Any) -> None:
        """The first record of an attempt, and environment.json."""
        if not self.processes.main:
            return
        environment = capture(self.processes.device.type, self.processes.count)
        self.patiently(lambda: write_atomic(self.folder.environment, json.dumps(environment, indent=1)))
        self.write(
            "start",
            attempt=len(self.folder.journal.records("start")) + 1,
            host=socket.gethostname(),
            pid=os.getpid(),
            processes=self.processes.count,
            device=environment["gpu"] or environment["cpu"],
            params=flatten(self.config.resolved()),
            delta=flatten(self.config.delta()),
            commit=environment["commit"],
            **fields,
        )
        self._progress.say(f"from step {fields['step']} of {fields['total_steps']}")

    def beat(self, state: str, **fields: Any) -> None:
        """Update heartbeat.json and what a person sees."""
        if not self.processes.main:
            return
        self._heartbeat.beat(state, **fields)
        now = self._heartbeat.fields
        if state == "training" and now.get("loss") is not None:
            self._progress.show(
                f"epoch {now['epoch']:.1f}/{now['epochs']:g}  step {now['step']}/{now['total_steps']}  "
                f"{now['images_per_second']:.0f} images/s  loss {now['loss']:.4f}  left {duration(now['seconds_left'])}"
            )

    def end(self, kind: str, **fields: Any) -> None:
        """The last record of an attempt (finished, interrupted or failed), and its last heartbeat. Raises RunFailed."""
        if self.processes.main:  # first, because the failure may be that no record can be written
            if kind == "failed":
                self._progress.log(traceback.format_exc())
            self._progress.say(f"{kind}: {fields['reason']}" if "reason" in fields else kind)
        self.write(kind, **fields)
        self.beat(kind, step=fields["step"])
