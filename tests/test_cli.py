"""The command `multimae run`: a user's mistake is told in one line that names the mend."""

import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

from multimae.cli import main
from multimae.config import ConfigError, Runtime, build, load
from multimae.record.folder import RunFolder
from multimae.run import make_task
from multimae.shards import Shard

TINY = {
    "task": "classify",
    "classes": 10,
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
    "data": {"name": "scenes", "render_size": 32, "train_samples": 16, "eval_samples": 9},
    "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "semseg_classes": 14},
    "augmentation": {"rand_augment": None},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, with a recipe, a file that is no folder, and checkpoints that are none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "a_file").touch()
    (tmp_path / "junk.pth").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "junk.safetensors").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "images" / "train" / "rgb").mkdir(parents=True)
    save_file({"weights": torch.zeros(1)}, tmp_path / "other.safetensors")
    return tmp_path


def told(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("multimae: ")]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["nope"], ["no recipe at nope", "smoke/pretrain"]),
        (["."], [". cannot be read: Is a directory"]),
        (["a_file"], ["a_file: expected a mapping"]),
        (["junk.pth"], ["junk.pth is not valid YAML"]),
        (["tiny.yaml", "--set", "epocs=1"], ["unknown key 'epocs'", "did you mean 'epochs'"]),
        (["tiny.yaml", "--set", "epochs"], ["key=value", "'epochs'"]),
        (["tiny.yaml", "--set", "epochs=[1"], ["epochs=[1", "YAML"]),
        (["tiny.yaml", "--runtime", "zero=2"], ["unknown key 'zero'", "zero_stage"]),
        (["tiny.yaml", "--data", "images"], ["NAME=DIR", "'images'"]),
        (["tiny.yaml", "--runs", "a_file"], ["a_file cannot hold run folders", "choose a folder"]),
        (["tiny.yaml", "--set", "data.name=mine"], ["'mine'", "--data mine=DIR"]),
        (["tiny.yaml", "--set", "data.name=mine", "--data", "mine=images"], ["no samples", "images/train/rgb/"]),
        (["tiny.yaml", "--set", "classes=11"], ["classes", "10 classes, found 11"]),
        (["tiny.yaml", "--set", "init=run:0123456789"], ["0123456789 has no weights yet", "do that run first"]),
        (["tiny.yaml", "--set", "init=official:x"], ["--weights x=FILE"]),
        (["tiny.yaml", "--set", "init=official:x", "--weights", "x=gone.pth"], ["no file gone.pth"]),
        (["tiny.yaml", "--set", "init=official:x", "--weights", "x=a_file"], ["a_file", "expected a checkpoint"]),
        (["tiny.yaml", "--set", "init=official:x", "--weights", "x=junk.pth"], ["junk.pth", "no checkpoint"]),
        (["tiny.yaml", "--set", "init=official:x", "--weights", "x=junk.safetensors"], ["expected a checkpoint"]),
        (["tiny.yaml", "--set", "init=official:x", "--weights", "x=other.safetensors"], ["found weights"]),
    ],
)
def test_a_mistake_is_told_in_one_line(words, expected, here, capsys):
    assert main(["run", "--no-track", *words]) == 2
    (line,) = told(capsys)
    assert all(part in line for part in expected), line


def test_a_run_that_another_process_writes_is_left_alone(here):
    with RunFolder.of(here / "runs", load(here / "tiny.yaml").signature).claim():
        words = [sys.executable, "-m", "multimae", "run", "--no-track", "tiny.yaml"]
        second = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert second.returncode == 1 and len(second.stderr.splitlines()) == 1
    assert "is being written by process" in second.stderr


def test_mixup_of_an_odd_micro_batch_is_refused(tmp_path):
    task = make_task(build(TINY), Runtime(runs=tmp_path))
    (batch,) = next(task.batches(0, [Shard(0, 8)], workers=0))
    with pytest.raises(ConfigError, match="has 1; choose an even batch_size"):
        task.prepare(batch, torch.device("cpu"), 0, Shard())


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"RANK": "x"}, "RANK: expected a whole number, found 'x'"),
        ({"RANK": "1"}, "RANK 1 and WORLD_SIZE 1: expected a rank below"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set, and WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK: expected a whole number"),
    ],
)
def test_variables_of_a_launch_that_make_no_sense_are_told(here, capsys, monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "tiny.yaml", "--no-track"]) == 2
    assert expected in told(capsys)[0]
