"""A plan as job arrays: what one sbatch submits, and which jobs wait for which.

Runs that wait for nothing make one array a stage. Those that start from others wait for their jobs: task i of a
transfer's array for task i of the pre-trainings' array, and what starts from the transfers for theirs, level by level.
So 200 rows of three stages are three arrays.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from multimae.study.planning import Entry, Plan

from ..profile import Profile, Resources


@dataclass(frozen=True)
class After:
    """A job that others wait for: of this plan, or submitted earlier; `task` of an array, None of a job alone."""

    job: "Array | str"
    task: int | None

    @property
    def id(self) -> str:
        return self.job if isinstance(self.job, str) else self.job.job or f"<job of {self.job.stage}>"

    @property
    def same(self) -> tuple[str | int, bool]:
        """Alike for tasks of one array, and for one job."""
        return self.job if isinstance(self.job, str) else id(self.job), self.task is None


@dataclass
class Array:
    """Jobs of one stage that are submitted together; a single one is no array, and then its task is None."""

    stage: str
    kind: str  # of their runs
    resources: Resources  # of each job
    tasks: dict[int | None, Entry] = field(default_factory=dict)
    after: tuple[
        After, ...
    ] = ()  # what these wait for; where that is a task of an array, task i waits for task i of it
    alone: bool = False  # whether they are timed, each on nodes that run nothing else
    job: str = ""  # SLURM's id, once submitted

    @property
    def entries(self) -> list[Entry]:
        return list(self.tasks.values())

    @property
    def title(self) -> str:
        if None in self.tasks:
            return f"{self.stage}: {self.entries[0].run.label}"
        return f"{self.stage}: {len(self.tasks)} jobs, {self.indices}"

    @property
    def indices(self) -> str:
        """As sbatch takes them: `0-3,7`."""
        spans: list[list[int]] = []
        for index in sorted(self.tasks):
            if spans and index == spans[-1][1] + 1:
                spans[-1][1] = index
            else:
                spans.append([index, index])
        return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)

    @property
    def level(self) -> int:
        """0: waits for no job of this plan; 1: for one of level 0; ..."""
        return max((after.job.level + 1 for after in self.after if isinstance(after.job, Array)), default=0)

    @property
    def each(self) -> bool:
        """Whether its tasks wait for different ones."""
        return None not in self.tasks and any(after.task is not None for after in self.after)

    @property
    def dependency(self) -> str | None:
        """As sbatch takes it: jobs wait until those that they start from have succeeded."""
        alone = None in self.tasks
        parts = (
            f"afterok:{after.id}{'' if after.task is None else f'_{after.task}'}"
            if alone or after.task is None
            else f"aftercorr:{after.id}"
            for after in self.after
        )
        return ",".join(dict.fromkeys(parts)) or None

    def job_of(self, task: int | None) -> str:
        return self.job if task is None else f"{self.job}_{task}"

    def comment(self, study: str, length: int) -> str:
        """The row of each task, for whoever looks at the queue."""
        rows = (" + ".join(row for row, stage in entry.run.cells if stage == self.stage) for entry in self.entries)
        text = "; ".join(row if task is None else f"{task}: {row}" for task, row in zip(self.tasks, rows, strict=True))
        text = f"{study} {self.stage}: {text}"
        return text if len(text) <= length else f"{text[: length - 4]} ..."


def stage_of(entry: Entry) -> str:
    """The stage whose resources a run gets: the first of those that use it."""
    return entry.run.cells[0][1]


def arrays(plan: Plan, profile: Profile) -> list[Array]:
    """What submits the plan's todo, in the order in which it must be; at most `max_array_size` tasks in an array.

    Left out: what starts from a run that a local launcher has, for which no job can wait.
    """
    where = {  # where the jobs of runs are that are not done, by signature
        signature: _submitted(entry.status.job)
        for signature, entry in plan.entries.items()
        if not entry.action and entry.status.under_way and entry.status.job
    }
    made: list[Array] = []
    for level in _levels(plan):
        new = _of_level([e for e in level if all(need in where for need in _awaited(e, plan))], plan, profile, where)
        for array in new:
            for task, entry in array.tasks.items():
                where[entry.run.signature] = After(array, task)
        made += new
    return made


def _levels(plan: Plan) -> list[list[Entry]]:
    """The plan's todo, each run in a later level than those that it waits for."""
    levels: list[list[Entry]] = []
    of: dict[str, int] = {}
    for entry in plan.todo:
        level = max((of[need] + 1 for need in entry.run.needs if need in of), default=0)
        of[entry.run.signature] = level
        levels += [[]] * (level == len(levels))
        levels[level] = [*levels[level], entry]
    return levels


def _awaited(entry: Entry, plan: Plan) -> list[str]:
    return [need.run.signature for need in plan.needed(entry.run) if need.action or need.status.state != "done"]


def _of_level(entries: list[Entry], plan: Plan, profile: Profile, where: Mapping[str, After]) -> list[Array]:
    """The jobs of runs that do not wait for each other.

    Of several runs of one stage that start from the same job, the first ones make an array, the second ones another,
    and so on, so that each has the task number of the job that it waits for.
    """
    grouped: dict[tuple, Array] = {}
    taken: Counter[tuple] = Counter()
    for entry in entries:
        stage, kind, alone = stage_of(entry), entry.run.config.task, entry.run.alone
        after = tuple(where[need] for need in _awaited(entry, plan))
        numbers = {job.task for job in after} - {None}
        turn = taken[stage, kind, alone, after_key := tuple((*job.same, job.task) for job in after)]
        taken[stage, kind, alone, after_key] += 1
        if len(numbers) > 1:  # no array has a task that waits for task 1 here and for task 2 there
            group, number = (after_key, turn), 0
        elif numbers:
            group, number = (tuple(job.same for job in after), turn), numbers.pop()
        else:  # where all of them wait for the same jobs, or for none, any number will do
            size = profile.max_array_size
            group, number = (after_key, turn // size), turn % size
        if (key := (stage, kind, alone, group)) not in grouped:
            grouped[key] = Array(stage, kind, profile.resources(kind, stage), after=after, alone=alone)
        grouped[key].tasks[number] = entry
    return [_alone(array, where, plan) for array in grouped.values()]


def _submitted(job: str) -> After:
    id, _, task = job.partition("_")
    return After(id, int(task) if task else None)


def _alone(array: Array, where: Mapping[str, After], plan: Plan) -> Array:
    """The array, or where it has a single task the job that it is."""
    if len(array.tasks) > 1:
        return array
    (entry,) = array.tasks.values()
    return replace(array, tasks={None: entry}, after=tuple(where[need] for need in _awaited(entry, plan)))
