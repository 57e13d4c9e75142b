"""Checkpoints: complete or invisible, and never the torn one."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from multimae.engine import checkpoint as checkpoint_module
from multimae.engine.checkpoint import CheckpointError, Checkpoints
from multimae.record.folder import RunFolder

RUN = "0123456789"
CLOCK = {"steps": 1, "samples": 16, "seconds": 1.0, "data_seconds": 0.1}
METER = {"clocks": {"window": CLOCK, "epoch": CLOCK, "run": CLOCK}, "sums": [[0.1]], "summed": 1}
TENSORS = {"parameter/w": torch.arange(12.0).reshape(3, 4), "updates": torch.tensor(3.0)}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def save(checkpoints, step) -> int:
    tensors = {name: tensor + step for name, tensor in TENSORS.items()}
    return checkpoints.save(tensors, {"run": RUN, "step": step, "nonfinite": 0, "meter": METER})


def names(checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_there_may_be_none(checkpoints):
    assert checkpoints.newest(RUN) == (None, [])


def test_what_is_saved_is_read_to_the_bit(checkpoints):
    size = save(checkpoints, 7)
    newest, faults = checkpoints.newest(RUN)
    assert (newest.step, newest.progress["meter"], faults) == (7, METER, [])
    assert all(torch.equal(newest.tensors()[name], tensor + 7) for name, tensor in TENSORS.items())
    assert size == (newest.path / "tensors.safetensors").stat().st_size
    assert checkpoints.at(7) == newest


def test_the_last_two_are_kept_in_order_of_steps(checkpoints):
    for step in (8, 9, 10, 100):
        save(checkpoints, step)
    assert names(checkpoints) == ["step-00000010", "step-00000100"]
    assert checkpoints.newest(RUN)[0].step == 100


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


def progress(path, **changes):
    values = json.loads((path / "progress.json").read_text()) | changes
    (path / "progress.json").write_text(json.dumps(values))


def no_mapping(path):
    (path / "progress.json").write_text('["step", 9]')


def a_number(path):
    (path / "progress.json").write_text("9")


def empty_progress(path):
    (path / "progress.json").write_text("{}")


def zeros(path):
    (path / "progress.json").write_bytes(bytes(300))


def no_meter(path):
    progress(path, meter=None)


def half_a_meter(path):
    progress(path, meter={"clocks": {}, "sums": [], "summed": 0})


def step_in_words(path):
    progress(path, step="nine")


def another_step(path):
    progress(path, step=8)


def another_run(path):
    progress(path, run="9876543210")


def more_skipped(path):
    progress(path, nonfinite=3)


def another_meter(path):
    progress(path, meter=METER | {"sums": [[0.2]]})


def a_folder_of_tensors(path):
    (path / "tensors.safetensors").unlink()
    (path / "tensors.safetensors").mkdir()


def a_file(path):
    shutil.rmtree(path)
    path.write_text("")


DAMAGES = [torn, flipped, no_progress, half_progress, empty_progress, no_mapping, a_number, zeros, no_meter]
DAMAGES += [half_a_meter, step_in_words, another_step, another_run, a_folder_of_tensors, a_file]
DAMAGES += (COVERED := [more_skipped, another_meter])  # which the hash tells


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_moved_aside_and_named(checkpoints, damage):
    save(checkpoints, 8)
    save(checkpoints, 9)
    damage(checkpoints.folder / "step-00000009")
    newest, faults = checkpoints.newest(RUN)
    assert newest.step == 8 and len(faults) == 1 and faults[0].startswith("step-00000009: ")
    assert names(checkpoints) == [".damaged-step-00000009", "step-00000008"]
    save(checkpoints, 9)  # the run that continued from 8 arrives there again
    assert checkpoints.newest(RUN)[0].step == 9 and checkpoints.newest(RUN)[1] == []
    assert names(checkpoints) == ["step-00000008", "step-00000009"]


def test_a_later_step_than_was_saved_is_damage(checkpoints):
    save(checkpoints, 8)
    save(checkpoints, 9)
    progress((checkpoints.folder / "step-00000009").rename(checkpoints.folder / "step-00005000"), step=5000)
    newest, faults = checkpoints.newest(RUN)
    assert newest.step == 8 and faults == ["step-00005000: progress.json is not what was written"]


def test_a_later_step_than_the_run_has_is_damage(checkpoints):
    save(checkpoints, 8)
    save(checkpoints, 5000)
    newest, faults = checkpoints.newest(RUN, 900)
    assert newest.step == 8 and faults == ["step-00005000: the run has 900 steps"]


def test_one_of_an_older_version_is_read(checkpoints):
    save(checkpoints, 8)
    file = checkpoints.folder / "step-00000008" / "tensors.safetensors"
    save_file({"w": torch.ones(3)}, file)
    contents = file.read_bytes()
    progress(file.parent, bytes=len(contents), sha256=hashlib.sha256(contents).hexdigest())
    assert checkpoints.newest(RUN)[0].step == 8


def test_a_damaged_one_takes_no_place_from_those_that_are_whole(checkpoints):
    save(checkpoints, 50)
    flipped(checkpoints.folder / "step-00000050")
    checkpoints.newest(RUN)
    for step in (10, 20, 30):
        save(checkpoints, step)
    assert names(checkpoints) == ["step-00000020", "step-00000030"]


def test_both_may_be_damaged(checkpoints):
    save(checkpoints, 8)
    save(checkpoints, 9)
    torn(checkpoints.folder / "step-00000008")
    flipped(checkpoints.folder / "step-00000009")
    newest, faults = checkpoints.newest(RUN)
    assert newest is None and [fault[:13] for fault in faults] == ["step-00000009", "step-00000008"]


def test_a_file_server_that_stalls_has_damaged_nothing(checkpoints, monkeypatch):
    save(checkpoints, 8)

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(checkpoint_module, "sha256", stale)
    with pytest.raises(OSError, match="Stale"):
        checkpoints.newest(RUN)
    assert names(checkpoints) == ["step-00000008"]


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d not in (flipped, another_run, *COVERED)])
def test_how_far_a_run_came_is_told_by_whole_ones(checkpoints, damage):
    folder = RunFolder(checkpoints.folder.parent)
    assert folder.saved_step == -1
    save(checkpoints, 8)
    save(checkpoints, 9)
    assert folder.saved_step == 9
    damage(checkpoints.folder / "step-00000009")
    assert folder.saved_step == 8
    (checkpoints.folder / "step-of-somebody").mkdir()
    assert folder.saved_step == 8


def test_an_unfinished_one_is_invisible_and_removed_by_the_next(checkpoints):
    save(checkpoints, 8)
    unfinished = checkpoints.folder / ".writing-step-00000009"
    unfinished.mkdir()
    (unfinished / "tensors.safetensors").write_bytes(b"half")
    assert checkpoints.newest(RUN)[0].step == 8
    save(checkpoints, 10)
    assert names(checkpoints) == ["step-00000008", "step-00000010"]


@pytest.mark.parametrize(
    "make", [lambda p: p.write_text(""), lambda p: p.symlink_to(p), lambda p: p.symlink_to(p.parent)]
)
def test_no_folder_in_the_place_of_an_unfinished_one_is_removed_too(checkpoints, make):
    save(checkpoints, 8)
    make(checkpoints.folder / ".writing-step-00000009")
    save(checkpoints, 9)
    assert names(checkpoints) == ["step-00000008", "step-00000009"]


@pytest.mark.parametrize("call", ["save_file", "_sync", "sha256"])
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
