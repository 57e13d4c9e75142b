"""How many cores feed a GPU: batches are taken at its pace, as a training would, from more and more workers.

The consumer takes a batch, computes nothing for as long as its images would take, and asks for the next: what it then
waits is the time that a GPU would wait. How much processor time an image takes the workers tells how many cores are
needed, also where other programs have a part of these.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from ..config.runtime import cpus
from ..units import counted
from .benchmark import FILES, images, load, loading

BATCH = 60
COPIES = 10  # of each file, so that an epoch has more than one batch
SECONDS = 4.0  # that a number of workers is measured, after as many batches as they read ahead
NAMES = ("folder", "pack")


class Fed(NamedTuple):
    """What a number of workers gave."""

    waited: float  # share of the time, from 0 to 1
    rate: float  # images/s that arrived
    seconds: float  # processor time of an image, of all workers and their memory

    def cores(self, rate: float) -> float:
        return rate * self.seconds


def consume(rate: int, console: Console) -> dict[tuple[str, int], Fed]:
    """Measure, and print a table. By data set and workers."""
    most = cpus()
    counts = sorted({min(2**power, most) for power in range(most.bit_length() + 1)})
    table = Table("Data", title=f"A consumer of {rate:,} images/s on {counted(most, 'core')} ({load()})")
    for column in ("workers", "time waited", "images/s that came", "ms of a core an image", f"cores for {rate:,}/s"):
        table.add_column(column, justify="right")
    found = {}
    with images(COPIES) as runtime:
        for name in NAMES:
            for count in counts:
                console.print(f"{name}, {counted(count, 'worker')}   ", end="\r", highlight=False)
                found[name, count] = fed = _fed(loading(name, 224, runtime, count, BATCH), count, rate)
                row = f"{fed.waited:.0%}", f"{fed.rate:,.0f}", f"{1000 * fed.seconds:.2f}", f"{fed.cores(rate):.1f}"
                table.add_row(name, str(count), *row)
    console.print(table)
    console.print(
        f"{FILES} photographs of 500 x 375 with 16-bit depth and 8-bit classes, {COPIES} times each, to 224 px, in "
        f"batches of {BATCH}. 'Cores': that the workers alone keep busy at that rate, were all as fast as these; a "
        "training's process needs one more. Give them as cpus_per_task in a profile; a node's, all its GPUs' together."
    )
    return found


def _fed(next_batch: Callable[[], object], workers: int, rate: int) -> Fed:
    for _ in range(2 * workers):  # until all have begun
        next_batch()
    processes = psutil.Process().children()
    busy, taken, waited, began = _busy(processes), 0, 0.0, time.monotonic()
    while (asked := time.monotonic()) < began + SECONDS:
        next_batch()
        came = time.monotonic()
        waited, taken = waited + came - asked, taken + BATCH
        time.sleep(max(0.0, came + BATCH / rate - time.monotonic()))
    passed = time.monotonic() - began
    return Fed(waited / passed, taken / passed, (_busy(processes) - busy) / taken)


def _busy(processes: list[psutil.Process]) -> float:
    """Seconds of processor time."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)
