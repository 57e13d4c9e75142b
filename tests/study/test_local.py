"""The local back end, with real child processes whose trainings are scripted."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from plans import wanted
from training import ScriptedJob, tiny_study

from multimae.config import Runtime
from multimae.record.folder import RunFolder
from multimae.study import Row, Study, planning
from multimae.study.local import Local
from slurm import scheduler

ROWS = tiny_study.build("smoke")
A, B = ROWS
LAUNCHER = """
import sys
from pathlib import Path
from multimae.config import Runtime
from plans import wanted
from multimae.study import planning
from multimae.study.local import Local
from training import ScriptedJob, tiny_study

if __name__ == "__main__":
    runs = Path(sys.argv[1])
    plan = planning.plan(wanted(tiny_study, tiny_study.build("smoke"), runs))
    backend = Local(Runtime(runs=runs), int(sys.argv[2]), ScriptedJob, preload=())
    for event in backend.work(plan):
        if event:
            print(event.entry.run.label, event.kind, event.status.state, flush=True)
    sys.exit(130 if backend.stops else 0)
"""


def script(runs: Path, **acts: str) -> None:
    """What the run of `row_stage` does: script(runs, A_pretrain="kill")."""
    runs.mkdir(exist_ok=True)
    rows = {"A": A, "B": B}
    by_signature = {}
    for name, act in acts.items():
        row, stage = name.split("_")
        by_signature[rows[row].stages[stage].signature] = act
    (runs / "script.json").write_text(json.dumps(by_signature))


def apply(runs: Path, slots: int = 2, **options) -> dict[str, str]:
    """{label: state} of what happened."""
    plan = planning.plan(wanted(tiny_study, ROWS, runs), **options)
    backend = Local(Runtime(runs=runs), slots, ScriptedJob, preload=())
    events = [event for event in backend.work(plan) if event]
    return {event.entry.run.label: event.status.state for event in events if event.kind != "started"}


def states(runs: Path) -> dict[str, str]:
    seen = planning.status(wanted(tiny_study, ROWS, runs))
    return {entry.run.label: entry.status.state for entry in seen.entries.values()}


@pytest.fixture
def launcher(tmp_path):
    """A launcher in a process of its own, as from a terminal; nothing of it is left when the test ends."""
    started = []

    def start(runs: Path, slots: int = 2) -> subprocess.Popen:
        code = tmp_path / "launcher.py"
        code.write_text(LAUNCHER)
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        started.append(
            subprocess.Popen(
                [sys.executable, str(code), str(runs), str(slots)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": path},
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return value


def running(runs: Path, count: int) -> list[int]:
    """The processes of the runs that are being trained, once there are `count`."""

    def pids():
        seen = planning.status(wanted(tiny_study, ROWS, runs))
        found = [e.status.heartbeat["pid"] for e in seen.entries.values() if e.status.state == "running"]
        return found if len(found) == count else None

    return until(pids)


def test_all_is_done_and_a_second_time_nothing_is(tmp_path):
    assert set(apply(tmp_path).values()) == {"done"}
    assert set(states(tmp_path).values()) == {"done"}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert apply(tmp_path) == {}
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}


def test_transfers_start_after_their_pre_training(tmp_path):
    apply(tmp_path)
    for row in ROWS:
        ends, *starts = (
            RunFolder.of(tmp_path, row.stages[s].signature).journal for s in ("pretrain", "classify", "segment")
        )
        assert all(j.records("start")[0]["time"] > ends.last("finished")["time"] for j in starts)


@pytest.mark.parametrize(
    "act, state, reason",
    [
        ("raise", "failed", "RuntimeError: the data is on fire"),
        ("kill", "dead", "killed by SIGKILL"),
        ("segfault", "dead", "killed by SIGSEGV"),
    ],
)
def test_a_crash_spoils_nothing_else(tmp_path, act, state, reason):
    script(tmp_path, A_pretrain=act)
    happened = apply(tmp_path)
    assert happened.pop("alpha=1 pretrain") == state
    assert {happened.pop("alpha=1 classify"), happened.pop("alpha=1 segment")} == {"blocked"}
    assert set(happened.values()) == {"done"} and len(happened) == 3
    folder = RunFolder.of(tmp_path, A.stages["pretrain"].signature)
    assert planning.status(wanted(tiny_study, ROWS, tmp_path)).entries[folder.signature].status.reason == reason
    assert "doing" in next(folder.log.iterdir()).read_text()


def test_what_failed_is_tried_again_on_request_only(tmp_path):
    script(tmp_path, A_pretrain="raise")
    apply(tmp_path)
    assert states(tmp_path)["alpha=1 classify"] == "blocked"
    script(tmp_path)
    assert apply(tmp_path) == {}
    assert set(apply(tmp_path, retry_failed=True).values()) == {"done"}
    assert set(states(tmp_path).values()) == {"done"}


def test_what_died_is_continued_by_the_same_command(tmp_path):
    script(tmp_path, A_pretrain="kill")
    apply(tmp_path)
    script(tmp_path)
    apply(tmp_path)
    assert set(states(tmp_path).values()) == {"done"}


def test_ctrl_c_saves_and_the_same_command_continues(tmp_path, launcher):
    script(tmp_path, A_pretrain="wait", B_pretrain="wait")
    process = launcher(tmp_path)
    children = running(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert process.wait(20) == 130
    assert not any(psutil.pid_exists(pid) for pid in children)
    assert states(tmp_path)["alpha=1 pretrain"] == "interrupted"
    script(tmp_path)
    assert set(apply(tmp_path).values()) == {"done"}


def test_a_second_ctrl_c_kills(tmp_path, launcher):
    script(tmp_path, A_pretrain="hang", B_pretrain="hang")
    process = launcher(tmp_path)
    children = running(tmp_path, 2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.8)
    assert process.wait(20) == 130
    assert not any(psutil.pid_exists(pid) for pid in children)


def test_children_do_not_outlive_a_killed_launcher(tmp_path, launcher):
    script(tmp_path, A_pretrain="wait", B_pretrain="wait")
    process = launcher(tmp_path)
    children = running(tmp_path, 2)
    process.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in children))
    assert states(tmp_path)["alpha=1 pretrain"] == "interrupted"  # they saved


def test_children_outlive_a_killed_fork_server_and_still_stop_when_asked(tmp_path, launcher):
    script(tmp_path, A_pretrain="wait", B_pretrain="wait")
    process = launcher(tmp_path)
    children = running(tmp_path, 2)
    servers = {psutil.Process(pid).ppid() for pid in children} - {process.pid}
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    assert running(tmp_path, 2) and process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert states(tmp_path)["alpha=1 pretrain"] == "interrupted"


def test_two_launchers_share_the_work(tmp_path, launcher):
    first, second = launcher(tmp_path), launcher(tmp_path)
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert set(states(tmp_path).values()) == {"done"}
    for folder in tmp_path.glob("*/journal.jsonl"):
        assert len(RunFolder(folder.parent).journal.records("finished")) == 1


def test_a_launcher_takes_over_what_another_left(tmp_path, launcher):
    script(tmp_path, A_pretrain="wait")
    first = launcher(tmp_path)
    until(lambda: states(tmp_path)["alpha=1 pretrain"] == "running")
    script(tmp_path)
    second = launcher(tmp_path)
    until(lambda: list(states(tmp_path).values()).count("done") == 3)
    first.send_signal(signal.SIGINT)
    assert (first.wait(20), second.wait(60)) == (130, 0)
    assert set(states(tmp_path).values()) == {"done"}


def test_each_slot_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    plan = planning.plan(wanted(tiny_study, (A,), tmp_path))
    list(Local(Runtime(runs=tmp_path), 2, ScriptedJob, preload=()).work(plan))
    seen = [RunFolder.of(tmp_path, s).journal.records("start")[0]["gpu"] for s in plan.entries]
    assert seen[0] == "3" and sorted(seen[1:]) == ["3", "5"]


def timing(*alone: int, needs: bool = False) -> Study:
    """Six rows of pre-trainings, with a transfer each if `needs`, of which some are timed."""
    pretrain, classify = A.stages["pretrain"], A.stages["classify"]
    rows = []
    for seed in range(6):
        mine = pretrain.edit({"seed": seed})
        transfer = {"classify": classify.edit({"init": f"run:{mine.signature}"})} if needs else {}
        of = ("classify" if needs else "pretrain",) if seed in alone else ()
        rows.append(Row(f"{seed}", {"pretrain": mine, **transfer}, alone=of))
    return Study("timing", "Timing", lambda scale: rows)


def spans(runs: Path, study: Study, act: str = "slow", slots: int = 3) -> dict[str, tuple[float, float, bool]]:
    """Work through it: {label: (began, ended, whether it was told to be alone)}."""
    plan = planning.plan(wanted(study, study.build("smoke"), runs))
    (runs / "script.json").write_text(json.dumps(dict.fromkeys(plan.entries, act)))
    list(Local(Runtime(runs=runs), slots, ScriptedJob, preload=()).work(plan))
    found = {}
    for signature, entry in plan.entries.items():
        journal = RunFolder.of(runs, signature).journal
        start = journal.last("start")
        found[entry.run.label] = (start["time"], journal.last("finished")["time"], start["alone"])
    return found


@pytest.mark.parametrize("needs", [False, True])
def test_a_run_that_is_timed_has_the_machine_for_itself(tmp_path, needs):
    study = timing(1, 4, needs=needs)
    found = spans(tmp_path, study)
    alone = {f"{row} {'classify' if needs else 'pretrain'}" for row in (1, 4)}
    assert {label for label, (_, _, said) in found.items() if said} == alone
    for label, (began, ended, _) in found.items():
        beside = [other for other, (b, e, _) in found.items() if other != label and b < ended and began < e]
        assert not (beside if label in alone else alone.intersection(beside)), (label, beside)
    others = sorted(times[:2] for label, times in found.items() if label not in alone)
    assert any(b < ended for (_, ended), (b, _) in pairwise(others))  # which run side by side as ever


def test_what_is_timed_goes_first_where_it_waits_for_nothing(tmp_path):
    found = spans(tmp_path, timing(1, 4), act="finish", slots=2)
    assert sorted(found, key=found.__getitem__)[:2] == ["1 pretrain", "4 pretrain"]


def test_one_thread_a_run_without_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    backend = Local(Runtime(runs=tmp_path), 2)
    assert backend.runtime == Runtime(runs=tmp_path, threads=1)
    assert backend.alone == Runtime(runs=tmp_path, threads=1, alone=True)


def test_a_run_that_is_timed_has_all_cores_for_its_data_beside_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("multimae.study.local.cpus", lambda: 8)
    backend = Local(Runtime(runs=tmp_path), 2)
    assert (backend.runtime.workers, backend.alone.workers) == (4, 8)


# ---- beside a cluster


def test_what_a_cluster_has_is_left_to_it(tmp_path, monkeypatch):
    """And nothing waits for it: a job may take days."""
    folder = RunFolder.of(tmp_path, A.stages["pretrain"].signature)
    folder.create(A.stages["pretrain"])
    where = {"study": "tiny", "row": "alpha=1", "stage": "pretrain", "scale": "smoke", "host": "login"}
    folder.jobs.write("submitted", job="slurm:7_1", cluster="site", **where)
    job = scheduler.SchedulerJob("7_1", "site", "PENDING", "Priority")
    monkeypatch.setattr(scheduler, "query", lambda ids: {"7_1": job})
    happened = apply(tmp_path)
    assert happened["alpha=1 pretrain"] == "pending"
    assert happened["alpha=1 classify"] == happened["alpha=1 segment"] == "blocked"
    assert {state for label, state in happened.items() if "alpha=0.5" in label} == {"done"}
    assert (
        RunFolder.of(tmp_path, A.stages["classify"].signature)
        .jobs.last("ended")["reason"]
        .startswith("starts from alpha=1 pretrain, job 7_1 of the cluster")
    )
