"""Processes of a SLURM job find each other through a folder, and nobody else."""

import json
import os
import socket
import subprocess
import sys

import pytest

from multimae.files import write_atomic
from multimae.record.reading import read_json
from slurm.job import rendezvous
from slurm.job.rendezvous import JobProcess, NoRendezvous, meet

MEET = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from slurm.job.rendezvous import JobProcess, meet
store = meet(JobProcess.here(), Path(sys.argv[1]), 60)
dist.init_process_group("gloo")
total = torch.tensor(dist.get_rank() + 1)
dist.all_reduce(total)
print(dist.get_rank(), int(total))
dist.barrier()
import psutil
me = psutil.Process()
sockets = getattr(me, "net_connections", None) or me.connections  # its older name
print(*sorted({c.laddr.ip for c in sockets() if c.status == "LISTEN"}))
dist.barrier()
"""


def variables(rank: int, processes: int = 4, **more) -> dict[str, str]:
    """What SLURM sets in a task, two on each node."""
    own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % 2, "SLURM_NTASKS": processes, "SLURM_JOB_ID": 77}
    return {name: str(value) for name, value in (own | more).items()}


@pytest.fixture
def environment(monkeypatch):
    """The variables of this process, put back afterwards."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)
    names = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_NNODES", "SLURM_STEP_NUM_NODES")
    for name in (*names, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "SLURMD_NODENAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_meet_though_the_port_is_taken_and_an_old_announcement_lies_there(tmp_path, environment, nodes):
    environment(**variables(0))
    count = 2 * nodes
    at = rendezvous.LOOPBACK if nodes == 1 else rendezvous.job_address()
    first, second = JobProcess.here().ports[:2]
    stale = {"addresses": ["127.0.0.1", "no-such-node"], "port": first, "token": "of another start"}
    write_atomic(tmp_path / "rendezvous-0.json", json.dumps(stale))
    with socket.socket() as stranger:
        stranger.bind((at or "", first))
        stranger.listen()  # it accepts, and never says a word
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", MEET, tmp_path],
                env=os.environ | variables(rank, count, SLURMD_NODENAME="no-such-node", SLURM_NNODES=nodes),
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [words[:2] for words in said] == [[str(rank), str(count * (count + 1) // 2)] for rank in range(count)]
    announced = read_json(tmp_path / "rendezvous-0.json")
    assert announced["port"] == second and (not at or announced["addresses"] == [at])
    assert (tmp_path / "rendezvous-0.json").stat().st_mode & 0o077 == 0
    if at:
        assert at in said[0] and not {"0.0.0.0", "::"} & {word for words in said for word in words}
    if nodes == 1:
        assert {word for words in said for word in words[2:]} == {at}


@pytest.mark.parametrize(
    ("resolved", "variables", "found"),
    [
        ({"n1": ["10.0.0.1"]}, {}, "10.0.0.1"),
        ({"n1": ["127.0.1.1"], "me": ["172.16.0.1"]}, {}, "172.16.0.1"),  # as Debian names a machine
        ({"n1": ["10.0.0.99"]}, {}, None),  # of another machine
        ({}, {}, None),
        ({}, {"NCCL_SOCKET_IFNAME": "ib1,ib0"}, "172.16.0.1"),
        ({"n1": ["10.0.0.1"]}, {"GLOO_SOCKET_IFNAME": "ib0"}, "172.16.0.1"),
        ({"n1": ["10.0.0.1"]}, {"GLOO_SOCKET_IFNAME": "gone", "NCCL_SOCKET_IFNAME": "^docker"}, "10.0.0.1"),
    ],
    ids=str,
)
def test_where_the_other_nodes_find_this_one(environment, monkeypatch, resolved, variables, found):
    def resolve(name, *_, **__):
        if name not in resolved:
            raise socket.gaierror(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in resolved[name]]

    own = {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"], "ib0": ["172.16.0.1"]}
    environment(SLURMD_NODENAME="n1", **variables)
    monkeypatch.setattr(rendezvous, "_own_addresses", lambda: own)
    monkeypatch.setattr(rendezvous.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(rendezvous.socket, "gethostname", lambda: "me")
    assert rendezvous.job_address() == found
    del own["ib0"]
    if found is None:
        assert rendezvous.job_address() == "10.0.0.1", "the only one"


def test_one_process_needs_nobody(tmp_path, environment):
    environment(**variables(0, processes=1))
    assert meet(JobProcess.here(), tmp_path, 0) is None
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "1") and not list(tmp_path.iterdir())


def test_who_waits_in_vain_says_for_what(tmp_path, environment):
    environment(**variables(3))
    with pytest.raises(NoRendezvous, match=f"process 3 on .* waited 1 s for {tmp_path}/rendezvous-0.json"):
        meet(JobProcess.here(), tmp_path, 1)


def test_a_stranger_at_the_port_is_not_taken_for_the_first_process(tmp_path, environment, monkeypatch):
    environment(**variables(1))
    monkeypatch.setattr(rendezvous, "KNOCK", 0.2)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        said = {"addresses": ["127.0.0.1"], "port": stranger.getsockname()[1], "token": "x"}
        write_atomic(tmp_path / "rendezvous-0.json", json.dumps(said))
        with pytest.raises(NoRendezvous, match="reach process 0 at port .* 127.0.0.1"):
            meet(JobProcess.here(), tmp_path, 1)


def test_the_place_is_told_by_slurm(environment):
    environment(**variables(3, SLURM_ARRAY_JOB_ID=70, SLURM_ARRAY_TASK_ID=4, SLURM_RESTART_COUNT=2))
    place = JobProcess.here()
    assert (place.rank, place.local_rank, place.processes, place.job, place.restart) == (3, 1, 4, "70_4", 2)
    environment(SLURM_RESTART_COUNT="3")
    assert JobProcess.here().ports[0] != place.ports[0], "a restart does not wait for the port of the last start"
    assert all(1024 < port < 32768 for port in place.ports)


@pytest.mark.parametrize("visible,expected", [("0,1", "1"), ("2", "0"), ("", "1")])
def test_a_process_that_sees_one_gpu_takes_it(tmp_path, environment, visible, expected):
    environment(**variables(1, processes=1), CUDA_VISIBLE_DEVICES=visible)
    meet(JobProcess.here(), tmp_path, 0)
    assert os.environ["LOCAL_RANK"] == expected
