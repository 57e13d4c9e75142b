"""How far a preparation is, on standard error: a live line on a terminal, else a plain one now and then. No torch."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ...units import duration, size
from .preparing import Making

BETWEEN = 10.0  # seconds between two plain lines
GLANCE = 0.2  # and between two states on a terminal
BAR = 24  # columns
SETTLED = 5.0  # seconds after which the rate says how long it will take: processes take a while to begin


@contextlib.contextmanager
def following(name: str, before: int) -> Iterator[Callable[[Making], None]]:
    """Gives what shows a state. `before`: pieces that were made in earlier sessions."""
    console, begun = Console(stderr=True, highlight=False), time.monotonic()
    said = begun  # when something was shown last
    live = Live(console=console, auto_refresh=False, transient=True)

    def show(state: Making) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < (GLANCE if console.is_terminal else BETWEEN):
            return
        said = now
        text = line(state, before, now - begun)
        if console.is_terminal:
            grid = Table.grid(padding=(0, 2))
            grid.add_row(name, ProgressBar(100, 100 * share(state), width=BAR), text)
            live.update(grid, refresh=True)
        else:
            console.print(f"{name}  {text}", soft_wrap=True, markup=False)

    with live if console.is_terminal else contextlib.nullcontext():
        yield show


def share(state: Making) -> float:
    """Of the session's work, 0 to 1: by bytes, or by pieces where files are only linked."""
    done = state.made + len(state.failed)
    return state.read / state.bytes if state.bytes else done / max(state.total, 1)


def line(state: Making, before: int, seconds: float) -> str:
    """`58 %  1,160 of 2,000 pieces  83.1 GB of 144.6 GB  310 MB/s  3 min 20 s left`"""
    done, part = state.made + len(state.failed), share(state)
    words = [f"{100 * part:3.0f} %", f"{before + done:,} of {before + state.total:,} pieces"]
    if state.bytes:
        words += [f"{size(state.read)} of {size(state.bytes)}", f"{size(state.read / max(seconds, 1e-3))}/s"]
    else:
        words.append(f"{done / max(seconds, 1e-3):,.1f} pieces/s")
    if 0 < part < 1 and seconds >= SETTLED:
        words.append(f"{duration(seconds * (1 - part) / part)} left")
    if state.failed:
        words.append(f"{len(state.failed):,} could not be made")
    return "  ".join(words)
