"""Disks fill up and shared folders stall, and most of it passes: a write that fails is tried again for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

Written = TypeVar("Written")

PATIENCE = 60.0  # seconds: less than a scheduler gives to save, and than the other processes wait
PAUSE = 2.0  # between two tries


def retry(
    write: Callable[[], Written], errors: type[Exception], tell: Callable[[str], None], seconds: float = PATIENCE
) -> Written:
    """What `write` returns. Raises its error when it still fails after `seconds`; `tell` is told of the first one."""
    until = time.monotonic() + seconds
    told = False
    while True:
        try:
            return write()
        except errors as error:
            if time.monotonic() + PAUSE > until:
                raise
            if not told:
                tell(f"trying again for {seconds:.0f} s: {error}")
                told = True
            time.sleep(PAUSE)
