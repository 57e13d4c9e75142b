"""How far a long piece of work is, on standard error: now and then, in one line. Imports no torch."""

import sys
import time

from ..units import duration

SECONDS = 5.0  # between two lines


class Report:
    """`checking ...: 4,096 of 10,000 (820 a second, 7 s left)`."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.count = what, total, 0
        self.start = self.last = time.monotonic()

    def done(self, count: int = 1) -> None:
        self.count += count
        now = time.monotonic()
        if now - self.last > SECONDS and self.count:
            self.last = now
            rate = self.count / (now - self.start)
            left = duration((self.total - self.count) / rate)
            print(
                f"{self.what}: {self.count:,} of {self.total:,} ({rate:,.0f} a second, {left} left)",
                file=sys.stderr,
                flush=True,
            )
