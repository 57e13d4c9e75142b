"""A plan as job arrays: what one sbatch submits, and which array waits for which.

Runs that wait for nothing make one array a stage. A run that starts from a pre-training waits for its job: task i of a
transfer's array for task i of the pre-trainings' array, so 200 rows of three stages are three arrays.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from multimae.study.planning import Entry, Plan

from ..profile import Profile, Resources


@dataclass
class Array:
    """Jobs of one stage that are submitted together; a single one is no array, and then its task is None."""

    stage: str
    resources: Resources  # of each job
    tasks: dict[int | None, Entry] = field(default_factory=dict)
    after: "Array | str | None" = None  # what these wait for: jobs of this plan, or the id of those submitted earlier
    each: bool = False  # task i waits for task i of `after`,
    of: int | None = None  # or all of them for this one task
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
    def dependency(self) -> str | None:
        """As sbatch takes it: jobs wait until those that they start from have succeeded."""
        if self.after is None:
            return None
        job = self.after if isinstance(self.after, str) else self.after.job or f"<job of {self.after.stage}>"
        if self.each:
            return f"aftercorr:{job}"
        return f"afterok:{job}" if self.of is None else f"afterok:{job}_{self.of}"

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
    free: dict[str, list[Entry]] = {}
    waiting: list[Entry] = []
    for entry in plan.todo:
        of = waiting if _waits(entry, plan) else free.setdefault(stage_of(entry), [])
        of.append(entry)
    resources = {stage: profile.resources(stage) for stage in dict.fromkeys(map(stage_of, plan.todo))}
    size = profile.max_array_size
    made = [
        _alone(Array(stage, resources[stage], dict(enumerate(entries[start : start + size]))))
        for stage, entries in free.items()
        for start in range(0, len(entries), size)
    ]
    where = {entry.run.signature: (array, task) for array in made for task, entry in array.tasks.items()}
    for signature, entry in plan.entries.items():
        if entry.status.under_way and entry.status.job and signature not in where:
            job, _, task = entry.status.job.partition("_")
            where[signature] = (job, int(task) if task else None)
    # Of several runs of one stage that start from the same job, the first ones make an array, the second ones another,
    # and so on, so that each has the task number of the job that it waits for.
    after: dict[tuple, Array] = {}
    taken: Counter[tuple[str, str]] = Counter()
    for entry in (entry for entry in waiting if entry.run.needs in where):
        stage, needs = stage_of(entry), entry.run.needs
        source, task = where[needs]
        turn, of = taken[stage, needs], source if isinstance(source, str) else id(source)
        taken[stage, needs] += 1
        # Where all of them wait for one job, any number will do.
        group, number = (turn // size, turn % size) if task is None else (turn, task)
        new = Array(stage, resources[stage], after=source, each=task is not None)
        after.setdefault((stage, of, group), new).tasks[number] = entry
    return made + [_alone(array) for array in after.values()]


def _waits(entry: Entry, plan: Plan) -> bool:
    needed = plan.entries.get(entry.run.needs or "")
    return needed is not None and needed.status.state != "done"


def _alone(array: Array) -> Array:
    """The array, or where it has a single task the job that it is."""
    if len(array.tasks) > 1:
        return array
    ((task, entry),) = array.tasks.items()
    return replace(array, tasks={None: entry}, each=False, of=task if array.each else None)
