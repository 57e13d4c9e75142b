"""The SLURM back end: a plan's runs as job arrays, each waiting for what it starts from. Imports no torch.

Whoever submits holds a lock and plans anew under it, so two people who give the command at once submit each run once.
What was submitted is recorded, run by run, before the next array is: a launcher that dies loses nothing.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from multimae.files import locked
from multimae.record.sharing import check_shared
from multimae.study.feeding import Feed, feeding
from multimae.study.planning import Entry, Plan, plan, set_aside, submit

from .. import scheduler
from ..cost import check_time_to_save, cluster_text
from ..profile import Profile
from . import snapshot
from .arrays import Array, arrays
from .script import COMMENT, BatchScript, hidden, last_line

HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # back, between sbatch and the record of what it submitted


class Cluster:
    """Submits a plan's runs and ends: the scheduler has them."""

    def __init__(
        self,
        profile: Profile,
        runs: Path,
        data_roots: Mapping[str, Path] | None = None,
        weights: Mapping[str, Path] | None = None,
    ):
        self.profile, self.runs = profile, Path(os.path.abspath(runs))
        self.places = {"data_roots": dict(data_roots or {}), "weights": dict(weights or {})}  # before the profile's
        self.calls: Counter[str] = Counter()  # of SLURM's commands that change something

    def scripts(self, plan: Plan, hide: bool = True) -> list[tuple[str, str]]:
        """(title, batch script) of each sbatch that `work` would call; jobs to come stand as `<job of pretrain>`.

        What may be a secret is hidden, unless the scripts are wanted as sbatch would get them.
        """
        profile, code = hidden(self.profile) if hide else self.profile, snapshot.expected(self.runs)
        study = plan.wanted.study.name
        return [
            (array.title, BatchScript(array, profile, self.runs, code, study).text)
            for array in arrays(plan, self.profile)
        ]

    def estimate(self, plan: Plan) -> str:
        """What `work` would submit, for a person: jobs, hours and how often they are queued again."""
        return cluster_text(arrays(plan, self.profile), self.profile)

    def check(self, plan: Plan) -> list[str]:
        """What to tell before the plan is submitted. Raises ConfigError for what cannot work with this profile."""
        notes = check_time_to_save(list(plan.entries.values()), self.profile, self.runs)
        todo = arrays(plan, self.profile)
        notes += feeding([feed for array in todo for feed in self._feeds(array)], "cpus_per_task: {} feeds it")
        for array in todo:
            configs = {getattr(c, "batch_size", None): c for c in (entry.run.config for entry in array.entries)}
            notes += [n for c in configs.values() for n in self.profile.check(c, array.stage, array.resources)]
        if orphans := len(plan.todo) - sum(len(array.tasks) for array in todo):
            notes.append(
                f"{orphans} runs start from runs that a launcher of a machine has, for which no job can wait; "
                "give the command again once those are done"
            )
        return list(dict.fromkeys(notes))

    def _feeds(self, array: Array) -> list[Feed | None]:
        """Of each run of an array, on GPUs."""
        resources, runtime = array.resources, self.profile.runtime(array.kind, array.stage, **self.places)
        if not resources.gpus_per_node or runtime.device == "cpu":
            return []
        where = f"profile {self.profile.name}, stage {array.stage}"
        return [
            Feed.of(
                where, c, runtime.data_roots.get(c.data.name), resources.cpus_per_task, resources.processes, runtime
            )
            for c in (entry.run.config for entry in array.entries)
        ]

    def work(self, before: Plan) -> Iterator[Array]:
        """Submit what the plan says is missing; yields what SLURM has taken, which stays recorded.

        Raises ConfigError where SLURM refuses, Unreachable where it does not answer.
        """
        self.profile.use_cluster()
        with self._alone():
            now = plan(before.wanted, before.retry_failed, before.redo)
            if not now.todo:
                return
            for entry in now.todo:
                entry.folder.check_shared()
            for note in self.check(now):
                print(f"note: {note}", file=sys.stderr)
            cluster, study = scheduler.cluster_name(), now.wanted.study.name
            self._cancel_stale(now)
            set_aside(now)
            code = snapshot.take(self.runs)
            for array in arrays(now, self.profile):
                for entry in array.entries:
                    entry.folder.create(entry.run.config)
                script = BatchScript(array, self.profile, self.runs, code, study)
                with _held():
                    self.calls["sbatch"] += 1
                    script.submit({task: self._job(array, entry) for task, entry in array.tasks.items()})
                    for task, entry in array.tasks.items():
                        submit(entry, now.wanted, f"slurm:{array.job_of(task)}", cluster=cluster)
                if array.each:
                    self._split(array, study)
                yield array

    def _split(self, array: Array, study: str) -> None:
        """Let SLURM look at each task's dependency by itself, from now on.

        It does so for ten waiting tasks of an array, and for others once those have started; a job that they wait for
        and that ended well may be forgotten by then (MinJobAge), which counts as failed. Naming some of its tasks in
        an update, of whatever, makes each a job of its own.
        """
        tasks = sorted(array.tasks)[1:]
        self.calls["scontrol"] += 1
        words = [f"JobId={array.job}_[{','.join(map(str, tasks))}]", f"Comment={array.comment(study, COMMENT)}"]
        done = subprocess.run(["scontrol", "update", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"note: the tasks of job {array.job} were not split: {last_line(done.stderr)}", file=sys.stderr)

    def _cancel_stale(self, plan: Plan) -> None:
        """End queued jobs of runs that are submitted anew: they wait for a job that failed, and would for ever."""
        waits = ("pending", "waiting", "blocked")
        if jobs := [entry.status.job for entry in plan.todo if entry.status.job and entry.status.state in waits]:
            self.calls["scancel"] += 1
            if others := scheduler.cancel(jobs):  # they never start, and do no harm
                told = f"only who submitted them may cancel {', '.join(sorted(others))}"
                print(f"note: jobs that wait in vain stay in the queue: {told}", file=sys.stderr)

    def _job(self, array: Array, entry: Entry):
        from ..job.job import ClusterJob

        runtime = self.profile.runtime(array.kind, array.stage, runs=self.runs, **self.places)
        runtime = runtime.model_copy(
            update={"tracking_uri": None, "alone": array.alone}
        )  # the address is in the script
        if runtime.device == "auto" and array.resources.gpus_per_node:
            # A node whose driver is broken would train on its CPU, for weeks, and nothing would tell.
            runtime = runtime.model_copy(update={"device": "cuda"})
        return ClusterJob(entry.run.signature, runtime, self.profile.restarts_without_progress)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the one launcher that submits for this folder of runs, on any machine; says whom it waits for."""
        path = self.runs / ".slurm" / "submit.lock"
        (self.runs / ".slurm" / "batch").mkdir(parents=True, exist_ok=True)
        check_shared([path, path.parent, path.parent / "batch", self.runs / ".code"])
        with locked(path, math.inf, lambda who: print(f"waiting for {who}, who submits", file=sys.stderr)):
            yield


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Keep signals back meanwhile, from sbatch too, which inherits this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
