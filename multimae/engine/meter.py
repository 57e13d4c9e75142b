"""What a run measures about itself: losses, speed, time waited for data, memory. Reads nothing from a GPU in a step."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from .distributed import Processes

CLOCKS = ("window", "epoch", "run")


@dataclass
class Clock:
    """Seconds and samples of the steps since it was started."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0  # waited for data

    def add(self, samples: int, seconds: float, data_seconds: float) -> None:
        self.steps += 1
        self.samples += samples
        self.seconds += seconds
        self.data_seconds += data_seconds

    @property
    def images_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0


class Meter:
    """Clocks of the log window, the epoch and the whole run (all attempts), and the window's mean losses."""

    def __init__(self, batch_size: int, processes: Processes):
        self.batch_size = batch_size
        self.processes = processes
        self.window, self.epoch, self.run = Clock(), Clock(), Clock()
        self._sums: torch.Tensor | None = None  # float64 (n,), on the device; of this process
        self._summed = 0

    def start_step(self) -> None:
        self._start = time.perf_counter()

    def data_arrived(self) -> None:
        self._data_seconds = time.perf_counter() - self._start

    def end_step(self) -> None:
        seconds = time.perf_counter() - self._start
        for name in CLOCKS:
            getattr(self, name).add(self.batch_size, seconds, self._data_seconds)

    def add_losses(self, losses: torch.Tensor) -> None:
        """The losses (n,) of one step of this process."""
        self._sums = losses.double() if self._sums is None else self._sums + losses
        self._summed += 1

    def take_losses(self) -> list[float]:
        """The mean losses (n,) of the window over all processes, none where every step was skipped."""
        if self._sums is None:
            return []
        mean = self.processes.mean(self._sums / self._summed).tolist()
        self._sums, self._summed = None, 0
        return mean

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, so that a resumed run logs the same numbers; a collective call.

        The sums are kept by process: added up in another order they would differ in the last bit.
        """
        clocks = {name: asdict(getattr(self, name)) for name in CLOCKS}
        sums = [] if self._sums is None else self.processes.gather(self._sums).tolist()
        return {"clocks": clocks, "sums": sums, "summed": self._summed}

    def load(self, state: dict[str, Any]) -> None:
        for name in CLOCKS:
            setattr(self, name, Clock(**state["clocks"][name]))
        if state["sums"]:
            sums = torch.tensor(state["sums"], dtype=torch.float64, device=self.processes.device)
            self._sums = sums[self.processes.rank] if len(sums) == self.processes.count else sums.mean(0)
        self._summed = state["summed"]

    def memory_gib(self) -> float:
        """The most GPU memory so far, or on the CPU the resident memory now, of this process."""
        if self.processes.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        return psutil.Process().memory_info().rss / 2**30
