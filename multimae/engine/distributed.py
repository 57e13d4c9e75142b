"""The processes that train together, and how they agree."""

import atexit
import contextlib
import importlib
import logging
import os
import random
import socket
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType

import numpy as np
import torch
import torch.distributed as dist

from ..config import ConfigError, Runtime, TrainingConfig
from ..seeds import derive
from ..shards import Shard
from .task import RunFailed

LAST_WORDS = 3.0  # seconds that a process which failed has to say of what


def load_deepspeed(device: str = "cpu") -> ModuleType:
    """DeepSpeed, imported quietly. Starts no thread and no process group."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its autotuner imports MLflow where it can, two seconds for nothing: as if that were not installed.
    hidden = sys.modules.setdefault("mlflow", None) is None  # type: ignore[arg-type]  # as Python documents it
    try:
        deepspeed = importlib.import_module("deepspeed")
    finally:
        if hidden:
            del sys.modules["mlflow"]
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its import set another
    # DeepSpeed would build this shared-memory operator with the C++ compiler, tens of seconds on each new machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@dataclass(frozen=True)
class Processes:
    """This process (`rank` of `count`) among those that train together, and the device it computes on."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, runtime: Runtime) -> "Processes":
        """Meet the processes that torchrun or SLURM started (RANK, WORLD_SIZE, ...); without those, be the only one."""
        kind = runtime.device
        if kind == "auto":
            kind = "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cuda" and not torch.cuda.is_available():
            # No ConfigError, which would be final: on a cluster it is this node's fault, and the next may have one.
            where = socket.gethostname()
            raise RunFailed(f"device: cuda was asked for, but torch sees no GPU on {where}; use device=cpu or auto")
        if runtime.threads:
            torch.set_num_threads(runtime.threads)
        device = torch.device(kind)
        if kind == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        deepspeed = load_deepspeed(kind)
        timeout = timedelta(minutes=runtime.timeout_minutes)
        # Of the groups that DeepSpeed makes later, too: it does not pass one on.
        dist.distributed_c10d.default_pg_timeout = dist.distributed_c10d.default_pg_nccl_timeout = timeout
        if not dist.is_initialized():
            backend = "nccl" if kind == "cuda" else "gloo"
            if int(os.environ.get("WORLD_SIZE", 1)) == 1:
                # A store of its own needs no port, so many runs on one machine cannot collide.
                os.environ |= {"RANK": "0", "LOCAL_RANK": os.environ.get("LOCAL_RANK", "0"), "WORLD_SIZE": "1"}
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
            deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def explain(self, error: Exception) -> RunFailed:
        """The failure to tell of. Where the others broke off, that is what one of them says it failed of."""
        reason = str(error) if isinstance(error, RunFailed | ConfigError) else f"{type(error).__name__}: {error}"
        store = dist.distributed_c10d._get_default_store()
        # Another process did not answer.
        lost = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
        with contextlib.suppress(dist.DistError):  # it was the first process's, which may be gone
            if not lost:
                store.set(f"failed/{self.rank}", f"process {self.rank} on {socket.gethostname()}: {reason}")
                return error if isinstance(error, RunFailed) else RunFailed(reason)
            until = time.monotonic() + LAST_WORDS
            while self.main and time.monotonic() < until:  # the others end at once: the first one waits for that, too
                for rank in range(self.count):
                    if store.check([f"failed/{rank}"]):
                        return RunFailed(store.get(f"failed/{rank}").decode())
                time.sleep(0.2)
        if isinstance(error, RunFailed):
            return error
        return RunFailed(
            f"another process broke off or no longer answers ({reason}). It said nothing: it was killed, hangs, or its "
            "node is gone. What it printed last may tell"
        )

    def shards(self, config: TrainingConfig, runtime: Runtime) -> list[Shard]:
        """This process's micro-batches of a step, as slices of the global batch."""
        accumulated = runtime.micro_batches(config.batch_size, self.count)
        return [Shard(self.rank * accumulated + i, self.count * accumulated) for i in range(accumulated)]

    def maximum(self, values: torch.Tensor) -> torch.Tensor:
        """The largest value of each element over all processes (in place)."""
        if self.count > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of each element over all processes (in place)."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def gather(self, row: torch.Tensor) -> torch.Tensor:
        """The rows (n,) of all processes, as (processes, n)."""
        rows = torch.zeros(self.count, *row.shape, dtype=row.dtype, device=self.device)
        rows[self.rank] = row
        if self.count > 1:
            dist.all_reduce(rows)  # a sum with zeros is exact
        return rows

    def first(self, value: int) -> int:
        """The first process's integer."""
        tensor = torch.tensor(value, device=self.device)
        if self.count > 1:
            dist.broadcast(tensor, 0)
        return int(tensor)


def seed_everything(*entropy: int) -> None:
    """Seed torch, numpy and Python from integers that name a moment, such as (seed, step, shard)."""
    seed = derive(*entropy)
    # torch.manual_seed would also seed every device that might exist, at a millisecond a call.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
