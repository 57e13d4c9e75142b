"""On a real SLURM: the trials of a search are those of one machine, whatever happens to jobs and coordinator."""

import pytest
import yaml
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)
from searching import begin, told, trials_in

from multimae.record.folder import RunFolder

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

PROFILE = {
    "partition": "main",
    "nodes": 1,
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "time_limit": 10,
    "runtime": {"device": "cpu", "threads": 1, "checkpoint_minutes": 0.1, "timeout_minutes": 3},
}


def test_a_job_queued_again_and_a_dead_coordinator_change_no_trial(dev_cluster, tmp_path):
    here, there, profile = tmp_path / "here", tmp_path / "there", tmp_path / "profile.yaml"
    profile.write_text(yaml.safe_dump(PROFILE | {"slurm_conf": str(dev_cluster.folder / "slurm.conf")}))
    process = begin(there, 3, 1, "--cluster", profile)

    def at_work() -> str:
        """The job of a trial that trains, which is not the first."""
        if not list(there.glob("searches/*/optuna.db")):
            return ""
        trials = [t for t in trials_in(there) if t.number and t.state.name == "RUNNING"]
        folders = [RunFolder.of(there, trial.user_attrs["signature"]) for trial in trials]
        began = [folder for folder in folders if folder.journal.path.exists() and folder.journal.last("start")]
        return began[0].jobs.last("submitted")["job"].removeprefix("slurm:") if began else ""

    dev_cluster.wait(at_work, "the second trial", 120)
    process.kill()
    process.wait()
    job = at_work()
    assert job, "the second trial ended at once"
    dev_cluster.run("scontrol", "requeue", job)
    dev_cluster.wait(lambda: dev_cluster.job(job).get("Restarts") == "1", "a restart", 30)
    process = begin(there, 3, 1, "--cluster", profile)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said

    process = begin(here, 3, 1)
    assert process.wait(300) == 0
    assert told(there) == told(here)
    folders = [RunFolder.of(there, trial.user_attrs["signature"]) for trial in trials_in(there)]
    assert [len(folder.jobs.records("submitted")) for folder in folders] == [1, 1, 1], "submitted twice"
