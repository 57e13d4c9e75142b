"""Checkpoints: complete or invisible, and never the torn one."""

import json

import pytest
import torch

from multimae.engine import checkpoint as checkpoint_module
from multimae.engine.checkpoint import CheckpointError, Checkpoints

TENSORS = {"parameter/w": torch.arange(12.0).reshape(3, 4), "updates": torch.tensor(3.0)}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def save(checkpoints, step) -> int:
    tensors = {name: tensor + step for name, tensor in TENSORS.items()}
    return checkpoints.save(tensors, {"step": step, "meter": {"sums": [[0.1]]}})


def names(checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_there_may_be_none(checkpoints):
    assert checkpoints.newest() == (None, [])


def test_what_is_saved_is_read_to_the_bit(checkpoints):
    size = save(checkpoints, 7)
    newest, faults = checkpoints.newest()
    assert (newest.step, newest.progress["meter"], faults) == (7, {"sums": [[0.1]]}, [])
    assert all(torch.equal(newest.tensors()[name], tensor + 7) for name, tensor in TENSORS.items())
    assert size == (newest.path / "tensors.safetensors").stat().st_size
    assert checkpoints.at(7) == newest


def test_the_last_two_are_kept_in_order_of_steps(checkpoints):
    for step in (8, 9, 10, 100):
        save(checkpoints, step)
    assert names(checkpoints) == ["step-00000010", "step-00000100"]
    assert checkpoints.newest()[0].step == 100


def torn(path):
    (path / "tensors.safetensors").write_bytes(b"")


def flipped(path):
    file = path / "tensors.safetensors"
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)


def no_progress(path):
    (path / "progress.json").unlink()


def half_progress(path):
    (path / "progress.json").write_text('{"step": 9, "by')


def empty_progress(path):
    (path / "progress.json").write_text("{}")


@pytest.mark.parametrize("damage", [torn, flipped, no_progress, half_progress, empty_progress])
def test_a_damaged_one_is_passed_over_and_named(checkpoints, damage):
    save(checkpoints, 8)
    save(checkpoints, 9)
    damage(checkpoints.folder / "step-00000009")
    newest, faults = checkpoints.newest()
    assert newest.step == 8 and len(faults) == 1 and faults[0].startswith("step-00000009: ")
    save(checkpoints, 9)  # the run that continued from 8 arrives there again
    assert checkpoints.newest()[0].step == 9 and checkpoints.newest()[1] == []


def test_an_unfinished_one_is_invisible_and_removed_by_the_next(checkpoints):
    save(checkpoints, 8)
    unfinished = checkpoints.folder / ".writing-step-00000009"
    unfinished.mkdir()
    (unfinished / "tensors.safetensors").write_bytes(b"half")
    assert checkpoints.newest()[0].step == 8
    save(checkpoints, 10)
    assert names(checkpoints) == ["step-00000008", "step-00000010"]


@pytest.mark.parametrize("call", ["save_file", "_sync", "_sha256"])
def test_a_full_disk_keeps_what_was_there(checkpoints, monkeypatch, call):
    save(checkpoints, 8)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, call, full)
    with pytest.raises(CheckpointError, match="No space left") as error:
        save(checkpoints, 9)
    assert str(checkpoints.folder) in str(error.value)
    assert names(checkpoints) == ["step-00000008"]


def test_nothing_is_pickled(checkpoints):
    save(checkpoints, 8)
    files = {path.name for path in (checkpoints.folder / "step-00000008").iterdir()}
    assert files == {"tensors.safetensors", "progress.json"}
    assert json.loads((checkpoints.folder / "step-00000008" / "progress.json").read_text())["step"] == 8
