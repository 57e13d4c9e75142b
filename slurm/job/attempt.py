"""One start of a SLURM job: what it writes into the run's jobs.jsonl, and whether it may start again. Imports no torch.

began     {job, cluster, restart, nodes, host, step, cpus}    first; `step`: of the newest whole checkpoint, or -1
released  {job, cluster, reason}                              it was asked to stop, has saved, and gives the job back
ended     {job, state, reason}                                it ended for good, by an error that no restart mends
"""

import contextlib
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from multimae.config.runtime import cpus
from multimae.engine.retry import retry
from multimae.engine.task import RunFailed
from multimae.record.folder import RunFolder

from . import logs
from .rendezvous import JobProcess

LOCK_SECONDS = 600.0  # how long a shared file system may take to give up the lock of a process whose node died
LAST_WORDS = 3.0  # seconds that the first process has to say why all of them ended


class NoProgress(RunFailed):
    """The job was started again and again, and never came further."""


@dataclass(frozen=True)
class Attempt:
    """This start of the job, seen from one of its processes."""

    run: RunFolder
    place: JobProcess
    files: Path  # the job's folder, with all that its processes print

    @classmethod
    def of(cls, run: RunFolder, place: JobProcess) -> "Attempt":
        return cls(run, place, logs.folder_of(run.path.parent, place.job))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.place.rank == 0

    @property
    def job(self) -> str:
        return f"slurm:{self.place.job}"

    @property
    def cluster(self) -> str | None:
        return os.environ.get("SLURM_CLUSTER_NAME")

    @property
    def _leave(self) -> Path:
        """The file without which slurm/restart.sh does not queue the job again."""
        return self.files / "may-restart"

    def begin(self, restarts_without_progress: int) -> None:
        """Raises RunLocked where another job writes the run, NoProgress after too many starts in vain."""
        retry(self._leave.touch, OSError, lambda told: print(told, file=sys.stderr))
        with self.run.claim(LOCK_SECONDS if self.place.restart else 0):
            self._begin(restarts_without_progress)

    def _begin(self, restarts_without_progress: int) -> None:
        step = self.run.saved_step
        self.run.jobs.write(
            "began",
            job=self.job,
            cluster=self.cluster,
            restart=self.place.restart,
            nodes=os.environ.get("SLURM_JOB_NODELIST"),
            host=socket.gethostname(),
            step=step,
            cpus=cpus(),
        )
        self.run.log.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (self.run.log / f"slurm-{self.place.job}").symlink_to(os.path.relpath(self.files, self.run.log))
        restarts = self.starts_in_vain - 1
        if restarts > restarts_without_progress:
            self._fail(step, restarts)

    @property
    def starts_in_vain(self) -> int:
        """How often in a row, this one included, the run was begun at one step without having been asked to stop."""
        count, step = 0, None
        for record in self.run.jobs.backwards():
            if record["kind"] in ("submitted", "released") or (step is not None and record.get("step", step) != step):
                break
            if record["kind"] == "began":
                count, step = count + 1, record["step"]
        return count

    def _fail(self, step: int, restarts: int) -> None:
        """Journal the evidence."""
        errors = logs.last_errors(self.files)
        last = self.run.journal.last("failed", "interrupted") or {}
        cause = logs.cause(self.files) or last.get("reason") or "its processes ended without a word"
        place = f"step {step}" if step >= 0 else "its beginning"
        reason = f"{restarts} restarts did not get past {place}: {cause}. What each process printed is in {self.files}"
        told = {f"rank {rank}": error for rank, error in errors.items()}
        self.run.journal.write("failed", step=max(step, 0), reason=reason, restarts=restarts, errors=told)
        raise NoProgress(reason)

    def tell_few_cpus(self, workers: int) -> None:
        """Data loaders that share one CPU with the training starve it, and nothing else would say why."""
        if (bound := cpus()) < workers + 1:
            print(
                f"process {self.place.rank} is bound to {bound} CPUs, and {workers} workers and the training need "
                f"{workers + 1}: raise cpus_per_task in the profile, or lower runtime.workers",
                file=sys.stderr,
            )

    def release(self) -> None:
        """Write down, once, that the run stops because it was asked to."""
        last = self.run.jobs.last("began", "released")
        if last and last["kind"] == "began":
            asked = self.run.journal.last("interrupted") or {"time": 0.0}
            reason = asked["reason"] if asked["time"] >= last["time"] else "a signal before the training began"
            self.run.jobs.write("released", job=self.job, cluster=self.cluster, reason=reason)

    def end(self, reason: str) -> None:
        """End for good, with an error."""
        self._leave.unlink(missing_ok=True)
        if not self.first:  # from several nodes at once, lines of a shared file get lost
            time.sleep(LAST_WORDS)
            last = self.run.jobs.last("began", "ended") or {"kind": ""}
            if last["kind"] == "ended":
                return
        self.run.jobs.write("ended", job=self.job, state="failed", reason=reason)

    def finish(self) -> None:
        """End as done, also where a process crashes as it ends: a job that failed would let no transfer start."""
        (self.files / "finished").touch()  # the script looks for it
        self._leave.unlink(missing_ok=True)
