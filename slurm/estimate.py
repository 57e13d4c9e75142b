"""What a study costs: time and GPU-hours from counted FLOPs, at a rate that is said."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from multimae.config import RunConfig
from multimae.flops import flops, training_flops

from .arrays import Array
from .profile import Profile, Resources
from .state import Status

# Operations a second that a training step really gets, assumed until something has been measured.
CORE_RATE = 20e9  # of one CPU core in fp32, small models
GPU_RATE = 30e12  # of an A100: what the paper's 6.0 minutes an epoch (Table 15) come to


@dataclass(frozen=True)
class Estimate:
    operations: float
    runs: int
    uncounted: int  # runs whose number of training samples is not in the config

    @classmethod
    def of(cls, configs: Sequence[RunConfig]) -> "Estimate":
        counted = [config for config in configs if config.data.train_samples]
        return cls(sum(map(training_flops, counted)), len(configs), len(configs) - len(counted))

    def text(self, slots: int, device: str) -> str:
        """For a person; `slots` devices, each a `core` or a `GPU`."""
        if not self.runs:
            return "\nNothing to run."
        text = f"\nWould run {self.runs} runs"
        if self.uncounted == self.runs:
            return text + ". Their cost is not counted: data.train_samples is not given, so they take all there are"
        text += f": {operations(self.operations)} of training, counted"
        if self.uncounted:
            text += f" ({self.uncounted} runs not: their data.train_samples is not given)"
        hours = self.operations / GPU_RATE / 3600
        text += f"\n  {hours:,.{1 if hours > 1 else 4}f} GPU-hours at {operations(GPU_RATE)}/s a GPU"
        text += " (assumed: what the paper's epoch times come to on an A100)"
        rate = GPU_RATE if device == "GPU" else CORE_RATE
        text += f"\n  {duration(self.operations / rate / slots)} on {slots} {device}{'s' * (slots > 1)} of this machine"
        return text + f" at {operations(rate)}/s each (assumed; start-up not counted)"

    @staticmethod
    def left(runs: Iterable[tuple[RunConfig, Status]], slots: int) -> float | None:
        """Seconds until all is done, if what has not begun computes as fast as what runs now."""
        todo, rates = 0.0, []
        for config, status in runs:
            if not config.data.train_samples or status.state in ("done", "failed", "blocked"):
                continue
            beat = status.heartbeat
            share = beat["step"] / beat["total_steps"] if beat.get("total_steps") else 0.0
            todo += training_flops(config) * (1 - share)
            if status.state == "running" and beat.get("images_per_second"):
                rates.append(beat["images_per_second"] * flops(config).training)
        return todo / (sum(rates) / len(rates)) / slots if rates else None


def rate(resources: Resources) -> float:
    """Operations a second of a whole job, assumed."""
    if resources.gpus_per_node:
        return resources.nodes * resources.gpus_per_node * GPU_RATE
    return resources.processes * resources.cpus_per_task * CORE_RATE


def job_seconds(config: RunConfig, resources: Resources) -> float | None:
    """Of training a run in one job, however often that is queued again; None where it cannot be counted."""
    return training_flops(config) / rate(resources) if config.data.train_samples else None


@dataclass(frozen=True)
class StageCost:
    """What the jobs of one stage take on a cluster."""

    stage: str
    resources: Resources
    seconds: tuple[float, ...]  # of each job that can be counted
    jobs: int
    side: int  # jobs at the same time
    waits: bool  # for another stage's jobs

    @classmethod
    def of(cls, stage: str, arrays: Sequence[Array], profile: Profile) -> "StageCost":
        resources = profile.resources(stage)
        mine = [array for array in arrays if array.stage == stage]
        seconds = [job_seconds(entry.run.config, resources) for array in mine for entry in array.entries]
        side = sum(min(len(array.tasks), profile.max_jobs) for array in mine)
        known = tuple(s for s in seconds if s is not None)
        return cls(stage, resources, known, len(seconds), side, any(array.after for array in mine))

    @property
    def units(self) -> int:
        """GPUs of a job, or CPU cores where it has none."""
        asked = self.resources
        return asked.nodes * asked.gpus_per_node or asked.processes * asked.cpus_per_task

    @property
    def unit(self) -> str:
        return "GPU" if self.resources.gpus_per_node else "core"

    @property
    def hours(self) -> float:
        """GPU-hours, or core-hours."""
        return sum(self.seconds) * self.units / 3600

    @property
    def wall_seconds(self) -> float:
        return max(max(self.seconds, default=0.0), sum(self.seconds) / self.side)

    def text(self) -> str:
        text = f"  {self.stage:<9} {_count(self.jobs, 'job')}, each {_count(self.resources.nodes, 'node')} with "
        text += _count(self.units // self.resources.nodes, self.unit)
        text += f", {self.side} at the same time" if self.side < self.jobs else ""
        if self.seconds:
            longest, limit = max(self.seconds), 60 * self.resources.minutes
            text += f": {duration(longest)} each, {self.hours:,.2f} {self.unit}-hours"
            text += f", within {_count(math.ceil(longest / limit), 'time limit')} of {duration(limit)}"
        if uncounted := self.jobs - len(self.seconds):
            text += f" ({uncounted} not counted: their data.train_samples is not given)"
        return text


def cluster_text(arrays: Sequence[Array], profile: Profile) -> str:
    """For a person: what would be submitted, how long it takes and what it costs."""
    if not arrays:
        return "\nNothing to submit."
    stages = dict.fromkeys(array.stage for array in arrays)
    costs = [StageCost.of(stage, arrays, profile) for stage in stages]
    jobs, several = sum(cost.jobs for cost in costs), sum(len(array.tasks) > 1 for array in arrays)
    calls = _count(len(arrays), "sbatch call")
    lines = [f"\nWould submit {_count(jobs, 'job')} ({_count(several, 'array')}) by {calls}"]
    lines += [cost.text() for cost in costs]
    for unit, each in (("GPU", GPU_RATE), ("core", CORE_RATE)):
        if hours := sum(cost.hours for cost in costs if cost.unit == unit):
            lines.append(f"  {hours:,.2f} {unit}-hours at {operations(each)}/s a {unit} (assumed)")
    first = max((cost.wall_seconds for cost in costs if not cost.waits), default=0.0)
    then = max((cost.wall_seconds for cost in costs if cost.waits), default=0.0)
    if first or then:
        lines.append(f"  {duration(first + then)} from the first start to the last result, if nodes are free at once")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def operations(count: float) -> str:
    """`12.3 TFLOP`."""
    exponent = min(6, max(3, int(math.log10(count)) // 3))
    return f"{count / 1000**exponent:,.1f} {' KMGTPE'[exponent]}FLOP"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 12 min`, `12 days`, `3 years`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 72 * 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    days = seconds / 86400
    return f"{days:.0f} days" if days < 1000 else f"{days / 365:.0f} years"
