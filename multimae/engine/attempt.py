"""One attempt at a run, from its first step to its last word in the journal."""

import contextlib
from typing import Protocol

from ..config import Runtime
from ..record.folder import RunFolder
from .distributed import Processes
from .recorder import Recorder
from .task import Diverged, RunFailed
from .usage import sampling


class RunAttempt(Protocol):
    folder: RunFolder
    runtime: Runtime
    processes: Processes
    recorder: Recorder
    step: int

    def run(self) -> str: ...


def see_through(attempt: RunAttempt) -> str:
    """Run it, and write down how it failed. Returns what it returns; raises RunFailed, or Diverged."""
    try:
        with sampling(attempt.folder, attempt.processes, attempt.runtime.usage_seconds):
            return attempt.run()
    except Exception as error:
        failure = attempt.processes.explain(error)
        why = {"reason": str(failure)} | ({"diverged": True} if isinstance(failure, Diverged) else {})
        with contextlib.suppress(RunFailed):  # the disk may be full, and the failure is that
            attempt.recorder.end("failed", step=attempt.step, **why)
        raise failure from error
    finally:
        attempt.recorder.close()
