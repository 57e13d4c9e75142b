"""How a training is started: by torchrun, in bf16, compiled; and what it imports, captures and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_task import EXIT, curve, in_children, toy_config, train_in_children

from multimae.config import Runtime
from multimae.record import environment
from multimae.record.folder import RunFolder

SCRIPT = """
import sys
from multimae.config import Runtime
from multimae.record.folder import RunFolder
from multimae.engine.loop import train
from toy_task import ToyTask, toy_config
from pathlib import Path
train(ToyTask(toy_config()), toy_config(), Runtime(threads=1), RunFolder(Path(sys.argv[1])))
assert "mlflow" not in sys.modules and "mpi4py" not in sys.modules
"""


def python(*arguments, **variables) -> subprocess.CompletedProcess:
    here = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=os.environ | here, capture_output=True, text=True, timeout=300
    )


def test_a_plain_process_is_quiet_and_needs_no_launcher(tmp_path):
    done = python("-c", SCRIPT, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").done
    assert "DeepSpeed" not in done.stdout + done.stderr and "[INFO]" not in done.stdout + done.stderr
    assert "finished" in done.stdout and "finished" in (tmp_path / "run" / "log" / "train.log").read_text()


@pytest.mark.slow
def test_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = python("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", script, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").journal.last("start")["processes"] == 2 and RunFolder(tmp_path / "run").done


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_bf16_keeps_float32_parameters_and_learns(tmp_path, stage):
    folder, exact = RunFolder(tmp_path / "bf16"), RunFolder(tmp_path / "fp32")
    runtime = Runtime(log_every_steps=3, threads=1, zero_stage=stage)
    assert train_in_children(folder, toy_config(precision="bf16"), runtime) == [EXIT["finished"]]
    train_in_children(exact, toy_config(), runtime)
    losses = [[record["loss"] for record in curve(run) if "loss" in record] for run in (folder, exact)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.slow
def test_compiled_computes_the_same(tmp_path):
    folder, eager = RunFolder(tmp_path / "compiled"), RunFolder(tmp_path / "eager")
    for run, compiled in ((folder, True), (eager, False)):
        runtime = Runtime(log_every_steps=3, threads=1, compile=compiled)
        assert train_in_children(run, runtime=runtime, setup=without_randomness) == [EXIT["finished"]]
    losses = [[record["loss"] for record in curve(run) if "loss" in record] for run in (folder, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def without_randomness(rank) -> dict:
    return {"random": False}


def count_threads_and_groups(rank) -> None:
    """In a child of the fork server, which has imported the engine: nothing may run or be connected yet."""
    import threading

    import torch.distributed

    assert {"torch", "deepspeed", "torch._dynamo"} <= set(sys.modules) and "mlflow" not in sys.modules
    assert threading.active_count() == 1 and not torch.distributed.is_initialized()


def test_the_fork_server_starts_clean():
    assert in_children(count_threads_and_groups) == [0]


# ---- environment.json


def test_the_environment_names_commit_changes_and_versions(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("one = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = environment.checkout(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False and clean["diff"] == ""
    (tmp_path / "code.py").write_text("one = 2\n")
    (tmp_path / "new.py").write_text("")
    dirty = environment.checkout(tmp_path)
    assert dirty["dirty"] and "+one = 2" in dirty["diff"] and dirty["untracked"] == ["new.py"]
    (tmp_path / "code.py").write_text("x" * 3 * environment.DIFF_BYTES)
    assert len(environment.checkout(tmp_path)["diff"]) < 1.1 * environment.DIFF_BYTES


def test_the_environment_does_without_git(tmp_path, monkeypatch):
    assert environment.checkout(tmp_path)["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert environment.checkout(Path(__file__).parents[1])["commit"] is None
    assert environment.capture()["python"] == sys.version.split()[0]


def test_the_environment_holds_no_secret(monkeypatch):
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI", "SLURM_JWT"):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    captured = json.dumps(environment.capture())
    assert "hunter2" not in captured and '"SLURM_JOB_ID": "17"' in captured
