"""The batch script of an array: what it asks for, what surrounds the command, and how often it may start again.

The script is submitit's, and so is what runs in the job. submitit is imported when a script is made.
"""

import functools
import math
import shlex
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimae.config import ConfigError
from multimae.files import write_atomic
from multimae.redact import HIDDEN, public, without_values

from .. import scheduler
from ..cost import job_seconds
from ..profile import Profile
from .arrays import Array

COMMENT = 512  # characters; the database keeps more, but a queue is read by people
# An estimate is rough, and preemptions count as well. Jobs that get nowhere end by `restarts_without_progress`.
RESTARTS, MARGIN, UNCOUNTED = 50, 10, 1000
# Until submitit listens, a second or two after the start, the signal to save would kill.
IGNORING_SIGNAL = """bash -c 'trap "" USR2; exec "$@"' bash """


@dataclass(frozen=True)
class BatchScript:
    """What sbatch gets for an array of a study: one profile, one snapshot, one folder of runs (absolute)."""

    array: Array
    profile: Profile
    runs: Path
    code: Path  # the snapshot
    study: str

    @property
    def folder(self) -> Path:
        """One folder for each job, which submitit names."""
        return self.runs / ".slurm" / "%j"

    @property
    def text(self) -> str:
        return self.executor._make_submission_file_text(self.executor._submitit_command_str, "")

    def submit(self, work: Mapping[int | None, Callable[[], Any]]) -> None:
        """Hand it to sbatch, and what each task calls to submitit in the job. Raises ConfigError where sbatch refuses.

        What submitit's executor does, but for task numbers that are not 0, 1, 2, ...
        """
        from submitit.core.utils import JobPaths

        from .delayed import DelayedSubmission

        array, prepared = self.array, {}
        for task, call in work.items():
            delayed = DelayedSubmission(call)
            delayed.set_timeout(array.resources.minutes, self.restarts)
            prepared[task] = self.runs / ".slurm" / f".{uuid.uuid4().hex}.pkl"
            delayed.dump(prepared[task])
        try:
            done = scheduler.sbatch(self.text, "--parsable")
            if done.returncode:
                hint = f"see {_keys(done.stderr)} of the profile {self.profile.name}"
                raise ConfigError(f"sbatch refused {array.title}: {last_line(done.stderr)}; {hint}")
            array.job = done.stdout.strip().partition(";")[0]
            for task, file in prepared.items():
                JobPaths(self.folder, array.job_of(task)).move_temporary_file(file, "submitted_pickle")
        finally:
            for file in prepared.values():
                file.unlink(missing_ok=True)
        # The profile's secrets are in it.
        write_atomic(JobPaths(self.folder, array.job).submission_file, self.text, private=True)

    @functools.cached_property
    def executor(self) -> Any:
        """submitit's, with the parameters of this array."""
        array, resources = self.array, self.array.resources
        python = IGNORING_SIGNAL + (self.profile.python or shlex.quote(sys.executable))
        executor = _executor()(self.folder, max_num_timeout=self.restarts, python=python)
        asked = {
            "partition": resources.partition,
            "account": resources.account,
            "qos": resources.qos,
            "constraint": resources.constraint,
            "gpus_per_node": resources.gpus_per_node or None,
            "mem": None if resources.mem_gb is None else f"{resources.mem_gb * 1024:.0f}M",  # 0M: all of a node's
            "dependency": array.dependency,
        }
        executor.update_parameters(
            job_name=f"{self.study}-{array.stage}",
            comment=array.comment(self.study, COMMENT),
            nodes=resources.nodes,
            ntasks_per_node=resources.tasks,
            cpus_per_task=resources.cpus_per_task,
            time=resources.minutes,
            wckey=None,
            signal_delay_s=self.profile.signal_seconds,
            srun_args=[
                f"--cpus-per-task={resources.cpus_per_task}",  # srun does not take it from the job since SLURM 22.05
                "--cpu-bind=cores",
                "--kill-on-bad-exit=1",
                "--open-mode=append",
                "--export=ALL",  # on a site whose sbatch exports nothing, the tasks would lack what the script exports
            ],
            setup=self._setup(),
            teardown=self._teardown(),
            # What is timed has its nodes for itself, whatever the profile says of other jobs.
            additional_parameters=self._options() | resources.sbatch | ({"exclusive": True} if array.alone else {}),
            **{key: value for key, value in asked.items() if value is not None},
        )
        if None not in array.tasks:
            executor.parameters["map_count"] = len(array.tasks)
        return executor

    @property
    def restarts(self) -> int:
        """How often each job may go back to the queue: many times what the estimate says it must."""
        resources = self.array.resources
        seconds = [job_seconds(entry.run, resources) for entry in self.array.entries]
        if None in seconds:
            return UNCOUNTED
        return max(RESTARTS, MARGIN * math.ceil(max(seconds) / 60 / resources.minutes))

    def _options(self) -> dict[str, Any]:
        # The folder of a job is not there yet when SLURM opens the script's own output.
        name = "%j" if None in self.array.tasks else "%A_%a"
        output = str(self.runs / ".slurm" / "batch" / f"{name}.log")
        options = {"requeue": True, "chdir": str(self.code), "output": output, "error": output}
        if None not in self.array.tasks:
            options["array"] = f"{self.array.indices}%{min(len(self.array.tasks), self.profile.max_jobs)}"
        return options

    def _setup(self) -> list[str]:
        folder = shlex.quote(str(self.runs / ".slurm"))
        address = self.profile.tracking_uri
        variables = self.profile.environment | ({"MLFLOW_TRACKING_URI": address} if address else {})
        return [
            *self.profile.setup,
            # Or a task that fails would end the script, not requeued; and a log would show what is exported.
            *(["set +e", "set +x"] if self.profile.setup else []),
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            # An editable install would win over the snapshot otherwise.
            f"export PYTHONPATH={shlex.quote(str(self.code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            f"cd {shlex.quote(str(self.code))}",
            "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",
            f"mkdir -p {folder}/$job",
            f"rm -f {folder}/$job/*.save_tmp",  # submitit's halves, of a disk that was full: it would refuse to go on
            f"bash {self._shell('deadline')} $$ {self._restart()} &",
        ]

    def _teardown(self) -> list[str]:
        return [
            "code=$?",
            f"[[ -e {shlex.quote(str(self.runs / '.slurm'))}/$job/finished ]] && code=0",
            f"bash {self._shell('restart')} $code {self._restart()}",
            "exit $code",
        ]

    def _shell(self, name: str) -> str:
        return shlex.quote(str(self.code / "slurm" / f"{name}.sh"))

    def _restart(self) -> str:
        """JOB MAY_RESTART LIMIT of restart.sh. The limit is far: preemptions and time limits count as well."""
        return f"$job {shlex.quote(str(self.runs / '.slurm'))}/$job/may-restart {max(UNCOUNTED, self.restarts)}"


def hidden(profile: Profile) -> Profile:
    """The profile without what may be a secret, for scripts that are shown: values of variables, here and in shell
    lines, and the user and password of MLflow's address."""
    changes = {
        "environment": dict.fromkeys(profile.environment, HIDDEN),
        "tracking_uri": profile.tracking_uri and public(profile.tracking_uri),
        "setup": tuple(map(without_values, profile.setup)),
        "python": profile.python and without_values(profile.python),
    }
    return profile.model_copy(update=changes)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no word of why"


def _keys(said: str) -> str:
    """The keys of a profile that sbatch's words are about."""
    words = {
        "partition": "partition", "account": "account", "qos": "qos", "QOS": "qos", "feature": "constraint",
        "ime limit": "time_limit", "emory": "mem_gb", "ode count": "nodes", "GRES": "gpus_per_node",
        "ray": "max_array_size", "CPU": "cpus_per_task", "onfiguration": "nodes, gpus_per_node, cpus_per_task",
    }  # fmt: skip
    return next((key for word, key in words.items() if word in said), "partition, account, qos, time_limit")


@functools.cache
def _executor() -> type:
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """Makes scripts on machines without SLURM too."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    return Executor
