"""The dev cluster is a SLURM: it runs jobs on all its nodes, loses nodes, requeues, and leaves nothing behind."""

import subprocess

import pytest
from dev_cluster import NODES, SCRIPTS, DevCluster, dev_cluster  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slurm

TASKS = "srun --nodes=2 --ntasks-per-node=2 bash -c 'echo $SLURM_PROCID $SLURMD_NODENAME; sleep {}'"


def start(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPTS / "start", *options], capture_output=True, text=True)


def test_all_nodes_are_idle(dev_cluster):
    dev_cluster.wait_idle()
    assert dev_cluster.node_states() == dict.fromkeys(NODES, "idle")


def test_a_job_runs_on_two_nodes_and_sacct_knows_it(dev_cluster, tmp_path):
    out = tmp_path / "out"
    id = dev_cluster.sbatch(TASKS.format(0), f"--output={out}", "--nodes=2", "--ntasks-per-node=2")
    dev_cluster.wait_state(id, "COMPLETED")
    ranks = sorted(line.split() for line in out.read_text().splitlines())
    assert [rank for rank, _ in ranks] == ["0", "1", "2", "3"]
    assert [node == ranks[0][1] for _, node in ranks] == [True, True, False, False]
    accounted = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,NNodes", f"--jobs={id}"]
    dev_cluster.wait(lambda: dev_cluster.run(*accounted) == f"{id}|COMPLETED|2", "sacct knows the job")


def test_processes_are_found_by_node_and_rank(dev_cluster):
    id = dev_cluster.sbatch(TASKS.format(60), "--nodes=2", "--ntasks-per-node=2")
    dev_cluster.wait(lambda: {p.rank for p in dev_cluster.processes_of(id)} == {0, 1, 2, 3, None}, "four ranks")
    nodes = {p.rank: p.node for p in dev_cluster.processes_of(id) if p.rank is not None}
    assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
    dev_cluster.run("scancel", id)
    dev_cluster.wait_state(id, "CANCELLED")
    dev_cluster.wait_idle()
    assert dev_cluster.processes_of(id) == []


def test_an_urgent_job_sends_another_back_to_the_queue(dev_cluster, tmp_path):
    """After the signal that it asked for, at the end of its grace; it runs again when the urgent one is done."""
    told = tmp_path / "told"
    trap = f"trap 'echo told >> {told}; scontrol requeue $SLURM_JOB_ID' USR2"
    script = f"[[ $SLURM_RESTART_COUNT ]] && exit\n{trap}\nwhile :; do sleep 0.2; done"
    id = dev_cluster.sbatch(script, "--nodes=4", "--exclusive", "--signal=B:USR2@20")
    dev_cluster.wait_state(id, "RUNNING")
    urgent = dev_cluster.sbatch("sleep 2", "--partition=urgent", "--nodes=4", "--exclusive")
    dev_cluster.wait_state(urgent, "COMPLETED")
    dev_cluster.wait_state(id, "COMPLETED")
    assert told.read_text() == "told\n" and dev_cluster.job(id)["Restarts"] == "1"
    dev_cluster.wait_idle()


def test_a_dead_node_is_noticed_and_its_job_restarts_on_others(dev_cluster):
    """Its first node, where the batch script runs."""
    id = dev_cluster.sbatch("[[ $SLURM_RESTART_COUNT ]] && exit\n" + TASKS.format(300), "--nodes=2", "--ntasks=4")
    dev_cluster.wait(lambda: {p.rank for p in dev_cluster.processes_of(id)} == {0, 1, 2, 3, None}, "four ranks")
    victim = dev_cluster.processes_of(id)[0].node
    dev_cluster.kill_node(victim)
    assert not [p for p in dev_cluster.processes_of(id) if p.node == victim]
    dev_cluster.wait(lambda: dev_cluster.node_states()[victim].startswith("down"), "the node is down")
    dev_cluster.wait_state(id, "COMPLETED")
    assert dev_cluster.job(id)["Restarts"] == "1" and victim not in dev_cluster.job(id)["NodeList"]
    dev_cluster.revive_node(victim)
    dev_cluster.wait_idle()


def test_a_job_survives_a_restart_of_the_controller(dev_cluster):
    id = dev_cluster.sbatch("srun sleep 5")
    dev_cluster.wait(lambda: 0 in {p.rank for p in dev_cluster.processes_of(id)}, "its step")
    dev_cluster.restart_controller()
    dev_cluster.wait_state(id, "COMPLETED")


def test_two_clusters_side_by_side_and_stop_leaves_nothing(dev_cluster, tmp_path_factory):
    other = DevCluster.start("--nodes", "2", "--no-accounting")
    try:
        assert other.name != dev_cluster.name
        assert other.node_states() == {"n1": "idle", "n2": "idle"}
        assert "already runs" in start("--folder", str(other.folder)).stdout
        job = other.sbatch("sleep 600")
        other.wait_state(job, "RUNNING")
    finally:
        other.stop()
    left = [p for p, env in other._alive() if other.name in (env.get("DEVCLUSTER"), env.get("SLURM_CLUSTER_NAME"))]
    assert left == [] and not other.folder.exists()
    dev_cluster.wait_idle()


@pytest.mark.parametrize(
    "options,told",
    [
        (["--folder", f"/tmp/{'x' * 80}"], "unix sockets in it allow"),
        (["--folder", "/usr"], "not empty and no dev cluster"),
        (["--nodes", "0"], "--nodes: expected 1 to"),
        (["--gpus", "17"], "--gpus: expected 0 to 16"),
        (["--gpus", "-1"], "--gpus: expected 0 to"),
        (["--knots", "4"], "unknown option --knots"),
    ],
)
def test_a_mistake_says_what_was_expected(options, told):
    done = start(*options)
    assert done.returncode == 1 and told in done.stderr
