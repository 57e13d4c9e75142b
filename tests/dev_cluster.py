"""A dev cluster for tests: starts it, asks it, and does to it what happens to clusters.

The fixture `dev_cluster` is one cluster for all tests of a session; they run one after the other (`-n 0`).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SCRIPTS = Path(__file__).parents[1] / "slurm/devcluster"
NODES = ("n1", "n2", "n3", "n4")


def unavailable() -> str | None:
    """Why no dev cluster can start here; None if it can."""
    missing = [command for command in ("sbatch", "slurmctld", "slurmdbd", "munged") if not shutil.which(command)]
    if missing:
        return f"needs SLURM, {missing[0]} is missing: slurm/devcluster/install"
    return None if os.geteuid() == 0 else "needs root, because slurmd starts jobs as the users who submit them"


@pytest.fixture(scope="session")
def dev_cluster():
    if reason := unavailable():
        pytest.skip(reason)
    cluster = DevCluster.start()
    yield cluster
    cluster.stop()


@dataclass(frozen=True)
class JobProcess:
    """A process of a job. Those of its batch script, `srun` among them, have no rank."""

    process: psutil.Process
    node: str
    rank: int | None

    @property
    def pid(self) -> int:
        return self.process.pid


class DevCluster:
    """A cluster of `start`; `environment` is what a child process needs to use it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = (folder / "name").read_text().strip()
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    @classmethod
    def start(cls, *options: str, folder: Path | None = None) -> "DevCluster":
        """In a short folder of its own, because unix sockets need short paths."""
        folder = folder or Path(tempfile.mkdtemp(prefix="dev-", dir="/tmp"))
        done = subprocess.run([SCRIPTS / "start", "--folder", folder, *options], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the dev cluster does not start:\n{done.stdout}{done.stderr}")
        return cls(folder)

    def stop(self) -> None:
        subprocess.run([SCRIPTS / "stop", "--folder", self.folder], check=True, stdout=subprocess.DEVNULL)

    # ---- what users do

    def run(self, *command: str | Path, **options) -> str:
        """What a command of SLURM, or any that uses it, prints."""
        options = {"env": self.environment, "timeout": 120} | options
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
        if done.returncode:
            said = f"{done.stdout}{done.stderr}"
            raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{said}")
        return done.stdout.strip()

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a batch script's lines; the job's id."""
        return self.run("sbatch", "--parsable", "--output=/dev/null", *options, input=f"#!/bin/bash\n{script}\n")

    def job(self, id: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, NodeList, Reason, ... Knows jobs for some minutes."""
        words = self.run("scontrol", "--oneliner", "show", "job", id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, id: str) -> str:
        return self.job(id)["JobState"]

    def node_states(self) -> dict[str, str]:
        """{node: idle | allocated | down* | ...}"""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 90) -> None:
        """Until it is true; what it asks may fail meanwhile, as when the controller restarts. Raises TimeoutError."""
        deadline, problem = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except RuntimeError as error:
                problem = error
            time.sleep(0.5)
        raise TimeoutError(f"{what}: not within {seconds:.0f} seconds; {problem or self.run('squeue')}")

    def wait_state(self, id: str, *states: str, seconds: float = 90) -> None:
        self.wait(lambda: self.state(id) in states, f"job {id} {' or '.join(states)}", seconds)

    def wait_idle(self, seconds: float = 120) -> None:
        """Until no job is left and all nodes serve."""
        self.wait(lambda: set(self.node_states().values()) == {"idle"}, "all nodes idle", seconds)

    # ---- what happens to clusters

    def kill_node(self, node: str) -> None:
        """Its daemon, and everything that runs on it, at once: the machine is gone."""
        self._kill(lambda: [self._slurmd(node), *self._steps(node), *(p.process for p in self._tasks(node=node))])

    def has_daemon(self, node: str) -> bool:
        return self._slurmd(node) is not None

    def revive_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node)

    def stop_controller(self) -> None:
        """It saves its state first, as a service that is stopped."""
        self._kill(lambda: self._daemons("slurmctld"), signal.SIGTERM)

    def start_controller(self) -> None:
        self._daemon("slurmctld")

    def restart_controller(self) -> None:
        self.stop_controller()
        self.start_controller()

    def stop_accounting(self) -> None:
        """sacct cannot be asked; the controller keeps what it has to say until it can."""
        self._kill(lambda: self._daemons("slurmdbd"), signal.SIGTERM)

    def start_accounting(self) -> None:
        self._daemon("slurmdbd")

    def processes_of(self, id: str) -> list[JobProcess]:
        """The processes of a job, or of a job's array task `123_4`, those of the lowest rank first."""
        return sorted(self._tasks(job=self.job(id)["JobId"]), key=lambda p: (p.rank is None, p.rank, p.pid))

    # ---- processes

    def _tasks(self, node: str | None = None, job: str | None = None) -> list[JobProcess]:
        found = []
        for process, environment in self._alive():
            on, of = environment.get("SLURMD_NODENAME"), environment.get("SLURM_JOB_ID")
            if environment.get("SLURM_CLUSTER_NAME") != self.name or not on:
                continue
            if node in (None, on) and job in (None, of):
                ranked = environment.get("SLURM_STEP_ID", "").isdigit()
                found.append(JobProcess(process, on, int(environment["SLURM_PROCID"]) if ranked else None))
        return found

    def _daemons(self, name: str) -> list[psutil.Process]:
        found = []
        for process, environment in self._alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                if environment.get("DEVCLUSTER") == self.name and process.name() == name:
                    found.append(process)
        return found

    def _slurmd(self, node: str) -> psutil.Process | None:
        return next((p for p in self._daemons("slurmd") if p.cmdline()[-2:] == ["-N", node]), None)

    def _steps(self, node: str) -> list[psutil.Process]:
        """The managers of the steps on a node: they log where its slurmd does."""
        log = str(self.folder / f"log/slurmd-{node}.log")
        found = []
        for process in self._daemons("slurmstepd"):
            with contextlib.suppress(psutil.NoSuchProcess):
                if log in {file.path for file in process.open_files()}:
                    found.append(process)
        return found

    def _alive(self) -> list[tuple[psutil.Process, Mapping[str, str]]]:
        """Every process of this machine with its environment; a zombie has none."""
        found = []
        for process in psutil.process_iter():
            # psutil's own reading ends at an empty line, and slurmstepd writes its title over its first variables.
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")
                found.append((process, dict(line.split("=", 1) for line in lines if "=" in line)))
        return found

    def _kill(self, find: Callable[[], list[psutil.Process | None]], by: signal.Signals = signal.SIGKILL) -> None:
        """Until none is found any more: what is being killed may start another."""
        for _ in range(100):
            processes = [process for process in find() if process]
            if not processes:
                return
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(by)
            time.sleep(0.2)
        raise TimeoutError(f"these processes do not end: {processes}")

    def _daemon(self, *command: str) -> None:
        """As `start` starts it."""
        own = {"DEVCLUSTER": self.name, "MYSQL_UNIX_PORT": str(self.folder / "mariadb.socket")}
        self.run(*command, env=self.environment | own)
