"""What every training has: durations, a schedule, and what it costs. Imports no torch."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from ..modalities import SOURCES
from .base import RunConfig
from .fields import Count
from .flops import Flops
from .runtime import Runtime
from .sections import Epochs, Folder, Model, Optimizer, Sources
from .settings import ConfigError

MOST_EVALUATIONS = 100_000
BatchSize = Annotated[Count, Field(le=10**6)]


class TrainingConfig(RunConfig):
    """A run that trains a model."""

    epochs: Epochs
    batch_size: BatchSize  # of all processes and accumulation steps together
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    eval_every_epochs: Epochs | None = None  # None: at the end only
    if TYPE_CHECKING:  # each kind declares it, after these
        inputs: Sources

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        opt = self.optimizer
        if self.lr * opt.weight_decay >= 1:
            raise ValueError(
                f"optimizer.weight_decay {opt.weight_decay:g} at the learning rate {self.lr:g} takes more than all of "
                "a weight at each step; lower one of them"
            )
        if self.eval_every_epochs and self.epochs / self.eval_every_epochs > MOST_EVALUATIONS:
            raise ValueError(
                f"eval_every_epochs {self.eval_every_epochs:g} in {self.epochs:g} epochs is more than "
                f"{MOST_EVALUATIONS:,} evaluations; choose a larger one"
            )
        return self

    def idle(self) -> set[str]:
        idle = super().idle()
        if not self.optimizer.warmup_epochs:
            idle.add("optimizer.warmup_lr")
        if self.eval_every_epochs and self.eval_every_epochs >= self.epochs:  # at the end, as always
            idle.add("eval_every_epochs")
        if isinstance(self.data, Folder) and not self.data.units.keys() & self.fields:
            idle.add("data.depth_unit")
        return idle

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the encoder sees: the modalities of `inputs`, in the order of their tokens."""
        return tuple(SOURCES[source] for source in self.inputs)

    @property
    def sources(self) -> dict[str, str]:
        """Of each modality that is read, the field of a sample that holds it."""
        return dict(zip(self.modalities, self.inputs, strict=True))

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.sources.values())

    # ---- durations, converted once

    def steps_per_epoch(self, samples: int) -> int:
        """Optimizer steps in an epoch over `samples` training samples; the last, incomplete batch is dropped."""
        if samples < self.batch_size:
            raise ConfigError(
                f"batch_size: {self.batch_size} is more than the {samples} training samples of '{self.data.name}'; set "
                f"batch_size={samples} or less"
            )
        return samples // self.batch_size

    def total_steps(self, samples: int) -> int:
        steps = self.epochs * self.steps_per_epoch(samples)
        if round(steps) < 1:
            raise ConfigError(
                f"epochs: {self.epochs:g} is less than one step (an epoch has {self.steps_per_epoch(samples)}); set "
                f"epochs={1 / self.steps_per_epoch(samples):.2g} or more"
            )
        return round(steps)

    @property
    def lr(self) -> float:
        """The peak learning rate (paper Section A: linear scaling)."""
        opt = self.optimizer
        return opt.base_lr if opt.base_batch is None else opt.base_lr * self.batch_size / opt.base_batch

    # ---- cost

    def flops(self) -> Flops:
        """Floating-point operations of one training image."""
        raise NotImplementedError

    def tokens(self) -> int:
        return self.model.tokens * len(self.inputs)

    def images(self) -> int | None:
        samples = self.data.planned
        return self.total_steps(samples) * self.batch_size if samples else None

    def operations(self, needed: Mapping[str, RunConfig]) -> float | None:
        images = self.images()
        return images * self.flops().training if images else None

    def check_processes(self, processes: int, runtime: Runtime) -> None:
        self.check_micro_batch(self.batch_size // (processes * runtime.micro_batches(self.batch_size, processes)))

    def check_micro_batch(self, size: int) -> None:
        """Raises ConfigError where it cannot be computed `size` samples at a time."""

    def own_data(self, classes: Collection[str]) -> dict[str, Any]:
        usual = Folder.model_fields["depth_unit"].default
        return {"model.semseg_classes": 133, "data.depth_unit": usual}  # COCO's ids, as in the authors' pseudo labels

    def notes(self) -> list[str]:
        notes, warmup, start = [], self.optimizer.warmup_epochs, self.optimizer.warmup_lr
        if warmup and start > self.lr:
            notes.append(
                f"optimizer.warmup_lr {start:g} is above the learning rate {self.lr:g} (base_lr x batch_size / "
                "base_batch): the warm-up falls to it; lower warmup_lr, or set warmup_epochs to 0"
            )
        if warmup >= self.epochs:
            notes.append(
                f"optimizer.warmup_epochs {warmup:g} leaves nothing of epochs {self.epochs:g}: the learning rate rises "
                f"to {self.lr:g} over the whole run, which ends before the cosine begins; "
                f"--set optimizer.warmup_epochs={self.epochs / 10:g}, or train longer"
            )
        if self.eval_every_epochs and self.eval_every_epochs > self.epochs:
            notes.append(
                f"eval_every_epochs {self.eval_every_epochs:g} is more than epochs {self.epochs:g}: evaluated at the "
                "end only"
            )
        return notes
