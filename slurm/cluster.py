"""The SLURM back end: a plan's runs as job arrays, each waiting for what it starts from. Imports no torch.

Whoever submits holds a lock and plans anew under it, so two people who give the command at once submit each run once.
What was submitted is recorded, run by run, before the next array is: a launcher that dies loses nothing.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from multimae.config import ConfigError
from multimae.engine.sharing import check_shared

from . import launch, lead, scheduler, snapshot
from .arrays import Array, arrays, stage_of
from .batch import COMMENT, Batch, hidden
from .estimate import cluster_text
from .launch import Entry, Event, Plan
from .profile import Profile
from .state import Status

HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # back, between sbatch and the record of what it submitted


class Cluster:
    """Submits a plan's runs and ends: the scheduler has them."""

    def __init__(self, profile: Profile, runs: Path, data_roots: Mapping[str, Path] | None = None):
        """Raises ConfigError where the profile's cluster cannot be spoken to from here."""
        self.profile, self.runs = profile, Path(os.path.abspath(runs))
        self.data_roots = dict(data_roots or {})
        self.calls: Counter[str] = Counter()  # of SLURM's commands that change something
        self.submitted: list[Array] = []

    def scripts(self, plan: Plan, hide: bool = True) -> list[tuple[str, str]]:
        """(title, batch script) of each sbatch that `work` would call; jobs to come stand as `<job of pretrain>`.

        What may be a secret is hidden, unless the scripts are wanted as sbatch would get them.
        """
        profile = hidden(self.profile) if hide else self.profile
        batch = Batch(profile, self.runs, snapshot.expected(self.runs), plan.study.name)
        return [(_title(array), batch.script(array)) for array in arrays(plan, self.profile.max_array_size)]

    def estimate(self, plan: Plan) -> str:
        """What `work` would submit, for a person: jobs, hours and how often they are queued again."""
        return cluster_text(arrays(plan, self.profile.max_array_size), self.profile)

    def check(self, plan: Plan) -> list[str]:
        """What to tell before the plan is submitted. Raises ConfigError for what cannot work with this profile."""
        notes = lead.check(list(plan.entries.values()), self.profile, self.runs)
        configs = {(stage_of(entry), entry.run.config.batch_size): entry.run.config for entry in plan.todo}
        notes += [note for (stage, _), config in configs.items() for note in self.profile.check(config, stage)]
        orphans = len(plan.todo) - sum(len(a.tasks) for a in arrays(plan, self.profile.max_array_size))
        if orphans:
            notes.append(
                f"{orphans} runs start from runs that a launcher of a machine has, for which no job can wait; "
                "give the command again once those are done"
            )
        return list(dict.fromkeys(notes))

    def work(self, plan: Plan) -> Iterator[Event]:
        """Submit what the plan says is missing. Raises ConfigError where SLURM refuses; what it took stays recorded."""
        self.profile.use_cluster()
        with self._alone():
            plan = launch.replan(plan)
            if not plan.todo:
                return
            for entry in plan.todo:
                entry.folder.check_shared()
            for note in self.check(plan):
                print(f"note: {note}", file=sys.stderr)
            cluster = self._cluster()
            self._cancel(_stale(plan))
            batch = Batch(self.profile, self.runs, snapshot.take(self.runs), plan.study.name)
            for array in arrays(plan, self.profile.max_array_size):
                for entry in array.entries:
                    entry.folder.create(entry.run.config)
                with _held():
                    self._submit(batch, array)
                    for task, entry in array.tasks.items():
                        launch.submit(entry, plan, f"slurm:{array.job_of(task)}", cluster=cluster)
                if array.each:
                    self._split(array, plan.study.name)
                for task, entry in array.tasks.items():
                    state = "waiting" if array.after else "pending"
                    yield Event(entry, "submitted", Status(state, job=array.job_of(task)))

    # ---- one sbatch

    def _submit(self, batch: Batch, array: Array) -> None:
        """What submitit's executor does, but for task numbers that are not 0, 1, 2, ..."""
        from submitit.core.utils import JobPaths

        from .delayed import DelayedSubmission
        from .private import write_private

        executor, script = batch.executor(array), batch.script(array)
        resources = self.profile.resources(array.stage)
        prepared = {}
        for task, entry in array.tasks.items():
            job = self._job(array, entry)
            delayed = DelayedSubmission(job)
            delayed.set_timeout(resources.minutes, executor.max_num_timeout)
            prepared[task] = self.runs / ".slurm" / f".{uuid.uuid4().hex}.pkl"
            delayed.dump(prepared[task])
        try:
            array.job = self._sbatch(script, array)
            for task, file in prepared.items():
                JobPaths(batch.folder, array.job_of(task)).move_temporary_file(file, "submitted_pickle")
        finally:
            for file in prepared.values():
                file.unlink(missing_ok=True)
        write_private(JobPaths(batch.folder, array.job).submission_file, script)  # the profile's secrets are in it
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
            try:
                scheduler.cancel(jobs)
            except scheduler.Unreachable as error:  # they are somebody else's; they never start, and do no harm
                print(f"note: jobs that wait in vain stay in the queue: {error}", file=sys.stderr)

    def _sbatch(self, script: str, array: Array) -> str:
        self.calls["sbatch"] += 1
        try:
            done = scheduler.sbatch(script, "--parsable")
        except FileNotFoundError:
            raise ConfigError("there is no `sbatch` here: give the command on a login node of the cluster") from None
        if done.returncode:
            raise ConfigError(f"sbatch refused {_title(array)}: {_last_line(done.stderr)}; {self._hint(done.stderr)}")
        return done.stdout.strip().partition(";")[0]

    def _job(self, array: Array, entry: Entry):
        from .job import ClusterJob

        runtime = self.profile.runtime(array.stage, self.runs, self.data_roots)
        runtime = runtime.model_copy(update={"tracking_uri": None})  # it is in the script
        if runtime.device == "auto" and self.profile.resources(array.stage).gpus_per_node:
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
        with open(path, "a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                print(f"waiting for {file.read().strip() or 'another launcher'}, who submits", file=sys.stderr)
                fcntl.lockf(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(f"{scheduler.user()} (process {os.getpid()} on {socket.gethostname()}, {time.strftime('%T')})")
            file.flush()
            yield


def _title(array: Array) -> str:
    if None in array.tasks:
        return f"{array.stage}: {array.entries[0].run.label}"
    return f"{array.stage}: {len(array.tasks)} jobs, {array.indices}"


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
