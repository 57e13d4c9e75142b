"""What a cluster does to runs, and what becomes of them: prints a table of faults against outcomes.

    python tests/faults.py [--tries 5] [--only NAME ...] [--folder DIR]

Starts a dev cluster (root; slurm/devcluster/install) and a real MLflow server. Each try submits a small pre-training of
2 nodes x 2 processes, does one thing to it at a random step, and waits for the end; the curve is compared with that of
a run that was left alone. A try takes one to three minutes. With --folder, the same command goes on where it was
stopped: what was tried is in outcomes.jsonl there.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dev_cluster import DevCluster, unavailable
from trial import CHECKPOINT_SECONDS, EPOCHS, NODES, Outcome, Server, Trial, tiny

TASKS = 2  # processes on each node

Act = Callable[[Trial], str | None]  # does it, and may say more


@dataclass(frozen=True)
class Fault:
    """`act` is called when the run has reached a random step; `before` when it is not submitted yet."""

    act: Act
    before: Callable[[Trial], None] = lambda trial: None
    after: Callable[[Trial], None] = lambda trial: None  # makes good what the next try would suffer from
    memory_mb: int = 0  # of a file system of its own that the runs lie on


# ---- signals and the queue


def signal_job(trial: Trial) -> None:
    trial.cluster.run("scancel", "--signal=USR2", trial.job)


def requeue(trial: Trial) -> None:
    trial.cluster.run("scontrol", "requeue", trial.job)


def shorten_limit(trial: Trial) -> None:
    """Once, to the next whole minute, SLURM's unit, that leaves the lead of the signal."""
    hours, minutes, seconds = map(int, trial.cluster.job(trial.job)["RunTime"].split(":"))
    left = 60 * (60 * hours + minutes) + seconds + trial.profile.signal_seconds
    trial.cluster.run("scontrol", "update", f"JobId={trial.job}", f"TimeLimit={left // 60 + 1}")
    trial.until(lambda: trial.cluster.job(trial.job)["Restarts"] != "0" or trial.run.done, "the time limit", 180)
    trial.cluster.run("scontrol", "update", f"JobId={trial.job}", f"TimeLimit={trial.profile.time_limit}")


def preempt(trial: Trial) -> None:
    trial.cluster.sbatch("sleep 3", "--partition=urgent", "--nodes=4", "--exclusive")


# ---- nodes and processes


def kill_node(trial: Trial) -> str:
    node = random.choice([process.node for process in trial.ranks()])
    first = trial.ranks()[0].node == node
    trial.cluster.kill_node(node)
    return f"{node}, {'with' if first else 'without'} rank 0"


def revive_nodes(trial: Trial) -> None:
    for node in trial.cluster.node_states():
        if not trial.cluster.has_daemon(node):
            trial.cluster.revive_node(node)


def kill_rank(trial: Trial) -> str:
    return _to_a_rank(trial, signal.SIGKILL)


def stop_rank(trial: Trial) -> str:
    return _to_a_rank(trial, signal.SIGSTOP)


def _to_a_rank(trial: Trial, what: signal.Signals) -> str:
    victim = random.choice(trial.ranks())
    os.kill(victim.pid, what)
    return f"rank {victim.rank}"


def kill_while_saving(trial: Trial) -> str:
    """All ranks, once a checkpoint has begun to be written."""
    pids = [process.pid for process in trial.ranks()]
    until = time.monotonic() + 5 * CHECKPOINT_SECONDS
    while time.monotonic() < until:
        if any(trial.run.checkpoints.glob(".writing-*")):
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
            return "half a checkpoint was left" if any(trial.run.checkpoints.glob(".writing-*")) else "just too late"
        time.sleep(0.001)
    raise TimeoutError("no checkpoint was seen being written")


def damage_checkpoint(trial: Trial) -> str:
    """All ranks are killed, and some bytes of the newest checkpoint change, as on a bad disk."""
    trial.until(lambda: trial.run.saved_step >= 0, "a checkpoint", 120)
    pids = [process.pid for process in trial.ranks()]
    trial.cluster.stop_controller()  # so that nothing restarts before the damage is done
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    step = trial.run.saved_step
    file = trial.run.checkpoints / f"step-{step:08d}" / "tensors.safetensors"
    with open(file, "r+b") as tensors:
        tensors.seek(-1000, os.SEEK_END)
        tensors.write(os.urandom(1000))
    trial.cluster.start_controller()
    return f"checkpoint of step {step}"


# ---- services


def restart_controller(trial: Trial) -> None:
    trial.cluster.stop_controller()
    time.sleep(5)
    trial.cluster.start_controller()


def lose_accounting(trial: Trial) -> str:
    """And signal the job meanwhile, which then has to ask the scheduler otherwise."""
    trial.cluster.stop_accounting()
    seen = trial.status
    signal_job(trial)
    return f"--status said {seen}"


def start_accounting(trial: Trial) -> None:
    trial.cluster.start_accounting()


def stop_tracking(trial: Trial) -> None:
    trial.server.stop()


def start_tracking(trial: Trial) -> None:
    trial.server.start()


def interrupt_tracking(trial: Trial) -> None:
    trial.server.stop()
    time.sleep(10)
    trial.server.start()


# ---- the folder of runs


def fill_disk(trial: Trial) -> str:
    ballast = trial.runs / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    # Until a save has failed: a full disk that nobody writes to is no fault.
    trial.until(lambda: len(trial.run.jobs.records("began")) > 1 or trial.run.journal.last("failed"), "a failure", 120)
    time.sleep(random.uniform(0, 20))
    ballast.unlink()
    return f"last checkpoint then: step {trial.run.saved_step}"


def make_read_only(trial: Trial) -> None:
    """For 30 s, by a read-only view mounted above the folder: what is open stays open."""
    runs = str(trial.runs)
    subprocess.run(["mount", "--bind", runs, runs], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", runs], check=True)
    time.sleep(30)
    subprocess.run(["umount", "--lazy", runs], check=True)


FAULTS = {
    "scancel --signal=USR2": Fault(signal_job),
    "scontrol requeue": Fault(requeue),
    "time limit": Fault(shorten_limit),
    "preemption": Fault(preempt),
    "node killed": Fault(kill_node, after=revive_nodes),
    "rank killed": Fault(kill_rank),
    "killed in a save": Fault(kill_while_saving),
    "damaged checkpoint": Fault(damage_checkpoint),
    "rank stopped": Fault(stop_rank),
    "slurmctld restarted": Fault(restart_controller),
    "sacct missing": Fault(lose_accounting, after=start_accounting),
    "MLflow dead at start": Fault(start_tracking, before=stop_tracking),
    "MLflow dies": Fault(interrupt_tracking),
    "disk full": Fault(fill_disk, memory_mb=128),
    "folder read-only for 30 s": Fault(make_read_only),
}


class Harness:
    """A cluster, an MLflow server, a run that is left alone, and tries beside it."""

    def __init__(self, cluster: DevCluster, folder: Path, epochs: int, tasks: int):
        self.cluster, self.folder, self.config, self.tasks = cluster, folder, tiny(epochs), tasks
        self.server = Server(folder / "mlflow")
        self.alone: Trial | None = None

    @contextlib.contextmanager
    def ready(self) -> Iterator["Harness"]:
        os.environ["SLURM_CONF"] = self.cluster.environment["SLURM_CONF"]
        try:
            self.server.start()
            self.alone = Trial(self.cluster, self.server, self.folder / "alone", self.config, self.tasks)
            self.alone.submit()
            if problem := self.alone.finish():
                raise RuntimeError(f"a run that is left alone does not finish: {problem}")
            yield self
        finally:
            self.server.stop()
            del os.environ["SLURM_CONF"]

    def attempt(self, name: str, number: int) -> Outcome:
        """One try. What went wrong with it is in the note."""
        fault = FAULTS[name]
        folder = self.folder / f"{name.replace(' ', '_').replace('=', '_')}-{number}"
        with self._file_system(folder, fault.memory_mb):
            trial = Trial(self.cluster, self.server, folder, self.config, self.tasks)
            note = ""
            try:
                fault.before(trial)
                trial.submit()
                trial.reach(random.randint(10, int(0.8 * trial.total_steps)))
                note = " ".join(filter(None, (f"at step {trial.step}", fault.act(trial), trial.finish())))
            except (TimeoutError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                note = f"{type(error).__name__}: {error}; {trial.last_words}"
            finally:
                self.restore(fault, trial)
            return trial.outcome(self.alone, note)

    def restore(self, fault: Fault, trial: Trial) -> None:
        """Whatever happened, the next try begins on a whole cluster."""
        fault.after(trial)
        if self.server.process.poll() is not None:
            self.server.start()
        self.cluster.run("scancel", "--user=root")
        self.cluster.wait_idle()

    @contextlib.contextmanager
    def _file_system(self, folder: Path, megabytes: int) -> Iterator[None]:
        if not megabytes:
            yield
            return
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def row(name: str, outcomes: list[Outcome]) -> str:
    """Of the table: how many of the tries, and the range of steps."""
    tries = len(outcomes)

    def count(values) -> str:
        return f"{sum(map(bool, values))}/{tries}"

    def span(values) -> str:
        low, high = min(values), max(values)
        return str(low) if low == high else f"{low}-{high}"

    tracked = count(o.tracked.startswith("yes") for o in outcomes)
    if synced := sum(o.tracked == "yes, after sync" for o in outcomes):
        tracked += f" ({synced} by `multimae sync`)"
    cells = [
        name,
        str(tries),
        count(o.came_back for o in outcomes),
        span([o.lost for o in outcomes]),
        span([o.repeated for o in outcomes]),
        count(o.identical for o in outcomes),
        tracked,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=5, help="of each fault (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help=f"some of: {', '.join(FAULTS)}")
    parser.add_argument("--folder", type=Path, help="for the cluster and the runs (default: a temporary one)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of 32 steps each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    if reason := unavailable():
        print(f"faults: {reason}", file=sys.stderr)
        return 2
    kept = (args.folder or Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))).resolve() / "outcomes.jsonl"
    outcomes: dict[str, list[Outcome]] = {}
    if kept.exists():
        for line in kept.read_text().splitlines():
            record = json.loads(line)
            outcomes.setdefault(record.pop("fault"), []).append(Outcome(**record))
    random.seed(f"{args.seed} {sum(map(len, outcomes.values()))}")
    folder = kept.parent / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    cluster = DevCluster.start(folder=folder / "cluster")
    try:
        with Harness(cluster, folder, args.epochs, TASKS).ready() as harness:
            steps = [record["step"] for record in harness.alone.run.journal.records("checkpoint")]
            print(f"left alone: {harness.alone.total_steps} steps, checkpoints at {steps}", flush=True)
            for name in args.only or FAULTS:
                for number in range(len(outcomes.get(name, ())), args.tries):
                    outcome = harness.attempt(name, number)
                    outcomes.setdefault(name, []).append(outcome)
                    with open(kept, "a") as file:
                        file.write(json.dumps({"fault": name} | asdict(outcome)) + "\n")
                    print(f"{name}, try {number + 1}: {outcome}", flush=True)
    finally:
        cluster.stop()
        if args.folder is None:
            shutil.rmtree(kept.parent)
        print(f"\n{NODES} nodes x {TASKS} processes, a checkpoint every {CHECKPOINT_SECONDS} s\n")
        print("| fault | tries | came back | steps lost | repeated | same to the bit | MLflow one run, complete |")
        print("|---|---|---|---|---|---|---|")
        print("\n".join(row(name, found) for name, found in outcomes.items()))
    tried = [outcome for found in outcomes.values() for outcome in found]
    fine = all(o.came_back and o.identical and o.tracked.startswith("yes") for o in tried)
    return 0 if tried and fine else 1


if __name__ == "__main__":
    sys.exit(main())
