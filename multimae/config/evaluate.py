"""What a finished transfer is worth on other data, or on another split of its own (paper Section E)."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from .base import SIGNATURE_LENGTH, RunConfig
from .classify import Classify
from .sections import Data, Folder
from .settings import ConfigError
from .transfer import Transfer


class Evaluate(RunConfig, task="evaluate", runs="multimae.tasks.evaluate:EvaluateTask"):
    """Trains nothing: the model and its settings are those of the transfer that `init` names.

    `present_only`: a classifier chooses among those of its classes that have a sample in the split, as is usual for the
    200 of ImageNet-A and -R; otherwise among all.
    """

    task: Literal["evaluate"] = "evaluate"
    init: Annotated[str, Field(pattern=rf"^run:[0-9a-f]{{{SIGNATURE_LENGTH}}}$")] | None = None  # of the transfer
    present_only: bool = False

    @property
    def reads(self) -> dict[str, tuple[Data, str]]:
        """The train split is looked at too: its folders number the classes."""
        return {"eval": (self.data, "eval")}

    def idle(self) -> set[str]:
        idle, data = super().idle() | {"seed"}, self.data
        if not (isinstance(data, Folder) and data.held_out):
            idle.add("data.train_samples")
            if isinstance(data, Folder) and not data.eval_samples:
                idle.add("data.subset_seed")
        return idle

    def check_needs(self, needed: Mapping[str, RunConfig]) -> None:
        if self.init is None:
            raise ConfigError("init: expected run:SIGNATURE of the transfer that is evaluated, found none")
        for source in needed.values():
            if not isinstance(source, Transfer):
                raise ConfigError(
                    f"init: run {source.signature} is of the task {source.task}, and only a transfer can be evaluated "
                    "on other data, such as classify or segment"
                )
            if self.present_only and not isinstance(source, Classify):
                raise ConfigError(
                    f"present_only chooses among the classes of images, and run {source.signature} is of the task "
                    f"{source.task}; leave it out"
                )
            self._check_unit(source)

    def _check_unit(self, source: Transfer) -> None:
        """Of the data set that the transfer read, which has one unit."""
        mine, its = self.data, source.data
        if not (isinstance(mine, Folder) and isinstance(its, Folder) and mine.name == its.name):
            return
        if mine.depth_unit != its.depth_unit and its.units.keys() & source.fields:
            raise ConfigError(
                f"data.depth_unit is {mine.depth_unit:g}, and run {source.signature} read '{its.name}' with "
                f"{its.depth_unit:g}: give --set data.depth_unit={its.depth_unit!r}"
            )

    def images(self) -> int | None:
        return self.data.eval_samples

    def operations(self, needed: Mapping[str, RunConfig]) -> float | None:
        images = self.images()
        forward = [source.flops().forward for source in needed.values() if isinstance(source, Transfer)]
        return images * sum(forward) if images and forward else None
