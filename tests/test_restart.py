"""The end of a job's script, with commands that stand for SLURM's."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "slurm/restart.sh"


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
    subprocess.run(["bash", SCRIPT, str(code), "12_3", marker, "5"], env=own, check=True, capture_output=True, timeout=20)
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
    once = f"[[ -e {asked} ]] && echo RUNNING && exit; touch {asked}; echo 'Unable to contact slurm controller' >&2; exit 1"
    assert ended(tmp_path, squeue=once)


def test_a_site_that_lets_nobody_requeue_does_not_hold_the_nodes(tmp_path):
    assert not ended(tmp_path, scontrol="{ echo x >>refused; false; }".replace("refused", str(tmp_path / "refused")))
    assert (tmp_path / "refused").read_text().count("x") == 30
