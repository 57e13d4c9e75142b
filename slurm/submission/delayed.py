"""What submitit pickles for a job, and pickles again when it queues the job again. submitit is imported with it."""

import pickle
from pathlib import Path

import cloudpickle
from submitit.core import utils

from multimae.files import write_atomic


class DelayedSubmission(utils.DelayedSubmission):
    """submitit's, by the name that it looks for, in a private file."""

    def dump(self, filepath: str | Path) -> None:
        write_atomic(Path(filepath), cloudpickle.dumps(self, pickle.HIGHEST_PROTOCOL), private=True)
