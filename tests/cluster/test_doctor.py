"""The doctor: what it reads from the scheduler, what it makes of a job's reports, and one whole job."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)

from multimae.config.schema import validate
from slurm.doctor import BAD, GOOD, NOTE, Check, probe
from slurm.doctor import command as doctor
from slurm.doctor.diagnosis import VIT_B, Diagnosis
from slurm.doctor.partition import Partition, choose, parse
from slurm.profile import Profile, Resources
from slurm.scheduler import SchedulerJob

SINFO = """\
gpu|gpu*|up|1-00:00:00|128|1031000+|gpu:a100:8(S:0-7),nvme:1|20|mix|1-infinite|all|a100,ib
gpu|gpu*|up|1-00:00:00|128|1031000+|gpu:a100:8(S:0-7),nvme:1|4|drain*|1-infinite|all|a100,ib
gpu|gpu*|up|1-00:00:00|64|515000|gpu:4|10|idle~|1-infinite|all|v100
cpu|cpu|up|infinite|96|385000|(null)|100|alloc|1-8|all|(null)
old|old|down|30:00|16|64000|(null)|2|idle|1-infinite|nobody1,nobody2|(null)
"""


def texts(checks, mark: str) -> str:
    return "\n".join(f"{f.text} -> {f.fix}" for f in checks if f.mark == mark)


# ---- what a partition has


@pytest.fixture(scope="module")
def partitions() -> dict[str, Partition]:
    return {partition.name: partition for partition in parse(SINFO)}


def test_sinfo_is_understood(partitions):
    gpu = partitions["gpu"]
    assert (gpu.default, gpu.up, gpu.minutes) == (True, True, 1440)
    assert [(n.count, n.cpus, n.gpus, n.usable) for n in gpu.nodes] == [
        (20, 128, 8, True), (4, 128, 8, False), (10, 64, 4, True)
    ]  # fmt: skip
    assert (partitions["cpu"].minutes, partitions["cpu"].nodes[0].gpus) == (None, 0)
    assert partitions["old"].up is False


@pytest.mark.parametrize(
    ("partition", "asked", "mark", "message"),
    [
        ("gpu", {"gpus_per_node": 8, "cpus_per_task": 16, "nodes": 20, "mem_gb": 0}, GOOD, "20 nodes"),
        ("gpu", {"gpus_per_node": 4}, GOOD, "30 nodes"),
        ("gpu", {"gpus_per_node": 8, "nodes": 22}, NOTE, "only 20 of the 24 nodes"),
        ("gpu", {"gpus_per_node": 8, "nodes": 25}, BAD, "partition gpu has 24 that are large enough -> nodes: 24"),
        ("gpu", {"gpus_per_node": 8, "cpus_per_task": 17}, BAD, "are 136, a node has 128 -> cpus_per_task: 16"),
        ("gpu", {"gpus_per_node": 16}, BAD, "a node has 8 -> gpus_per_node: 8"),
        ("gpu", {"mem_gb": 2000}, BAD, "mem_gb 2000, but a node has 1007 -> mem_gb: 0"),
        ("gpu", {"time_limit": "2-00"}, BAD, "allows 1-00:00:00 -> time_limit: 1-00:00:00"),
        ("cpu", {"time_limit": "30-00"}, GOOD, "100 nodes"),
        ("cpu", {"tasks_per_node": 97}, BAD, "a node has 96 -> tasks_per_node: 96"),
        ("old", {"time_limit": "30"}, BAD, "partition old is not up"),
        ("old", {"time_limit": "30"}, BAD, "partition old is for the groups nobody1, nobody2"),
        ("cpu", {"nodes": 9}, BAD, "9 nodes, but partition cpu allows a job 8 -> nodes: 8"),
        ("cpu", {"gpus_per_node": 1}, BAD, "gpus_per_node 1, but a node has 0"),
        ("cpu", {"constraint": "a100"}, BAD, "constraint a100, but a node has the features: none"),
        ("gpu", {"constraint": "h100", "gpus_per_node": 4}, BAD, "a node has the features: a100, ib -> constraint"),
        ("gpu", {"constraint": "a100&ib", "gpus_per_node": 8}, GOOD, "20 nodes"),
        ("gpu", {"constraint": "a100&v100", "gpus_per_node": 4}, BAD, "constraint a100&v100"),
        ("gpu", {"constraint": "h100|v100", "gpus_per_node": 4}, GOOD, "10 nodes"),
        ("gpu", {"constraint": "v100", "gpus_per_node": 8}, BAD, "v100"),
        ("gpu", {"constraint": "[rack1|rack2]", "gpus_per_node": 4}, GOOD, "30 nodes"),
        ("gpu", {}, NOTE, "a node has 8 GPUs, and the profile asks for none -> gpus_per_node: 8"),
        ("gpu", {"gpus_per_node": 8, "mem_gb": 900, "constraint": "v100"}, BAD, "v100"),
    ],
)
def test_a_partition_is_held_against_what_is_asked_for(partitions, partition, asked, mark, message, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # root may use every partition
    assert message in texts(partitions[partition].judge(validate(Resources, asked)), mark)


def test_a_partition_is_chosen_by_name_or_by_default(partitions):
    among = list(partitions.values())
    assert choose(None, among).name == "gpu"
    assert choose("cpu", among).name == "cpu"
    unknown = choose("gpus", among)
    assert isinstance(unknown, Check)
    assert "did you mean 'gpu'" in unknown.text
    assert unknown.fix == "partition: one of gpu, cpu, old"


def test_why_a_job_waits_is_told_in_plain_words():
    now = time.time()
    assert doctor._why(SchedulerJob("1", "", "PENDING", "QOSMaxGRESPerUser")) == (
        "QOSMaxGRESPerUser (a limit of the QoS is reached)"
    )
    assert "expected to start at" in doctor._why(SchedulerJob("1", "", "PENDING", "Priority", started=now + 3600))
    assert doctor._why(SchedulerJob("1", "", "PENDING")) == "no reason given yet"


# ---- what the job's reports say


PROFILE = validate(
    Profile,
    {
        "name": "here", "nodes": 2, "gpus_per_node": 2, "cpus_per_task": 8, "signal_seconds": 120, "scale": "paper",
        "runtime": {"workers": 7}, "data_roots": {"imagenet": "/data"}, "runs": "/shared/runs",
    },
)  # fmt: skip


def healthy(rank: int) -> dict:
    report = {
        "rank": rank,
        "time": 0.0,
        "state": "done",
        "place": {"node": f"n{rank // 2}", "cpus": 8, "memory_gb": 500.0, "code": "/code", "python": "3.11"},
        "clock": {"seconds": 0.5, "ahead": 0.1},
        "meet": {"seconds": 9.0, "processes": 4, "sum": 10.0, "reduce_seconds": 0.01, "device": "A100", "gpus": 2},
        "signal": {"seconds": 1.0},
    }
    report["meet"]["gpu"] = f"GPU-{rank}"
    if rank % 2 == 0:
        report["data"] = {"imagenet": {"folder": "/data/train", "entries": 1000}}
    if rank == 0:
        report["disk"] = {"write_bytes_per_second": 1e9, "free_bytes": 1e12}
        report["lock"] = {"held": True}
        report["tracking"] = {"address": "https://mlflow:443"}
    return report


def diagnose(change=lambda reports: None, profile: Profile = PROFILE) -> list[Check]:
    reports = {rank: healthy(rank) for rank in range(4)}
    change(reports)
    runtime = profile.runtime("")
    return list(Diagnosis(profile, profile.resources(""), runtime, Path("/code"), reports).checks())


def test_a_healthy_cluster_is_all_good():
    checks = diagnose()
    assert {check.mark for check in checks} == {GOOD}
    said = texts(checks, GOOD)
    for word in ("2 on n0, 2 on n1", "4 processes met", "A100", "imagenet: 1000", "every process", "1.2 GB) in 1 s"):
        assert word in said


@pytest.mark.parametrize(
    ("look", "values", "mark", "message"),
    [
        ("place", {"cpus": 1}, BAD, "bound to 1 CPUs, not to the 8 of cpus_per_task"),
        ("place", {"node": "n7"}, BAD, "4 processes on 3 nodes, not 2"),
        ("place", {"code": "/home/me/checkout"}, BAD, "the code of /home/me/checkout, not of the snapshot /code"),
        ("clock", {"error": "TimeoutError: waited"}, BAD, "rank 2 on n1 does not see what this machine writes"),
        ("clock", {"seconds": 40.0}, NOTE, "takes 40.0 s"),
        ("clock", {"ahead": -90.0}, NOTE, "differ by 90 s"),
        ("meet", {"error": "NoRendezvous: process 2 waited"}, BAD, "rank 2 on n1 did not meet the others: NoRend"),
        ("meet", {"sum": 7.0}, BAD, "the sum over 4 processes is 10.0, but they have [7.0, 10.0]"),
        ("meet", {"device": "cpu"}, BAD, "1 processes compute on the CPU, though the job has GPUs"),
        ("meet", {"device": "V100"}, NOTE, "the GPUs differ: 3 x A100, 1 x V100"),
        ("meet", {"gpu": "GPU-3"}, BAD, "ranks [2, 3] on n1 have one GPU between them: GPU-3"),
        ("meet", {"gpu": None}, NOTE, "SLURM names no GPU to rank 2 on n1"),
        ("data", {"imagenet": {"error": "is not there"}}, BAD, "imagenet: /data is not there on n1 -> data_roots"),
        ("signal", {"error": "TimeoutError"}, BAD, "the signal to save did not reach rank 2 on n1"),
    ],
)
def test_what_is_wrong_with_one_process_is_told_with_what_mends_it(look, values, mark, message):
    checks = diagnose(lambda reports: reports[2][look].update(values))
    assert message in texts(checks, mark)
    assert all(check.fix for check in checks if check.mark == BAD)
    assert len([check for check in checks if check.mark != GOOD]) == 1


@pytest.mark.parametrize(
    ("look", "values", "mark", "message"),
    [
        ("disk", {"write_bytes_per_second": VIT_B / 90}, BAD, "the signal leaves 120 s -> signal_seconds: 180"),
        ("disk", {"free_bytes": 1e9}, BAD, "1 GB are free"),
        ("lock", {"error": "OSError: Function not implemented"}, BAD, "takes no lock, by which a run has one writer"),
        ("disk", {"error": "OSError: Read-only file system"}, BAD, "cannot write into /shared/runs: OSError"),
        ("tracking", {"error": "Connection refused"}, NOTE, "https://mlflow:443: Connection refused"),
    ],
)
def test_what_the_first_process_looks_at(look, values, mark, message):
    assert message in texts(diagnose(lambda reports: reports[0][look].update(values)), mark)


def test_processes_that_never_report_are_named():
    assert "ranks [1, 3] never reported" in texts(diagnose(lambda r: [r.pop(1), r.pop(3)]), BAD)
    (only,) = diagnose(lambda reports: reports.clear())
    assert (only.mark, only.text) == (BAD, "no process of the job reported")
    assert only.fix.endswith("srun ls -d /shared/runs")


def test_too_few_cpus_for_the_data_workers_are_told():
    profile = PROFILE.model_copy(update={"settings": {"workers": 11}})
    assert "8 CPUs for itself and 11 data workers -> cpus_per_task: 12" in texts(diagnose(profile=profile), NOTE)


def test_gpus_that_nobody_computes_on_are_told():
    on_cpu = lambda reports: [report["meet"].update(device="cpu") for report in reports.values()]
    assert "4 processes compute on the CPU, though the job has GPUs" in texts(diagnose(on_cpu), BAD)
    profile = PROFILE.model_copy(update={"settings": {"workers": 7, "device": "cpu"}})
    assert "as runtime.device says: its GPUs are idle -> device: auto" in texts(diagnose(on_cpu, profile), NOTE)


def test_a_start_in_another_age_is_none():
    said = "sbatch: Job 26 to start at {}-06-06T01:08:13 using 1 processors on nodes n1 in partition main"
    assert doctor._never(said.format(4068)) == "4068"
    assert doctor._never(said.format(time.localtime().tm_year)) is None
    assert doctor._never("") is None


def test_a_slow_disk_is_only_told_where_models_are_small():
    profile = PROFILE.model_copy(update={"scale": "smoke"})
    checks = diagnose(lambda r: r[0]["disk"].update(write_bytes_per_second=1e7), profile)
    assert "signal_seconds" in texts(checks, NOTE)
    assert not texts(checks, BAD)


# ---- what the job looks at


@pytest.fixture
def server():
    """A tracking server that answers /health as `server.code` says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked = self.path
            self.send_response(self.server.code)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as served:
        served.code = 200
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


@pytest.mark.parametrize(("code", "error"), [(200, None), (401, None), (500, "500")])
def test_the_tracking_server_is_asked_and_its_password_is_not_shown(server, code, error):
    server.code = code
    seen = probe._tracking(f"http://me:hunter2@127.0.0.1:{server.server_port}/mlflow")
    assert server.asked == "/mlflow/health"
    assert seen["address"] == f"http://127.0.0.1:{server.server_port}"
    assert "hunter2" not in str(seen)
    assert (error in seen["error"]) if error else "error" not in seen


def test_a_database_is_asked_for_its_port(server):
    uri = "postgresql+psycopg2://me:hunter2@127.0.0.1:{}/db"
    assert "error" not in probe._tracking(uri.format(server.server_port))
    dead = probe._tracking(uri.format(1))
    assert "refused" in dead["error"].lower()
    assert "hunter2" not in str(dead)


def test_without_a_server_nothing_is_asked(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert probe._tracking(None) == {}
    assert probe._tracking("sqlite:///runs/mlflow.db") == {}


def test_class_folders_are_counted(tmp_path):
    assert probe._classes(tmp_path / "none") == {"error": "is not there"}
    for name in ("cat", "dog"):
        (tmp_path / "train/rgb" / name).mkdir(parents=True)
    assert probe._classes(tmp_path) == {"folder": str(tmp_path / "train/rgb"), "entries": 2}


def test_the_disk_is_measured_and_left_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "WRITTEN", 2 << 20)
    seen = probe._disk(tmp_path)
    assert seen["write_bytes_per_second"] > 0
    assert seen["free_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_look_that_fails_hides_no_other(tmp_path):
    report = probe.ProcessReport(tmp_path, probe.JobProcess(rank=3, local_rank=1, processes=4, job="1", restart=0))
    report.look("bad", lambda: 1 / 0)
    report.look("good", lambda: {"x": 1})
    seen = json.loads(probe.report_file(tmp_path, 3).read_text())
    assert seen["bad"] == {"error": "ZeroDivisionError: division by zero"}
    assert seen["good"] == {"x": 1}


# ---- the command


def job(*options: str, environment=os.environ, **how) -> subprocess.Popen:
    command = [sys.executable, "-m", "slurm.doctor", *options]
    how |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment, **how)


def test_without_slurm_it_says_where_to_go(tmp_path):
    there = job("site", "--runs", str(tmp_path / "runs"), environment=os.environ | {"PATH": str(tmp_path)})
    said = there.communicate(timeout=60)[0]
    assert there.returncode == 1
    assert "no sbatch, scancel, scontrol, sinfo, squeue, srun here" in said
    assert "login node" in said
    assert not (tmp_path / "runs").exists()


def test_an_unknown_profile_is_a_wrong_command():
    there = job("nowhere")
    assert "unknown profile 'nowhere'" in there.communicate(timeout=60)[0]
    assert there.returncode == 2


@pytest.fixture
def make(tmp_path):
    """A profile of the dev cluster, as a file."""

    def write(**changes) -> str:
        values = {"partition": "main", "nodes": 2, "tasks_per_node": 2, "signal_seconds": 30, "time_limit": "30"}
        values |= {"runtime": {"device": "cpu", "threads": 1}, "runs": str(tmp_path / "runs")}
        path = tmp_path / "trial.yaml"
        path.write_text(json.dumps(values | changes))
        return str(path)

    return write


def examine(cluster, *options: str) -> tuple[int, str]:
    there = job(*options, environment=cluster.environment | {"OMP_NUM_THREADS": "1"})
    said = there.communicate(timeout=300)[0]
    return there.returncode, said


@pytest.mark.slurm
def test_a_profile_that_works(dev_cluster, make, tmp_path):
    (tmp_path / "data/train/rgb/cat").mkdir(parents=True)
    code, said = examine(dev_cluster, make(data_roots={"pets": str(tmp_path / "data")}))
    assert code == 0, said
    for word in ("4 processes: 2 on n", "4 processes met", "through the shared folder", "every process", "snapshot"):
        assert word in said
    assert f"pets: 1 folders and files in {tmp_path}/data/train/rgb, on every node" in said
    assert "The profile trial works." in said
    kept = json.loads((tmp_path / "runs/.slurm/doctor-trial.json").read_text())
    assert kept["write_bytes_per_second"] > 0


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "mian"}, "unknown partition 'mian'; did you mean 'main'?"),
        ({"cpus_per_task": 2}, "2 processes x 2 CPUs are 4, a node has 2\n    cpus_per_task: 1"),
        ({"nodes": 8}, "8 nodes, but partition main has 4"),
        ({"gpus_per_node": 8}, "gpus_per_node 8, but a node has 0"),
        ({"constraint": "a100"}, "sbatch would refuse a job:"),
    ],
)
def test_what_the_cluster_does_not_have_is_told_first(dev_cluster, make, tmp_path, changes, message):
    code, said = examine(dev_cluster, make(**changes))
    assert code == 1
    assert message in said
    assert "Nothing was submitted." in said
    assert not (tmp_path / "runs/.slurm").exists()


@pytest.mark.slurm
def test_what_only_the_nodes_see(dev_cluster, make, tmp_path):
    """A folder that is not there, a server that does not answer."""
    uri = "http://me:hunter2@127.0.0.1:1"
    code, said = examine(dev_cluster, make(data_roots={"imagenet": str(tmp_path / "none")}, tracking_uri=uri))
    assert code == 1
    assert f"✗ data_roots.imagenet: {tmp_path}/none is not there on n" in said
    assert "! http://127.0.0.1:1: " in said
    assert "hunter2" not in said
    assert "✓ 4 processes met" in said


@pytest.mark.slurm
def test_a_job_that_dies_at_its_start_says_what_it_printed(dev_cluster, make):
    code, said = examine(dev_cluster, make(python="/no/such/python"))
    assert code == 1
    assert "✗ no process of the job reported" in said
    assert "/no/such/python" in said


@pytest.mark.slurm
def test_a_job_that_does_not_start_says_why_and_can_be_left(dev_cluster, make):
    dev_cluster.wait_idle()
    profile = make()
    busy = dev_cluster.sbatch("sleep 600", "--nodes=4", "--exclusive")
    dev_cluster.wait_state(busy, "RUNNING")
    code, said = examine(dev_cluster, profile, "--wait", "0.1")
    assert code == 1
    assert "did not start within 0.1 min: Resources (it is next" in said
    assert "It is cancelled" in said
    code, said = examine(dev_cluster, profile, "--wait", "0.1", "--leave")
    assert code == 1
    left = said.split("--job ")[1].split()[0]
    assert dev_cluster.state(left) == "PENDING"
    dev_cluster.run("scancel", busy)
    code, said = examine(dev_cluster, profile, "--job", left)
    assert code == 0, said


@pytest.mark.slurm
def test_ctrl_c_cancels_the_job(dev_cluster, make):
    dev_cluster.wait_idle()
    busy = dev_cluster.sbatch("sleep 600", "--nodes=4", "--exclusive")
    dev_cluster.wait_state(busy, "RUNNING")
    there = job(make(), environment=dev_cluster.environment, start_new_session=True)
    dev_cluster.wait(lambda: len(dev_cluster.run("squeue", "--noheader").splitlines()) == 2, "the doctor's job")
    time.sleep(1)
    there.send_signal(signal.SIGINT)
    said = there.communicate(timeout=60)[0]
    assert there.returncode == 130
    assert "is cancelled" in said
    dev_cluster.wait(lambda: dev_cluster.run("squeue", "--noheader", "--format=%A") == busy, "the doctor's job is gone")
    dev_cluster.run("scancel", busy)
    dev_cluster.wait_idle()
