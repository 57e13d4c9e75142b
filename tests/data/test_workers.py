"""Workers: how many, from when on, and what is said of one that dies or is slow."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from image_files import write

from multimae.config import Dirichlet, Folder, Model, Pretrain, Runtime
from multimae.data import workers
from multimae.data.datasets import open_dataset
from multimae.data.loaders import train_batches
from multimae.data.transforms import PretrainTransform
from multimae.data.workers import WorkerLost, chosen
from multimae.shards import Shard


@pytest.mark.parametrize(
    "settings, cores, variables, expected",
    [
        ({}, 12, {}, 11),
        ({}, 1, {}, 1),
        ({}, 96, {}, 16),
        ({}, 96, {"SLURM_CPUS_PER_TASK": "8"}, 7),  # of a site that binds no process
        ({}, 8, {"SLURM_CPUS_PER_TASK": "96"}, 7),
        ({}, 24, {"LOCAL_WORLD_SIZE": "4"}, 5),
        ({"workers": 3}, 12, {"SLURM_CPUS_PER_TASK": "8"}, 3),
        ({"workers": 0}, 12, {}, 0),
        ({"device": "cpu"}, 12, {}, 0),
    ],
)
def test_a_process_has_as_many_as_it_has_cores_for(monkeypatch, settings, cores, variables, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert chosen(Runtime(**settings)) == expected


def test_without_a_gpu_the_training_has_the_cores(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen(Runtime()) == 0 and chosen(Runtime(workers=2)) == 2


class Stuck:
    """A data set whose sample 2 is not read before the world ends."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __len__(self):
        return len(self.dataset)

    def sample(self, index, fields):
        if index == 2:
            time.sleep(600)
        return self.dataset.sample(index, fields)


def test_a_slow_worker_and_a_dead_one_are_named_with_their_sample(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(workers, "SLOW", 0.5)
    root = write(tmp_path / "pets", ["cat"], 4, fields=("rgb", "depth", "semseg"))
    config = Pretrain(
        batch_size=4, data=Folder(name="pets"), model=Model(image_size=16, patch_size=8),
        masking=Dirichlet(visible_tokens=4),
    )  # fmt: skip
    dataset = open_dataset(config.data, "train", Runtime(runs=tmp_path, data_roots={"pets": root}), config.fields)
    before = {process.pid for process in multiprocessing.active_children()}
    batches = train_batches(Stuck(dataset), PretrainTransform(config, True), config, [Shard()], 0, workers=1)
    (worker,) = (p for p in multiprocessing.active_children() if p.pid not in before)  # it has begun, with the call
    told: list[str] = []

    def look() -> None:
        while not told:
            time.sleep(0.1)
            told.extend(line for line in capfd.readouterr().err.splitlines() if "for data" in line)
        os.kill(worker.pid, signal.SIGKILL)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    with pytest.raises(WorkerLost, match=rf"data worker 0 \(process {worker.pid}\) at .*cat/2.jpg ended.*workers=N"):
        next(batches)
    looking.join()
    assert f"(process {worker.pid}) at {dataset.name(2)}" in told[0]
