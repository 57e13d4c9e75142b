"""Asking SLURM, through commands that answer what a real SLURM 22.05 was seen to answer; then a real one."""

import stat
import time
from pathlib import Path

import pytest
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)

from multimae import files
from slurm import scheduler
from slurm.scheduler import GONE, SchedulerJob, Unreachable, cancel, cluster_name, expand, query

QUEUE = """\
12_1|alpha|RUNNING|None|n[1-2]|0|1795412230|
12_2|alpha|PENDING|JobArrayTaskLimit||0|N/A|
13|alpha|PENDING|Dependency||0|N/A|
14|alpha|FAILED|NonZeroExitCode|n1|768|1795412230|
"""
ACCOUNTING = """\
12_0|alpha|CANCELLED by 1000|None|n1|0:15|1795412230
12_[2-3,5%2]|alpha|CANCELLED by 0|JobArrayTaskLimit|None assigned|0:0|Unknown
13|alpha|PENDING|None|None assigned|0:0|Unknown
15|alpha|OUT_OF_MEMORY|None|n1|0:125|1795412230
"""
DENIED = "Access/permission denied"
REFUSALS = [("12_[0,3]", DENIED), ("13", "Job/step already completing or completed"), ("14", DENIED)]
REFUSED = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """slurm(squeue=(exit code, text), ...): commands in PATH that answer so, and write down how they were called."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def answer(**commands: tuple[int, str]) -> Path:
        calls = tmp_path / "calls"
        for name, (code, text) in commands.items():
            (tmp_path / f"{name}.txt").write_text(text)
            where = " >&2" if code else ""
            script = f"#!/bin/sh\necho {name} $* >> {calls}\ncat {tmp_path}/{name}.txt{where}\nexit {code}\n"
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(stat.S_IRWXU)
        return calls

    return answer


@pytest.mark.parametrize(
    "expression, tasks",
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[4]", ["12_4"]),
        ("12_[0-2,7%2]", ["12_0", "12_1", "12_2", "12_7"]),
        ("12_[0-6:2]", ["12_0", "12_2", "12_4", "12_6"]),
    ],
)
def test_array_expressions(expression, tasks):
    assert list(expand(expression)) == tasks


def test_one_call_where_the_controller_knows_all(slurm):
    calls = slurm(squeue=(0, QUEUE), sacct=(0, ACCOUNTING))
    jobs = query(["12_1", "12_2", "13", "14"])
    assert {id: (job.state, job.reason) for id, job in jobs.items()} == {
        "12_1": ("RUNNING", ""),
        "12_2": ("PENDING", "JobArrayTaskLimit"),
        "13": ("PENDING", "Dependency"),
        "14": ("FAILED", "NonZeroExitCode"),
    }
    running, failed = jobs["12_1"], jobs["14"]
    assert (running.cluster, running.nodes, running.started) == ("alpha", "n[1-2]", 1795412230.0)
    assert (jobs["13"].started, failed.exit_code) == (None, "3:0")
    (call,) = calls.read_text().splitlines()
    assert call.endswith("-j 12,13,14")


def test_the_accounting_tells_of_what_the_controller_forgot(slurm):
    calls = slurm(squeue=(0, QUEUE), sacct=(0, ACCOUNTING))
    jobs = query(["12_0", "12_1", "12_3", "15", "99"])
    assert {id: job.state for id, job in jobs.items()} == {
        "12_0": "CANCELLED",
        "12_1": "RUNNING",
        "12_3": "CANCELLED",
        "15": "OUT_OF_MEMORY",
        "99": GONE,
    }
    assert (jobs["12_0"].nodes, jobs["12_3"].nodes, jobs["12_3"].reason) == ("n1", "", "JobArrayTaskLimit")
    assert len(calls.read_text().splitlines()) == 2


def test_a_single_forgotten_job_is_no_error(slurm):
    slurm(squeue=(1, f"slurm_load_jobs error: {scheduler.FORGOTTEN}"), sacct=(0, ACCOUNTING))
    assert query(["15"])["15"].state == "OUT_OF_MEMORY"


def test_who_does_not_know_a_job_is_named(slurm):
    slurm(squeue=(0, QUEUE), sacct=(0, ACCOUNTING), scontrol=(0, "ClusterName = beta\n"))
    assert query(["13", "16"])["16"].cluster == "alpha"
    slurm(squeue=(0, ""), sacct=(0, ""))
    assert query(["16"])["16"] == SchedulerJob("16", "beta", GONE)
    slurm(scontrol=(1, REFUSED))
    assert query(["16"]) == {}


def test_without_accounting_what_left_the_queue_is_gone(slurm):
    slurm(squeue=(0, QUEUE), sacct=(1, "Slurm accounting storage is disabled"))
    assert {id: job.state for id, job in query(["12_1", "15"]).items()} == {"12_1": "RUNNING", "15": GONE}


def test_without_the_controller_an_unknown_job_is_not_gone(slurm):
    slurm(squeue=(1, REFUSED), sacct=(0, ACCOUNTING))
    assert {id: job.state for id, job in query(["13", "15", "99"]).items()} == {"13": "PENDING", "15": "OUT_OF_MEMORY"}


def test_nobody_can_be_asked(slurm):
    slurm(squeue=(1, REFUSED), sacct=(1, "sacct: error: Problem talking to the database: Connection refused"))
    assert query(["12"]) is None


def test_no_slurm_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query(["12"]) is None
    with pytest.raises(Unreachable, match="no `scontrol` here.*SLURM_CONF"):
        cluster_name()


def test_a_controller_that_hangs(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "TIMEOUT", 0.2)
    for name in ("squeue", "sacct", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 30\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    assert query(["12"]) is None
    with pytest.raises(Unreachable, match="did not answer"):
        cluster_name()


def test_no_job_no_call(slurm):
    calls = slurm(squeue=(0, ""), sacct=(0, ""), scancel=(0, ""))
    assert query([]) == {}
    cancel([])
    assert not calls.exists()


def test_600_jobs_make_a_short_command(slurm):
    calls = slurm(squeue=(0, ""), sacct=(0, ""), scontrol=(0, "ClusterName = alpha\n"))
    assert len(query([f"12_{task}" for task in range(600)])) == 600
    assert max(map(len, calls.read_text().splitlines())) < 200


def test_the_users_own_format_changes_nothing(slurm, tmp_path, monkeypatch):
    slurm(squeue=(0, QUEUE))
    (tmp_path / "squeue").write_text(f'#!/bin/sh\n[ -z "$SQUEUE_STATES" ] && cat {tmp_path}/squeue.txt\n')
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    assert query(["13"])["13"].state == "PENDING"


def test_cluster_name(slurm):
    slurm(scontrol=(0, "Configuration data as of now\nClusterName             = alpha\nJobRequeue = 1\n"))
    assert cluster_name() == "alpha"
    slurm(scontrol=(1, f"first line\n{REFUSED}"))
    with pytest.raises(Unreachable, match="^slurm_load_jobs error.*connect failure"):
        cluster_name()


def test_cancel_is_one_command(slurm):
    calls = slurm(scancel=(0, ""))
    cancel(["13", "12_3", "12_10", "14_0"])
    assert calls.read_text() == "scancel 12_[10,3] 13 14_[0]\n"
    slurm(scancel=(8, REFUSED))
    with pytest.raises(Unreachable, match="connect failure"):
        cancel(["13"])


def test_jobs_of_others_are_named_which_one_may_not_cancel(slurm):
    lines = [f"scancel: error: Kill job error on job id {id}: {said}" for id, said in REFUSALS]
    slurm(scancel=(210, "\n".join(lines)))
    assert cancel(["12_0", "12_3", "13", "14"]) == {"12_0", "12_3", "14"}


def test_an_open_and_a_private_site(slurm, monkeypatch):
    config = "ClusterName = alpha\nPrivateData             = {}\n"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for private, hides in (("none", False), ("jobs", True), ("accounts,jobs,usage", True), ("nodes", False)):
        slurm(scontrol=(0, config.format(private)))
        scheduler.hides_jobs.cache_clear()
        assert scheduler.hides_jobs() is hides
    slurm(scontrol=(1, REFUSED))
    scheduler.hides_jobs.cache_clear()
    assert scheduler.hides_jobs()  # it may
    monkeypatch.setattr("os.geteuid", lambda: 0)
    scheduler.hides_jobs.cache_clear()
    assert not scheduler.hides_jobs()
    scheduler.hides_jobs.cache_clear()


def test_who_submits_is_the_account_not_what_the_environment_says(monkeypatch):
    before = files.user()
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("LOGNAME", "somebody")
    assert files.user() == before
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    assert files.user() == "54321"


# ---- a real SLURM


@pytest.fixture
def real(dev_cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", dev_cluster.environment["SLURM_CONF"])
    dev_cluster.wait_idle()
    yield dev_cluster
    dev_cluster.run("scancel", "--user=root")


def words(*ids: str) -> dict[str, tuple[str, str]]:
    return {id: (job.state, job.reason) for id, job in sorted(query(ids).items())}


@pytest.mark.slurm
def test_a_real_slurm_is_asked(real):
    array = real.sbatch("sleep 300", "--array=0-6:2%1")
    failed = real.sbatch("exit 3")
    after = real.sbatch("true", f"--dependency=afterok:{array}_0")
    never = real.sbatch("true", f"--dependency=afterok:{failed}")
    held = real.sbatch("true", "--hold")
    ids = [f"{array}_0", f"{array}_6", failed, after, never, held, "9999999"]
    real.wait(lambda: words(never)[never][1] == "DependencyNeverSatisfied", "the dependent of a failed job")
    real.wait_state(f"{array}_0", "RUNNING")
    seen = words(*ids)
    assert seen == {
        f"{array}_0": ("RUNNING", ""),
        f"{array}_6": ("PENDING", "JobArrayTaskLimit"),
        failed: ("FAILED", "NonZeroExitCode"),
        after: ("PENDING", "Dependency"),
        never: ("PENDING", "DependencyNeverSatisfied"),
        held: ("PENDING", "JobHeldUser"),
        "9999999": (GONE, ""),
    }
    jobs = query(ids)
    assert {job.cluster for job in jobs.values()} == {real.name, cluster_name()} == {real.name}
    assert (jobs[failed].exit_code, jobs[f"{array}_0"].nodes[:1]) == ("3:0", "n")
    assert abs(jobs[f"{array}_0"].started - time.time()) < 120

    real.run("scontrol", "requeue", f"{array}_0")
    assert words(f"{array}_0")[f"{array}_0"][0] in ("PENDING", "COMPLETING")
    real.wait_state(f"{array}_2", "RUNNING")  # it takes the place that the other left

    cancel([f"{array}_2", f"{array}_6", after, never, "9999999"])
    real.wait(lambda: words(f"{array}_2")[f"{array}_2"][0] == "CANCELLED", "the end of a running task")
    assert {state for state, _ in words(after, never).values()} == {"CANCELLED"}
    assert words(f"{array}_0")[f"{array}_0"][0] in ("PENDING", "RUNNING")


@pytest.mark.slurm
def test_a_real_slurm_without_accounting_or_without_its_controller(real):
    failed = real.sbatch("exit 3")
    waiting = real.sbatch("true", "--hold")
    real.wait_state(failed, "FAILED")
    real.wait(lambda: "FAILED" in real.run("sacct", "-Xnj", failed, "-o", "state"), "the accounting knows")
    real.wait(lambda: "PENDING" in real.run("sacct", "-Xnj", waiting, "-o", "state"), "the accounting knows")
    real.stop_accounting()
    try:
        assert words(failed, waiting, "9999999") == {
            failed: ("FAILED", "NonZeroExitCode"),
            waiting: ("PENDING", "JobHeldUser"),
            "9999999": (GONE, ""),
        }
    finally:
        real.start_accounting()
    real.wait(lambda: real.run("sacct", "-Xnj", failed, "-o", "state"), "the accounting is back")
    real.stop_controller()
    try:
        assert {id: state for id, (state, _) in words(failed, waiting, "9999999").items()} == {
            failed: "FAILED",
            waiting: "PENDING",
        }
        real.stop_accounting()
        assert query([failed]) is None
    finally:
        real.start_accounting()
        real.start_controller()
    real.wait(lambda: words(waiting)[waiting][0] == "PENDING", "the controller is back")
