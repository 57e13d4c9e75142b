"""The batch script of an array: what it asks for, what surrounds the command, and how often it may start again.

The script is submitit's, and so is what runs in the job. submitit is imported when a script is made.
"""

import functools
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimae.redact import HIDDEN, public, without_values

from ..cost import job_seconds
from ..profile import Profile
from .arrays import Array
from .snapshot import Snapshot

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
    snapshot: Snapshot
    study: str

    @property
    def folder(self) -> Path:
        """One folder for each job, which submitit names."""
        return self.runs / ".slurm" / "%j"

    @property
    def text(self) -> str:
        return self.executor._make_submission_file_text(self.executor._submitit_command_str, "")

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
            additional_parameters=self._options() | resources.sbatch,
            **{key: value for key, value in asked.items() if value is not None},
        )
        if None not in array.tasks:
            executor.parameters["map_count"] = len(array.tasks)
        return executor

    @property
    def restarts(self) -> int:
        """How often each job may go back to the queue: many times what the estimate says it must."""
        resources = self.array.resources
        seconds = [job_seconds(entry.run.config, resources) for entry in self.array.entries]
        if None in seconds:
            return UNCOUNTED
        return max(RESTARTS, MARGIN * math.ceil(max(seconds) / 60 / resources.minutes))

    def _options(self) -> dict[str, Any]:
        # The folder of a job is not there yet when SLURM opens the script's own output.
        name = "%j" if None in self.array.tasks else "%A_%a"
        output = str(self.runs / ".slurm" / "batch" / f"{name}.log")
        options = {"requeue": True, "chdir": str(self.snapshot.path), "output": output, "error": output}
        if None not in self.array.tasks:
            options["array"] = f"{self.array.indices}%{min(len(self.array.tasks), self.profile.max_jobs)}"
        return options

    def _setup(self) -> list[str]:
        folder = shlex.quote(str(self.runs / ".slurm"))
        return [
            *self.profile.setup,
            # Or a task that fails would end the script, not requeued; and a log would show what is exported.
            *(["set +e", "set +x"] if self.profile.setup else []),
            *(f"export {name}={shlex.quote(value)}" for name, value in self._variables.items()),
            # An editable install would win over the snapshot otherwise.
            f"export PYTHONPATH={shlex.quote(str(self.snapshot.path))}${{PYTHONPATH:+:$PYTHONPATH}}",
            f"cd {shlex.quote(str(self.snapshot.path))}",
            "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",
            f"mkdir -p {folder}/$job",
            f"rm -f {folder}/$job/*.save_tmp",  # submitit's halves, of a disk that was full: it would refuse to go on
            f"bash {self._shell('deadline')} $$ {self._restart()} &",
        ]

    @property
    def _variables(self) -> dict[str, str]:
        address = self.profile.tracking_uri
        return self.profile.environment | ({"MLFLOW_TRACKING_URI": address} if address else {})

    def _teardown(self) -> list[str]:
        return [
            "code=$?",
            f"[[ -e {shlex.quote(str(self.runs / '.slurm'))}/$job/finished ]] && code=0",
            f"bash {self._shell('restart')} $code {self._restart()}",
            "exit $code",
        ]

    def _shell(self, name: str) -> str:
        return shlex.quote(str(self.snapshot.path / "slurm" / f"{name}.sh"))

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


@functools.cache
def _executor() -> type:
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """Makes scripts on machines without SLURM too."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    return Executor
