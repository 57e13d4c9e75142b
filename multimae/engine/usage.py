"""How busy each node of a run is, measured now and then in a thread of one of its processes: `system/<node>.jsonl`.

    {"time", "kind": "system", "node": 0, "nodes": 2, "metrics": {"cpu_utilization_percentage": 93.1, ...}}

`node` counts from 0 and says which of the `nodes` of this attempt it is; the file has the name of the machine. Nothing
here can stop a training: what cannot be measured or written is told once, and left out.
"""

import contextlib
import hashlib
import math
import os
import re
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..record.folder import RunFolder
from ..record.journal import Journal
from .distributed import Processes
from .gauges import Numbers, gauges

FIRST = 3.0  # seconds until the first sample, or less where less lies between two
LAST = 1.0  # seconds that a sample which is being made gets when the run ends


@dataclass(frozen=True)
class Node:
    """This machine among those that train together."""

    name: str
    index: int
    count: int
    writes: bool  # whether it is this process that measures
    pids: list[int] = field(default_factory=list)  # of the processes that train here
    gpus: list[str] = field(default_factory=list)  # UUIDs of those that they compute on

    @classmethod
    def of(cls, processes: Processes) -> "Node":
        """A collective call. Not by LOCAL_RANK: where each process is shown its own GPU only, that is 0 for all."""
        name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        number = int(np.frombuffer(hashlib.sha256(name.encode()).digest(), np.int64)[0])
        row = torch.tensor([number, os.getpid(), *_gpu(processes.device)], device=processes.device)
        rows = processes.gather(row).tolist()
        here = [other[1:] for other in rows if other[0] == number]
        all_nodes = [other[0] for other in rows]
        nodes = list(dict.fromkeys(all_nodes))
        return cls(
            re.sub(r"[^\w.-]", "_", name, flags=re.ASCII),
            nodes.index(number),
            len(nodes),
            writes=processes.rank == all_nodes.index(number),
            pids=[pid for pid, *_ in here],
            gpus=[str(uuid.UUID(bytes=np.array(gpu, np.int64).tobytes())) for _, *gpu in here if any(gpu)],
        )


@contextlib.contextmanager
def sampling(folder: RunFolder, processes: Processes, seconds: float) -> Iterator[None]:
    """Measure this node every so many seconds within; 0: not at all. To enter is a collective call."""
    if not seconds:
        yield
        return
    node = Node.of(processes)
    sampler = Sampler(folder, node, seconds)
    if node.writes:
        sampler.start()
    try:
        yield
    finally:
        sampler.stop()


class Sampler:
    def __init__(self, folder: RunFolder, node: Node, seconds: float):
        self._folder, self._node, self._seconds = folder, node, seconds
        self._journal = Journal(folder.system / f"{node.name}.jsonl")
        self._over = threading.Event()
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="usage")

    def start(self) -> None:
        with self._survived("its thread"):
            self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LAST)

    def _run(self) -> None:
        read: dict[str, Callable[[], Numbers]] = {}
        for what, make in gauges(self._node.pids, self._node.gpus, self._folder.path).items():
            with self._survived(what):
                read[what] = make()
        wait = min(FIRST, self._seconds)
        while not self._over.wait(wait):
            metrics: Numbers = {}
            for what, gauge in read.items():
                with self._survived(what):
                    metrics |= gauge()
            finite = {name: round(value, 1) for name, value in metrics.items() if math.isfinite(value)}
            with self._survived("its file"):
                self._journal.write("system", node=self._node.index, nodes=self._node.count, metrics=finite)
            wait = self._seconds

    @contextlib.contextmanager
    def _survived(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever psutil, NVML or a disk have: a training goes on
            if what not in self._told:
                self._told.add(what)
                with contextlib.suppress(OSError, ValueError):
                    print(f"system metrics of {self._node.name}, {what}: {error}", file=sys.stderr, flush=True)


def _gpu(device: torch.device) -> tuple[int, int]:
    """The UUID of a GPU as two numbers; 0, 0 where there is none, or it has none."""
    if device.type != "cuda":
        return 0, 0
    try:
        found = uuid.UUID(str(torch.cuda.get_device_properties(device).uuid))
    except Exception:  # of other vendors: no process may fail here, the others would wait for it
        return 0, 0
    first, second = np.frombuffer(found.bytes, np.int64).tolist()
    return first, second
