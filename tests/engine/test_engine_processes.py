"""Several processes and ZeRO stages: they agree, and each continues what any other left."""

import functools
import os
import signal
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from test_engine import bad_values, die_at_step, keep_checkpoints, same_run, signal_at_step
from toy_task import EXIT, ToyTask, in_children, toy_config, train_in_children

from multimae.config import Runtime
from multimae.engine.checkpoint import Checkpoints
from multimae.engine.distributed import Processes
from multimae.engine.optimizer import DistributedOptimizer, load_module
from multimae.record.folder import RunFolder

WIDTH = 333  # its square is more than DeepSpeed leaves unpartitioned, and does not divide by 2 or 4


def runtime_of(stage=0, **changes) -> Runtime:
    return Runtime(log_every_steps=3, threads=1, zero_stage=stage, **changes)


def still(rank, **how) -> dict:
    """A task without randomness, so that the number of processes changes rounding only."""
    return {"random": False, "width": WIDTH} | how


def interrupted(rank, at) -> dict:
    return still(rank) | signal_at_step(rank, at, 15)


def losses(folder: RunFolder) -> list[float]:
    return [record["loss"] for record in folder.journal.curve("train")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> RunFolder:
    """One process at stage 0."""
    folder = RunFolder(tmp_path_factory.mktemp("alone"))
    assert train_in_children(folder, runtime=runtime_of(), setup=still_and_keep) == [EXIT["finished"]]
    return folder


def close(one: RunFolder, other: RunFolder) -> bool:
    weights, others = load_file(one.weights), load_file(other.weights)
    return losses(one) == pytest.approx(losses(other), rel=1e-5) and all(
        torch.allclose(weights[name], others[name], rtol=1e-4, atol=1e-6) for name in others
    )


CASES = [(2, 0), (2, 2)] + [
    pytest.param(n, stage, marks=pytest.mark.slow)
    for n, stage in [(1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (4, 0), (4, 3)]
]


@pytest.mark.parametrize("processes,stage", CASES)
def test_processes_stages_and_accumulation_change_only_rounding(tmp_path, alone, processes, stage):
    folder = RunFolder(tmp_path)
    runtime = runtime_of(stage, micro_batch_size=4)
    assert train_in_children(folder, runtime=runtime, processes=processes, setup=still) == [0] * processes
    assert close(folder, alone)
    start = folder.journal.last("start")
    assert start["micro_batches"] == 16 // 4 // processes and start["matrix_gflops"] > 0.1


@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2, 3))])
def test_clipping_and_the_norm_are_those_of_all_parameters(tmp_path, stage):
    """At every stage the journaled norm is that before clipping, and the run that clipping gives is the same."""
    runs = [RunFolder(tmp_path / name) for name in ("one", "two")]
    config = toy_config(**{"optimizer.clip_grad": 0.1})
    train_in_children(runs[0], config, runtime_of(0), setup=still)
    train_in_children(runs[1], config, runtime_of(stage), processes=2, setup=still)
    assert close(*runs)
    norms = [[record["grad_norm"] for record in run.journal.curve("train")] for run in runs]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and min(norms[0]) > 0.1


def still_and_keep(rank) -> dict:
    keep_checkpoints()
    return still(rank)


def check_round_trip(rank: int, folder: RunFolder, stage: int) -> None:
    """What is loaded is what would be saved, to the bit, on every process."""
    checkpoint, _ = Checkpoints(folder.checkpoints).newest(toy_config().signature)
    expected = checkpoint.tensors()
    processes = Processes.join(runtime_of(stage))
    config = toy_config(seed=5)  # other weights to begin with
    task = ToyTask(config, **still(rank))
    load_module(task.module, expected)
    optimizer = DistributedOptimizer(task, config, runtime_of(stage), processes)
    optimizer.load(expected)
    found = dict(optimizer.state())
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    weights = optimizer.weights(task.model)
    assert all(torch.equal(weights[name], expected[f"parameter/model.{name}"]) for name in weights)


@pytest.mark.parametrize("processes,stage", CASES)
def test_a_checkpoint_is_loaded_to_the_bit(alone, processes, stage):
    assert in_children(check_round_trip, alone, stage, processes=processes) == [0] * processes


CONTINUATIONS = [((2, 2), (1, 0))] + [
    pytest.param(*pair, marks=pytest.mark.slow)
    for pair in [
        ((2, 0), (1, 0)),
        ((2, 0), (4, 0)),
        ((2, 1), (4, 2)),
        ((2, 3), (4, 3)),
        ((1, 0), (2, 3)),
        ((2, 3), (1, 1)),
    ]
]


@pytest.mark.parametrize("before,after", CONTINUATIONS)
def test_other_processes_and_stages_continue_a_checkpoint(tmp_path, alone, before, after):
    folder = RunFolder(tmp_path)
    for (processes, stage), setup, result in (
        (before, functools.partial(interrupted, at=9), "interrupted"),
        (after, still, "finished"),
    ):
        codes = train_in_children(folder, runtime=runtime_of(stage), processes=processes, setup=setup)
        assert codes == [EXIT[result]] * processes
    assert folder.journal.last("start")["step"] == 10
    assert close(folder, alone)


def killed(rank, at) -> dict:
    return {"width": WIDTH} | (die_at_step(rank, at) if rank == 1 else {})


def wide(rank) -> dict:
    return {"width": WIDTH}


@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2, 3))])
def test_two_processes_killed_are_the_same_to_the_bit(tmp_path, stage):
    """One is killed; the other then fails, because it cannot go on alone, and does not hang."""
    left_alone, folder = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "killed")
    runtime = runtime_of(stage, checkpoint_minutes=1e-9)
    assert train_in_children(left_alone, runtime=runtime, processes=2, setup=wide) == [0, 0]
    codes = train_in_children(folder, runtime=runtime, processes=2, setup=functools.partial(killed, at=10))
    assert codes == [EXIT["failed"], -9]
    assert train_in_children(folder, runtime=runtime, processes=2, setup=wide) == [0, 0]
    assert same_run(folder, left_alone)


def test_the_failure_of_another_process_is_told_in_its_words(tmp_path):
    folder = RunFolder(tmp_path)
    codes = train_in_children(folder, runtime=runtime_of(), processes=2, setup=second_fails)
    assert codes == [EXIT["failed"]] * 2
    reason = folder.journal.last("failed")["reason"]
    assert reason.startswith("process 1 on ") and reason.endswith("ValueError: image 7 is missing")


def second_fails(rank) -> dict:
    def fail(step):
        if step == 5 and rank == 1:
            raise ValueError("image 7 is missing")

    return {"on_step": fail}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_a_process_that_stops_answering_ends_the_others(tmp_path, stage):
    """In a reduction of the engine's or of DeepSpeed's."""
    folder = RunFolder(tmp_path)
    runtime = runtime_of(stage, timeout_minutes=0.1, checkpoint_minutes=1e-9)
    codes = train_in_children(folder, runtime=runtime, processes=2, setup=second_hangs)
    assert codes == [EXIT["failed"], -9]
    assert "no longer answers" in folder.journal.last("failed")["reason"] and folder.saved_step == 5


def second_hangs(rank) -> dict:
    """It is stopped, and killed much later."""

    def stop(step):
        if step == 5 and rank == 1:
            subprocess.Popen(["sh", "-c", f"sleep 40; kill -9 {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)

    return {"on_step": stop}


@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2, 3))])
def test_processes_agree_on_what_is_not_finite(tmp_path, stage):
    folder = RunFolder(tmp_path)
    runtime = runtime_of(stage, micro_batch_size=4, nonfinite_budget=1)
    setup = functools.partial(bad_values, steps=(3, 7), bad_rank=1)
    assert train_in_children(folder, runtime=runtime, processes=2, setup=setup) == [EXIT["failed"]] * 2
    first, second = folder.journal.records("nonfinite")
    assert (first["step"], second["step"], first["rank"]) == (4, 8, 1) and len(first["samples"]) == 8
    assert folder.journal.last()["kind"] == "failed"


@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2, 3))])
def test_a_gradient_that_is_not_finite_is_skipped_too(tmp_path, stage):
    folder = RunFolder(tmp_path)
    assert train_in_children(folder, runtime=runtime_of(stage), setup=bad_gradients) == [EXIT["finished"]]
    (record,) = folder.journal.records("nonfinite")
    assert (record["step"], record["rank"], record["loss"]) == (4, None, None)
    checkpoint, _ = Checkpoints(folder.checkpoints).newest(toy_config().signature)
    assert checkpoint.tensors()["updates"] == 19
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors().values())


def bad_gradients(rank) -> dict:
    keep_checkpoints()
    return {"bad_gradients": (3,)}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_skipped_step_leaves_no_trace(tmp_path, stage):
    """Neither in the moments nor in AdamW's count, whatever the accumulation."""
    folder = RunFolder(tmp_path)
    runtime = runtime_of(stage, micro_batch_size=4, checkpoint_minutes=1e-9)
    setup = functools.partial(bad_then_stop, steps=(3,), at=3)
    assert train_in_children(folder, runtime=runtime, processes=2, setup=setup) == [EXIT["interrupted"]] * 2
    before, after = (Checkpoints(folder.checkpoints).at(step).tensors() for step in (3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before if name != "buffer/seen")


def bad_then_stop(rank, steps, at) -> dict:
    return bad_values(rank, steps) | signal_at_step(rank, at, 15)


def test_a_batch_that_cannot_be_split_says_so(tmp_path):
    folder = RunFolder(tmp_path)
    assert train_in_children(folder, runtime=runtime_of(micro_batch_size=3)) == [EXIT["failed"]]
    assert "choose a micro_batch_size" in folder.journal.last("failed")["reason"]
