"""Runs that are tested with their best weights: which those are, and that no kill changes it."""

import functools
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_engine import ALWAYS_SAVE, die, die_at_step, same_run, signal_at_step
from toy_task import EXIT, ToyTask, toy_config, train_in_children

from multimae.config import Runtime
from multimae.engine import checkpoint
from multimae.engine.best import BestWeights
from multimae.engine.checkpoint import Checkpoint, Checkpoints
from multimae.record.folder import RunFolder
from multimae.record.journal import Journal

EVERY_EPOCH = toy_config(eval_every_epochs=1)  # 4 steps
# The best is neither the first nor the last; its equal comes later; what is no number is never the best.
VALIDATION = {4: 0.5, 8: 0.25, 12: 0.25, 16: math.nan, 20: 0.375}
BEST = 8


def selecting(rank, **how) -> dict:
    return {"validation": VALIDATION} | how


def keeping_all(rank, **how) -> dict:
    """Every checkpoint stays, so that a test can look at them."""
    checkpoint.KEPT = 100
    RunFolder.drop_checkpoints = lambda folder: None
    return selecting(rank, **how)


def train(folder: RunFolder, setup=selecting, runtime: Runtime = ALWAYS_SAVE, processes: int = 1) -> list[int]:
    return train_in_children(folder, EVERY_EPOCH, runtime, processes, setup)


def weights_after(folder: RunFolder, step: int) -> dict[str, torch.Tensor]:
    tensors = Checkpoints(folder.checkpoints).at(step).tensors()
    prefix = "parameter/model."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_selected(folder: RunFolder) -> None:
    """Of a run that kept all of its checkpoints."""
    weights, expected = load_file(folder.weights), weights_after(folder, BEST)
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)
    last = weights_after(folder, 20)
    assert not any(torch.equal(weights[name], last[name]) for name in weights if name != "3.bias")  # never trained
    with safe_open(folder.weights, "pt") as file:
        assert json.loads(file.metadata()["run"])["step"] == BEST
    test = folder.journal.last("eval")
    assert (test["step"], test["split"], test["selected_step"]) == (20, "test", BEST)
    task = ToyTask(EVERY_EPOCH, width=expected["0.bias"].numel(), validation=VALIDATION)
    task.model.load_state_dict(weights)
    task.module.eval()
    with torch.no_grad():
        (result,) = task.evaluate(task.module, torch.device("cpu"), None)
    assert test["metrics"]["error"] == pytest.approx(result["metrics"]["error"], rel=1e-5)
    assert folder.journal.last("finished")["selected_step"] == BEST and folder.journal.last("finished")["step"] == 20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("undisturbed"))
    assert train(folder, keeping_all) == [EXIT["finished"]]
    return folder


def test_the_best_weights_are_tested_and_kept_and_nothing_is_tested_before(undisturbed):
    check_selected(undisturbed)
    seen = [
        (record["step"], record["split"], record.get("selected_step")) for record in undisturbed.journal.records("eval")
    ]
    assert seen == [(step, "val", None) for step in VALIDATION] + [(20, "test", BEST)]


def test_selecting_changes_no_step(undisturbed, tmp_path):
    last = RunFolder(tmp_path)
    assert train(last, None) == [EXIT["finished"]]
    losses = [[record["loss"] for record in run.journal.curve("train")] for run in (undisturbed, last)]
    assert losses[0] == losses[1]
    assert last.journal.last("finished").get("selected_step") is None
    end = weights_after(undisturbed, 20)
    assert all(torch.equal(tensor, end[name]) for name, tensor in load_file(last.weights).items())


def die_when(rank, owner, name, which, after=False) -> dict:
    """Be killed at the first call that `which` tells by its arguments, before or after it is made."""
    original = getattr(owner, name)

    def patched(*arguments, **options):
        if not which(*arguments, **options):
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        die()

    setattr(owner, name, patched)
    return selecting(rank)


def of_step(step: int, split: str):
    return lambda journal, kind, **record: (kind, record.get("step"), record.get("split")) == ("eval", step, split)


def best_file(path) -> bool:
    return "best" in str(path) and "step-00000008" in str(path)


def half_a_file(rank) -> dict:
    original = checkpoint.save_file

    def patched(tensors, path, metadata):
        if best_file(path):
            path.write_bytes(b"half of the tensors")
            die()
        original(tensors, path, metadata)

    checkpoint.save_file = patched
    return selecting(rank)


MOMENTS = {
    "before the evaluation is told": (Journal, "write", of_step(8, "val")),
    "after the evaluation is told, before its weights are kept": (Journal, "write", of_step(8, "val"), True),
    "before the weights are seen": (checkpoint.os, "replace", lambda old, new: best_file(new)),
    "after the weights are seen": (checkpoint.os, "replace", lambda old, new: best_file(new), True),
    "after an evaluation that was no better": (Journal, "write", of_step(12, "val"), True),
    "before the last validation is told": (Journal, "write", of_step(20, "val")),
    "before the test is told": (Journal, "write", of_step(20, "test")),
    "after the test is told": (Journal, "write", of_step(20, "test"), True),
    "before the end is told": (Journal, "write", lambda journal, kind, **record: kind == "finished"),
}


def dying(rank, moment) -> dict:
    return half_a_file(rank) if moment == "half" else die_when(rank, *MOMENTS[moment])


OFTEN = (
    "after the evaluation is told, before its weights are kept",
    "after the weights are seen",
    "before the test is told",
)
RARE = [pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS if moment not in OFTEN]


@pytest.mark.parametrize("moment", ["half", *OFTEN, *RARE])
def test_a_run_killed_at_any_moment_selects_the_same(tmp_path, undisturbed, moment):
    folder = RunFolder(tmp_path)
    assert train(folder, functools.partial(dying, moment=moment)) == [-9]
    assert train(folder) == [EXIT["finished"]]
    assert same_run(folder, undisturbed) and not folder.checkpoints.exists()
    tests = [record for record in folder.journal.records("eval") if record["split"] == "test"]
    assert {(r["step"], r["selected_step"]) for r in tests} == {(20, BEST)}


def interrupted(rank, at) -> dict:
    return selecting(rank) | signal_at_step(rank, at, 15)


def test_a_signal_before_an_evaluation_leaves_it_to_the_restart(tmp_path, undisturbed):
    folder = RunFolder(tmp_path)
    assert train(folder, functools.partial(interrupted, at=BEST - 1)) == [EXIT["interrupted"]]
    assert not (folder.checkpoints / "best" / "step-00000008").exists()
    assert train(folder) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)


def killed_at(rank, at) -> dict:
    return selecting(rank) | die_at_step(rank, at)


@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_a_run_that_lost_its_best_weights_begins_anew_and_says_so(tmp_path, undisturbed, loss):
    folder = RunFolder(tmp_path)
    assert train(folder, functools.partial(killed_at, at=14)) == [-9]
    best = folder.checkpoints / "best" / "step-00000008" / "tensors.safetensors"
    if loss == "gone":
        best.unlink()
    else:
        best.write_bytes(best.read_bytes()[:-1] + b"?")
    assert train(folder, functools.partial(killed_at, at=10)) == [-9]
    start = folder.journal.last("start")
    assert start["step"] == 0 and start["damaged_checkpoints"][-1] == "the best weights before step 14 are gone"
    assert "NO CHECKPOINT IS WHOLE" in (folder.log / "train.log").read_text()
    assert folder.saved_step == 10
    assert train(folder) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)


def test_best_weights_that_are_damaged_at_once_are_made_again(tmp_path, undisturbed):
    """The checkpoint from which the run continues is of the same step, so nothing else is lost."""
    folder = RunFolder(tmp_path)
    assert train(folder, functools.partial(killed_at, at=8)) == [-9]
    best = folder.checkpoints / "best" / "step-00000008" / "tensors.safetensors"
    best.write_bytes(b"")
    assert train(folder) == [EXIT["finished"]]
    assert folder.journal.last("start")["step"] == 8 and same_run(folder, undisturbed)


def never_finite(rank) -> dict:
    return {"validation": dict.fromkeys(VALIDATION, math.inf)}


def test_without_one_finite_metric_nothing_is_selected(tmp_path):
    folder = RunFolder(tmp_path)
    assert train(folder, never_finite) == [EXIT["failed"]]
    reason = folder.journal.last("failed")["reason"]
    assert reason.startswith("diverged: error was finite in no evaluation on the validation split")
    assert not folder.weights.exists()


def wide(rank) -> dict:
    return keeping_all(rank, width=333)


STAGES = [(2, 0), (2, 2)] + [pytest.param(n, stage, marks=pytest.mark.slow) for n, stage in [(2, 1), (1, 3), (2, 3)]]


@pytest.mark.parametrize("processes,stage", STAGES)
def test_any_number_of_processes_and_any_stage_test_the_best_weights(tmp_path, processes, stage):
    folder = RunFolder(tmp_path)
    runtime = ALWAYS_SAVE.model_copy(update={"zero_stage": stage})
    assert train(folder, wide, runtime, processes) == [EXIT["finished"]] * processes
    check_selected(folder)


@pytest.mark.parametrize("better, order", [("higher", [3.0, 2.0, 3.0, 4.0]), ("lower", [3.0, 4.0, 3.0, 2.0])])
def test_better_is_what_the_task_says_and_of_equals_the_earlier(tmp_path, better, order):
    best = BestWeights(("metric", better), tmp_path)
    beaten = []
    for step, value in enumerate(order):
        beaten.append(best.beaten(step, value))
        if beaten[-1]:
            best.take(Checkpoint(tmp_path, {"step": step, "metric": value}))
    assert beaten == [True, False, False, True]
    assert not best.beaten(2, order[3]) and not best.beaten(4, math.nan) and not best.beaten(4, math.inf)
