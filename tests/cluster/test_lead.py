"""Whether a job has time to save before it is killed: told or refused before it is submitted."""

import json
from pathlib import Path

import pytest
from plans import wanted
from training import tiny_study

from multimae.config import ConfigError
from multimae.record.folder import RunFolder
from multimae.study import planning
from slurm.cost import check_time_to_save
from slurm.profile import Profile
from slurm.submission.cluster import Cluster

ROWS = tiny_study.build("smoke")
PRETRAIN = ROWS[0].stages["pretrain"]


def profile(**changes) -> Profile:
    return Profile(**{"name": "test", "signal_seconds": 30} | changes)


def plan_of(runs: Path) -> planning.Plan:
    return planning.plan(wanted(tiny_study, ROWS, runs))


def saves(runs: Path, *seconds: float) -> None:
    folder = RunFolder.of(runs, PRETRAIN.signature)
    folder.create(PRETRAIN)
    for i, value in enumerate(seconds):
        folder.journal.write("checkpoint", step=i, seconds=value)
    conditions = {"split": "val", "n": 1, "fingerprint": "f00d", "metrics": {}}
    folder.journal.write("eval", step=9, seconds=10.0, **conditions)
    folder.journal.write("interrupted", step=9, reason="SIGUSR2")


def test_too_little_time_for_the_measured_saves_is_refused(tmp_path):
    saves(tmp_path, 50.0, 51.0)
    with pytest.raises(ConfigError, match=r"test, stage pretrain: to save takes 60 s.*write `signal_seconds: 130`"):
        Cluster(profile(), tmp_path).check(plan_of(tmp_path))
    assert Cluster(profile(signal_seconds=130), tmp_path).check(plan_of(tmp_path)) == []


def test_one_save_that_took_long_is_told(tmp_path):
    saves(tmp_path, 5.0, 5.0, 300.0)
    (note,) = Cluster(profile(), tmp_path).check(plan_of(tmp_path))
    assert "to save once took 310 s" in note


def test_before_the_first_save_the_doctors_disk_tells(tmp_path):
    report = tmp_path / ".slurm/doctor-test.json"
    assert Cluster(profile(), tmp_path).check(plan_of(tmp_path)) == []
    report.parent.mkdir()
    report.write_text(json.dumps({"write_bytes_per_second": 1e6}))
    with pytest.raises(ConfigError, match="the doctor wrote 1 MB/s"):  # 86 million parameters
        Cluster(profile(), tmp_path).check(plan_of(tmp_path))
    report.write_text(json.dumps({"write_bytes_per_second": 1e9}))
    assert check_time_to_save(list(plan_of(tmp_path).entries.values()), profile(), tmp_path) == []
