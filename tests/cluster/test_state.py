"""The state of runs that were given to SLURM: its word against what the run's folder says."""

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from plans import read, read_all
from synthetic_runs import SyntheticRun
from training import tiny_study

from multimae.files import write_atomic
from multimae.record.folder import RunFolder
from multimae.record.state import STALE, Status
from slurm import jobs, scheduler
from slurm.job import logs
from slurm.scheduler import GONE, SchedulerJob

ROWS = tiny_study.build("smoke")
PRETRAIN, CLASSIFY = ROWS[0].stages["pretrain"], ROWS[0].stages["classify"]
ELSEWHERE = "a-compute-node"
OLD = STALE + 600


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder.of(tmp_path, PRETRAIN.signature)
    folder.create(PRETRAIN)
    return folder


@pytest.fixture
def slurm(monkeypatch):
    """slurm(a SchedulerJob, ...) is what SLURM says from now on; slurm(None): it cannot be asked."""
    asked: list[set[str]] = []

    def says(*jobs: SchedulerJob | None) -> list[set[str]]:
        def query(ids):
            asked.append(set(ids))
            return None if None in jobs else {job.id: job for job in jobs if job.id in ids}

        monkeypatch.setattr(scheduler, "query", query)
        return asked

    says()
    return says


def job(word: str, reason: str = "", id: str = "7_1", **fields) -> SchedulerJob:
    return SchedulerJob(id, "alpha", word, reason, **fields)


def write(folder: RunFolder, kind: str, ago: float = 0.0, **fields) -> None:
    """A record of jobs.jsonl, some seconds ago."""
    record = {"time": time.time() - ago, "kind": kind, "job": "slurm:7_1", "cluster": "alpha"} | fields
    with open(folder.jobs.path, "a") as file:
        file.write(json.dumps(record) + "\n")


def submit(folder: RunFolder, ago: float = 0.0, **fields) -> None:
    where = {"study": "tiny", "row": "alpha=1", "stage": "pretrain", "scale": "smoke", "host": socket.gethostname()}
    write(folder, "submitted", ago, **where | fields)


def began(folder: RunFolder, ago: float = 0.0, **fields) -> None:
    write(folder, "began", ago, **{"restart": 0, "nodes": "n[1-2]", "host": ELSEWHERE, "step": -1} | fields)


def beat(folder: RunFolder, what: str = "training", ago: float = 0.0, pid: int = 1, host: str = ELSEWHERE) -> None:
    fields = {"time": time.time() - ago, "pid": pid, "host": host, "state": what, "step": 3, "total_steps": 10}
    write_atomic(folder.heartbeat, json.dumps(fields))


def told(folder: RunFolder) -> tuple[str, str]:
    status = read(folder)
    return status.state, status.reason


# ---- one query


def test_all_runs_are_asked_of_at_once_and_those_that_are_done_not_at_all(tmp_path, slurm):
    asked = slurm(job("RUNNING", id="7_0"), job("PENDING", id="7_1"))
    folders = []
    for task, config in enumerate(ROWS[0].stages.values()):
        run = SyntheticRun(tmp_path, config)
        submit(run.folder, job=f"slurm:7_{task}")
        folders.append(run.folder)
    run.whole()
    statuses = read_all(folders)
    assert [(s.state, s.job) for s in statuses.values()] == [("running", "7_0"), ("pending", "7_1"), ("done", "7_2")]
    assert asked == [{"7_0", "7_1"}]


def test_without_a_submission_to_slurm_it_is_not_asked(folder, slurm):
    asked = slurm(None)
    folder.jobs.write("submitted", job=f"local:{os.getpid()}", host=socket.gethostname())
    assert told(folder) == ("pending", "")
    assert asked == []


def test_the_last_submission_decides(folder, slurm):
    asked = slurm(job("CANCELLED"))
    submit(folder, ago=20)
    folder.jobs.write("submitted", job=f"local:{os.getpid()}", host=socket.gethostname())
    assert (told(folder), read(folder).job) == (("pending", ""), "")
    assert asked == []
    slurm(job("PENDING", "Priority"))
    submit(folder)
    assert told(folder) == ("pending", "Priority")


def test_one_that_cannot_be_read_does_not_hide_the_others(tmp_path, folder, slurm):
    slurm(job("RUNNING"))
    submit(folder)
    torn = RunFolder.of(tmp_path, CLASSIFY.signature)
    torn.heartbeat.mkdir(parents=True)
    seen = read_all([torn, folder])
    assert {s.state for s in seen.values()} == {"refused", "running"}
    assert "heartbeat.json: expected a file" in seen[CLASSIFY.signature].reason


# ---- in the queue


@pytest.mark.parametrize("word", ["PENDING", "REQUEUED", "REQUEUE_HOLD"])
def test_pending(folder, slurm, word):
    slurm(job(word, "Resources"))
    submit(folder)
    assert read(folder) == Status("pending", "Resources", job="7_1")


@pytest.mark.parametrize("reason", ["JobHeldUser", "launch failed requeued held"])
def test_held(folder, slurm, reason):
    slurm(job("PENDING", reason))
    submit(folder)
    assert told(folder) == ("pending", f"{reason}; `scontrol release 7_1` lets it go on")


@pytest.mark.parametrize("kind", ["failed", "interrupted"])
def test_back_in_the_queue_whatever_the_journal_said_last(folder, slurm, kind):
    slurm(job("PENDING", "BeginTime"))
    submit(folder, ago=30)
    began(folder, ago=20)
    folder.journal.write(kind, step=3, reason="the network was away")
    beat(folder, kind)
    assert told(folder) == ("pending", "restarts after: the network was away (BeginTime)")


def test_back_in_the_queue_by_its_own_will(folder, slurm):
    slurm(job("PENDING"))
    submit(folder, ago=30)
    began(folder, ago=20)
    folder.journal.write("interrupted", step=3, reason="SIGUSR2")
    write(folder, "released", reason="time limit")
    assert told(folder) == ("pending", "restarts after: time limit")


def test_back_in_the_queue_without_a_word(folder, slurm):
    slurm(job("PENDING"))
    folder.journal.write("failed", step=3, reason="long ago")
    submit(folder)
    began(folder)
    beat(folder)  # just before its node died
    assert told(folder) == ("pending", "restarts after: its processes were killed")


def test_a_job_may_begin_before_its_submission_is_written(folder, slurm):
    slurm(job("PENDING"))
    began(folder, ago=20)
    folder.journal.write("interrupted", step=3, reason="SIGUSR2")
    submit(folder)
    assert told(folder) == ("pending", "restarts after: SIGUSR2")


def test_waiting_for_a_pre_training(tmp_path, slurm):
    slurm(job("PENDING", "Dependency"))
    folder = RunFolder.of(tmp_path, CLASSIFY.signature)
    folder.create(CLASSIFY)
    submit(folder)
    assert told(folder) == ("waiting", f"for {PRETRAIN.signature}")
    folder.config_file.unlink()  # not read where it is known what a run needs
    seen = read_all([folder], {CLASSIFY.signature: CLASSIFY})[CLASSIFY.signature]
    assert (seen.state, seen.reason) == ("waiting", f"for {PRETRAIN.signature}")


def test_blocked_by_a_pre_training_that_did_not_finish(tmp_path, slurm):
    slurm(job("PENDING", "DependencyNeverSatisfied"))
    folder = RunFolder.of(tmp_path, CLASSIFY.signature)
    folder.create(CLASSIFY)
    submit(folder)
    seen = read(folder)
    assert (seen.state, seen.job) == ("blocked", "7_1")
    assert seen.reason.startswith(f"{PRETRAIN.signature} did not finish")


# ---- running


def test_starting_before_the_first_heartbeat(folder, slurm):
    slurm(job("RUNNING", nodes="n[1-2]", started=time.time() - 5))
    submit(folder, ago=4000)
    assert read(folder) == Status("running", "starting", job="7_1", node="n[1-2]")
    beat(folder, "training", ago=OLD)  # of the attempt before
    assert told(folder) == ("running", "starting")


@pytest.mark.parametrize("what", ["training", "evaluating"])
def test_running_as_the_heartbeat_says(folder, slurm, what):
    slurm(job("RUNNING", started=time.time() - 60))
    submit(folder, ago=90)
    beat(folder, what)
    assert told(folder) == ("running", "" if what == "training" else what)
    assert read(folder).heartbeat["step"] == 3


def test_running_without_a_sign_of_life(folder, slurm):
    slurm(job("RUNNING", started=time.time() - 3600))
    submit(folder, ago=4000)
    assert told(folder) == ("running", "starting, no sign of life for 60 min")
    beat(folder, ago=720)
    assert told(folder) == ("running", "no sign of life for 12 min")
    beat(folder, "saving", ago=720)
    assert told(folder) == ("running", "saving, no sign of life for 12 min")


@pytest.mark.parametrize(
    "word, doing", [("COMPLETING", "ending"), ("SUSPENDED", "suspended"), ("CONFIGURING", "starting")]
)
def test_on_its_way(folder, slurm, word, doing):
    slurm(job(word, started=time.time() - 60))
    submit(folder, ago=90)
    beat(folder, "interrupted")
    assert told(folder) == ("running", doing)


def test_running_while_its_last_words_are_said(folder, slurm):
    slurm(job("RUNNING", started=time.time() - 60))
    submit(folder, ago=90)
    folder.journal.write("interrupted", step=3, reason="SIGUSR2")
    beat(folder, "interrupted")
    assert told(folder) == ("running", "ending")


# ---- ended


@pytest.mark.parametrize("word", ["TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"])
def test_dead(folder, slurm, word):
    slurm(job(word, nodes="n1"))
    submit(folder, ago=20)
    began(folder, ago=10)
    beat(folder)  # fresh, but the job is gone
    assert told(folder) == ("dead", f"{word} on n1")


def test_cancelled(folder, slurm):
    slurm(job("CANCELLED"))
    submit(folder)
    assert told(folder) == ("missing", "cancelled before it began")
    began(folder)
    beat(folder)
    assert told(folder) == ("interrupted", "its job was cancelled")


def test_failed_with_the_journals_reason(folder, slurm):
    slurm(job("FAILED", exit_code="1:0"))
    submit(folder, ago=20)
    began(folder, ago=10)
    folder.journal.write("failed", step=3, reason="ConfigError: no such folder")
    assert told(folder) == ("failed", "ConfigError: no such folder")


def printed(folder: RunFolder, rank: int, *lines: str) -> None:
    place = logs.folder_of(folder.path.parent, "7_1")
    place.mkdir(parents=True, exist_ok=True)
    (place / f"7_1_{rank}_log.err").write_text("\n".join(lines) + "\n")


def test_failed_with_the_reason_of_the_rank_that_caused_it(folder, slurm):
    slurm(job("FAILED", exit_code="1:0"))
    submit(folder, ago=20)
    began(folder, ago=10)
    symptom = "RuntimeError: Connection closed by peer [127.0.0.1]:4242"
    folder.journal.write("failed", step=3, reason=symptom)
    assert told(folder) == ("failed", symptom)
    printed(folder, 0, "Traceback (most recent call last):", "  File", symptom)
    printed(folder, 3, "Traceback (most recent call last):", "  File", "OSError: cannot identify image file '17.jpg'")
    assert told(folder) == ("failed", "OSError: cannot identify image file '17.jpg'")


@pytest.mark.parametrize(
    "line, reason", [(None, "exit code 2:0"), ("ModuleNotFoundError: No module named 'torch'",) * 2]
)
def test_failed_before_the_journal_could_say_anything(folder, slurm, line, reason):
    slurm(job("FAILED", exit_code="2:0"))
    folder.journal.write("failed", step=3, reason="what went wrong before the last submission")
    submit(folder)
    if line:
        printed(folder, 0, line)
    assert told(folder) == ("failed", reason)


def test_out_of_memory(folder, slurm):
    slurm(job("OUT_OF_MEMORY", exit_code="0:125"))
    submit(folder)
    printed(folder, 0, "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.")
    assert told(folder)[1].startswith("out of memory: slurmstepd: error: Detected 1 oom_kill")


def test_failed_after_an_interruption_can_go_on(folder, slurm):
    slurm(job("FAILED"))
    submit(folder, ago=20)
    began(folder, ago=10)
    folder.journal.write("interrupted", step=3, reason="SIGUSR2")
    assert told(folder) == ("interrupted", "SIGUSR2")


def test_completed_but_not_done(folder, slurm):
    slurm(job("COMPLETED"))
    submit(folder, ago=20)
    began(folder, ago=10)
    assert told(folder) == ("dead", "its job completed, but the run did not finish")
    folder.journal.write("interrupted", step=3, reason="SIGTERM")
    assert told(folder) == ("interrupted", "SIGTERM")


def test_what_the_job_wrote_of_its_end(folder, slurm):
    slurm(job("TIMEOUT"))
    submit(folder, ago=20)
    began(folder, ago=10)
    write(folder, "ended", state="failed", reason="no progress in 3 restarts")
    assert told(folder) == ("failed", "no progress in 3 restarts")
    slurm(job("PENDING"))  # but somebody has put it back
    assert told(folder)[0] == "pending"


def test_done_while_its_job_still_ends(folder, slurm):
    slurm(job("RUNNING"))
    submit(folder, ago=20)
    began(folder, ago=10)
    folder.journal.write("finished", step=10, seconds=12.5)
    seen = read(folder)
    assert (seen.state, seen.job, seen.node, seen.seconds) == ("done", "7_1", "n[1-2]", 12.5)


def test_a_process_that_outlives_its_job_is_running(folder, slurm):
    slurm(job("CANCELLED"))
    submit(folder, ago=10)
    beat(folder, pid=os.getpid(), host=socket.gethostname())
    assert told(folder)[0] == "running"


# ---- what SLURM does not know


def test_gone_is_what_the_folder_says(folder, slurm):
    slurm(job(GONE))
    submit(folder, ago=2 * OLD)
    assert told(folder) == ("missing", "submitted, but never begun")
    began(folder, ago=2 * OLD)
    assert told(folder) == ("dead", "its job is gone")
    beat(folder)
    assert told(folder)[0] == "running"
    beat(folder, ago=OLD)
    assert told(folder) == ("dead", f"its process 1 on {ELSEWHERE} is gone")
    folder.journal.write("interrupted", step=3, reason="SIGUSR2")
    assert told(folder) == ("interrupted", "SIGUSR2")


@pytest.fixture
def colleague(folder, slurm, monkeypatch):
    """alice's job of the run, which the site does not show bob."""
    slurm(job(GONE))
    monkeypatch.setattr(jobs, "user", lambda: "bob")
    monkeypatch.setattr(scheduler, "hides_jobs", lambda: True)
    submit(folder, ago=2 * OLD, user="alice")
    return folder


def test_a_colleagues_job_that_the_site_hides_is_not_gone(colleague):
    seen = read(colleague)
    assert (seen.state, seen.job) == ("pending", "7_1")
    assert seen.reason == (
        "a job of alice, which this site does not show you; if alice says that it has ended, remove "
        f"{colleague.jobs.path}, and it goes on here"
    )
    began(colleague, ago=10)
    assert told(colleague) == ("running", "starting or ending")
    beat(colleague)
    assert told(colleague) == ("running", "")
    write(colleague, "released", reason="time limit")
    beat(colleague, "interrupted")
    assert told(colleague)[0] == "pending" and told(colleague)[1].startswith("restarts after: time limit; a job of al")


def test_a_colleagues_hidden_job_that_is_silent_is_left_alone_with_whom_to_ask(colleague):
    began(colleague, ago=OLD)
    beat(colleague, ago=OLD)
    colleague.journal.write("failed", step=3, reason="it may have been requeued since")
    seen, reason = told(colleague)
    assert seen == "unknown" and "no sign of life for 13 min; if alice says that it has ended, remove" in reason
    colleague.jobs.path.unlink()
    assert told(colleague)[0] == "failed"  # and --retry-failed goes on


@pytest.mark.parametrize("kind", ["failed", "interrupted", "missing"])
def test_what_a_colleagues_hidden_job_wrote_of_its_end_holds(colleague, kind):
    began(colleague, ago=OLD)
    write(colleague, "ended", state=kind, reason="its job was cancelled by alice")
    assert told(colleague) == (kind, "its job was cancelled by alice")
    began(colleague)  # somebody has put it back
    assert told(colleague)[0] == "running"


def test_a_colleagues_hidden_job_that_is_done_is_done(colleague):
    began(colleague, ago=20)
    colleague.journal.write("finished", step=10, seconds=12.5)
    assert told(colleague) == ("done", "")


@pytest.mark.parametrize("user, hides", [("bob", True), ("alice", False), (None, True)])
def test_a_job_of_ones_own_or_on_an_open_site_is_gone(colleague, monkeypatch, user, hides):
    monkeypatch.setattr(scheduler, "hides_jobs", lambda: hides)
    submit(colleague, ago=OLD, **({"user": user} if user else {}))
    assert told(colleague) == ("missing", "submitted, but never begun")


@pytest.mark.parametrize("answer", [(None,), ()], ids=["nobody can be asked", "nothing is known"])
def test_slurm_cannot_be_asked(folder, slurm, answer):
    slurm(*answer)
    submit(folder, ago=OLD)
    began(folder, ago=OLD)
    folder.journal.write("failed", step=3, reason="it may have been requeued since")
    assert told(folder) == ("unknown", "its job is on cluster alpha, which cannot be asked now")
    beat(folder)
    seen = read(folder)
    assert (seen.state, seen.node) == ("running", "n[1-2]")
    beat(folder, ago=OLD)
    assert told(folder)[0] == "unknown"


@pytest.mark.parametrize("word", ["CANCELLED", GONE])
def test_a_job_of_another_cluster_is_not_ours(folder, slurm, word):
    slurm(replace(job(word, nodes="b1"), cluster="beta"))
    submit(folder)
    status = read(folder)
    assert (status.state, status.job, status.node) == ("unknown", "7_1", "")
    assert "cluster alpha, which cannot be asked from here; this is beta" in status.reason
    beat(folder)
    assert told(folder)[0] == "running"
    beat(folder, ago=OLD)
    assert "remove jobs.jsonl" in told(folder)[1]
    folder.jobs.path.unlink()
    assert told(folder)[0] == "dead"  # which is resumed


def test_reading_never_writes(tmp_path: Path, folder, slurm):
    slurm(job("FAILED"))
    submit(folder)
    printed(folder, 0, "Killed")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    read_all([folder])
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
