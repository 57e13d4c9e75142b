"""A small pre-training on a dev cluster, submitted as users do, and what became of it whatever happened meanwhile."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dev_cluster import DevCluster, JobProcess
from plans import wanted
from toy_task import curve

from multimae.config import RunConfig, recipe
from multimae.record.folder import RunFolder
from multimae.study import planning
from multimae.study.study import Row, Study
from multimae.tracking import sync
from slurm.profile import Profile
from slurm.submission.cluster import Cluster

CHECKPOINT_SECONDS = 6
NODES = 2
EPOCHS = 12  # of 32 steps: half a minute on an idle machine
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


def tiny(epochs: int = EPOCHS) -> RunConfig:
    """What a trial trains."""
    return recipe("pretrain", "smoke").edit({"epochs": epochs, "data.train_samples": 1024, "data.eval_samples": 64})


class Server:
    """`mlflow server` on a SQLite file; it may die and come back at the same address."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", self.folder]
        command = [sys.executable, "-m", "mlflow", "server", "--port", self.port, "--workers", 1, *store]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eleven processes that never rest
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.5)
        raise RuntimeError(f"the MLflow server does not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """It and its workers, at once."""
        if self.process and self.process.poll() is None:
            subprocess.run(["pkill", "-KILL", "--session", str(self.process.pid)], check=False)
            self.process.wait()


@dataclass(frozen=True)
class Outcome:
    """What became of a run, beside one that was left alone."""

    came_back: bool  # finished without anybody's help
    restarts: int
    lost: int  # optimizer steps done after the checkpoint from which a restart went on, of all restarts
    repeated: int  # steps that are in the journal twice
    identical: bool  # losses, learning rates, gradient norms, evaluations and weights, to the bit
    tracked: str  # one MLflow run with every point of the curve? "no: why"
    seconds: float
    note: str = ""


class Trial:
    """One run on two nodes, with `tasks` processes on each. Its study is named as its folder."""

    def __init__(self, cluster: DevCluster, server: Server, folder: Path, config: RunConfig, tasks: int = 1):
        self.cluster, self.server, self.config = cluster, server, config
        self.name, self.runs = folder.name, folder / "runs"
        self.runs.mkdir(parents=True)
        settings = {"device": "cpu", "threads": 1, "log_every_steps": 1, "timeout_minutes": 1}
        self.profile = Profile(
            name="faults",
            slurm_conf=cluster.folder / "slurm.conf",
            nodes=NODES,
            tasks_per_node=tasks,
            time_limit=30,
            signal_seconds=20,
            runs=self.runs,
            cache=folder.parent / "cache",
            tracking_uri=server.uri,
            environment={"OMP_NUM_THREADS": "1"},
            runtime=settings | {"checkpoint_minutes": CHECKPOINT_SECONDS / 60},
        )
        self.run = RunFolder.of(self.runs, self.config.signature)
        self.began = time.monotonic()

    @cached_property
    def study(self) -> Study:
        return Study(self.name, self.name, lambda scale: [Row("row", {"pretrain": self.config})])

    def submit(self) -> None:
        plan = planning.plan(wanted(self.study, self.study.build("smoke"), self.runs))
        for _ in Cluster(self.profile, self.runs).work(plan):
            pass

    @property
    def status(self) -> str:
        """As `--status` says it."""
        (entry,) = planning.status(wanted(self.study, self.study.build("smoke"), self.runs)).entries.values()
        return entry.status.state

    @property
    def job(self) -> str:
        """SLURM's id."""
        return self.run.jobs.last("submitted")["job"].removeprefix("slurm:")

    @property
    def step(self) -> int:
        """Of the optimizer; 0 before the first."""
        return (self.run.journal.last("train") or {"step": 0})["step"]

    @property
    def total_steps(self) -> int:
        return self.config.total_steps(self.config.data.train_samples)

    def ranks(self) -> list[JobProcess]:
        """The training processes; what they start, such as the one that fills MLflow, came later."""
        first: dict[int, JobProcess] = {}
        for process in self.cluster.processes_of(self.job):
            if process.rank is not None:
                first.setdefault(process.rank, process)
        return list(first.values())

    def reach(self, step: int, seconds: float = 180) -> None:
        self.until(lambda: self.step >= step, f"step {step}", seconds)

    def until(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Raises TimeoutError, also where the job has ended for good."""
        self.cluster.wait(lambda: condition() or self.ended, what, seconds)
        if not condition():
            raise TimeoutError(f"{what}: the job ended before")

    @property
    def ended(self) -> bool:
        """Whether SLURM has done with the job, for longer than a moment."""
        if self.cluster.state(self.job) not in ENDED:
            return False
        time.sleep(3)
        return self.cluster.state(self.job) in ENDED

    def finish(self, seconds: float = 420) -> str:
        """Wait until the job has ended for good; why it did not finish the run, if so."""
        try:
            self.cluster.wait(lambda: self.ended, "the end of the job", seconds)
        except TimeoutError as error:
            self.cluster.run("scancel", self.job)
            return str(error)
        return "" if self.run.done else f"{self.cluster.state(self.job)}: {self.last_words}"

    @property
    def last_words(self) -> str:
        record = self.run.journal.last() or {"kind": "nothing", "step": 0}
        return f"{record['kind']} at step {record.get('step')} {record.get('reason', '')}"

    # ---- judged

    def outcome(self, alone: "Trial", note: str = "") -> Outcome:
        lost, repeated, last, seen, starts = 0, 0, 0, set(), 0
        for record in self.run.journal.records("start", "train"):
            if record["kind"] == "start":
                lost, starts, last = lost + max(0, last - record["step"]), starts + 1, record["step"]
            else:
                last = record["step"]
                repeated += last in seen
                seen.add(last)
        restarts = len(self.run.jobs.records("began")) - 1
        seconds = time.monotonic() - self.began
        came_back = self.run.done and self.cluster.state(self.job) == "COMPLETED"  # transfers wait for that word
        return Outcome(came_back, restarts, lost, repeated, self.same_as(alone), self.tracked(), seconds, note)

    def same_as(self, alone: "Trial") -> bool:
        if not (self.run.done and alone.run.done):
            return False
        return curve(self.run) == curve(alone.run) and self.run.weights.read_bytes() == alone.run.weights.read_bytes()

    def tracked(self) -> str:
        """`yes`, `yes, after sync` where the job had no time to send the rest, or `no: why`."""
        if not self.run.journal.path.exists():
            return "no: it never began"
        if self._tracked() == "yes":
            return "yes"
        deadline = time.monotonic() + 60
        while not (report := sync(self.runs, self.server.uri)).ok and time.monotonic() < deadline:
            time.sleep(2)
        found = self._tracked()
        return "yes, after sync" if found == "yes" else f"{found} ({'; '.join(report.problems)})"

    def _tracked(self) -> str:
        from mlflow import MlflowClient

        client = MlflowClient(self.server.uri)
        experiment = client.get_experiment_by_name(f"{self.name}/smoke")
        if experiment is None:
            return "no: nothing arrived"
        found = client.search_runs([experiment.experiment_id])
        runs = [run for run in found if run.data.tags.get("multimae.signature") == self.run.signature]
        if len(runs) != 1:
            return f"no: {len(runs)} runs"
        points = [metric.step for metric in client.get_metric_history(runs[0].info.run_id, "train/loss")]
        wanted = [record["step"] for record in self.run.journal.curve("train")]
        if sorted(points) != wanted:
            return f"no: {len(points)} points of {len(wanted)}"
        return "yes" if runs[0].info.status == "FINISHED" else f"no: {runs[0].info.status}"
