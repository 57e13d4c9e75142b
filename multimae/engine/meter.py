"""What a run measures about itself: losses, speed, time waited for data, memory. Reads nothing from a GPU in a step."""

import resource
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..speed import matrix_gflops
from .distributed import Processes

CLOCKS = ("window", "epoch", "run")


@dataclass
class Clock:
    """Seconds and samples of the steps since it was started."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0  # waited for data
    cpu_seconds: float = 0.0  # of all threads of this process

    def add(self, samples: int, seconds: float, data_seconds: float, cpu_seconds: float) -> None:
        self.steps += 1
        self.samples += samples
        self.seconds += seconds
        self.data_seconds += data_seconds
        self.cpu_seconds += cpu_seconds

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
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def data_arrived(self) -> None:
        self._data_seconds = time.perf_counter() - self._start

    def end_step(self) -> None:
        seconds, cpu_seconds = time.perf_counter() - self._start, time.process_time() - self._cpu_start
        for name in CLOCKS:
            getattr(self, name).add(self.batch_size, seconds, self._data_seconds, cpu_seconds)

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

    def data_share(self, clock: Clock) -> float:
        """Of its time, what was waited for data by the process that waited longest; a collective call. The others wait
        for that one, and do not know for what."""
        share = torch.tensor(clock.data_seconds / clock.seconds, dtype=torch.float64, device=self.processes.device)
        return float(self.processes.maximum(share))

    def memory_gib(self) -> float:
        """The most that this process has had so far in this attempt: allocated on its GPU, or resident on the CPU."""
        if self.processes.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        unit = 1 if sys.platform == "darwin" else 2**10  # bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    def matrix_gflops(self, precision: str) -> float:
        """GFLOP/s that matrix products reach, of all processes together, which measure at the same time; a collective
        call, of a tenth of a second or two."""
        rate = torch.tensor([matrix_gflops(self.processes.device, precision)], device=self.processes.device)
        return float(self.processes.gather(rate).sum())
