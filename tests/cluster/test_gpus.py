"""GPUs by name on a real SLURM: jobs get those they ask for, each process one of its own, and no two jobs the same.

The dev cluster's GPUs have no device, so what CUDA would be told is looked at, and a training computes on the CPU.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from dev_cluster import DevCluster, unavailable
from plans import wanted
from test_cluster import small_study
from test_doctor import examine

from multimae.record.folder import RunFolder
from multimae.study import planning
from slurm import scheduler
from slurm.doctor import command as doctor
from slurm.profile import Profile
from slurm.submission import snapshot
from slurm.submission.cluster import Cluster

pytestmark = pytest.mark.slurm

GPUS = 4
LOOK = """\
import json, os, sys, time
from pathlib import Path
from slurm.job.rendezvous import JobProcess, given_gpu, meet
place = JobProcess.here()
meet(JobProcess(place.rank, place.local_rank, 1, place.job, 0), Path(), 0)  # alone: sets LOCAL_RANK
node = os.environ["SLURMD_NODENAME"]
seen = {"node": node, "gpu": given_gpu(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "at": time.time()}
time.sleep(float(sys.argv[2]))
file = Path(sys.argv[1]) / f"{place.job}-{place.rank}.json"
file.with_suffix(".half").write_text(json.dumps(seen))
file.with_suffix(".half").rename(file)
"""


@pytest.fixture(scope="module")
def cluster():
    if reason := unavailable():
        pytest.skip(reason)
    cluster = DevCluster.start("--nodes", "2", "--cpus", str(GPUS), "--gpus", str(GPUS))
    yield cluster
    cluster.stop()


@pytest.fixture
def gpus(cluster, tmp_path, monkeypatch):
    """gpus(nodes, gpus, **sbatch): the id of a job, of the launcher's script, whose processes look at their GPUs."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    (tmp_path / "look.py").write_text(LOOK)
    (tmp_path / ".slurm/batch").mkdir(parents=True)
    code = snapshot.take(tmp_path)

    def submit(nodes: int, gpus: int, tasks: int | None = None, seconds: float = 0, **sbatch: str) -> str:
        python = f"{sys.executable} {tmp_path}/look.py {tmp_path} {seconds}"
        asked = {"nodes": nodes, "gpus_per_node": gpus, "tasks_per_node": tasks, "sbatch": sbatch, "time_limit": "30"}
        profile = Profile(name="gpus", partition="main", python=python, **asked)
        script = doctor._script(profile, "", profile.runtime("", runs=tmp_path), code)
        done = scheduler.sbatch(script.text, "--parsable")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit


def seen(cluster, folder: Path, job: str) -> list[dict]:
    """What each process saw, by rank."""
    cluster.wait(lambda: cluster.state(job) in ("COMPLETED", "FAILED"), f"job {job}")
    said = folder / f".slurm/batch/{job}.log"
    assert cluster.state(job) == "COMPLETED", said.read_text() if said.exists() else "nothing was printed"
    return [json.loads(file.read_text()) for file in sorted(folder.glob(f"{job}-*.json"))]


def test_each_process_gets_a_gpu_of_its_own(cluster, gpus, tmp_path):
    bound = {"gpu-bind": "single:1"}
    shapes = [(1, 2, None, {}), (1, 4, None, {}), (2, 2, None, {}), (2, 3, None, {}), (2, 4, None, {})]
    shapes += [(2, 2, None, bound), (1, 4, 2, {"gpu-bind": "mask_gpu:0x3,0xc"}), (1, 1, None, {})]
    jobs = [gpus(nodes, count, tasks, **sbatch) for nodes, count, tasks, sbatch in shapes]
    for (nodes, count, tasks, sbatch), job in zip(shapes, jobs, strict=True):
        ranks = seen(cluster, tmp_path, job)
        names = [(rank["node"], rank["gpu"]) for rank in ranks]
        assert len(set(names)) == len(names) == nodes * (tasks or count), (job, ranks)
        assert set(Counter(node for node, _ in names).values()) == {tasks or count}
        if sbatch == bound:
            assert {rank["visible"] for rank in ranks} == {"0", "1"}


def test_two_jobs_on_one_node_have_no_gpu_in_common(cluster, gpus, tmp_path):
    jobs = [gpus(1, 2, seconds=2, nodelist="n1") for _ in range(2)]
    first, second = (seen(cluster, tmp_path, job) for job in jobs)
    assert abs(first[0]["at"] - second[0]["at"]) < 2, "they did not run side by side"
    assert sorted(rank["gpu"] for rank in [*first, *second]) == ["0", "1", "2", "3"]


def test_a_job_that_needs_more_gpus_than_are_free_waits(cluster, gpus, tmp_path):
    first, second = gpus(2, 3, seconds=2), gpus(1, 2)
    one, two = seen(cluster, tmp_path, first), seen(cluster, tmp_path, second)
    assert min(rank["at"] for rank in two) >= max(rank["at"] for rank in one) + 2


@pytest.fixture
def profile(tmp_path):
    """A profile as a file."""

    def write(**changes) -> str:
        values = {"partition": "main", "nodes": 2, "gpus_per_node": 2, "signal_seconds": 30, "time_limit": "30"}
        values |= {"runtime": {"device": "cpu", "threads": 1}, "runs": str(tmp_path / "runs")}
        path = tmp_path / "trial.yaml"
        path.write_text(json.dumps(values | changes))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus_per_node": 8}, "gpus_per_node 8, but a node has 4\n    gpus_per_node: 4"),
        ({"gpus_per_node": 4, "nodes": 3}, "3 nodes, but partition main has 2"),
        ({"gpus_per_node": 4, "cpus_per_task": 2}, "4 processes x 2 CPUs are 8, a node has 4\n    cpus_per_task: 1"),
        ({"mem_gb": 99999}, "mem_gb 99999, but a node has"),
        ({"constraint": "a100"}, "constraint a100, but a node has the features: none"),
        ({"gpus_per_node": 0, "sbatch": {"gres": "gpu:2"}}, "sbatch.gres: gpu:2 asks for GPUs; say how many"),
        ({"gpus_per_node": 2, "tasks_per_node": 3}, "3 processes cannot share 2 GPUs"),
    ],
)
def test_the_doctor_tells_what_no_node_has(cluster, profile, changes, message):
    code, said = examine(cluster, profile(**changes))
    assert code == 1 and message in said and "Nothing was submitted." in said


def test_the_doctor_tells_what_sbatch_takes_and_slurm_never_starts(cluster, profile):
    cluster.run("scontrol", "update", "PartitionName=main", "MaxNodes=1", "MaxTime=10")
    try:
        code, said = examine(cluster, profile())
    finally:
        cluster.run("scontrol", "update", "PartitionName=main", "MaxNodes=UNLIMITED", "MaxTime=INFINITE")
    assert code == 1 and "2 nodes, but partition main allows a job 1" in said
    assert "time_limit 30, but partition main allows 10:00" in said


def test_the_doctor_sees_whom_each_gpu_is_given_to(cluster, profile):
    code, said = examine(cluster, profile())
    assert code == 0, said
    assert "each process has a GPU for itself: 0 of n1, 1 of n1, 0 of n2, 1 of n2" in said
    assert "every process computes on the CPU, as runtime.device says: its GPUs are idle" in said


def test_runs_are_trained_side_by_side_on_one_node(cluster, tmp_path, monkeypatch):
    """Both pre-trainings of a small study fit into a node's GPUs, two for each."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    runtime = {"device": "cpu", "threads": 1}
    environment = {"OMP_NUM_THREADS": "1"}
    asked = {"gpus_per_node": 2, "time_limit": "30", "signal_seconds": 30, "sbatch": {"nodelist": "n1"}}
    gpus = Profile(name="gpus", partition="main", runtime=runtime, environment=environment, **asked)
    rows = small_study.build("smoke")
    rows = [type(row)(row.name, {"pretrain": row.stages["pretrain"]}) for row in rows]
    runs = tmp_path / "runs"
    list(Cluster(gpus, runs).work(planning.plan(wanted(small_study, tuple(rows), runs))))
    folders = [RunFolder.of(runs, row.stages["pretrain"].signature) for row in rows]
    cluster.wait(lambda: all(folder.done for folder in folders), "both runs", 180)
    visible = [json.loads(folder.environment.read_text())["variables"]["CUDA_VISIBLE_DEVICES"] for folder in folders]
    assert sorted(visible) == ["0,1", "2,3"]
    assert all(folder.journal.last("start")["processes"] == 2 for folder in folders)
