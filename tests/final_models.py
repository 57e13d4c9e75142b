"""Runs that are done, tiny, one of each kind; and copies beside an MLflow store. Fixtures are imported by tests."""

import shutil
from pathlib import Path

import pytest
from tracking_store import Seen, empty_store  # noqa: F401 (a fixture)

from multimae.config import RunConfig, Runtime, build
from multimae.run import run

TINY = {
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
    "data": {"name": "scenes", "render_size": 40, "train_samples": 16, "eval_samples": 9},
    "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "semseg_classes": 14},
    "optimizer": {"warmup_epochs": 0},
}
DPT = {"layers": [1, 1, 2, 2], "widths": [4, 4, 4, 4], "dim": 4}
PRETRAIN = build(
    TINY
    | {"task": "pretrain", "decoder": {"dim": 16, "depth": 1, "heads": 2}}
    | {"masking": {"visible_tokens": 8, "mask_tokens_in_encoder": True}}
)


def transfer(task: str, **settings) -> RunConfig:
    return build(TINY | {"task": task, "init": f"run:{PRETRAIN.signature}"} | settings)


CLASSIFY = transfer("classify", classes=10, augmentation={"rand_augment": None})
KINDS = {
    "pretrain": PRETRAIN,
    "classify": CLASSIFY,
    "segment": transfer("segment", classes=14, zero_is_unlabelled=False, head={"dim": 32, "depth": 1}),
    "depth": transfer("depth", head=DPT),
    "regress": transfer("regress", target="edges", head=DPT, selection={"kind": "last"}),
}
SECOND = CLASSIFY.edit({"seed": 1})
TWO = transfer(
    "classify", classes=10, inputs=["rgb", "pseudo_depth", "semseg"],
    augmentation={"rand_augment": None, "mixup": 0, "cutmix": 0},
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Runtime:
    """Runs that are done, one of each kind."""
    runtime = Runtime(runs=tmp_path_factory.mktemp("place") / "runs", threads=1)
    for config in (*KINDS.values(), SECOND, TWO):
        assert run(config, runtime) == "finished"
    return runtime


@pytest.fixture
def runs(trained, empty_store, tmp_path, monkeypatch) -> Path:
    """A copy of them, with an MLflow store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return shutil.copytree(trained.runs, tmp_path / "runs")
