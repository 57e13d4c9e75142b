"""A new kind of run is three files: its config, what carries it out, and its recipe. Nothing else is touched.

So is a new dense task: here surface normals by their angle.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONFIG = '''
"""How many classes a data set has."""

from typing import Literal

from .base import RunConfig


class Count(RunConfig, task="count", runs="multimae.tasks.count:CountTask"):
    task: Literal["count"] = "count"

    @property
    def fields(self):
        return ("label",)

    def images(self):
        return self.data.train_samples

    def operations(self, needed):
        return float(self.images() or 0)
'''

TASK = '''
"""Counts classes, split by split."""

from ..data.datasets import open_dataset
from .base import result


class CountTask:
    pieces = ("train", "eval")
    class_names, weights = (), None

    def __init__(self, config, runtime):
        self.config = config
        self.sets = {split: open_dataset(config.data, split, runtime, config.fields) for split in self.pieces}

    def do(self, piece, device, shard, progress):
        data, seen = self.sets[piece], set()
        for index in range(len(data)):
            seen.add(int(data.sample(index, ("label",))["label"]))
            progress(index, len(data))
        return [result(data, {"classes": float(len(seen))})]
'''

RECIPE = """
# What comes of it is printed by --table.
task: count
scales:
  smoke: {data: {train_samples: 64, eval_samples: 8}}
"""

STUDY = '''
"""Classes in two splits."""

import sys

from multimae.config import recipe
from multimae.study import Evaluation, Row, Study, Table
from multimae.study.measures import Quantity
from sweeps.command import main

UNIT = Quantity("tokens")
COLUMNS = tuple(
    Evaluation(split, stage="count", metric="classes", split=split, declares=UNIT) for split in ("train", "val")
)


def rows(scale):
    for seed in (0, 1):
        yield Row(f"seed={seed}", {"count": recipe("count", scale).edit({"seed": seed})})


study = Study("counted", "Classes", rows, (Table("classes", "Classes", COLUMNS[:1]), Table("more", "More", COLUMNS)))

if __name__ == "__main__":
    sys.exit(main(study))
'''

NORMALS = '''
"""Surface normals, by their angle."""

from typing import Literal

from .dense import DenseTransfer
from .sections import AnyData, Epochs, Folder, LayerwiseOptimizer, Model
from .training import BatchSize


class Normals(DenseTransfer, task="normals", runs="multimae.tasks.normals:NormalsTask"):
    task: Literal["normals"] = "normals"
    epochs: Epochs = 100
    batch_size: BatchSize = 32
    data: AnyData = Folder(name="taskonomy", eval_split="test")
    model: Model = Model(image_size=384)
    optimizer: LayerwiseOptimizer = LayerwiseOptimizer(
        base_lr=3e-4, base_batch=None, betas=(0.9, 0.999), layer_decay=0.75, warmup_epochs=5
    )

    @property
    def truth_field(self) -> str:
        return "normals"
'''

NORMALS_TASK = '''
"""Surface normals, by their angle."""

import torch
from torch.nn.functional import cosine_similarity, normalize

from ..data.transforms import RegressTransform
from ..metrics import MeanLosses
from .dense import DenseTask


class NormalsTask(DenseTask):
    transform = RegressTransform

    def loss(self, predicted, truth):
        cosines, known = cosines_of(predicted, truth)
        return {"normals": ((1 - cosines) * known).sum() / known.sum().clamp(min=1)}

    def values(self, predicted):
        return (normalize(predicted.float()) + 1) / 2

    def make_metric(self, device):
        return MeanAngle(device)


class MeanAngle:
    better = {"angle": "lower"}  # degrees

    def __init__(self, device):
        self.mean = MeanLosses(("angle",), device)

    def update(self, predicted, truth):
        cosines, known = cosines_of(predicted, truth)
        angles = torch.where(known, cosines.clamp(-1, 1).acos().rad2deg(), 0)
        self.mean.update({"angle": angles.sum() / known.sum().clamp(min=1)}, {"angle": known.sum()})

    def compute(self):
        return {"angle": self.mean.compute()["loss_angle"]}


def cosines_of(predicted, truth):
    return cosine_similarity(predicted.float(), 2 * truth.nan_to_num(0.5) - 1), truth.isfinite().all(1)
'''

NORMALS_RECIPE = """
# Angles in degrees.
task: normals
scales:
  smoke:
    epochs: 1
    batch_size: 8
    data: {name: scenes_taskonomy, train_samples: 16, eval_samples: 8}
    head: {layers: [1, 1, 2, 2], widths: [8, 8, 8, 8], dim: 8}
    optimizer: {warmup_epochs: 0}
"""


@pytest.fixture
def copy(tmp_path) -> Path:
    for room in ("multimae", "slurm", "analysis", "sweeps"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "multimae/config/count.py").write_text(CONFIG)
    (tmp_path / "multimae/tasks/count.py").write_text(TASK)
    (tmp_path / "multimae/recipes/count.yaml").write_text(RECIPE)
    (tmp_path / "sweeps/counted.py").write_text(STUDY)
    (tmp_path / "multimae/config/normals.py").write_text(NORMALS)
    (tmp_path / "multimae/tasks/normals.py").write_text(NORMALS_TASK)
    (tmp_path / "multimae/recipes/normals.yaml").write_text(NORMALS_RECIPE)
    return tmp_path


def call(folder: Path, *words: str) -> str:
    path = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_is_planned_run_resumed_tabulated_and_submitted(copy):
    study = ["sweeps/counted.py", "--runs", str(copy / "runs")]
    assert "Would run 2 runs" in call(copy, *study, "--dry-run")
    scripts = call(copy, *study, "--dry-run", "--cluster", "devcluster")
    assert scripts.count("#!/bin/bash") == 1 and "counted-count" in scripts
    table = call(copy, *study)
    assert "Table classes" in table and "Table more" in table and "refused" not in table
    lines = [line.split() for line in table.splitlines() if line.startswith("seed=")]
    assert [line[0] for line in lines] == ["seed=0", "seed=1"] * 2
    assert all(cell.isdecimal() for line in lines for cell in line[1:])  # whole numbers, no 10.000
    assert "Everything is done already" in call(copy, *study)
    assert call(copy, "-m", "multimae", "run", "smoke/count", "--no-track", "--runs", "other").count("finished")


@pytest.mark.slow
def test_a_dense_task_is_trained_measured_and_drawn(copy):
    assert "finished" in call(copy, "-m", "multimae", "run", "smoke/normals", "--no-track", "--runs", "runs")
    (folder,) = (path.parent for path in (copy / "runs").glob("*/config.yaml"))
    records = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    (evaluated,) = (record for record in records if record["kind"] == "eval")
    assert 0 < evaluated["metrics"]["angle"] < 180 and evaluated["n"] == 8
    assert (folder / "samples/predictions.png").exists()
