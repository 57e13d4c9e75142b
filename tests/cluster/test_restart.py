"""The end of a job's script, with commands that stand for SLURM's."""

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)

SCRIPT = Path(__file__).parents[2] / "slurm/restart.sh"
DEADLINE = SCRIPT.with_name("deadline.sh")


def ended(
    tmp_path: Path,
    code: int = 1,
    restarts: int = 0,
    leave: bool = True,
    squeue: str = "echo RUNNING",
    scontrol: str = "true",
) -> bool:
    """Whether the job was given back to the queue."""
    commands = {"squeue": squeue, "scontrol": f'{scontrol} || exit; echo "$@" >>{tmp_path}/said', "sleep": "true"}
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    marker = tmp_path / "may-restart"
    if leave:
        marker.touch()
    own = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": str(restarts)}
    command = ["bash", SCRIPT, str(code), "12_3", marker, "5"]
    subprocess.run(command, env=own, check=True, capture_output=True, timeout=20)
    said = tmp_path / "said"
    assert not said.exists() or said.read_text() == "requeue 12_3\n"
    return said.exists()


def test_a_job_whose_processes_failed_goes_back_to_the_queue(tmp_path):
    assert ended(tmp_path)


@pytest.mark.parametrize(
    "case",
    [
        {"code": 0},
        {"leave": False},  # its first process knows that no restart helps
        {"restarts": 5},
        {"squeue": "echo COMPLETING"},  # cancelled, or queued again by its first process
        {"squeue": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"},
    ],
    ids=str,
)
def test_a_job_that_has_ended_for_good_does_not(tmp_path, case):
    assert not ended(tmp_path, **case)


def test_a_scheduler_that_is_down_is_waited_for(tmp_path):
    asked = tmp_path / "asked"
    once = f"[[ -e {asked} ]] && echo RUNNING && exit; touch {asked}; echo 'Unable to contact' >&2; exit 1"
    assert ended(tmp_path, squeue=once)


def test_a_site_that_lets_nobody_requeue_does_not_hold_the_nodes(tmp_path):
    assert not ended(tmp_path, scontrol="{ echo x >>refused; false; }".replace("refused", str(tmp_path / "refused")))
    assert (tmp_path / "refused").read_text().count("x") == 30


def watched(tmp_path: Path, *ends: float, leave: bool = True) -> str:
    """What scontrol was told while a script of three seconds ran. Its job ends so many seconds from now, as squeue says
    when it is asked first, second, ..."""
    told = " ".join(str(int(time.time() + seconds)) for seconds in ends)
    asked = tmp_path / "asked"
    end = f"echo x >>{asked}; ends=({told}); echo ${{ends[$(wc -l <{asked})-1]}}"
    commands = {"squeue": f"case $* in *EndTime*) {end} ;; *) echo RUNNING ;; esac"}
    commands["scontrol"] = f'echo "$@" >>{tmp_path}/said'
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    if leave:
        (tmp_path / "may-restart").touch()
    own = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # As a job's script, whose end SLURM ends the rest with.
    words = f"bash {DEADLINE} $$ 12_3 {tmp_path}/may-restart 5 & sleep 3; kill $! 2>/dev/null; exit 0"
    subprocess.run(["bash", "-c", words], env=own, check=True, stdout=subprocess.DEVNULL, timeout=20)
    said = tmp_path / "said"
    return said.read_text() if said.exists() else ""


def test_a_job_at_its_time_limit_goes_back_to_the_queue(tmp_path):
    assert watched(tmp_path, 5, 5) == "requeue 12_3\n"


@pytest.mark.parametrize("ends, leave", [((60,), True), ((5, 60), True), ((5, 5), False)], ids=str)
def test_a_job_with_time_left_or_that_has_ended_for_good_does_not(tmp_path, ends, leave):
    """Somebody may have given it more time meanwhile."""
    assert watched(tmp_path, *ends, leave=leave) == ""


def test_the_watch_ends_with_the_script(tmp_path):
    (tmp_path / "squeue").write_text("#!/bin/bash\n")
    (tmp_path / "squeue").chmod(0o755)
    own = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = f"bash {DEADLINE} $$ 12_3 {tmp_path}/may-restart 5 & echo $!; sleep 0.5"
    with subprocess.Popen(["bash", "-c", words], env=own, stdout=subprocess.PIPE, text=True) as script:
        watch = psutil.Process(int(script.stdout.readline()))
        assert watch.is_running() and script.wait(20) == 0
        deadline = time.monotonic() + 20
        while watch.is_running() and watch.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not watch.is_running() or watch.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slurm
@pytest.mark.slow
def test_a_real_time_limit_ends_no_job_that_cannot_save_in_time(dev_cluster, tmp_path):
    """SLURM's shortest limit: a minute."""
    marker = tmp_path / "may-restart"
    script = f"""[[ $SLURM_RESTART_COUNT ]] && exit
        touch {marker}
        bash {DEADLINE} $$ $SLURM_JOB_ID {marker} 5 &
        srun bash -c 'trap "" TERM USR2; sleep 300'"""
    id = dev_cluster.sbatch(script, "--time=1", "--signal=USR2@30", "--requeue")
    dev_cluster.wait_state(id, "COMPLETED", "TIMEOUT", "FAILED", seconds=240)
    assert dev_cluster.state(id) == "COMPLETED" and dev_cluster.job(id)["Restarts"] == "1"
    dev_cluster.wait_idle()
