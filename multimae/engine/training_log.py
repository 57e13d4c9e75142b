"""What a person sees while a run trains: one live line on a terminal, else a plain line now and then."""

import contextlib
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

SECONDS_BETWEEN_LINES = 10.0


class TrainingLog:
    """Lines go to the run's log file too. A launcher that shows heartbeats redirects our output: no live line there."""

    def __init__(self, log: Path, label: str):
        log.mkdir(parents=True, exist_ok=True)
        self._file = open(log / "train.log", "a", buffering=1)  # noqa: SIM115 - until `close`
        self._label = label
        self._last = 0.0
        self._live = Live(console=Console(), refresh_per_second=4, transient=True) if sys.stdout.isatty() else None
        if self._live:
            self._live.start()

    def show(self, text: str) -> None:
        """The state of things: replaces what was shown before, or is printed every ten seconds at most."""
        if self._live:
            self._live.update(f"{self._label}  {text}", refresh=False)
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self.log(text)
            if not self._live:
                self._print(text)

    def say(self, text: str) -> None:
        """An event, which stays."""
        self.log(text)
        self._print(text)

    def log(self, text: str) -> None:
        """To the file only."""
        with contextlib.suppress(OSError):  # the disk may be full
            self._file.write(f"{time.strftime('%F %T')}  {text}\n")

    def close(self) -> None:
        if self._live:
            self._live.stop()
        with contextlib.suppress(OSError):
            self._file.close()

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):
            (self._live.console.print if self._live else print)(f"{self._label}  {text}")
            sys.stdout.flush()
