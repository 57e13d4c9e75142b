"""How far a long piece of work is, its rate and the time left, on standard error. Imports no torch."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from ..units import duration

EVERY = 10.0  # seconds between lines, where they are kept


class Pace:
    """On a terminal one line that changes, else a line now and then."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.count = what, total, 0
        self.start = self.last = time.monotonic()
        console = Console(stderr=True)
        self.line = Status(what, console=console) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.line:
            self.line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.line:
            self.line.stop()

    def done(self, count: int = 1) -> None:
        self.count += count
        now = time.monotonic()
        if now - self.last < (0.2 if self.line else EVERY):
            return
        self.last = now
        rate = self.count / (now - self.start)
        left = duration((self.total - self.count) / rate) if rate else "unknown"
        text = f"{self.what}: {self.count:,} of {self.total:,}, {rate:,.0f}/s, {left} left"
        if self.line:
            self.line.update(text)
        else:
            print(text, file=sys.stderr, flush=True)
