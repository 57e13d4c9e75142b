"""A regression that trains in milliseconds, to test the engine with, and child processes that train it."""

import math
import multiprocessing
import os
import socket
import sys

import torch
from PIL import Image
from torch import nn

from multimae.config import Pretrain, RunConfig, Runtime
from multimae.engine.task import RunFailed
from multimae.record.folder import RunFolder

EXIT = {"finished": 0, "interrupted": 3, "failed": 4}


def toy_config(**changes) -> RunConfig:
    """20 steps: 5 epochs of 4 batches of 16."""
    config = Pretrain(epochs=5, batch_size=16, precision="fp32")
    return config.edit({"optimizer.warmup_epochs": 1, "optimizer.base_lr": 0.05} | changes)


class ToyModule(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.bad_gradient = False
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        x, y = batch
        self.seen += 1
        error = self.model(x) - y
        squared = error.square().mean()
        if self.bad_gradient:
            squared = squared + (0 * squared).sqrt()  # adds zero, whose gradient is not a number
        return {"squared": squared, "absolute": error.abs().mean()}


class ToyTask:
    """Dropout and input noise make each step random, unless `random` is False.

    `on_step` is called with each step before its batches are given. At `bad_steps` the samples of process `bad_rank`
    are infinite; at `bad_gradients` the loss is fine and its gradient is not. `validation`, {step: metric}, is what
    weights are selected by, if they are.
    """

    train_samples = 64
    class_names = ()

    def __init__(
        self,
        config,
        on_step=lambda step: None,
        bad_steps=(),
        bad_rank=0,
        bad_gradients=(),
        random=True,
        width=33,
        validation=None,
    ):
        torch.manual_seed(config.seed)
        self.model = nn.Sequential(
            nn.Linear(8, width), nn.GELU(), nn.Dropout(0.1 * random), nn.Linear(width, width), nn.Linear(width, 4)
        )
        self.model[3].bias.requires_grad_(False)
        self.module = ToyModule(self.model)
        self.config, self.on_step = config, on_step
        self.bad_steps, self.bad_rank, self.bad_gradients = bad_steps, bad_rank, bad_gradients
        self.validation, self.selection = validation, ("error", "lower") if validation else None
        self.noise = 0.01 * random
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(self.train_samples, 8, generator=generator)
        self.y = self.x[:, :4].sin()

    def parameter_groups(self):
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05, "lr_scale": 0.5},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "lr_scale": 1.0},
        ]

    def batches(self, first_step, shards, workers):
        step, size = first_step, self.config.batch_size
        while True:
            self.on_step(step)
            generator = torch.Generator().manual_seed(step * size // self.train_samples)
            order = torch.randperm(self.train_samples, generator=generator)
            rows = order[step * size % self.train_samples :][:size]
            indices = [rows[torch.as_tensor(shard.rows(size))] for shard in shards]
            yield [{"x": self.x[i], "y": self.y[i], "index": i} for i in indices]
            step += 1

    def prepare(self, batch, device, step, shard):
        self.module.bad_gradient = step in self.bad_gradients
        x = batch["x"] + self.noise * torch.randn_like(batch["x"])
        rank = shard.index * int(os.environ.get("WORLD_SIZE", 1)) // shard.count
        if step in self.bad_steps and rank == self.bad_rank:
            x = x * math.inf
        return x.to(device), batch["y"].to(device)

    def evaluate(self, module, device, shard, split="eval", progress=None):
        """On the split called val; called test, where val selects weights."""
        assert not module.training
        torch.rand(3)  # an evaluation may draw what it likes
        if progress:
            progress(self.train_samples // 2, self.train_samples)
        error = float((self.model(self.x.to(device)) - self.y.to(device)).square().mean())
        if split == "val":
            error = self.validation[int(module.seen)]  # in steps, where there is one micro-batch
        name = "test" if self.validation and split == "eval" else "val"
        conditions = {"dataset": "toy", "split": name, "n": self.train_samples, "fingerprint": "toy"}
        return [conditions | {"metrics": {"error": error}}]

    def pictures(self, module, device):
        return {"prediction": Image.new("RGB", (4, 4))}


def curve(folder: RunFolder) -> list[dict]:
    """All that a run journaled about its learning, without what a clock says."""
    kept = ("step", "epoch", "loss", "losses", "lr", "grad_norm", "metrics", "split", "selected_step")
    records = folder.journal.curve("train") + folder.journal.curve("eval")
    return [{key: record[key] for key in kept if key in record} for record in records]


def in_children(target, *arguments, processes: int = 1, timeout: float = 120) -> list[int]:
    """Call `target(rank, *arguments)` in that many processes that can meet; returns their exit codes.

    They are forked from a server that has imported the engine, which is what launchers do.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["multimae.engine.preload"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        context.Process(target=_child, args=(target, rank, processes, port, *arguments)) for rank in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout)
        if child.is_alive():
            child.kill()
            child.join()
    return [child.exitcode for child in children]


def _child(target, rank: int, processes: int, port: int, *arguments) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    target(rank, *arguments)


def train_in_children(folder: RunFolder, config=None, runtime=None, processes=1, setup=None) -> list[int]:
    """Train; returns EXIT of each process, or minus the signal that killed it.

    `setup(rank) -> keyword arguments of ToyTask` is called in each child, and may change what it likes there.
    """
    runtime = runtime or Runtime(log_every_steps=3, threads=1)
    return in_children(_train, folder, config or toy_config(), runtime, setup, processes=processes)


def _train(rank: int, folder: RunFolder, config: RunConfig, runtime: Runtime, setup) -> None:
    from multimae.engine.loop import train

    task = ToyTask(config, **(setup(rank) if setup else {}))
    try:
        result = train(task, config, runtime, folder)
    except RunFailed:
        result = "failed"
    sys.exit(EXIT[result])
