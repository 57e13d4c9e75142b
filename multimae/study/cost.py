"""What a study costs on this machine, from counted FLOPs at a rate that is said; and what it needs of a disk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..config import RunConfig, Runtime, Scenes, TrainingConfig
from ..modalities import DENSE, MASK
from ..record.state import Status
from ..units import counted, duration, operations, size
from .study import Row, Run, Study, runs_of

# Operations a second that a training step really gets, assumed until something has been measured.
CORE_RATE = 20e9  # of one CPU core in fp32, small models
GPU_RATE = 30e12  # of an A100: what the paper's 6.0 minutes an epoch (Table 15) come to

# Of a disk.
PARAMETER, CHECKPOINT = 4, 12  # bytes of one in the weights, and with AdamW's moments in a checkpoint
CHECKPOINTS = 3  # while a run trains: the last two, and the one that is being written
RECORD = 400  # bytes of the journal, every `log_every_steps`
FILES = 14  # of a run that is done: config, records, weights, a picture, logs, its node's, MLflow's, its link
SCENE, DENSE_SCENE = 6, 15  # bytes of a pixel of the embedded scenes: rgb, depth, semseg; and all dense targets


@dataclass(frozen=True)
class Estimate:
    operations: float
    runs: int
    uncounted: int  # runs whose number of training samples is not in the config

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Estimate":
        counted = [run.operations for run in runs if run.operations is not None]
        return cls(sum(counted), len(runs), len(runs) - len(counted))

    def text(self, slots: int, device: str) -> str:
        """For a person; `slots` devices, each a `core` or a `GPU`."""
        if not self.runs:
            return "\nNothing to run."
        text = f"\nWould run {self.runs} runs"
        if self.uncounted == self.runs:
            return text + ". Their cost is not counted: how many samples is not given, so they take all there are"
        text += f": {operations(self.operations)} of training, counted"
        if self.uncounted:
            text += f" ({self.uncounted} runs not: how many samples is not given)"
        hours = self.operations / GPU_RATE / 3600
        text += f"\n  {hours_text(hours)} GPU-hours at {operations(GPU_RATE)}/s a GPU"
        text += " (assumed: what the paper's epoch times come to on an A100)"
        rate = GPU_RATE if device == "GPU" else CORE_RATE
        text += f"\n  {duration(self.operations / rate / slots)} on {slots} {device}{'s' * (slots > 1)} of this machine"
        return text + f" at {operations(rate)}/s each (assumed; start-up not counted)"

    @staticmethod
    def left(runs: Iterable[tuple[Run, Status]], slots: int) -> float | None:
        """Seconds until all is done, if what has not begun computes as fast as what runs now."""
        todo, rates = 0.0, []
        for run, status in runs:
            if run.operations is None or status.state in ("done", "failed", "refused", "blocked"):
                continue
            beat = status.heartbeat
            share = beat["step"] / beat["total_steps"] if beat.get("total_steps") else 0.0
            todo += run.operations * (1 - share)
            if status.state == "running" and share and beat.get("seconds_left"):
                rates.append(run.operations * (1 - share) / beat["seconds_left"])
        return todo / (sum(rates) / len(rates)) / slots if rates else None


def parts_text(study: Study, rows: Sequence[Row]) -> str:
    """What each of several studies costs at a GPU's assumed rate, done or not, and the paper as a whole."""
    lines, paper = [], dict[str, Run]()
    for part, its in study.of_parts(rows):
        runs = runs_of(its)
        paper |= runs_of([row for row in its if not row.aside]) if part.published else {}
        name = part.heading if part.published else f"{part.title} (not in the paper)"
        lines.append(f"  {hours_text(gpu_hours(runs)):>10} GPU-hours  {counted(len(runs), 'run')}: {name}")
    lines.append(
        f"  {hours_text(gpu_hours(paper)):>10} GPU-hours  {counted(len(paper), 'run')}: all of the paper's, each once"
    )
    return "\n".join(["\nWith what is done already, each as if alone:", *lines])


def gpu_hours(runs: Mapping[str, Run]) -> float:
    """At a GPU's assumed rate, of what is counted."""
    return sum(run.operations or 0 for run in runs.values()) / GPU_RATE / 3600


def hours_text(hours: float) -> str:
    return f"{hours:,.{1 if hours > 1 else 4}f}"


def disk_text(configs: Sequence[RunConfig], together: int, files: int = FILES) -> str:
    """What runs need of a disk, `together` of them at the same time; `files`: of each run."""
    every = Runtime.model_fields["log_every_steps"].default
    counted_steps = (c.total_steps(n) for c in _trainings(configs) if (n := c.data.planned))
    kept = sum(PARAMETER * c.parameters() for c in configs) + sum(RECORD * n / every for n in counted_steps)
    largest = sorted((CHECKPOINT * c.parameters() for c in _trainings(configs)), reverse=True)[:together]
    text = f"  about {size(kept)} of disk in {counted(files * len(configs), 'file')}, and "
    text += f"{size(CHECKPOINTS * sum(largest))} more while {counted(len(largest), 'run')} train"
    text += f" ({CHECKPOINTS} checkpoints each)"
    scenes: dict[tuple[str, str, int, int], int] = {}  # of each data set, split and size the most that a run reads
    for config in configs:
        data, dense = config.data, not {*DENSE, MASK.name}.isdisjoint(config.fields)
        if not isinstance(data, Scenes):
            continue
        for split, samples in (data.split("train"), data.split("eval")):
            for per_pixel in (SCENE, DENSE_SCENE) if dense else (SCENE,):
                of = (data.name, split, data.render_size, per_pixel)
                scenes[of] = max(scenes.get(of, 0), samples or 0)
    if scenes:
        total = sum(per_pixel * n * side**2 for (*_, side, per_pixel), n in scenes.items())
        text += f"; {size(total)} of rendered scenes, once"
    return text


def _trainings(configs: Iterable[RunConfig]) -> list[TrainingConfig]:
    return [config for config in configs if isinstance(config, TrainingConfig)]
