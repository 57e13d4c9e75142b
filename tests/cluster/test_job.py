"""A job of a cluster, without one: what it records, when it may start again, and how it gives itself back."""

import json
import multiprocessing
import signal
import subprocess

import pytest

from multimae.config import ConfigError, Pretrain, Runtime
from multimae.engine.task import Diverged, RunFailed
from multimae.record.folder import RunFolder, RunLocked
from multimae.record.reading import FolderError
from slurm.job import attempt as attempt_module
from slurm.job import job as job_module
from slurm.job.attempt import Attempt, NoProgress
from slurm.job.job import INTERRUPTED, ClusterJob, Job
from slurm.job.rendezvous import JobProcess
from slurm.scheduler import SchedulerJob


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    """A run that was given to SLURM as job 77, in which we are its only process."""
    variables = {"SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NTASKS": 1, "SLURM_JOB_ID": 77}
    for name, value in (variables | {"SLURM_CLUSTER_NAME": "c1", "SLURM_JOB_NODELIST": "n[1-2]"}).items():
        monkeypatch.setenv(name, str(value))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MLFLOW_TRACKING_URI", "SLURM_RESTART_COUNT"):
        monkeypatch.setenv(name, "0")
    folder = RunFolder.of(tmp_path, Pretrain().signature)
    folder.create(Pretrain())
    folder.jobs.write("submitted", job="slurm:77", cluster="c1")
    (tmp_path / ".slurm" / "77").mkdir(parents=True)
    return folder


@pytest.fixture
def train(monkeypatch):
    """Replaces the training by a function."""
    return lambda function: monkeypatch.setattr(Job, "__call__", function)


def attempt_of(run: RunFolder) -> Attempt:
    return Attempt.of(run, JobProcess.here())


def cluster_job(run: RunFolder, **runtime) -> ClusterJob:
    return ClusterJob(run.signature, Runtime(runs=run.path.parent, **runtime), restarts_without_progress=2)


def may_restart(run: RunFolder) -> bool:
    return (run.path.parent / ".slurm/77/may-restart").exists()


def checkpoint(run: RunFolder, step: int) -> None:
    """One that is complete, as far as its size tells."""
    path = run.checkpoints / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "tensors.safetensors").write_bytes(b"tensors")
    clock = dict.fromkeys(("steps", "samples", "seconds", "data_seconds"), 1)
    meter = {"clocks": dict.fromkeys(("window", "epoch", "run"), clock), "sums": [], "summed": 0}
    progress = {"step": step, "nonfinite": 0, "meter": meter, "bytes": 7, "sha256": "0"}
    (path / "progress.json").write_text(json.dumps(progress))


def kinds(run: RunFolder) -> list[str]:
    return [record["kind"] for record in run.jobs.records()]


# ---- how it ends


def test_it_says_that_it_began_and_may_not_start_again_once_finished(run, train):
    seen = []
    train(lambda job: seen.append(may_restart(run)) or "finished")
    checkpoint(run, 40)
    assert cluster_job(run)() == "finished"
    began = run.jobs.last("began")
    assert (began["job"], began["cluster"], began["restart"]) == ("slurm:77", "c1", 0)
    assert (began["nodes"], began["step"]) == ("n[1-2]", 40)
    assert seen == [True] and not may_restart(run) and kinds(run) == ["submitted", "began"]
    assert (run.path.parent / ".slurm/77/finished").exists()  # the script succeeds, whatever the processes die of
    assert (run.log / "slurm-77").resolve() == run.path.parent / ".slurm/77"


def fail(error: Exception, cause: Exception | None = None):
    def training(job):
        raise error from cause

    return training


def test_an_error_that_may_pass_leaves_the_job_its_restart(run, train):
    train(fail(RunFailed("a node is gone")))
    with pytest.raises(RunFailed):
        cluster_job(run)()
    assert may_restart(run) and kinds(run) == ["submitted", "began"]


FINAL = [
    (ConfigError("no such data"), None),
    (RunFailed("batch_size: 3 is odd"), ConfigError("batch_size: 3 is odd")),
    (Diverged("diverged: the final evaluation is not finite"), None),
    (RunLocked("run abc is being written by process 5 on n9"), None),
]


@pytest.mark.parametrize("error,cause", FINAL)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_that_no_restart_mends_ends_the_job(run, train, monkeypatch, error, cause, rank):
    attempt_of(run).begin(2)
    monkeypatch.setenv("SLURM_PROCID", rank)  # whichever process it is
    train(fail(error, cause))
    with pytest.raises(type(error)):
        cluster_job(run)()
    assert not may_restart(run) and not (run.path.parent / ".slurm/77/finished").exists()
    assert run.jobs.last()["kind"] == "ended" and run.jobs.last()["reason"] == str(error)


def test_a_run_whose_config_was_edited_ends_the_job(run):
    run.config_file.write_text(run.config_file.read_text().replace("epochs: 1600.0", "epochs: 3.0"))
    with pytest.raises(FolderError, match="config.yaml is of run"):
        cluster_job(run)()
    assert not may_restart(run) and "is refused" in run.jobs.last("ended")["reason"]


def hold(run: RunFolder, held, free) -> None:
    with run.claim():
        held.set()
        free.wait(30)


def test_a_run_that_another_process_writes_is_left_to_it(run, train):
    train(fail(AssertionError("trained")))
    context = multiprocessing.get_context("fork")
    held, free = context.Event(), context.Event()
    other = context.Process(target=hold, args=(run, held, free))
    other.start()
    held.wait(30)
    try:
        with pytest.raises(RunLocked):
            cluster_job(run)()
    finally:
        free.set()
        other.join()
    assert kinds(run) == ["submitted", "ended"] and not may_restart(run)


def test_a_restart_waits_for_the_lock_of_its_node_that_died(run, train, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train(lambda job: "finished")
    context = multiprocessing.get_context("fork")
    held, free = context.Event(), context.Event()
    other = context.Process(target=hold, args=(run, held, free))
    other.start()
    held.wait(30)
    monkeypatch.setattr(attempt_module.time, "sleep", lambda seconds: (free.set(), other.join()))
    assert cluster_job(run)() == "finished"


# ---- faults that repeat


def test_starts_in_vain_are_counted_at_one_step_and_not_after_a_signal(run):
    attempt = attempt_of(run)

    def begin() -> int:
        attempt.begin(100)
        return attempt.starts_in_vain

    assert [begin(), begin(), begin()] == [1, 2, 3]
    checkpoint(run, 5)
    assert [begin(), begin()] == [1, 2]
    attempt.release()
    attempt.release()
    assert kinds(run).count("released") == 1
    began, released = run.jobs.last("began"), run.jobs.last("released")
    assert [began[key] for key in ("job", "cluster")] == [released[key] for key in ("job", "cluster")]
    assert begin() == 1
    run.jobs.write("submitted", job="slurm:78", cluster="c1")  # --retry-failed
    assert begin() == 1


def test_a_damaged_checkpoint_does_not_make_progress_look_like_none(run, train):
    """Each restart comes further than the one before, from a checkpoint below the one that is damaged."""
    checkpoint(run, 50)
    (run.checkpoints / "step-00000050" / "tensors.safetensors").write_bytes(b"half")
    for step in (10, 20, 30, 40, 45, 48):
        train(lambda job, step=step: checkpoint(run, step) or fail(RunFailed("killed"))(job))
        with pytest.raises(RunFailed, match="killed"):
            cluster_job(run)()
        assert may_restart(run) and attempt_of(run).starts_in_vain == 1
    began = [record["step"] for record in run.jobs.records("began")]
    assert began == [-1, 10, 20, 30, 40, 45]


def test_a_fault_that_repeats_fails_the_run_with_the_evidence(run, train):
    train(fail(RunFailed("NaN at step 7")))
    files = run.path.parent / ".slurm/77"
    (files / "77_1_log.err").write_text("Traceback (most recent call last)\n  File\nValueError: image 7 is broken\n")
    checkpoint(run, 5)
    for _ in range(3):
        with pytest.raises(RunFailed, match="NaN"):
            cluster_job(run)()
        assert may_restart(run)
    with pytest.raises(NoProgress):
        cluster_job(run)()
    failed = run.journal.last()
    assert failed["kind"] == "failed" and (failed["step"], failed["restarts"]) == (5, 3)
    assert "3 restarts did not get past step 5: ValueError: image 7 is broken" in failed["reason"]
    assert str(files) in failed["reason"] and failed["errors"] == {"rank 1": "ValueError: image 7 is broken"}
    assert not may_restart(run) and run.jobs.last("ended")["reason"] == failed["reason"]


# ---- giving the job back


@pytest.fixture
def queue(monkeypatch):
    """A scheduler that says the states of `queue.says` in turn, and a submitit that requeues by `queue.requeue`."""

    class Queue:
        says = ["RUNNING"]
        taken = 0

        def requeue(self):
            self.taken += 1
            raise SystemExit(-1)

    queue = Queue()

    def query(ids):
        state = queue.says.pop(0) if len(queue.says) > 1 else queue.says[0]
        return {id: SchedulerJob(id, "c1", state) for id in ids} if state else None

    monkeypatch.setattr(job_module.scheduler, "query", query)
    monkeypatch.setattr(job_module.time, "sleep", lambda seconds: None)
    before = signal.signal(signal.SIGUSR2, lambda *_: queue.requeue())
    yield queue
    signal.signal(signal.SIGUSR2, before)


def interrupted(run: RunFolder, by: str):
    def training(job) -> str:
        run.journal.write("interrupted", step=3, reason=by)
        return "interrupted"

    return training


@pytest.mark.parametrize("by", ["SIGUSR2", "SIGTERM"])
def test_a_job_that_was_asked_to_stop_goes_back_to_the_queue(run, train, queue, by):
    train(interrupted(run, by))
    with pytest.raises(SystemExit) as exit:
        cluster_job(run)()
    assert queue.taken == 1 and exit.value.code == -1
    assert run.jobs.last()["kind"] == "released" and run.jobs.last()["reason"] == by and may_restart(run)


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", "GONE"])
def test_a_job_that_is_cancelled_or_queued_by_others_is_left_alone(run, train, queue, state):
    train(interrupted(run, "SIGTERM"))
    queue.says = [state]
    with pytest.raises(SystemExit) as exit:
        cluster_job(run)()
    assert queue.taken == 0 and exit.value.code == INTERRUPTED


def test_a_scheduler_that_is_down_is_waited_for(run, train, queue):
    train(interrupted(run, "SIGUSR2"))
    queue.says = [None, None, "RUNNING"]
    refusals = [subprocess.CalledProcessError(1, "scontrol"), subprocess.TimeoutExpired("scontrol", 60)]
    taken = queue.requeue

    def requeue():
        if refusals:
            raise refusals.pop()
        taken()

    queue.requeue = requeue
    with pytest.raises(SystemExit) as exit:
        cluster_job(run)()
    assert queue.taken == 1 and exit.value.code == -1


def test_a_signal_before_the_training_is_recorded_by_the_checkpoint_call(run):
    attempt_of(run).begin(2)
    again = cluster_job(run).checkpoint()
    assert again.function == cluster_job(run)
    assert run.jobs.last()["reason"] == "a signal before the training began"


def test_few_cpus_are_told(run, train, capfd, monkeypatch):
    monkeypatch.setattr(attempt_module, "cpus", lambda: 2)
    train(lambda job: "finished")
    cluster_job(run, workers=4)()
    assert "bound to 2 CPUs" in capfd.readouterr().err and run.jobs.last("began")["cpus"] == 2
