"""Two users of one group share a folder of runs: real accounts, which this makes and removes, on a real SLURM.

They use checkouts of their own and opposite umasks; what one makes the other goes on with, and nothing is done twice.
"""

import grp
import json
import os
import pwd
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dev_cluster import DevCluster, unavailable

from multimae.record.folder import RunFolder
from slurm.submission.snapshot import ROOT, WHAT

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SECONDS = 600  # for anything, on a machine that has much else to do
FEW = {"epochs": 1, "data.train_samples": 64, "data.eval_samples": 64, "optimizer.warmup_epochs": 0}
EDITS = {"pretrain": FEW | {"epochs": 8, "data.train_samples": 1024}, "classify": FEW, "segment": FEW}
# What submitit runs may hold secrets, and where a job's processes meet is nobody else's business.
PRIVATE = ("*.pkl", "*.sh", "rendezvous-*.json")


@dataclass(frozen=True)
class Python:
    """This interpreter, for whoever has an account: a copy of it where it lies in root's home."""

    command: Path
    environment: dict[str, str]

    @classmethod
    def for_all(cls, folder: Path) -> "Python":
        packages = Path(sysconfig.get_path("purelib"))
        real = Path(sys.executable).resolve()
        if all(_open(path) for path in (real, packages)):
            return cls(Path(sys.executable), {})
        base, version = Path(sys.base_prefix), f"python3.{sys.version_info.minor}"
        (folder / "bin").mkdir(parents=True)
        shutil.copy(real, folder / "bin" / version)
        left_out = shutil.ignore_patterns("test", "site-packages", "__pycache__", "config-*")
        shutil.copytree(base / "lib" / version, folder / "lib" / version, ignore=left_out)
        for library in (base / "lib").glob("libpython*"):
            shutil.copy(library, folder / "lib")
        return cls(folder / "bin" / version, {"PYTHONPATH": str(packages), "LD_LIBRARY_PATH": str(folder / "lib")})


def _open(path: Path) -> bool:
    """Whether other users may get there."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path.parent, *path.parent.parents))


@dataclass(frozen=True)
class User:
    name: str
    group: str  # that both are in; each has a group of its own besides
    umask: int
    cluster: DevCluster
    lab: Path
    python: Python

    @property
    def home(self) -> Path:
        return Path(pwd.getpwnam(self.name).pw_dir)

    def make(self) -> None:
        """A home with a checkout and a profile, as readable as their umask has it."""
        subprocess.run(["useradd", "--create-home", "--groups", self.group, self.name], check=True)
        checkout = self.home / "multimae"
        for name in WHAT:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            checkout.mkdir(exist_ok=True)
            copy(ROOT / name, checkout / name)
        runtime = {"device": "cpu", "threads": 1, "checkpoint_minutes": 0.03, "log_every_steps": 1}
        asked = {"partition": "main", "tasks_per_node": 2, "time_limit": "30", "signal_seconds": 20, "runtime": runtime}
        profile = {"runs": str(self.lab / "runs"), "environment": {"OMP_NUM_THREADS": "1"}, **asked}
        (checkout / "ours.yaml").write_text(json.dumps(profile))
        for path in (self.home, *self.home.rglob("*")):
            shutil.chown(path, self.name, self.name)
            path.chmod((0o777 if path.is_dir() else 0o666) & ~self.umask)

    def remove(self) -> None:
        subprocess.run(["userdel", "--remove", self.name], check=False, capture_output=True)

    def start(self, *command: str) -> subprocess.Popen:
        code = ":".join(filter(None, [str(self.home / "multimae"), self.python.environment.get("PYTHONPATH")]))
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        environment |= {"SLURM_CONF": self.cluster.environment["SLURM_CONF"]}
        environment |= self.python.environment | {"PYTHONPATH": code}
        who = {"user": self.name, "group": self.name, "extra_groups": [self.group], "umask": self.umask}
        where = {"cwd": self.home / "multimae", "env": environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([self.python.command, *command], **who, **where, **pipes)

    def study(self, *options: str) -> subprocess.Popen:
        """The command of the study, as both give it."""
        edits = [f"{stage}.{key}={value}" for stage, values in EDITS.items() for key, value in values.items()]
        words = [word for edit in edits for word in ("--set", edit)]
        return self.start("sweeps/alpha_ablation.py", "--cluster", "ours.yaml", "--only", "alpha=1", *words, *options)

    def give(self, *options: str) -> tuple[int, str]:
        """(exit code, what the command printed)"""
        return ended(self.study(*options))


def ended(command: subprocess.Popen) -> tuple[int, str]:
    said = command.communicate(timeout=SECONDS)[0]
    assert "Traceback" not in said, said
    return command.returncode, said


@dataclass(frozen=True)
class Lab:
    """A folder that two users share."""

    cluster: DevCluster
    folder: Path
    users: tuple[User, User]

    @property
    def runs(self) -> dict[str, RunFolder]:
        """By stage, in the order of their submission."""
        folders = [RunFolder(path.parent) for path in (self.folder / "runs").glob("*/jobs.jsonl")]
        return {folder.jobs.last("submitted")["stage"]: folder for folder in folders}

    def submissions(self) -> list[tuple[str, str]]:
        """(stage, user) of each."""
        return [(s, record["user"]) for s, run in self.runs.items() for record in run.jobs.records("submitted")]

    def until(self, condition, what: str) -> None:
        self.cluster.wait(condition, what, SECONDS)


@pytest.fixture(params=["open", "private"])
def lab(request) -> Iterator[Lab]:
    """On a cluster that shows all jobs to everyone, or to each user his own."""
    if reason := unavailable():
        pytest.skip(reason)
    cluster = DevCluster.start("--nodes", "2", *(["--private"] if request.param == "private" else []))
    tag = secrets.token_hex(3)
    group, folder = f"lab-{tag}", Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    folder.chmod(0o755)
    python, lab = Python.for_all(folder / "python"), folder / "lab"
    masks = {"open": (0o022, 0o077), "private": (0o077, 0o022)}[request.param]
    names = (f"{name}-{tag}" for name in ("alice", "bob"))
    users = [User(name, group, umask, cluster, lab, python) for name, umask in zip(names, masks, strict=True)]
    subprocess.run(["groupadd", group], check=True)
    try:
        for path in (lab, lab / "runs"):
            path.mkdir()
            shutil.chown(path, group=group)
            path.chmod(0o2775)
        for user in users:
            user.make()
        if ended(users[0].start("-c", "import submitit, pydantic"))[0]:
            pytest.skip("the packages of this Python are in a folder that other users may not enter")
        yield Lab(cluster, lab, tuple(users))
    finally:
        cluster.stop()
        for user in users:
            user.remove()
        subprocess.run(["groupdel", group], check=True)
        shutil.rmtree(folder)


def test_two_users_share_a_folder_of_runs(lab):
    alice, bob = lab.users
    lab.cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    launchers = [user.study() for user in lab.users]  # at the same moment
    for code, said in map(ended, launchers):
        assert code == 0, said
    assert sorted(stage for stage, _ in lab.submissions()) == ["classify", "pretrain", "segment"]
    ((owner,), first) = {user for _, user in lab.submissions()}, lab.runs["pretrain"]
    one, other = (alice, bob) if owner == alice.name else (bob, alice)

    code, said = other.give()  # and one after the other
    assert code == 0 and "Nothing to submit" in said, said
    code, said = other.give("--cancel")
    assert code == 1 and f"of {owner}, who alone may cancel it" in said, said
    lab.cluster.run("scontrol", "update", "PartitionName=main", "State=UP")

    lab.until(lambda: first.saved_step > 0, "a checkpoint")
    code, said = other.give("--status")
    assert code == 0 and "running" in said, said
    lab.cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    job = first.jobs.last("submitted")["job"].removeprefix("slurm:")
    lab.cluster.run("scontrol", "requeue", job)
    lab.until(lambda: lab.cluster.state(job) == "PENDING", "the job saved and is back in the queue")
    code, said = other.give()
    assert code == 0 and "Nothing to submit" in said and "restarts after" in said, said
    assert len(lab.submissions()) == 3

    begun = first.saved_step
    code, said = one.give("--cancel")
    assert code == 0 and "asked 3 runs" in said, said
    lab.until(lambda: not lab.cluster.run("squeue", "--noheader"), "the end of the jobs")
    assert not first.done
    lab.cluster.run("scontrol", "update", "PartitionName=main", "State=UP")
    code, said = other.give()  # goes on with what the other began
    assert code == 0 and said.count("submitted") == 3, said
    assert {user for _, user in lab.submissions()[-1:]} == {other.name} and len(lab.submissions()) == 6
    lab.until(lambda: all(run.done for run in lab.runs.values()), "all runs")
    assert [start["step"] for start in first.journal.records("start")] == [0, begun] and begun > 0

    lab.until(lambda: not lab.cluster.run("squeue", "--noheader"), "the end of the jobs")
    (mine, table), (theirs, same) = alice.give(), bob.give()
    assert mine == theirs == 0 and "Everything is done already." in table and "alpha=1" in table, table
    assert table == same
    with sqlite3.connect(lab.folder / "mlflow.db") as store:
        sent = store.execute("select value from tags where key = 'multimae.signature'").fetchall()
    assert sorted(value for (value,) in sent) == sorted(run.signature for run in lab.runs.values())
    assert not wrong(lab)


def wrong(lab: Lab) -> list[str]:
    """What the group cannot read and write, or is not the group's."""
    id, bad = grp.getgrnam(lab.users[0].group).gr_gid, []
    for path in lab.folder.rglob("*"):
        at = path.lstat()
        needed = stat.S_IRWXG | stat.S_ISGID if path.is_dir() else stat.S_IRGRP | stat.S_IWGRP
        if path.is_symlink() or any(path.match(name) for name in PRIVATE):
            continue
        if at.st_gid != id or at.st_mode & needed != needed:
            bad.append(f"{stat.filemode(at.st_mode)} {path.relative_to(lab.folder)}")
    return bad
