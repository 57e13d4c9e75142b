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
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from multimae.config import ConfigError
from multimae.files import locked, write_atomic
from multimae.record.sharing import check_shared
from multimae.record.state import Status
from multimae.study.planning import Entry, Event, Plan, plan, submit

from .. import scheduler
from ..cost import check_time_to_save, cluster_text
from ..profile import Profile
from . import snapshot
from .arrays import Array, arrays
from .script import COMMENT, BatchScript, hidden

HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # back, between sbatch and the record of what it submitted


class Cluster:
    """Submits a plan's runs and ends: the scheduler has them."""

    def __init__(self, profile: Profile, runs: Path, data_roots: Mapping[str, Path] | None = None):
        """Raises ConfigError where the profile's cluster cannot be spoken to from here."""
        self.profile, self.runs = profile, Path(os.path.abspath(runs))
        self.data_roots = dict(data_roots or {})
        self.calls: Counter[str] = Counter()  # of SLURM's commands that change something
        self.submitted: list[Array] = []

    def arrays(self, plan: Plan) -> list[Array]:
        """What `work` would submit."""
        return arrays(plan, self.profile)

    def scripts(self, plan: Plan, hide: bool = True) -> list[tuple[str, str]]:
        """(title, batch script) of each sbatch that `work` would call; jobs to come stand as `<job of pretrain>`.

        What may be a secret is hidden, unless the scripts are wanted as sbatch would get them.
        """
        profile, code = hidden(self.profile) if hide else self.profile, snapshot.expected(self.runs)
        scripts = [BatchScript(array, profile, self.runs, code, plan.wanted.study.name) for array in self.arrays(plan)]
        return [(script.array.title, script.text) for script in scripts]

    def estimate(self, plan: Plan) -> str:
        """What `work` would submit, for a person: jobs, hours and how often they are queued again."""
        return cluster_text(self.arrays(plan), self.profile)

    def check(self, plan: Plan) -> list[str]:
        """What to tell before the plan is submitted. Raises ConfigError for what cannot work with this profile."""
        notes = check_time_to_save(list(plan.entries.values()), self.profile, self.runs)
        todo = self.arrays(plan)
        for array in todo:
            configs = {entry.run.config.batch_size: entry.run.config for entry in array.entries}
            notes += [n for c in configs.values() for n in self.profile.check(c, array.stage, array.resources)]
        if orphans := len(plan.todo) - sum(len(array.tasks) for array in todo):
            notes.append(
                f"{orphans} runs start from runs that a launcher of a machine has, for which no job can wait; "
                "give the command again once those are done"
            )
        return list(dict.fromkeys(notes))

    def work(self, before: Plan) -> Iterator[Event]:
        """Submit what the plan says is missing. Raises ConfigError where SLURM refuses; what it took stays recorded."""
        self.profile.use_cluster()
        with self._alone():
            now = plan(before.wanted, before.retry_failed)
            if not now.todo:
                return
            for entry in now.todo:
                entry.folder.check_shared()
            for note in self.check(now):
                print(f"note: {note}", file=sys.stderr)
            cluster = self._cluster()
            self._cancel(_stale(now))
            code = snapshot.take(self.runs)
            for array in self.arrays(now):
                for entry in array.entries:
                    entry.folder.create(entry.run.config)
                with _held():
                    self._submit(BatchScript(array, self.profile, self.runs, code, now.wanted.study.name))
                    for task, entry in array.tasks.items():
                        submit(entry, now.wanted, f"slurm:{array.job_of(task)}", cluster=cluster)
                if array.each:
                    self._split(array, now.wanted.study.name)
                for task, entry in array.tasks.items():
                    state = "waiting" if array.after else "pending"
                    yield Event(entry, "submitted", Status(state, job=array.job_of(task)))

    # ---- one sbatch

    def _submit(self, script: BatchScript) -> None:
        """What submitit's executor does, but for task numbers that are not 0, 1, 2, ..."""
        from submitit.core.utils import JobPaths

        from .delayed import DelayedSubmission

        array, prepared = script.array, {}
        for task, entry in array.tasks.items():
            delayed = DelayedSubmission(self._job(array, entry))
            delayed.set_timeout(array.resources.minutes, script.executor.max_num_timeout)
            prepared[task] = self.runs / ".slurm" / f".{uuid.uuid4().hex}.pkl"
            delayed.dump(prepared[task])
        try:
            array.job = self._sbatch(script)
            for task, file in prepared.items():
                JobPaths(script.folder, array.job_of(task)).move_temporary_file(file, "submitted_pickle")
        finally:
            for file in prepared.values():
                file.unlink(missing_ok=True)
        # The profile's secrets are in it.
        write_atomic(JobPaths(script.folder, array.job).submission_file, script.text, private=True)
        self.submitted.append(array)

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
            print(f"note: the tasks of job {array.job} were not split: {_last_line(done.stderr)}", file=sys.stderr)

    def _cancel(self, jobs: list[str]) -> None:
        if jobs:
            self.calls["scancel"] += 1
            if others := scheduler.cancel(jobs):  # they never start, and do no harm
                told = f"only who submitted them may cancel {', '.join(sorted(others))}"
                print(f"note: jobs that wait in vain stay in the queue: {told}", file=sys.stderr)

    def _sbatch(self, script: BatchScript) -> str:
        self.calls["sbatch"] += 1
        try:
            done = scheduler.sbatch(script.text, "--parsable")
        except FileNotFoundError:
            raise ConfigError("there is no `sbatch` here: give the command on a login node of the cluster") from None
        if done.returncode:
            said = _last_line(done.stderr)
            raise ConfigError(f"sbatch refused {script.array.title}: {said}; {self._hint(done.stderr)}")
        return done.stdout.strip().partition(";")[0]

    def _job(self, array: Array, entry: Entry):
        from ..job.job import ClusterJob

        runtime = self.profile.runtime(array.stage, self.runs, self.data_roots)
        runtime = runtime.model_copy(update={"tracking_uri": None})  # it is in the script
        if runtime.device == "auto" and array.resources.gpus_per_node:
            # A node whose driver is broken would train on its CPU, for weeks, and nothing would tell.
            runtime = runtime.model_copy(update={"device": "cuda"})
        return ClusterJob(entry.run.signature, runtime, self.profile.restarts_without_progress)

    def _cluster(self) -> str:
        try:
            return scheduler.cluster_name()
        except scheduler.Unreachable as error:
            raise ConfigError(str(error)) from None

    def _hint(self, said: str) -> str:
        """The key of the profile that sbatch's words are about."""
        words = {
            "partition": "partition", "account": "account", "qos": "qos", "QOS": "qos", "feature": "constraint",
            "ime limit": "time_limit", "emory": "mem_gb", "ode count": "nodes", "GRES": "gpus_per_node",
            "ray": "max_array_size", "CPU": "cpus_per_task", "onfiguration": "nodes, gpus_per_node, cpus_per_task",
        }  # fmt: skip
        keys = next((key for word, key in words.items() if word in said), "partition, account, qos, time_limit")
        return f"see {keys} of the profile {self.profile.name}"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the one launcher that submits for this folder of runs, on any machine; says whom it waits for."""
        path = self.runs / ".slurm" / "submit.lock"
        (self.runs / ".slurm" / "batch").mkdir(parents=True, exist_ok=True)
        check_shared([path, path.parent, path.parent / "batch", self.runs / ".code"])
        with locked(path, math.inf, lambda who: print(f"waiting for {who}, who submits", file=sys.stderr)):
            yield


def _stale(plan: Plan) -> list[str]:
    """Jobs in the queue of runs that are submitted anew: they wait for a job that failed, and would for ever."""
    waits = ("pending", "waiting", "blocked")
    return [entry.status.job for entry in plan.todo if entry.status.job and entry.status.state in waits]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no word of why"


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Keep signals back meanwhile, from sbatch too, which inherits this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
