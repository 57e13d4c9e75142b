"""What a job carries: a signature and paths. torch and submitit are imported inside the job."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from multimae.config import ConfigError
from multimae.engine.task import Diverged, RunFailed
from multimae.record.folder import RunLocked
from multimae.record.sharing import share
from multimae.study.local import INTERRUPTED, Job
from multimae.tracking import following, is_server

from .. import scheduler
from .attempt import Attempt, NoProgress
from .rendezvous import JobProcess, meet

if TYPE_CHECKING:
    from torch.distributed import TCPStore

    from ..submission.delayed import DelayedSubmission

LAST_NEWS = 5.0  # seconds that MLflow gets at the end of a job; `multimae sync` sends the rest
PAUSE = 10.0  # seconds between two attempts to reach a scheduler that is down
OVER = "over"  # the first process's word to the others


@dataclass(frozen=True)
class ClusterJob(Job):
    """What every process of a SLURM job does, which goes back to the queue until the run is finished.

    submitit pickles it, without the address of MLflow: that may hold a password, and comes by the job's environment
    (slurm/submission/script.py). A signal before the training began is submitit's, which queues the job again at once;
    later ones are the training's, which saves first. After an error the batch script queues the job again
    (slurm/restart.sh), unless the first process has taken away its leave to.
    """

    restarts_without_progress: int = 3

    def __call__(self) -> str:
        share(self.runtime.runs)
        attempt = Attempt.of(self.folder, JobProcess.here())
        try:
            attempt.tell_few_cpus(self.runtime.workers or 0)
            if attempt.first:
                attempt.begin(self.restarts_without_progress)
            store = meet(attempt.place, attempt.files, 60 * self.runtime.timeout_minutes)
            with self._followed(attempt):
                outcome = super().__call__()
        except (ConfigError, Diverged, NoProgress) as error:
            attempt.end(str(error))
            raise
        except RunLocked as error:
            if not attempt.place.restart:  # another job has the run; a restart is locked out by its own dead node
                attempt.end(str(error))
            raise
        except RunFailed as error:
            if isinstance(error.__cause__, ConfigError):
                attempt.end(str(error))
            raise
        if outcome == "interrupted":
            self._hand_over(attempt, store)
        if attempt.first:
            attempt.finish()
        return outcome

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit calls in the first process before it queues the job again."""
        from ..submission.delayed import DelayedSubmission

        Attempt.of(self.folder, JobProcess.here()).release()
        return DelayedSubmission(self)

    def _followed(self, attempt: Attempt) -> contextlib.AbstractContextManager[None]:
        """MLflow is kept up to date within, where it is a server: many jobs must not write one file."""
        uri = self.runtime.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        if not attempt.first or not is_server(uri):
            return contextlib.nullcontext()
        return following(self.runtime.runs, uri, self.signature, LAST_NEWS)

    def _hand_over(self, attempt: Attempt, store: "TCPStore | None") -> None:
        """Give the job back to the queue; does not return. Were another process to end first, srun would kill all."""
        seconds = 60 * self.runtime.timeout_minutes
        try:
            if attempt.first:
                attempt.release()
                _requeue(attempt.place.job, seconds)
            elif store:
                with contextlib.suppress(RuntimeError):  # the first process is gone, or does not end
                    store.wait([OVER], timedelta(seconds=seconds))
        finally:
            if attempt.first and store:
                store.set(OVER, "")
        sys.exit(INTERRUPTED)


def _requeue(job: str, seconds: float) -> None:
    """Let submitit queue the job again, which ends this process. Returns where it has left the queue's hands already:
    it is being cancelled, or was queued again by somebody else. A scheduler that is down is waited for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        seen = (scheduler.query([job]) or {}).get(job)
        if seen and seen.state != "RUNNING":
            return
        try:
            signal.raise_signal(signal.SIGUSR2)  # submitit's handler, which the training has put back
        except subprocess.SubprocessError as error:
            print(f"the scheduler does not take job {job} back: {error}", file=sys.stderr, flush=True)
        time.sleep(PAUSE)
    raise TimeoutError(f"the scheduler did not take job {job} back within {seconds:.0f} s")
