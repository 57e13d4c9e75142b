"""The state of a run from its folder, and the plan that follows from it."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plans import read, wanted
from synthetic_runs import finish
from training import tiny_study

from multimae import files
from multimae.files import write_atomic
from multimae.record.folder import RunFolder
from multimae.record.state import STALE, Status
from multimae.study import data as study_data
from multimae.study import planning
from multimae.study.study import Row, Study
from slurm import scheduler

ROWS = tiny_study.build("smoke")
A, B = ROWS
PRETRAIN, CLASSIFY = A.stages["pretrain"], A.stages["classify"]
SAMPLES = {"n": 9, "fingerprint": "f00d"}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder.of(tmp_path, PRETRAIN.signature)
    folder.create(PRETRAIN)
    return folder


@pytest.fixture
def process():
    """A process that lives until the test kills it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def beat(folder: RunFolder, what: str, pid: int, host: str | None = None, ago: float = 0.0) -> None:
    fields = {"time": time.time() - ago, "pid": pid, "host": host or socket.gethostname(), "state": what}
    write_atomic(folder.heartbeat, json.dumps(fields | {"step": 3, "total_steps": 10}))


def submit(folder: RunFolder, pid: int, host: str | None = None) -> None:
    where = {"study": "tiny", "row": "alpha=1", "stage": "pretrain", "scale": "smoke"}
    folder.jobs.write("submitted", job=f"local:{pid}", host=host or socket.gethostname(), **where)


def seen(folder: RunFolder) -> str:
    return read(folder).state


# ---- states


def test_missing(tmp_path, folder):
    assert seen(RunFolder.of(tmp_path, "0" * 10)) == "missing"
    assert seen(folder) == "missing"  # a config alone is nobody's work


def test_pending_until_its_launcher_is_gone(folder, process):
    submit(folder, process.pid)
    assert seen(folder) == "pending"
    process.kill()
    process.wait()
    assert read(folder) == Status("missing", "submitted, but never begun")


def test_pending_while_it_makes_its_data_and_model(folder, process):
    submit(folder, process.pid)
    folder.journal.write("data", root=None, train=SAMPLES, eval=SAMPLES)  # before anything beats
    assert seen(folder) == "pending"


def test_a_launchers_process_id_may_be_another_process_by_now(folder, process):
    record = {"time": time.time() - 1000, "kind": "submitted", "job": f"local:{process.pid}"}
    folder.jobs.path.write_text(json.dumps(record | {"host": socket.gethostname()}) + "\n")
    assert seen(folder) == "missing"


def test_waiting_until_its_pre_training_is_done(tmp_path, folder, process):
    transfer = RunFolder.of(tmp_path, CLASSIFY.signature)
    transfer.create(CLASSIFY)
    submit(transfer, process.pid)
    assert read(transfer) == Status("waiting", f"for {PRETRAIN.signature}")
    finish(folder)
    assert seen(transfer) == "pending"


@pytest.mark.parametrize("what", ["starting", "training", "evaluating", "saving"])
def test_running_while_its_process_lives_and_dead_after(folder, process, what):
    folder.journal.write("start", step=0)
    beat(folder, what, process.pid)
    assert seen(folder) == "running"
    process.kill()
    process.wait()
    assert seen(folder) == "dead"


def test_a_zombie_is_dead(folder, process):
    folder.journal.write("start", step=0)
    beat(folder, "training", process.pid)
    process.kill()
    deadline = time.monotonic() + 10
    while seen(folder) == "running" and time.monotonic() < deadline:  # not waited for: it stays as a zombie
        time.sleep(0.02)
    assert process.returncode is None and seen(folder) == "dead"


def test_on_another_machine_the_heartbeats_age_decides(folder):
    folder.journal.write("start", step=0)
    beat(folder, "training", os.getpid(), host="node7")
    assert seen(folder) == "running"
    beat(folder, "training", os.getpid(), host="node7", ago=STALE + 1)
    assert read(folder).reason == f"its process {os.getpid()} on node7 is gone"


@pytest.mark.parametrize("kind", ["interrupted", "failed"])
def test_what_the_journal_says_last(folder, kind):
    folder.journal.write("start", step=0)
    folder.journal.write(kind, step=3, reason="because\nof this")
    beat(folder, kind, os.getpid())
    status = read(folder)
    assert (status.state, status.reason) == (kind, "because of this")


def test_done_whatever_else_lies_there(folder, process):
    folder.journal.write("failed", step=3, reason="once")
    folder.journal.write("finished", step=10, seconds=12.5)
    submit(folder, process.pid)
    assert (seen(folder), read(folder).seconds) == ("done", 12.5)


def test_a_new_submission_is_newer_than_an_old_failure(folder, process):
    folder.journal.write("failed", step=3, reason="once")
    submit(folder, process.pid)
    assert seen(folder) == "pending"
    beat(folder, "training", process.pid)
    assert seen(folder) == "running"


def test_how_a_process_ended_that_could_not_say_so(folder, process):
    submit(folder, process.pid)
    folder.journal.write("start", step=0)
    folder.jobs.write("ended", state="dead", reason="killed by SIGKILL", exit_code=-9)
    assert read(folder) == Status("dead", "killed by SIGKILL")


def test_a_retry_that_could_not_say_so_ended_otherwise_than_the_failure_before_it(folder, process):
    folder.journal.write("failed", step=3, reason="long ago")
    submit(folder, process.pid)
    folder.jobs.write("ended", state="dead", reason="killed by SIGKILL", exit_code=-9)
    assert read(folder) == Status("dead", "killed by SIGKILL")


def test_a_retry_that_never_began_leaves_the_failure(folder, process):
    folder.journal.write("failed", step=3, reason="as before")
    submit(folder, process.pid)
    folder.jobs.write("ended", state="missing", reason="its launcher was stopped")
    assert read(folder) == Status("failed", "as before")


def test_unknown_is_what_cannot_be_known(folder):
    submit(folder, 1, host="another-machine")
    assert seen(folder) == "unknown"
    folder.jobs.path.unlink()
    folder.heartbeat.write_text("{torn")
    assert seen(folder) == "missing"


def test_reading_never_writes(tmp_path, folder, process):
    submit(folder, process.pid)
    folder.journal.write("start", step=0)
    beat(folder, "training", process.pid)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    planning.status(wanted(tiny_study, ROWS, tmp_path))
    planning.extras(wanted(tiny_study, (), tmp_path), [])
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


# ---- plans


def actions(runs: Path, study: Study = tiny_study, **options) -> dict[str, tuple[str, str | None]]:
    plan = planning.plan(wanted(study, study.build("smoke"), runs), **options)
    return {entry.run.label: (entry.status.state, entry.action) for entry in plan.entries.values()}


def test_from_nothing_all_is_run(tmp_path):
    assert set(actions(tmp_path).values()) == {("missing", "run")}
    assert list(tmp_path.iterdir()) == []


def test_only_the_difference_is_run(tmp_path, folder):
    finish(folder)
    assert actions(tmp_path).pop("alpha=1 pretrain") == ("done", None)
    assert actions(tmp_path)["alpha=1 classify"] == ("missing", "run")


def test_what_stopped_is_resumed(tmp_path, folder):
    folder.journal.write("interrupted", step=3, reason="SIGTERM")
    assert actions(tmp_path)["alpha=1 pretrain"] == ("interrupted", "resume")


def test_what_another_runs_is_left_to_it(tmp_path, folder, process):
    folder.journal.write("start", step=0)
    beat(folder, "training", process.pid)
    assert actions(tmp_path)["alpha=1 pretrain"] == ("running", None)
    assert actions(tmp_path)["alpha=1 classify"] == ("missing", "run")


def test_a_pre_training_whose_weights_are_gone_blocks_what_starts_from_it(tmp_path, folder):
    finish(folder)
    folder.weights.unlink()
    entry = planning.plan(wanted(tiny_study, ROWS, tmp_path)).entries[CLASSIFY.signature]
    assert entry.status.state == "blocked" and f"{folder.weights} is gone; to make them again" in entry.status.reason


def test_checkpoints_of_runs_that_are_done_are_removed_unless_somebody_writes(tmp_path, folder):
    checkpoints = [folder.checkpoints, RunFolder.of(tmp_path, CLASSIFY.signature).checkpoints]
    for path in checkpoints:
        (path / "step-00000007").mkdir(parents=True)
    finish(folder)
    plan = planning.plan(wanted(tiny_study, ROWS, tmp_path))
    planning.tidy(plan)
    assert [path.exists() for path in checkpoints] == [False, True]  # the other is not done


def test_a_failure_blocks_what_needs_it_and_nothing_else(tmp_path, folder):
    folder.journal.write("failed", step=3, reason="no such file")
    plan = planning.plan(wanted(tiny_study, ROWS, tmp_path))
    entry = plan.entries[CLASSIFY.signature]
    assert (entry.status.state, entry.action) == ("blocked", None)
    assert entry.status.reason == "alpha=1 pretrain failed"
    assert {e.run.label for e in plan.todo} == {"alpha=0.5 pretrain", "alpha=0.5 classify", "alpha=0.5 segment"}
    retried = actions(tmp_path, retry_failed=True)
    assert retried["alpha=1 pretrain"] == ("failed", "retry") and retried["alpha=1 classify"] == ("missing", "run")


def test_a_pre_training_of_no_row_must_be_done(tmp_path, folder):
    study = Study("transfers", "t", lambda scale: [Row("alpha=1", {"classify": CLASSIFY})])
    assert actions(tmp_path, study)["alpha=1 classify"] == ("blocked", None)
    finish(folder)
    assert actions(tmp_path, study)["alpha=1 classify"] == ("missing", "run")


def test_runs_that_left_the_study_are_reported(tmp_path, folder, process):
    submit(folder, process.pid)
    everything = [config.signature for row in ROWS for config in row.stages.values()]
    assert planning.extras(wanted(tiny_study, (), tmp_path), everything) == []
    (extra,) = planning.extras(wanted(tiny_study, (), tmp_path), everything[1:])
    assert (extra.signature, extra.row, extra.stage) == (PRETRAIN.signature, "alpha=1", "pretrain")
    assert planning.extras(wanted(tiny_study, (), tmp_path, scale="mini"), everything[1:]) == []
    assert (
        planning.extras(wanted(tiny_study, (), tmp_path, variant="--seed 1"), everything[1:]) == []
    )  # of another variant


def test_cancel_asks_the_process_of_a_run_to_stop(tmp_path, folder, process):
    folder.journal.write("start", step=0)
    beat(folder, "training", process.pid)
    (asked,) = planning.cancel(planning.plan(wanted(tiny_study, ROWS, tmp_path))).asked
    assert asked == "alpha=1 pretrain"
    assert process.wait(10) == -15


def test_cancel_tells_of_a_process_that_another_user_started(tmp_path, folder, process, monkeypatch):
    folder.journal.write("start", step=0)
    beat(folder, "training", process.pid)

    def refused(pid, number):
        raise PermissionError

    monkeypatch.setattr(planning.os, "kill", refused)
    stopped = planning.cancel(planning.plan(wanted(tiny_study, ROWS, tmp_path)))
    assert stopped.asked == []
    assert stopped.left == [f"alpha=1 pretrain is process {process.pid} of another user here, who alone may stop it"]
    monkeypatch.setattr(planning, "alive", lambda *_: None)
    (left,) = planning.cancel(planning.plan(wanted(tiny_study, ROWS, tmp_path))).left
    assert left.endswith(": give the command there")


def test_data_of_the_same_name_in_another_folder_are_told(tmp_path, folder):
    name = PRETRAIN.data.name
    told = lambda root: study_data.other_data(planning.plan(wanted(tiny_study, ROWS, tmp_path)), {name: Path(root)})
    assert told("/images") == []
    folder.journal.write("data", root="/images", train=SAMPLES, eval=SAMPLES)
    assert told("/images") == []
    (line,) = told("/elsewhere")
    assert "/images" in line and "/elsewhere" in line


# ---- with a scheduler


class Queue:
    """A scheduler that knows some jobs, counts how often it is asked, and keeps what it cancels."""

    def __init__(self, monkeypatch, **jobs: tuple[str, str]):
        self.jobs, self.asked, self.cancelled = jobs, 0, []
        monkeypatch.setattr(scheduler, "query", self.query)
        monkeypatch.setattr(scheduler, "cancel", self.cancel)

    def query(self, ids):
        self.asked += 1
        return {id: scheduler.SchedulerJob(id, "site", *self.jobs[f"j{id}"]) for id in ids}

    def cancel(self, ids):
        self.cancelled.append(sorted(ids))
        return set()


def give(runs: Path, config, job: str) -> RunFolder:
    """As if the run had been submitted to SLURM."""
    folder = RunFolder.of(runs, config.signature)
    folder.create(config)
    where = {"study": "tiny", "row": "alpha=1", "stage": config.task, "scale": "smoke", "host": "login"}
    folder.jobs.write("submitted", job=f"slurm:{job}", cluster="site", **where)
    return folder


def test_a_plan_asks_the_scheduler_once(tmp_path, monkeypatch):
    queue = Queue(monkeypatch, j1=("RUNNING", ""), j2=("PENDING", "Dependency"))
    give(tmp_path, PRETRAIN, "1")
    give(tmp_path, CLASSIFY, "2")
    seen = actions(tmp_path)
    assert seen["alpha=1 pretrain"] == ("running", None) and seen["alpha=1 classify"] == ("waiting", None)
    assert queue.asked == 1


@pytest.mark.parametrize("why", ["Dependency", "DependencyNeverSatisfied"])
def test_a_job_that_waits_for_a_failed_one_is_submitted_anew_with_it(tmp_path, monkeypatch, why):
    Queue(monkeypatch, j1=("FAILED", ""), j2=("PENDING", why))
    give(tmp_path, PRETRAIN, "1").journal.write("failed", step=3, reason="no such file")
    give(tmp_path, CLASSIFY, "2")
    assert actions(tmp_path)["alpha=1 classify"][1] is None
    retried = actions(tmp_path, retry_failed=True)
    assert retried["alpha=1 pretrain"] == ("failed", "retry") and retried["alpha=1 classify"][1] == "run"


def test_a_job_whose_dependency_broke_is_submitted_anew_once_its_pre_training_is_done(tmp_path, monkeypatch):
    Queue(monkeypatch, j2=("PENDING", "DependencyNeverSatisfied"))
    give(tmp_path, CLASSIFY, "2")
    folder = RunFolder.of(tmp_path, PRETRAIN.signature)
    folder.create(PRETRAIN)
    finish(folder)
    assert actions(tmp_path)["alpha=1 classify"] == ("blocked", "run")


def test_what_is_not_known_is_not_acted_upon(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "query", lambda ids: None)
    give(tmp_path, PRETRAIN, "1")
    seen = actions(tmp_path, retry_failed=True)
    assert seen["alpha=1 pretrain"] == ("unknown", None) and seen["alpha=1 classify"] == ("blocked", None)


def test_cancel_is_one_command_for_all_jobs(tmp_path, monkeypatch):
    queue = Queue(monkeypatch, j1=("RUNNING", ""), j2=("PENDING", "Dependency"))
    give(tmp_path, PRETRAIN, "1")
    give(tmp_path, CLASSIFY, "2")
    stopped = planning.cancel(planning.plan(wanted(tiny_study, ROWS, tmp_path)))
    assert stopped == planning.Stopped(["alpha=1 pretrain", "alpha=1 classify"], [])
    assert queue.cancelled == [["1", "2"]]
    removed = planning.extras(wanted(tiny_study, (), tmp_path), [PRETRAIN.signature])
    (asked,) = planning.cancel_removed(removed, wanted(tiny_study, (), tmp_path)).asked
    assert CLASSIFY.signature in asked and queue.cancelled[-1] == ["2"]


def test_cancel_tells_whose_jobs_go_on_and_writes_down_which_do_not(tmp_path, monkeypatch):
    Queue(monkeypatch, j1=("RUNNING", ""), j2=("PENDING", "Dependency"))
    mine, theirs = give(tmp_path, PRETRAIN, "1"), give(tmp_path, CLASSIFY, "2")
    record = {key: value for key, value in theirs.jobs.last("submitted").items() if key not in ("kind", "time")}
    theirs.jobs.write("submitted", **record | {"user": "alice"})

    def refused(ids):
        return {"2"}

    monkeypatch.setattr(scheduler, "cancel", refused)
    stopped = planning.cancel(planning.plan(wanted(tiny_study, ROWS, tmp_path)))
    assert stopped.asked == ["alpha=1 pretrain"]
    assert stopped.left == ["alpha=1 classify is job 2 of alice, who alone may cancel it"]
    assert mine.jobs.last("ended")["state"] == "missing" and theirs.jobs.last("ended") is None


def test_a_submission_names_its_user(tmp_path):
    plan = planning.plan(wanted(tiny_study, ROWS, tmp_path))
    planning.submit(plan.todo[0], plan.wanted, "local:1")
    assert RunFolder.of(tmp_path, PRETRAIN.signature).jobs.last("submitted")["user"] == files.user()
