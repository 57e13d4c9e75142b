"""The best weights so far, of a run that is tested with those rather than the last (`config.selection`)."""

import math
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, Checkpoints


class BestWeights:
    """By a metric, as `Task.selection` names it. Their checkpoints, of the model's weights alone, lie in `folder`.

    An evaluation that a kill cut off, or whose weights it lost, is made again when the run continues: the checkpoint
    it continues from was written before, and says which weights were the best by then.
    """

    def __init__(self, selection: tuple[str, str], folder: Path):
        self.metric, better = selection
        self._sign = {"higher": 1, "lower": -1}[better]
        self.checkpoints = Checkpoints(folder)
        self.step, self.value = -1, math.nan

    @property
    def progress(self) -> dict[str, Any]:
        """What a checkpoint of the whole training says of them."""
        return {"best": self.step}

    def take(self, kept: Checkpoint | None) -> None:
        """Go on from what was kept before."""
        self.step, self.value = (kept.step, kept.progress["metric"]) if kept else (-1, math.nan)

    def lost(self, before: Checkpoint) -> bool:
        """Whether those are missing which were the best when a checkpoint was written: nothing tells them any more."""
        return self.step < before.progress["best"]

    def beaten(self, step: int, value: float) -> bool:
        """Whether the weights after `step` are better. A step that is repeated has been judged, and is not."""
        if not math.isfinite(value) or step <= self.step:
            return False
        return self.step < 0 or self._sign * value > self._sign * self.value
