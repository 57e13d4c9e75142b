"""What every kind of run has: its identity, how it is edited, and durations. Imports no torch."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, model_validator

from ..modalities import SOURCES
from .fields import Count, Section, Whole, validate
from .sections import Data, Epochs, Model, Optimizer, Sources
from .settings import ConfigError, Dumper, difference, merged, plain, set_dotted, shown

SIGNATURE_LENGTH = 10
MOST_EVALUATIONS = 100_000


class RunConfig(Section):
    """What every task has. One run is a `Pretrain`, `Classify` or `Segment`."""

    tasks: ClassVar[dict[str, type["RunConfig"]]] = {}

    task: str
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0  # torch's generator on a CPU knows 32 bits: others would repeat
    epochs: Epochs
    batch_size: Annotated[Count, Field(le=10**6)]  # of all processes and accumulation steps together
    precision: Literal["fp32", "bf16"] = "bf16"  # bf16 is mixed: parameters and optimizer stay float32
    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    eval_every_epochs: Epochs | None = None  # None: at the end only
    if TYPE_CHECKING:  # each kind of run declares it, after these
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

    def __init_subclass__(cls, task: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        if task:
            RunConfig.tasks[task] = cls

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
        """What a sample must hold."""
        return tuple(self.sources.values())

    @property
    def needs(self) -> str | None:
        """The signature of the run that must be done before this one can start."""
        return None

    # ---- identity

    def resolved(self) -> dict[str, Any]:
        """Every setting, as plain YAML-able values."""
        return plain(self.model_dump())

    def delta(self) -> dict[str, Any]:
        """What differs from the defaults of this task, and the task."""
        return {"task": self.task} | difference(self.resolved(), defaults(self.task))

    @property
    def signature(self) -> str:
        canonical = json.dumps(self.delta(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:SIGNATURE_LENGTH]

    def edit(self, changes: Mapping[str, Any]) -> Self:
        """A new config with dotted keys changed: `config.edit({"masking.alpha": 0.2})`."""
        values = self.resolved()
        if changes.get("task", self.task) != self.task:
            raise ConfigError(f"task: this is {self.task}, and no other; each task has recipes of its own")
        for key, value in changes.items():
            set_dotted(values, key, value)
        return validate(type(self), values)

    def to_yaml(self) -> str:
        return yaml.dump(self.resolved(), Dumper=Dumper, sort_keys=False)

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

    def notes(self) -> list[str]:
        """What to tell of a run that is possible, and perhaps not meant."""
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


def build(values: Mapping[str, Any]) -> RunConfig:
    """The config of `values`, a (possibly partial) mapping that names its `task`; the rest are the task's defaults."""
    task = values.get("task")
    if not isinstance(task, str) or task not in RunConfig.tasks:
        raise ConfigError(f"task: expected one of {sorted(RunConfig.tasks)}, found {shown(task)}")
    return validate(RunConfig.tasks[task], merged(defaults(task), values))


@functools.cache
def defaults(task: str) -> Mapping[str, Any]:
    """Every setting of a task; not to be changed."""
    return RunConfig.tasks[task].model_validate({}).resolved()
