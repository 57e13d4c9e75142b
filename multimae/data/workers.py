"""The processes that read samples ahead of a training: how many, and what each is at, so that one that dies or is slow
is named with the file it was reading."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils import data

from ..config import Runtime
from ..config.runtime import MOST_WORKERS, cpus

SLOW = 60.0  # seconds that a batch is waited for before it is told; then twice as many, and so on


class WorkerLost(RuntimeError):
    """A process that reads samples ended by itself. Trying again may help: mostly its memory ran out."""


def chosen(runtime: Runtime) -> int:
    """Workers of a process: as many as were asked for, or a core each beside its own. None where it computes on the
    CPU, which has no core to spare."""
    if runtime.workers is not None:
        return runtime.workers
    if runtime.device == "cpu" or not torch.cuda.is_available():
        return 0
    mine = cpus()
    # A site may bind no process to its own cores, and then all of a node's are those of each.
    if granted := _number("SLURM_CPUS_PER_TASK"):
        mine = min(mine, granted)
    elif together := _number("LOCAL_WORLD_SIZE"):
        mine //= together
    return min(MOST_WORKERS, max(1, mine - 1))


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 0


class Watch:
    """Who reads what, in memory that a training and its workers share. `name`: of a sample, by its index."""

    def __init__(self, workers: int, name: Callable[[int], str]):
        self.name = name
        self.at = torch.full((workers, 2), -1).share_memory_()  # of each worker: process, sample
        self.since: float | None = None  # a batch has been waited for

    def reads(self, index: int) -> None:
        """To be called before a sample is read, wherever it is."""
        if worker := data.get_worker_info():
            self.at.numpy()[worker.id] = os.getpid(), index

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While a batch is waited for. Raises WorkerLost in place of torch's error, which knows no sample."""
        self.since = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            lost = {int(pid) for pid in re.findall(r"\d+", str(error).partition("(pid")[2])}
            if named := [self._named(worker) for worker, (pid, _) in enumerate(self.at.tolist()) if pid in lost]:
                raise WorkerLost(
                    f"{' and '.join(named)} ended ({error}). Mostly memory ran out: ask for more (mem_gb in a "
                    "profile), or have fewer workers (--runtime workers=N, or `runtime` in a profile)"
                ) from None
            raise
        finally:
            self.since = None

    def tell_slow(self, ended: threading.Event) -> None:
        """Until `ended`: say what is read where a batch takes long. In a thread of its own."""
        told = 0.0
        while not ended.wait(SLOW / 10):
            waited = time.monotonic() - since if (since := self.since) else 0.0
            told = told if since else 0.0
            if waited > max(SLOW, 2 * told):
                told = waited
                busy = "; ".join(self._named(worker) for worker in range(len(self.at)))
                print(f"waited {waited:.0f} s for data: {busy}", file=sys.stderr, flush=True)

    def _named(self, worker: int) -> str:
        pid, index = self.at[worker].tolist()
        return f"data worker {worker} (process {pid}) at {self.name(index)}" if pid > 0 else f"data worker {worker}"
