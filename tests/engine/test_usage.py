"""What is measured of a node, and that nothing of it reaches a training."""

import functools
import json
import os
import shutil
import socket
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
import torch
from test_engine import RUNTIME, same_run, undisturbed  # noqa: F401 (fixture)
from toy_task import EXIT, train_in_children

from multimae.engine import gauges, usage
from multimae.engine.distributed import Processes
from multimae.engine.gauges import Cpu, Gpus, memory
from multimae.engine.usage import Node, Sampler
from multimae.record.folder import RunFolder

OFTEN = RUNTIME.model_copy(update={"usage_seconds": 0.02})
ONE_NODE = Node("n1", 0, 1, True, pids=[psutil.Process().pid])
NAMES = {
    *("cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage"),
    *("disk_usage_percentage", "disk_usage_megabytes", "disk_available_megabytes"),
    *("network_receive_megabytes", "network_transmit_megabytes"),
}


def samples(folder: RunFolder) -> list[dict]:
    return [record for node in folder.nodes for record in node.records("system")]


def sampled(folder: RunFolder, node: Node = ONE_NODE, seconds: float = 0.01) -> list[dict]:
    """Samples of this process, once there are three or a second has passed."""
    sampler = Sampler(folder, node, seconds)
    sampler.start()
    until = time.monotonic() + 1
    while len(samples(folder)) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    sampler.stop()
    return samples(folder)


# ---- a training


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_a_run_that_is_measured_is_the_same_run(undisturbed, tmp_path, seconds):
    folder = RunFolder(tmp_path / "run")
    runtime = RUNTIME.model_copy(update={"usage_seconds": seconds})
    assert train_in_children(folder, runtime=runtime) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)
    assert bool(samples(folder)) == bool(seconds)


class Broken:
    def __getattr__(self, name):
        raise RuntimeError(f"psutil.{name} is broken")


def without_psutil(rank, told: Path) -> dict:
    sys.stderr = open(told, "w")
    gauges.psutil = Broken()
    return {}


def on_a_full_disk(rank, told: Path) -> dict:
    sys.stderr = open(told, "w")
    usage.Journal.write = refused(usage.Journal.write)
    return {}


def refused(write):
    def refuses(journal, kind, **fields):
        if kind == "system":
            raise OSError(28, "No space left on device")
        return write(journal, kind, **fields)

    return refuses


@pytest.mark.parametrize("setup", [without_psutil, on_a_full_disk], ids=["psutil raises", "full disk"])
def test_what_cannot_be_measured_or_written_changes_nothing(undisturbed, tmp_path, setup):
    folder, told = RunFolder(tmp_path / "run"), tmp_path / "told"
    assert train_in_children(folder, runtime=OFTEN, setup=functools.partial(setup, told=told)) == [EXIT["finished"]]
    assert same_run(folder, undisturbed)
    assert all(record["metrics"] == {} for record in samples(folder))
    lines = [line for line in told.read_text().splitlines() if line.startswith("system metrics of")]
    assert lines and len(lines) == len(set(lines))  # once


def test_two_processes_of_a_machine_write_one_file(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert train_in_children(folder, runtime=OFTEN, processes=2) == [EXIT["finished"]] * 2
    assert [node.path.stem for node in folder.nodes] == [socket.gethostname()]
    assert {(record["node"], record["nodes"]) for record in samples(folder)} == {(0, 1)}
    waited = json.loads(folder.heartbeat.read_text())["waited"]
    assert 0 < waited < 1


# ---- nodes


def on_nodes(rank, names: str, began: Path) -> dict:
    os.environ["SLURMD_NODENAME"] = names[rank]
    os.environ["LOCAL_RANK"] = "0"  # as where each process is shown its own GPU only
    start = usage.Sampler.start
    usage.Sampler.start = lambda self: ((began / str(rank)).touch(), start(self))
    return {}


@pytest.mark.parametrize("names", ["aabb", "abab"], ids=["in blocks", "in turns"])
def test_the_first_process_of_each_node_measures_it(tmp_path, names):
    folder, began = RunFolder(tmp_path / "run"), tmp_path / "began"
    began.mkdir()
    setup = functools.partial(on_nodes, names=names, began=began)
    assert train_in_children(folder, runtime=OFTEN, processes=4, setup=setup) == [EXIT["finished"]] * 4
    assert sorted(path.name for path in began.iterdir()) == ["0", str(names.index("b"))]
    found = {node.path.stem: node.records("system") for node in folder.nodes}
    assert {name: {(r["node"], r["nodes"]) for r in records} for name, records in found.items()} == {
        "a": {(0, 2)},
        "b": {(1, 2)},
    }


def test_a_name_is_safe_for_a_file(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n1/../é x")
    assert Node.of(Processes(0, 1, torch.device("cpu"))).name == "n1_..___x"


# ---- gauges


def test_samples_have_the_names_of_mlflows_own_collector(tmp_path):
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= set(monitor.metrics)
    ours = set(sampled(RunFolder(tmp_path))[-1]["metrics"])
    assert ours == NAMES | {"process_memory_usage_megabytes"} and theirs == NAMES


def test_only_the_cores_that_the_processes_may_use_count(group, monkeypatch):
    shutil.rmtree(group)
    monkeypatch.setattr(gauges.psutil, "cpu_percent", lambda percpu: [10.0, 90.0, 0.0, 50.0])
    bound = {1: [1], 2: [1, 3], 3: None}  # the third has ended
    monkeypatch.setattr(gauges.psutil, "Process", lambda pid: types.SimpleNamespace(cpu_affinity=lambda: bound[pid]))
    assert Cpu([1, 2, 3]).read() == {"cpu_utilization_percentage": 70.0}


@pytest.fixture
def group(tmp_path, monkeypatch) -> Path:
    """A control group that may use half a core and 4 MB, in one that may use all."""
    own = tmp_path / "groups/job/step"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    (own / "memory.max").write_text("max\n")
    (own.parent / "cpu.max").write_text("50000 100000\n")
    (own.parent / "cpu.stat").write_text("usage_usec 1000000\nuser_usec 0\n")
    (own.parent / "memory.max").write_text("4000000\n")
    (own.parent / "memory.current").write_text("3000000\n")
    (own.parent / "memory.stat").write_text("anon 5\ninactive_file 2000000\n")
    (tmp_path / "self").write_text("1:cpu:/elsewhere\n0::/job/step\n")
    monkeypatch.setattr(gauges, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(gauges, "OWN_GROUP", tmp_path / "self")
    return own.parent


def test_what_a_control_group_may_use_is_the_whole(group, monkeypatch):
    now = iter((10.0, 20.0))
    monkeypatch.setattr(gauges.time, "monotonic", lambda: next(now))
    cpu = Cpu([])
    (group / "cpu.stat").write_text("usage_usec 4000000\nuser_usec 0\n")  # 3 s of the 5 s that 10 s have
    assert cpu.read() == {"cpu_utilization_percentage": pytest.approx(60)}
    assert memory([]) == {
        "system_memory_usage_megabytes": 1.0,
        "system_memory_usage_percentage": 25.0,
        "process_memory_usage_megabytes": 0.0,
    }


def test_a_machine_without_groups_is_the_whole(group, tmp_path):
    (tmp_path / "self").write_text("2:memory:/elsewhere\n")
    assert memory([])["system_memory_usage_megabytes"] > 4
    shutil.rmtree(group)
    assert 0 <= Cpu([]).read()["cpu_utilization_percentage"] <= 100


UUIDS = ["11111111-2222-3333-4444-555555555555", "aaaaaaaa-2222-3333-4444-555555555555"]


@pytest.fixture
def nvml(monkeypatch) -> types.ModuleType:
    """A stand-in for NVML's module, with the names and units of its true functions: there may be no GPU here. The
    second GPU does not tell its power."""
    module = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def power(device):
        if device == 1:
            raise NVMLError("Not Supported")
        return 312_500  # mW

    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = lambda uuid: [f"GPU-{known}" for known in UUIDS].index(uuid)
    module.nvmlDeviceGetUtilizationRates = lambda device: types.SimpleNamespace(gpu=97 - device, memory=40)
    module.nvmlDeviceGetMemoryInfo = lambda device: types.SimpleNamespace(total=80 * 10**9, used=20 * 10**9, free=0)
    module.nvmlDeviceGetPowerUsage = power
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_gpus_have_the_names_of_mlflows_own_collector(nvml, tmp_path):
    metrics = sampled(RunFolder(tmp_path), Node("n1", 0, 1, True, gpus=UUIDS))[-1]["metrics"]
    assert {name: value for name, value in metrics.items() if name.startswith("gpu_")} == {
        "gpu_0_utilization_percentage": 97,
        "gpu_0_memory_usage_megabytes": 20_000,
        "gpu_0_memory_usage_percentage": 25,
        "gpu_0_power_usage_watts": 312.5,
        "gpu_1_utilization_percentage": 96,
        "gpu_1_memory_usage_megabytes": 20_000,
        "gpu_1_memory_usage_percentage": 25,
    }


def test_a_node_without_nvml_says_what_brings_it_and_tells_the_rest(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ImportError, match="nvidia-ml-py"):
        Gpus(UUIDS)
    found = sampled(RunFolder(tmp_path), Node("n1", 0, 1, True, gpus=UUIDS))
    assert len(found) >= 3 and set(found[-1]["metrics"]) >= NAMES
    assert capsys.readouterr().err.count("pip install nvidia-ml-py") == 1


def test_the_uuid_of_a_gpu_arrives_whole(monkeypatch):
    told = types.SimpleNamespace(uuid=UUIDS[1])
    monkeypatch.setattr(usage.torch.cuda, "get_device_properties", lambda device: told)
    monkeypatch.setattr(usage.torch, "tensor", lambda row, device: row)
    process = Processes(0, 1, torch.device("cuda", 0))
    monkeypatch.setattr(Processes, "gather", lambda self, row: torch.as_tensor([row]))
    assert Node.of(process).gpus == [UUIDS[1]]
