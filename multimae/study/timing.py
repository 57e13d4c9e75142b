"""Measures of what a training costs: the time, rate, memory and utilization of its epochs, what they waited for data,
and the FLOPs of an image. Imports no torch."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import ConfigError, RunConfig, TrainingConfig
from ..record.epochs import KINDS, Epoch, epochs_of
from ..record.folder import RunFolder
from ..units import counted
from .measures import OfConfig, OfRun
from .results import Incomparable
from .study import Row


@dataclass(frozen=True, kw_only=True)
class ImageFlops(OfConfig):
    """GFLOP of one image, forward and backward, counted from sizes (multimae.config.flops)."""

    metric: str = "image_flops"

    def number(self, config: RunConfig) -> float:
        return _training(config, self.stage).flops().training / 1e9


@dataclass(frozen=True, kw_only=True)
class OfEpochs(OfRun):
    """A number of a training's epochs: the median of those that count.

    The first epoch of an attempt does not, as long as there are others. Whether there are is one of the conditions:
    device, processes and their threads, precision, what of `Runtime.how` is not as by default.
    """

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        for row in rows:
            if self.stage in row.stages:
                _training(row.stages[self.stage], self.stage)

    def measured(self, config: RunConfig, folder: RunFolder) -> tuple[float, dict[str, Any]]:
        done = epochs_of(folder.journal.records(*KINDS))
        if not done:
            raise ConfigError(
                f"run {folder.signature}: expected the time of an epoch, found none in {folder.journal.path}: it "
                "trains less than one"
            )
        warm = [epoch for epoch in done if epoch.warm]
        places = [epoch.where for epoch in warm or done]
        if others := [place for place in places if place != places[0]]:
            found = ", and on ".join(_place(place) for place in (places[0], others[0]))
            raise Incomparable(f"run {folder.signature}: its epochs were timed on {found}: these make no median")
        numbers = [self.number(epoch, _training(config, self.stage)) for epoch in warm or done]
        values = [number for number in numbers if number is not None]
        if len(values) < len(numbers):
            raise ConfigError(
                f"run {folder.signature}: expected {self.metric} of each epoch, found none in {folder.journal.path}, "
                f"which an older version has written; {folder.remake}"
            )
        return self.of_all(values), places[0] | {"precision": config.precision, "warm": bool(warm)}

    def number(self, epoch: Epoch, config: TrainingConfig) -> float | None:
        """None where the run has not recorded it."""
        raise NotImplementedError

    def of_all(self, values: list[float]) -> float:
        return statistics.median(values)

    def told(self, conditions: Mapping[str, Any]) -> str:
        how = {key: value for key, value in conditions.items() if key not in ("precision", "warm")}
        which = "after the first of an attempt" if conditions["warm"] else "with the start-up"
        return f"on {_place(how)}, {conditions['precision']}, epochs {which}"


@dataclass(frozen=True, kw_only=True)
class EpochTime(OfEpochs):
    """Minutes, evaluations and checkpoints left out."""

    metric: str = "epoch_minutes"

    def number(self, epoch: Epoch, config: TrainingConfig) -> float | None:
        return epoch.record["seconds"] / 60


@dataclass(frozen=True, kw_only=True)
class Throughput(OfEpochs):
    """Images a second, of all processes together."""

    metric: str = "images_per_second"

    def number(self, epoch: Epoch, config: TrainingConfig) -> float | None:
        return epoch.record.get("images_per_second")


@dataclass(frozen=True, kw_only=True)
class Waiting(OfEpochs):
    """% of the time of an epoch that the process which waited longest waited for data."""

    metric: str = "waiting"

    def number(self, epoch: Epoch, config: TrainingConfig) -> float | None:
        share = epoch.record.get("data_share")
        return None if share is None else 100 * share


@dataclass(frozen=True, kw_only=True)
class PeakMemory(OfEpochs):
    """GiB: the most that the first process had, allocated on its GPU or resident on the CPU."""

    metric: str = "memory"

    def number(self, epoch: Epoch, config: TrainingConfig) -> float | None:
        return epoch.record.get("memory_gib")

    def of_all(self, values: list[float]) -> float:
        return max(values)


@dataclass(frozen=True, kw_only=True)
class BusyCores(OfEpochs):
    """CPU cores that the first process kept busy. Where that is less than its threads on a CPU, other programs ran
    beside it, of which no launcher knows: the other numbers are then no measure of the machine."""

    metric: str = "cores"

    def number(self, epoch: Epoch, config: TrainingConfig) -> float | None:
        return epoch.record.get("cores")

    def told(self, conditions: Mapping[str, Any]) -> str:
        return f"{super().told(conditions)}; on a CPU less than the threads where other programs ran beside it"


@dataclass(frozen=True, kw_only=True)
class Utilization(OfEpochs):
    """% of the rate of large matrix products, which each attempt measures as it starts, that a training gets out of its
    devices: the FLOPs of `ImageFlops` a second. Of a vendor's nominal peak it is less."""

    metric: str = "utilization"

    def number(self, epoch: Epoch, config: TrainingConfig) -> float | None:
        images, rate = epoch.record.get("images_per_second"), epoch.start.get("matrix_gflops")
        return 100 * config.flops().training / 1e9 * images / rate if images and rate else None

    def told(self, conditions: Mapping[str, Any]) -> str:
        return f"{super().told(conditions)}; of the rate that matrix products reached there, not of a nominal peak"


def _training(config: RunConfig, stage: str) -> TrainingConfig:
    if not isinstance(config, TrainingConfig):
        raise ConfigError(f"{stage} trains nothing ({config.task}): it has no epochs")
    return config


def _place(how: Mapping[str, Any]) -> str:
    """For a reader: `8 x A100, alone`; `1 x CPU, 1 thread each, zero_stage 1`."""
    text = f"{how['processes']} x {how['device']}"
    text += f", {counted(how['threads'], 'thread')} each" if how["threads"] else ""
    others = {key: value for key, value in how.items() if key not in ("processes", "device", "threads")}
    return text + "".join(f", {key}" if value is True else f", {key} {value}" for key, value in others.items())
