"""What a node's processors, memory, disk, network and GPUs do, by psutil and NVML. Imports no torch.

The names are those of MLflow's own collector, so that its page of system metrics shows them; a megabyte is 10^6 bytes.
What is bounded by a control group (of version 2), is told of what the bound allows: a container has it of its own, and
of the whole machine it would say little.
"""

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from ..config.runtime import cpus

Numbers = dict[str, float]
MEGA = 1e6
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def gauges(pids: Sequence[int], gpus: Sequence[str], disk: Path) -> dict[str, Callable[[], Callable[[], Numbers]]]:
    """{what: makes the gauge of it}, for a node where the processes `pids` train, on the GPUs of these UUIDs, and write
    to `disk`. To make one, and to read it, may raise anything."""
    makers: dict[str, Callable[[], Callable[[], Numbers]]] = {
        "CPU": lambda: Cpu(pids).read,
        "memory": lambda: lambda: memory(pids),
        "disk": lambda: lambda: disk_usage(disk),
        "network": lambda: Network().read,
    }
    return makers | ({"GPU": lambda: Gpus(gpus).read} if gpus else {})


class Cpu:
    """How busy the cores are that the processes may use, by whatever program: since the last look, from 0 to 100 %."""

    def __init__(self, pids: Sequence[int]):
        self._cores: set[int] = set()
        for pid in pids:
            with contextlib.suppress(psutil.Error, AttributeError):  # macOS binds no process to cores
                self._cores |= set(psutil.Process(pid).cpu_affinity() or ())
        allowed = len(self._cores) or cpus()
        quotas = [(cores, group) for group in _groups() if (cores := _quota(group)) and cores < allowed]
        self._quota: float
        self._group: Path | None
        self._quota, self._group = min(quotas, default=(0.0, None))
        self._since, self._used = time.monotonic(), self._seconds()
        psutil.cpu_percent(percpu=True)  # the first one means nothing

    def read(self) -> Numbers:
        each = psutil.cpu_percent(percpu=True)
        each = [percent for core, percent in enumerate(each) if core in self._cores] or each
        percent = sum(each) / len(each)
        if self._group:
            since, used = self._since, self._used
            self._since, self._used = time.monotonic(), self._seconds()
            percent = 100 * (self._used - used) / (self._since - since) / self._quota
        return {"cpu_utilization_percentage": percent}

    def _seconds(self) -> float:
        """Of computing, in the group that bounds the processes; 0 where none does."""
        return _values(self._group / "cpu.stat")["usage_usec"] / 1e6 if self._group else 0.0


def memory(pids: Sequence[int]) -> Numbers:
    """In use, without what the system would give up at once; and resident of the processes, data workers left out."""
    machine = psutil.virtual_memory()
    used, total = machine.used, machine.total
    for group in _groups():
        with contextlib.suppress(OSError, ValueError, KeyError):  # the outermost group bounds nothing
            if (limit := int((group / "memory.max").read_text())) < total:
                cached = _values(group / "memory.stat")["inactive_file"]
                used, total = int((group / "memory.current").read_text()) - cached, limit
    own = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            own += psutil.Process(pid).memory_info().rss
    return {
        "system_memory_usage_megabytes": used / MEGA,
        "system_memory_usage_percentage": 100 * used / total,
        "process_memory_usage_megabytes": own / MEGA,
    }


def disk_usage(disk: Path) -> Numbers:
    """Of the file system with the run's folder."""
    usage = psutil.disk_usage(str(disk))
    return {
        "disk_usage_percentage": usage.percent,
        "disk_usage_megabytes": usage.used / MEGA,
        "disk_available_megabytes": usage.free / MEGA,
    }


class Network:
    """What all interfaces of the node have carried since this was made."""

    def __init__(self) -> None:
        self._before = psutil.net_io_counters()

    def read(self) -> Numbers:
        now, before = psutil.net_io_counters(), self._before
        return {
            "network_receive_megabytes": (now.bytes_recv - before.bytes_recv) / MEGA,
            "network_transmit_megabytes": (now.bytes_sent - before.bytes_sent) / MEGA,
        }


class Gpus:
    """GPUs by their UUIDs, numbered from 0. What one of them does not tell is left out."""

    def __init__(self, uuids: Sequence[str]):
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError:
            raise ImportError("there is no pynvml: pip install nvidia-ml-py") from None
        self._nvml.nvmlInit()
        self._devices = [self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]

    def read(self) -> Numbers:
        numbers: Numbers = {}
        for index, device in enumerate(self._devices):
            for kind in (self._utilization, self._memory, self._power):
                with contextlib.suppress(self._nvml.NVMLError):
                    numbers |= {f"gpu_{index}_{name}": value for name, value in kind(device).items()}
        return numbers

    def _utilization(self, device: object) -> Numbers:
        return {"utilization_percentage": self._nvml.nvmlDeviceGetUtilizationRates(device).gpu}

    def _memory(self, device: object) -> Numbers:
        told = self._nvml.nvmlDeviceGetMemoryInfo(device)
        return {
            "memory_usage_megabytes": told.used / MEGA,
            "memory_usage_percentage": 100 * told.used / told.total,
        }

    def _power(self, device: object) -> Numbers:
        return {"power_usage_watts": self._nvml.nvmlDeviceGetPowerUsage(device) / 1000}  # from milliwatts


# ---- control groups


def _groups() -> Iterator[Path]:
    """The control group of this process and those around it, the innermost first; none where there is no version 2."""
    with contextlib.suppress(OSError):
        for line in OWN_GROUP.read_text().splitlines():
            if line.startswith("0::"):
                own = GROUPS / line[3:].strip("/")
                yield from (own, *(group for group in own.parents if group.is_relative_to(GROUPS)))


def _quota(group: Path) -> float | None:
    """CPU cores that a group may use; None where it is not bounded."""
    with contextlib.suppress(OSError, ValueError):
        most, period = (group / "cpu.max").read_text().split()
        return float(most) / float(period)  # or `max`, which is no number
    return None


def _values(file: Path) -> dict[str, int]:
    """A file of lines `name number`."""
    return {name: int(value) for name, value in (line.split() for line in file.read_text().splitlines())}
