"""How the processes of a SLURM job find each other: from SLURM's variables and a small file in the job's folder.

The first process opens a store on a port derived from the job, and announces it with its addresses; the others take
the first address at which that very store answers. The store stays open until the training has taken it over, so no
other program can slip in at the port. torch is imported where it is used.

The store listens on one address: the machine's own where the job has one node, else that by which its node is known to
the others. Where none can be told it listens on all, as torch does by itself. Whoever can reach that address can read
and write the store: torch knows no password for it, and the token tells one store from another, no more. gloo listens
on ports of its own: those of the machine itself where the job has one node, else of the interface that it chooses
(GLOO_SOCKET_IFNAME); NCCL on the interface that it chooses (NCCL_SOCKET_IFNAME), always.

Why by hand: submitit's TorchDistributedEnvironment draws one port from the job's id, of 20000 to 60000. Most of those
are given to outgoing connections, a job that starts again draws the same, and where the port is taken the job ends.
torchrun's rendezvous needs such a port as well, and its agent would stand between srun and the training: the signal to
save ends it, or where it is told of that signal, its workers after 30 seconds.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from multimae.files import write_atomic
from multimae.record.reading import read_json

if TYPE_CHECKING:
    from torch.distributed import TCPStore

# Below the ports that systems give to outgoing connections (Linux: from 32768 on).
FIRST_PORT, PORTS = 12_000, 20_000
CANDIDATES = 64  # ports that are tried
KNOCK = 3.0  # seconds that an address has to answer
PAUSE = 0.5  # seconds between two looks
KEY = "multimae.rendezvous"
LOOPBACK = "127.0.0.1"


class NoRendezvous(RuntimeError):
    """The processes of a job did not find each other."""


@dataclass(frozen=True)
class JobProcess:
    """Where this process stands in a SLURM job."""

    rank: int
    local_rank: int
    processes: int
    job: str  # `123`, or `123_4` in an array
    restart: int  # how often the job was requeued before
    nodes: int = 2  # more than one where it is not known

    @classmethod
    def here(cls) -> "JobProcess":
        """From SLURM's variables, which every task of a job step has."""
        env = os.environ
        array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
        return cls(
            rank=int(env["SLURM_PROCID"]),
            local_rank=int(env["SLURM_LOCALID"]),
            processes=int(env["SLURM_NTASKS"]),
            job=f"{array}_{task}" if array else env["SLURM_JOB_ID"],
            restart=int(env.get("SLURM_RESTART_COUNT", 0)),
            nodes=int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 2),
        )

    @property
    def ports(self) -> list[int]:
        """Where to open the store, in the order in which to try: jobs that share a node begin at different ports."""
        first = int(os.environ["SLURM_JOB_ID"]) * 131 + self.restart * 17
        return [FIRST_PORT + (first + i) % PORTS for i in range(CANDIDATES)]


def meet(place: JobProcess, folder: Path, seconds: float) -> "TCPStore | None":
    """Find the other processes of the job through `folder`, which all of them see, within `seconds`.

    Sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, from which torch and DeepSpeed start. Returns the
    store in which the processes of this start of the job may leave each other words; None where there is only one.
    The first process serves it: it must keep it until the end. Raises NoRendezvous.
    """
    # Some sites show each process its own GPU and no other.
    own = 0 if len(_visible()) == 1 else place.local_rank
    os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.processes), "LOCAL_RANK": str(own)}
    if place.nodes == 1:  # gloo would listen where others can connect
        local = next((name for name, own in _own_addresses().items() if LOOPBACK in own), None)
        if local:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", local)
    if place.processes == 1:
        return None
    file = folder / f"rendezvous-{place.restart}.json"
    server = _announce(place, file, seconds) if place.rank == 0 else None
    address, port, client = _find(file, seconds)
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    return server or client


def given_gpu() -> str | None:
    """The name of the GPU that SLURM gives this process, once it has met the others; None where it names none."""
    gpus, own = _visible(), int(os.environ["LOCAL_RANK"])
    return gpus[own] if own < len(gpus) else None


def _visible() -> list[str]:
    """The GPUs that CUDA shows this process, as CUDA_VISIBLE_DEVICES names them; empty where it names none."""
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]


def _announce(place: JobProcess, file: Path, seconds: float) -> "TCPStore":
    """Open the store, and write down where."""
    from torch.distributed import DistNetworkError, TCPStore

    at = LOOPBACK if place.nodes == 1 else job_address()
    # Multi-tenant: the training's process group, in this process, uses the same server.
    how = {"timeout": timedelta(seconds=seconds), "wait_for_workers": False, "multi_tenant": True}
    for port in place.ports:
        try:
            # torch would listen on all addresses; the socket that it is given, it takes over.
            bound = {"master_listen_fd": _listen(at, port)} if at else {}
            server = TCPStore(at or LOOPBACK, port, None, True, **how, **bound)
        except (OSError, DistNetworkError):  # taken
            continue
        token = secrets.token_hex(8)
        server.set(KEY, token)
        said = {"addresses": [at] if at else addresses(), "port": port, "token": token}
        write_atomic(file, json.dumps(said), private=True)
        return server
    raise NoRendezvous(
        f"none of the ports {place.ports[0]} to {place.ports[-1]} of {socket.gethostname()} is free for the processes "
        "of this job to meet on"
    )


def job_address() -> str | None:
    """The address by which the other nodes of a job know this one; None where that cannot be told.

    That of the interface which the user names for gloo or NCCL; what SLURM's name of the node means, or the host's;
    the only one there is.
    """
    own = _own_addresses()
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # `ib0`, or several; NCCL's may be a pattern
        for name in os.environ.get(variable, "").split(","):
            if of_interface := own.get(name.strip().lstrip("=")):
                return of_interface[0]
    outward = [found for of_interface in own.values() for found in of_interface if not found.startswith("127.")]
    for name in filter(None, (os.environ.get("SLURMD_NODENAME"), socket.gethostname())):
        with contextlib.suppress(OSError):
            known = [place[0] for *_, place in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
            if here := [found for found in known if found in outward]:  # many a machine calls itself 127.0.1.1
                return here[0]
    return outward[0] if len(outward) == 1 else None


def addresses() -> list[str]:
    """What this machine may be reached by, the best first: nodes' names resolve on most clusters, not on all."""
    found = [os.environ.get("SLURMD_NODENAME", ""), socket.gethostname()]
    found += [found for of_interface in _own_addresses().values() for found in of_interface]
    found.sort(key=lambda address: address.startswith("127."))  # only from the same machine
    return list(dict.fromkeys(filter(None, found)))


def _own_addresses() -> dict[str, list[str]]:
    """The IPv4 addresses of each interface that is up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return {
        name: [a.address for a in of_interface if a.family == socket.AF_INET]
        for name, of_interface in psutil.net_if_addrs().items()
        if name in up
    }


def _listen(address: str, port: int) -> int:
    """A socket that listens there, for torch to take over. Raises OSError where the port is taken."""
    with socket.socket(socket.AF_INET) as listener:
        # Not held back by connections of a program that ended; a port at which one listens stays taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        return listener.detach()


def _find(file: Path, seconds: float) -> "tuple[str, int, TCPStore]":
    """The address and port at which the announced store answers, and a connection to it."""
    until = time.monotonic() + seconds
    said = None
    while time.monotonic() < until:
        said = read_json(file)
        for address in said["addresses"] if said else ():
            if client := _connect(address, said["port"], said["token"], seconds):
                return address, said["port"], client
        time.sleep(PAUSE)
    here = f"process {os.environ['RANK']} on {socket.gethostname()}"
    if said is None:
        raise NoRendezvous(
            f"{here} waited {seconds:.0f} s for {file}, which process 0 writes: it has not begun, or this node does "
            "not see the same folder"
        )
    raise NoRendezvous(
        f"{here} tried for {seconds:.0f} s to reach process 0 at port {said['port']} of any of "
        f"{', '.join(said['addresses'])} (as announced in {file}): it has ended, or no address can be reached from here"
    )


def _connect(address: str, port: int, token: str, seconds: float) -> "TCPStore | None":
    """A connection to the store, if it is the one that wrote the token."""
    found: list[TCPStore] = []

    def attempt() -> None:
        from torch.distributed import DistError, TCPStore

        # A name that is unknown, torch would try for long; a stranger that never answers, for ever.
        with contextlib.suppress(OSError, DistError):
            socket.create_connection((address, port), KNOCK).close()
            client = TCPStore(address, port, None, False, timeout=timedelta(seconds=seconds))
            if client.check([KEY]) and client.get(KEY).decode() == token:
                found.append(client)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(2 * KNOCK)
    return found[0] if found else None
