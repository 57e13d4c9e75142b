"""What a run tells the world: journal, heartbeat, and lines for a person. Only the first process tells anything."""

import os
import socket
from typing import Any

from ..config import RunConfig
from .folder import RunFolder
from .heartbeat import Heartbeat
from .progress import Progress, duration


class Recorder:
    def __init__(self, folder: RunFolder, config: RunConfig, main: bool):
        self.main = main
        self.folder = folder
        if main:
            self._heartbeat = Heartbeat(folder, epochs=config.epochs)
            self._progress = Progress(folder.log, f"{config.task} {folder.signature}")

    def close(self) -> None:
        if self.main:
            self._progress.close()

    def write(self, kind: str, **fields: Any) -> None:
        """One journal record."""
        if self.main:
            self.folder.journal.write(kind, **fields)

    def start(self, **fields: Any) -> None:
        attempt = len(self.folder.journal.records("start")) + 1 if self.main else 0
        self.write("start", attempt=attempt, host=socket.gethostname(), pid=os.getpid(), **fields)

    def beat(self, state: str, **fields: Any) -> None:
        """Update heartbeat.json and the live line."""
        if not self.main:
            return
        self._heartbeat.beat(state, **fields)
        now = self._heartbeat.fields
        if state == "training" and now.get("loss") is not None:
            self._progress.show(
                f"epoch {now['epoch']:.1f}/{now['epochs']:g}  step {now['step']}/{now['total_steps']}  "
                f"{now['images_per_second']:.0f} images/s  loss {now['loss']:.4f}  "
                f"left {duration(now['seconds_left'])}"
            )
        else:
            self._progress.show(state)

    def say(self, text: str) -> None:
        if self.main:
            self._progress.say(text)

    def end(self, kind: str, **fields: Any) -> None:
        """The last record of an attempt (finished, interrupted or failed), and the last heartbeat."""
        self.write(kind, **fields)
        self.beat(kind)
        self.say(f"{kind}: {fields['reason']}" if "reason" in fields else kind)
