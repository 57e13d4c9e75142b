"""What a plan's jobs cost, and whether each has time to save between the signal that asks it to and its end."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

from multimae.config import ConfigError
from multimae.record.folder import RunFolder
from multimae.record.reading import read_json
from multimae.study.cost import CHECKPOINT, CORE_RATE, FILES, GPU_RATE, disk_text
from multimae.study.planning import Entry
from multimae.study.study import Run
from multimae.units import counted, duration, operations

from .profile import Profile, Resources
from .submission.arrays import Array, stage_of

RUNS, RECORDS = 20, 1000  # that are looked at, of each stage and of each run: the last ones
RATES = {"GPU": GPU_RATE, "core": CORE_RATE}
OF_A_JOB, OF_A_PROCESS = 7, 3  # files in .slurm: script, pickle, log, ...; what a process prints and returns


def job_seconds(run: Run, resources: Resources) -> float | None:
    """Of a run in one job, however often that is queued again; None where it cannot be counted."""
    return None if run.operations is None else run.operations / (resources.units * RATES[resources.unit])


@dataclass(frozen=True)
class StageCost:
    """What the jobs of one stage take on a cluster; those that are timed apart from others."""

    stage: str
    level: int  # 0: waits for no other jobs; 1: for those of level 0; ...
    resources: Resources
    seconds: tuple[float, ...]  # of each job that can be counted
    jobs: int
    side: int  # jobs at the same time
    alone: bool

    @classmethod
    def of(cls, arrays: Sequence[Array], profile: Profile) -> "StageCost":
        """`arrays`: those of one stage and kind, timed or not."""
        stage, resources = arrays[0].stage, arrays[0].resources
        seconds = [job_seconds(entry.run, resources) for array in arrays for entry in array.entries]
        side = sum(min(len(array.tasks), profile.max_jobs) for array in arrays)
        known = tuple(s for s in seconds if s is not None)
        level = max(array.level for array in arrays)
        return cls(stage, level, resources, known, len(seconds), side, arrays[0].alone)

    @property
    def hours(self) -> float:
        """GPU-hours, or core-hours."""
        return sum(self.seconds) * self.resources.units / 3600

    @property
    def wall_seconds(self) -> float:
        return max(max(self.seconds, default=0.0), sum(self.seconds) / self.side)

    def text(self) -> str:
        nodes, unit, what = self.resources.nodes, self.resources.unit, "whole node" if self.alone else "node"
        text = f"  {self.stage:<9} {counted(self.jobs, 'job')}, each {counted(nodes, what)} with "
        text += counted(self.resources.units // nodes, unit)
        text += f", {self.side} at the same time" if self.side < self.jobs else ""
        if self.seconds:
            longest, limit = max(self.seconds), 60 * self.resources.minutes
            text += f": {duration(longest)} each, {self.hours:,.2f} {unit}-hours"
            text += f", within {counted(math.ceil(longest / limit), 'time limit')} of {duration(limit)}"
        if uncounted := self.jobs - len(self.seconds):
            text += f" ({uncounted} not counted: how many samples is not given)"
        return text


def cluster_text(arrays: Sequence[Array], profile: Profile) -> str:
    """For a person: what would be submitted, how long it takes and what it costs."""
    if not arrays:
        return "\nNothing to submit."
    stages: dict[tuple[str, str, bool], list[Array]] = {}
    for array in arrays:
        stages.setdefault((array.stage, array.kind, array.alone), []).append(array)
    costs = [StageCost.of(mine, profile) for mine in stages.values()]
    jobs, several = sum(cost.jobs for cost in costs), sum(len(array.tasks) > 1 for array in arrays)
    calls = counted(len(arrays), "sbatch call")
    lines = [f"\nWould submit {counted(jobs, 'job')} ({counted(several, 'array')}) by {calls}"]
    lines += [cost.text() for cost in costs]
    for unit, each in RATES.items():
        if hours := sum(cost.hours for cost in costs if cost.resources.unit == unit):
            lines.append(f"  {hours:,.2f} {unit}-hours at {operations(each)}/s a {unit} (assumed)")
    configs = [entry.run.config for array in arrays for entry in array.entries]
    together, most = sum(cost.side for cost in costs), max(cost.resources.processes for cost in costs)
    lines.append(disk_text(configs, min(together, len(configs)), FILES + OF_A_JOB + OF_A_PROCESS * most))
    levels: dict[int, float] = {}
    for cost in costs:
        levels[cost.level] = max(levels.get(cost.level, 0.0), cost.wall_seconds)
    if wall := sum(levels.values()):
        lines.append(f"  {duration(wall)} from the first start to the last result, if nodes are free at once")
    return "\n".join(lines)


# ---- time to save


def check_time_to_save(entries: Sequence[Entry], profile: Profile, runs: Path) -> list[str]:
    """What to tell of the time that these runs have to save; earlier ones' saves have been measured.

    Raises ConfigError where a save, and the evaluation that it may have to wait for, usually takes longer.
    """
    notes = []
    for stage in dict.fromkeys(stage_of(entry) for entry in entries if entry.action):
        of = [entry for entry in entries if stage_of(entry) == stage and entry.status.state != "refused"]
        saves, evaluations = _measured(entry.folder for entry in of)
        if saves:
            how = f"the median of {len(saves)} saves, with the evaluation that one may wait for"
            seconds = median(saves) + median(evaluations or [0.0])
            longest = max(saves) + max(evaluations, default=0.0)
        else:
            disk = read_json(runs / ".slurm" / f"doctor-{profile.name}.json") or {}
            if not (rate := disk.get("write_bytes_per_second")):
                continue
            how = f"estimated: the doctor wrote {rate / 1e6:,.0f} MB/s to {runs}"
            seconds = longest = max(CHECKPOINT * entry.run.config.parameters() / rate for entry in of)
        where = f"profile {profile.name}, stage {stage}"
        mend = f"write `signal_seconds: {10 * math.ceil(longest / 5)}` in the profile"
        warned = f"a job is killed {profile.signal_seconds} s after it is asked to"
        if seconds > profile.signal_seconds:
            raise ConfigError(f"{where}: to save takes {seconds:.0f} s ({how}), and {warned}: {mend}")
        if longest > profile.signal_seconds:
            notes.append(f"{where}: to save once took {longest:.0f} s, and {warned}; if that happens often, {mend}")
    return notes


def _measured(folders: Iterable[RunFolder]) -> tuple[list[float], list[float]]:
    """Seconds of the last saves and of the last evaluations."""
    saves, evaluations = [], []
    for folder in islice((folder for folder in folders if folder.journal.path.exists()), RUNS):
        for record in islice(folder.journal.backwards(), RECORDS):
            if record["kind"] == "checkpoint":
                saves.append(record["seconds"])
            elif record["kind"] == "eval" and "seconds" in record:
                evaluations.append(record["seconds"])
    return saves, evaluations
