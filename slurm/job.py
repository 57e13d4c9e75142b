"""What a job carries: a signature and paths. torch is imported inside the job."""

from dataclasses import dataclass

from multimae.config import Runtime
from multimae.engine.folder import RunFolder


@dataclass(frozen=True)
class Job:
    """Trains the run of a signature. Its folder, which holds its config, must exist."""

    signature: str
    runtime: Runtime

    @property
    def folder(self) -> RunFolder:
        return RunFolder.of(self.runtime.runs, self.signature)

    def __call__(self) -> str:
        """`finished` or `interrupted`. Raises what the training raises."""
        from multimae.run import run

        return run(self.folder.config(), self.runtime)
