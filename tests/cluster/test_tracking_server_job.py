"""The tracking server as a job of a real SLURM: near its time limit it goes back to the queue; cancelled, it ends."""

import sys
from pathlib import Path

import pytest
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)
from postgres import needs_postgresql
from synthetic_runs import SyntheticRun
from tracking_server import tracking_server
from tracking_store import PRETRAIN, Seen

from multimae import tracking

SCRIPT = Path(__file__).parents[2] / "slurm/tracking_server/job.sh"


@needs_postgresql
@pytest.mark.slurm
@pytest.mark.slow
def test_a_job_is_queued_again_at_its_limit_and_ends_when_cancelled(dev_cluster, tmp_path):
    SyntheticRun(tmp_path / "runs", PRETRAIN).whole()
    with tracking_server() as server:
        address, running = server.served / "address", server.served / "running.json"
        words = ["--port", str(server.port), "--workers", "1"]
        log = server.folder / "job.log"
        own = dev_cluster.environment | server.environment | {"PYTHON": sys.executable}
        options = ["--parsable", "--chdir", server.folder, "--output", log, "--mem=0", "--cpus-per-task=1"]
        job = dev_cluster.run("sbatch", *options, SCRIPT, server.served, *words, env=own)
        dev_cluster.wait(address.exists, "the address", 180)
        assert tracking.sync(tmp_path / "runs", server.uri).ok

        # What SLURM sends 120 seconds before the limit, to the batch script alone.
        dev_cluster.run("scancel", "--batch", "--signal=USR1", job)
        dev_cluster.wait(lambda: not running.exists(), "its end")
        assert "stopped" in log.read_text() and not (server.served / "database/postmaster.pid").exists()
        dev_cluster.wait(lambda: dev_cluster.job(job)["Restarts"] == "1", "the queue")
        dev_cluster.wait(address.exists, "the address again", 180)
        seen = Seen(tmp_path / "runs", server.uri)
        (run,) = seen.all()
        assert seen.steps(run, "train/loss") == list(range(1, 41))

        dev_cluster.run("scancel", job)
        dev_cluster.wait(lambda: dev_cluster.state(job) == "CANCELLED", "the end of the job")
        dev_cluster.wait(lambda: not server.processes(), "the end of its processes")
        assert not running.exists() and not address.exists(), log.read_text()
        assert log.read_text().count("stopped") == 2
