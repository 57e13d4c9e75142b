"""The line that says why a job failed, among what all its processes printed."""

from pathlib import Path

import pytest

from slurm.job import logs

OWN = """\
submitit ERROR (2026-11-23 05:37:00) - Submitted job triggered an exception
Traceback (most recent call last):
  File "loop.py", line 3, in train
    raise ValueError("no such class: 17")
ValueError: no such class: 17
"""
SYMPTOM = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "distributed.py", line 3, in maximum
[rank0]: RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:4242
"""
SRUN = """\
srun: error: q2: task 1: Killed
srun: Terminating StepId=12.0
srun: error: q1: task 0: Exited with exit code 1
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = logs.folder_of(tmp_path, "12_3")
    folder.mkdir(parents=True)
    return folder


def printed(folder: Path, *ranks: str) -> str:
    for rank, text in enumerate(ranks):
        (folder / f"12_3_{rank}_log.err").write_text(text)
    return logs.cause(folder)


def test_nothing_was_printed(folder):
    assert logs.cause(folder) == "" and logs.cause(folder / "never") == ""
    assert printed(folder, "\n", "") == ""


def test_another_ranks_own_error_before_rank_0s_symptom(folder):
    assert printed(folder, SYMPTOM + SRUN, OWN) == "ValueError: no such class: 17"
    assert logs.last_errors(folder) == {
        0: "RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:4242",
        1: "ValueError: no such class: 17",
    }


def test_a_killed_rank_says_nothing_but_srun_does(folder):
    assert printed(folder, SYMPTOM + SRUN, "") == "srun: error: q2: task 1: Killed"


def test_a_symptom_is_better_than_nothing(folder):
    assert "closed by peer" in printed(folder, SYMPTOM, SYMPTOM)


def test_the_last_attempts_error(folder):
    assert printed(folder, OWN + OWN.replace("17", "18")) == "ValueError: no such class: 18"


def test_the_last_line_where_there_is_no_error(folder):
    assert printed(folder, "bash: line 3: module: command not found\n\n") == "bash: line 3: module: command not found"


def test_only_the_end_of_a_long_file_is_read(folder):
    noise = "a warning\n" * logs.TAIL
    assert printed(folder, noise + OWN) == "ValueError: no such class: 17"
