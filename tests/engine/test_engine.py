"""The training loop on a toy task: from start to end, killed, interrupted, and with values that are not finite."""

import functools
import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_task import EXIT, ToyTask, curve, toy_config, train_in_children

from multimae import speed
from multimae.config import Runtime
from multimae.engine import checkpoint, meter, recorder
from multimae.engine import retry as retry
from multimae.record import heartbeat, journal
from multimae.record.folder import RunFolder

RUNTIME = Runtime(log_every_steps=3, threads=1)
ALWAYS_SAVE = RUNTIME.model_copy(update={"checkpoint_minutes": 1e-9})


def folder_in(path, name) -> RunFolder:
    return RunFolder(path / name)


def same_run(one: RunFolder, other: RunFolder) -> bool:
    return curve(one) == curve(other) and one.weights.read_bytes() == other.weights.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunFolder:
    """A run in one process that was left alone."""
    folder = RunFolder(tmp_path_factory.mktemp("undisturbed"))
    assert train_in_children(folder, runtime=RUNTIME) == [EXIT["finished"]]
    return folder


def test_a_run_leaves_everything_a_reader_needs(undisturbed):
    journal = undisturbed.journal
    kinds = [record["kind"] for record in journal.records()]
    assert kinds[0] == "start" and kinds[-1] == "finished" and undisturbed.done
    assert [r["step"] for r in journal.records("train")] == [3, 6, 9, 12, 15, 18, 20]
    assert [r["epoch"] for r in journal.records("epoch")] == [1, 2, 3, 4, 5]
    start = journal.last("start")
    assert (start["attempt"], start["total_steps"], start["steps_per_epoch"], start["processes"]) == (1, 20, 4, 1)
    assert start["params"]["optimizer.base_lr"] == 0.05 and start["delta"]["epochs"] == 5
    train = journal.last("train")
    assert train["loss"] == pytest.approx(sum(train["losses"].values())) and set(train["losses"]) == {
        "squared",
        "absolute",
    }
    assert train["grad_norm"] > 0 and 0 < train["data_seconds"] < train["step_seconds"]
    assert journal.last("eval")["n"] == 64
    assert (undisturbed.path / journal.last("sample")["file"]).exists()
    heartbeat = json.loads(undisturbed.heartbeat.read_text())
    assert (heartbeat["state"], heartbeat["step"], heartbeat["total_steps"]) == ("finished", 20, 20)
    environment = json.loads(undisturbed.environment.read_text())
    assert environment["packages"]["torch"] and environment["threads"] == 1
    assert set(load_file(undisturbed.weights)) == {f"{i}.{kind}" for i in (0, 3, 4) for kind in ("weight", "bias")}


def watched(rank, seen) -> dict:
    """With a note of each beat of an evaluation that is under way: images/s, seconds left."""
    beat = recorder.Recorder.beat

    def noting(self, state, **fields):
        beat(self, state, **fields)
        if state == "evaluating":
            with open(seen, "a") as file:
                print(json.dumps([fields["step"], fields["images_per_second"], fields["seconds_left"]]), file=file)

    recorder.Recorder.beat = noting
    return {}


def test_an_evaluation_tells_its_rate_and_the_time_left(tmp_path):
    seen = tmp_path / "seen"
    assert train_in_children(folder_in(tmp_path, "watched"), setup=functools.partial(watched, seen=seen)) == [0]
    before, under_way = [json.loads(line) for line in seen.read_text().splitlines()][-2:]
    assert before[0] == under_way[0] == 20 and before[2] == 0  # of the run: all that is left is half an evaluation
    assert under_way[1] > 0 and under_way[2] == pytest.approx(32 / under_way[1])


def no_rate(rank) -> dict:
    meter.matrix_gflops = lambda device, precision: 1.0
    return {}


def test_the_matrix_rate_is_measured_once_and_changes_nothing(tmp_path, undisturbed):
    start = undisturbed.journal.last("start")
    assert start["matrix_gflops"] > 0.1 and start["threads"] == 1 and start["how"] == {}
    folder, how = folder_in(tmp_path, "unmeasured"), {"alone": True}
    assert train_in_children(folder, runtime=RUNTIME.model_copy(update=how), setup=no_rate) == [EXIT["finished"]]
    start = folder.journal.last("start")
    assert start["matrix_gflops"] == 1.0 and start["how"] == how
    assert same_run(folder, undisturbed)


def test_the_matrix_rate_draws_nothing():
    states = [torch.get_rng_state(), np.random.get_state()[1], random.getstate()]
    for precision in ("fp32", "bf16"):
        assert speed.matrix_gflops(torch.device("cpu"), precision) > 0.1
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()


def test_training_learns(undisturbed):
    losses = [record["loss"] for record in undisturbed.journal.curve("train")]
    assert losses[-1] < 0.9 * losses[0]


def test_a_finished_run_is_not_trained_again(undisturbed):
    before = undisturbed.journal.path.read_bytes()
    assert train_in_children(undisturbed, runtime=RUNTIME) == [EXIT["finished"]]
    assert undisturbed.journal.path.read_bytes() == before


# ---- killed


def die(*arguments) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(rank, at) -> dict:
    return {"on_step": lambda step: die() if step == at else None}


def die_in_save(rank, place, nth) -> dict:
    """Be killed in the nth save: after the tensors, before or after the rename, or while old ones are removed."""
    owner, name, after = {
        "tensors": (checkpoint, "save_file", True),
        "half of the tensors": (checkpoint, "save_file", False),
        "rename": (checkpoint.os, "replace", False),
        "renamed": (checkpoint.os, "replace", True),
        "removing": (checkpoint.shutil, "rmtree", True),
    }[place]
    original, calls = getattr(owner, name), []

    def patched(*arguments, **options):
        mine = name != "replace" or "step-" in str(arguments[1])  # not the heartbeat's
        calls.append(mine)
        if not mine or sum(calls) < nth:
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        elif name == "save_file":
            arguments[1].write_bytes(b"half of the tensors")
        die()

    setattr(owner, name, patched)
    return {}


@pytest.mark.parametrize("steps", [(0, 1), (7, 7, 19)])
def test_a_run_killed_at_steps_is_the_same_to_the_bit(tmp_path, undisturbed, steps):
    folder = folder_in(tmp_path, "run")
    for step in steps:
        assert train_in_children(folder, runtime=ALWAYS_SAVE, setup=functools.partial(die_at_step, at=step)) == [-9]
    assert train_in_children(folder, runtime=ALWAYS_SAVE) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)
    assert len(folder.journal.records("start")) == len(steps) + 1


@pytest.mark.parametrize("place", ["tensors", "half of the tensors", "rename", "renamed", "removing"])
def test_a_run_killed_in_a_save_is_the_same_to_the_bit(tmp_path, undisturbed, place):
    folder = folder_in(tmp_path, "run")
    for nth in (3, 1):
        assert train_in_children(
            folder, runtime=ALWAYS_SAVE, setup=functools.partial(die_in_save, place=place, nth=nth)
        ) == [-9]
    assert train_in_children(folder, runtime=ALWAYS_SAVE) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)
    assert not folder.checkpoints.exists()


def test_a_damaged_checkpoint_is_passed_over(tmp_path, undisturbed):
    folder = folder_in(tmp_path, "run")
    train_in_children(folder, runtime=ALWAYS_SAVE, setup=functools.partial(die_at_step, at=9))
    newest = folder.checkpoints / "step-00000009" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert train_in_children(folder, runtime=RUNTIME) == [EXIT["finished"]]
    start = folder.journal.last("start")
    assert start["step"] == 8 and "step-00000009" in start["damaged_checkpoints"][0]
    assert "step-00000009" in (folder.log / "train.log").read_text()
    assert same_run(folder, undisturbed)


def test_with_both_checkpoints_damaged_a_run_begins_anew_and_says_so(tmp_path, undisturbed):
    folder = folder_in(tmp_path, "run")
    train_in_children(folder, runtime=ALWAYS_SAVE, setup=functools.partial(die_at_step, at=9))
    for step in (8, 9):
        (folder.checkpoints / f"step-{step:08d}" / "progress.json").write_text("[]")
    assert folder.saved_step == -1
    assert train_in_children(folder, runtime=RUNTIME) == [EXIT["finished"]]
    assert folder.journal.last("start")["step"] == 0 and len(folder.journal.last("start")["damaged_checkpoints"]) == 2
    assert "NO CHECKPOINT IS WHOLE" in (folder.log / "train.log").read_text()
    assert same_run(folder, undisturbed)


def test_a_run_that_does_progress_shows_it_though_its_newest_checkpoint_was_damaged(tmp_path, undisturbed):
    """How far a run came is what a job counts its restarts by: each of these came further."""
    folder, seen = folder_in(tmp_path, "run"), []
    train_in_children(folder, runtime=ALWAYS_SAVE, setup=functools.partial(die_at_step, at=9))
    newest = folder.checkpoints / "step-00000009" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")  # of the same size
    for at in (8, 9, 11, 13, 15):
        train_in_children(folder, runtime=ALWAYS_SAVE, setup=functools.partial(die_at_step, at=at))
        seen.append(folder.saved_step)
        assert len(list(folder.checkpoints.glob("step-*"))) == (1 if at == 8 else 2)
    assert seen == [8, 9, 11, 13, 15]
    assert train_in_children(folder, runtime=RUNTIME) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    folder = folder_in(tmp_path, "run")
    train_in_children(folder, runtime=ALWAYS_SAVE, setup=functools.partial(die_at_step, at=9))
    assert train_in_children(folder, runtime=RUNTIME, setup=wider) == [EXIT["failed"]]
    reason = folder.journal.last("failed")["reason"]
    assert reason.startswith("the checkpoint was written by another version of the code: parameter/model.0.weight")


def wider(rank) -> dict:
    return {"width": 34}


def test_the_checkpoints_of_a_run_go_once_it_is_done(tmp_path, undisturbed):
    folder = folder_in(tmp_path, "run")
    assert not undisturbed.checkpoints.exists() and undisturbed.weights.exists()
    assert train_in_children(folder, runtime=ALWAYS_SAVE, setup=die_when_finished) == [-9]
    assert (
        folder.done and folder.checkpoints.exists()
    )  # the next who writes removes them: multimae.run, multimae.study.planning


def die_when_finished(rank) -> dict:
    RunFolder.drop_checkpoints = die
    return {}


def signal_at_step(rank, at, number, again=False) -> dict:
    if again:  # the same signal twice more, in the middle of the save
        original = checkpoint.save_file

        def patched(*arguments):
            os.kill(os.getpid(), number)
            original(*arguments)
            os.kill(os.getpid(), number)

        checkpoint.save_file = patched
    return {"on_step": lambda step: os.kill(os.getpid(), number) if step == at and rank == 0 else None}


def test_each_signal_saves_and_the_run_continues_the_same(tmp_path, undisturbed):
    folder = folder_in(tmp_path, "run")
    for at, number in ((4, signal.SIGTERM), (9, signal.SIGINT), (14, signal.SIGUSR2)):
        setup = functools.partial(signal_at_step, at=at, number=number, again=True)
        assert train_in_children(folder, runtime=RUNTIME, setup=setup) == [EXIT["interrupted"]]
        last = folder.journal.last()
        assert (last["kind"], last["step"], last["reason"]) == ("interrupted", at + 1, number.name)
        assert json.loads(folder.heartbeat.read_text())["state"] == "interrupted"
    assert train_in_children(folder, runtime=RUNTIME) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)


def test_evaluating_does_not_disturb_training(tmp_path, undisturbed):
    folder = folder_in(tmp_path, "run")
    train_in_children(folder, toy_config(eval_every_epochs=0.5), RUNTIME)
    assert [record["step"] for record in folder.journal.records("eval")] == list(range(2, 21, 2))
    assert folder.journal.records("train")[-1]["loss"] == undisturbed.journal.records("train")[-1]["loss"]
    assert torch.equal(load_file(folder.weights)["0.weight"], load_file(undisturbed.weights)["0.weight"])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> RunFolder:
    """A run that was left alone, evaluated every second step."""
    folder = RunFolder(tmp_path_factory.mktemp("evaluated"))
    assert train_in_children(folder, toy_config(eval_every_epochs=0.5), RUNTIME) == [EXIT["finished"]]
    return folder


def die_in_evaluation(rank, nth) -> dict:
    original, calls = ToyTask.evaluate, []

    def patched(*arguments):
        calls.append(1)
        return die() if len(calls) == nth else original(*arguments)

    ToyTask.evaluate = patched
    return {}


@pytest.mark.parametrize("disturb", ["signal", "signal at the end", "kill"])
def test_an_evaluation_that_is_due_is_made_once_after_the_restart(tmp_path, evaluated, disturb):
    folder, config = folder_in(tmp_path, "run"), toy_config(eval_every_epochs=0.5)
    step, setup = {
        "signal": (4, functools.partial(signal_at_step, at=3, number=signal.SIGUSR2)),
        "signal at the end": (20, functools.partial(signal_at_step, at=19, number=signal.SIGUSR2)),
        "kill": (4, functools.partial(die_in_evaluation, nth=2)),
    }[disturb]
    code = -9 if disturb == "kill" else EXIT["interrupted"]
    assert train_in_children(folder, config, RUNTIME, setup=setup) == [code]
    assert folder.saved_step == step and folder.journal.last("eval")["step"] == step - 2
    assert train_in_children(folder, config, RUNTIME) == [EXIT["finished"]]
    assert [record["step"] for record in folder.journal.records("eval")] == list(range(2, 21, 2))
    assert folder.journal.last("eval")["seconds"] > 0
    assert same_run(folder, evaluated)


# ---- not finite


def keep_checkpoints() -> None:
    RunFolder.drop_checkpoints = lambda folder: None


def bad_values(rank, steps, bad_rank=0) -> dict:
    keep_checkpoints()
    return {"bad_steps": steps, "bad_rank": bad_rank}


@pytest.mark.parametrize("micro", [16, 4])
def test_a_step_that_is_not_finite_is_skipped_and_journaled(tmp_path, micro):
    folder = folder_in(tmp_path, "run")
    runtime = RUNTIME.model_copy(update={"micro_batch_size": micro, "log_every_steps": 1})
    setup = functools.partial(bad_values, steps=(2, 5))
    assert train_in_children(folder, runtime=runtime, setup=setup) == [EXIT["finished"]]
    first, second = folder.journal.records("nonfinite")
    assert (first["step"], second["step"], first["rank"]) == (3, 6, 0)
    assert len(first["samples"]) == 16 and first["loss"] in ("nan", "inf")
    assert [record["step"] for record in folder.journal.records("train")] == [
        step for step in range(1, 21) if step not in (3, 6)
    ]
    assert all(tensor.isfinite().all() for tensor in load_file(folder.weights).values())
    newest, _ = checkpoint.Checkpoints(folder.checkpoints).newest(toy_config().signature)
    assert newest.tensors()["updates"] == 18  # AdamW's own count: the skipped steps left no trace in it


def with_metric(rank, metric, bad_weight=False, steps=()) -> dict:
    """Evaluations that say `metric`, and at the last step maybe a weight that is not finite."""
    original = ToyTask.evaluate
    task = []

    def evaluate(self, module, device, shard, split, progress):
        (result,) = original(self, module, device, shard, split)
        return [result | {"metrics": {"error": metric}}]

    def on_step(step):
        if bad_weight and step == 19:
            task[0].model[4].bias.data[0] = torch.inf

    ToyTask.evaluate = evaluate
    ToyTask.parameter_groups = functools.partialmethod(_kept, ToyTask.parameter_groups, task)
    return {"on_step": on_step, "bad_steps": steps}


def _kept(self, original, task):
    task.append(self)
    return original(self)


DIVERGED = {
    "a metric that is NaN": ({"metric": torch.nan}, "the final evaluation is not finite: val error nan"),
    "a metric that is infinite": ({"metric": torch.inf}, "the final evaluation is not finite: val error inf"),
    "no step was made": ({"metric": 6.2, "steps": range(20)}, "not one of 20 steps had a finite loss"),
    "a weight is infinite": ({"metric": 6.2, "bad_weight": True}, "1 of 6 tensors of the final weights are not finite"),
}


@pytest.mark.parametrize("case", DIVERGED)
def test_a_model_that_is_not_finite_is_never_finished(tmp_path, case):
    how, reason = DIVERGED[case]
    folder = folder_in(tmp_path, "run")
    runtime = RUNTIME.model_copy(update={"nonfinite_budget": 1000})
    for _ in range(2):  # another try ends the same, from the last checkpoint
        setup = functools.partial(with_metric, **how)
        assert train_in_children(folder, runtime=runtime, setup=setup) == [EXIT["failed"]]
        last = folder.journal.last()
        assert last["kind"] == "failed" and last["reason"].startswith(f"diverged: {reason}"), last
        assert not folder.done and not folder.weights.exists() and folder.checkpoints.exists()
    json.loads(folder.heartbeat.read_text(), parse_constant=int)
    for line in folder.journal.path.read_text().splitlines():
        json.loads(line, parse_constant=int)  # which fails for what JSON has not


def test_an_evaluation_on_the_way_that_is_not_finite_is_journaled_and_told(tmp_path):
    folder, config = folder_in(tmp_path, "run"), toy_config(eval_every_epochs=1)
    setup = functools.partial(with_metric, metric=-torch.inf)
    assert train_in_children(folder, config, RUNTIME, setup=setup) == [EXIT["failed"]]
    assert [r["metrics"]["error"] for r in folder.journal.records("eval")] == ["-inf"] * 5
    assert "the evaluation at step 4 is not finite: val error -inf" in (folder.log / "train.log").read_text()


def test_too_many_steps_that_are_not_finite_end_the_run(tmp_path):
    folder = folder_in(tmp_path, "run")
    setup = functools.partial(bad_values, steps=(2, 4, 5, 9))
    runtime = ALWAYS_SAVE.model_copy(update={"nonfinite_budget": 2})
    assert train_in_children(folder, runtime=runtime, setup=setup) == [EXIT["failed"]]
    last = folder.journal.last()
    assert last["kind"] == "failed" and last["step"] == 6 and "nonfinite_budget" in last["reason"]
    assert json.loads(folder.heartbeat.read_text())["state"] == "failed"


def test_the_budget_counts_over_attempts(tmp_path):
    folder = folder_in(tmp_path, "run")
    runtime = ALWAYS_SAVE.model_copy(update={"nonfinite_budget": 1})

    def attempt(**how) -> int:
        return train_in_children(folder, runtime=runtime, setup=functools.partial(bad_then_die, **how))[0]

    assert attempt(steps=(2, 8), at=5) == -9
    assert attempt(steps=(2, 8), at=50) == EXIT["failed"]
    assert folder.journal.last()["step"] == 9


def bad_then_die(rank, steps, at) -> dict:
    return bad_values(rank, steps) | die_at_step(rank, at)


def test_an_error_in_the_task_is_journaled(tmp_path):
    folder = folder_in(tmp_path, "run")
    assert train_in_children(folder, runtime=RUNTIME, setup=broken_data) == [EXIT["failed"]]
    assert folder.journal.last()["reason"] == "ValueError: image 7 is missing"
    assert "Traceback" in (folder.log / "train.log").read_text()


def broken_data(rank) -> dict:
    def fail(step):
        raise ValueError("image 7 is missing")

    return {"on_step": fail}


def test_a_full_disk_leaves_the_previous_checkpoint_and_names_the_folder(tmp_path, undisturbed):
    folder = folder_in(tmp_path, "run")
    assert train_in_children(folder, runtime=ALWAYS_SAVE, setup=full_disk) == [EXIT["failed"]]
    assert str(folder.checkpoints) in folder.journal.last("failed")["reason"]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step-00000003", "step-00000004"]
    assert train_in_children(folder, runtime=RUNTIME) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)


def full_disk(rank) -> dict:
    """From step 4 on no file of this process can grow beyond 12 kB: a write fails in the middle of the tensors."""
    import resource

    def limit(step):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    retry.PAUSE = 1e9  # gives up at once
    return {"on_step": limit}


def test_a_disk_that_recovers_is_waited_for(tmp_path, undisturbed):
    folder = folder_in(tmp_path, "run")
    assert train_in_children(folder, runtime=ALWAYS_SAVE, setup=stalling_disk) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)
    assert "trying again" in (folder.log / "train.log").read_text()


def stalling_disk(rank) -> dict:
    """Every write fails, and succeeds when it is tried again; a heartbeat's never does."""
    retry.PAUSE = 0.01

    def stalls(owner, name):
        original, calls = getattr(owner, name), []

        def patched(*arguments, **options):
            calls.append(1)
            if len(calls) % 2:
                raise OSError(28, "No space left on device")
            return original(*arguments, **options)

        setattr(owner, name, patched)

    def never(*arguments, **options):
        raise OSError(30, "Read-only file system")

    stalls(checkpoint, "save_file")
    stalls(journal.Journal, "write")
    heartbeat.write_atomic = never
    return {}


def test_a_journal_that_cannot_be_written_fails_the_run_and_names_the_folder(tmp_path, undisturbed, capfd):
    folder = folder_in(tmp_path, "run")
    assert train_in_children(folder, runtime=ALWAYS_SAVE, setup=no_journal) == [EXIT["failed"]]
    assert f"cannot write to {folder.path}" in (folder.log / "train.log").read_text()
    assert train_in_children(folder, runtime=RUNTIME) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)


def no_journal(rank) -> dict:
    retry.PAUSE = 1e9
    original, calls = journal.Journal.write, []

    def patched(*arguments, **fields):
        calls.append(1)
        if len(calls) > 5:
            raise OSError(30, "Read-only file system")
        return original(*arguments, **fields)

    journal.Journal.write = patched
    return {}
