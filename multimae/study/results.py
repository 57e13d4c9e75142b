"""What the runs of a study have recorded, and which of it may stand in one column. Imports no torch."""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import RunConfig, TrainingConfig
from ..record.folder import RunFolder
from .planning import Wanted, plan
from .status import Scheduler
from .study import Row, Study

Learnt = tuple[tuple[str, str], ...]  # (what, which) of all that a result follows from: see multimae.run


class Incomparable(ValueError):
    """Values of a column that do not hold under the same conditions."""


@dataclass(frozen=True)
class Reading:
    """What a measure found for a row."""

    row: str
    key: str  # of the measure
    state: str  # `done` where there is a value; `incomplete` where other measures lack; else the run's (record.state)
    reason: str = ""
    value: float | None = None
    config: RunConfig | None = None  # of the run that was read
    seed: int | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)  # under which the value holds
    constant: float | None = None  # what the best constant prediction has under these conditions, where that is known
    learnt: Learnt = ()
    parts: tuple["Reading", ...] = ()  # those of other measures that it follows from

    @property
    def signature(self) -> str:
        """Of the run that was read; empty where the value follows from others."""
        return self.config.signature if self.config else ""

    @property
    def sources(self) -> "tuple[Reading, ...]":
        """The readings of runs that it follows from, or itself."""
        return tuple(source for part in self.parts for source in part.sources) or (self,)


class Results:
    """The runs of a study's rows, each asked once what it does.

    `trials`: of each seed, all rows of the study. `files`: names of weights that are given, `own`: the folder of one's
    own that all stages read; what needs others is blocked.
    """

    def __init__(
        self,
        runs: Path,
        trials: Sequence[Sequence[Row]],
        scheduler: Scheduler | None = None,
        files: Collection[str] = (),
        own: Path | None = None,
    ):
        self.runs, self.trials = runs, trials
        configs = [config for rows in trials for row in rows for config in row.stages.values()]
        self.configs = {config.signature: config for config in configs}
        rows = tuple(row for trial in trials for row in trial)
        # As a launcher sees them, which knows what is blocked, and by what.
        wanted = Wanted(Study("", "", lambda scale: rows), "", rows, runs, scheduler=scheduler, files=files, own=own)
        self.statuses = {signature: entry.status for signature, entry in plan(wanted).entries.items()}

    def among(self, trials: Sequence[Sequence[Row]]) -> "Results":
        """The same, with some of these rows for a table's."""
        some = copy.copy(self)
        some.trials = trials
        return some

    def folder(self, signature: str) -> RunFolder:
        return RunFolder.of(self.runs, signature)

    def seed(self, config: RunConfig) -> int:
        """Of a run; of one that trains nothing, of the run that it starts from."""
        needed = next((self.configs[need] for need in config.needs if need in self.configs), None)
        return config.seed if isinstance(config, TrainingConfig) or not needed else self.seed(needed)

    def learnt(self, config: RunConfig) -> Learnt:
        """What the result of a run follows from: training samples and weights, of all runs that it starts from too."""
        said = (self.folder(config.signature).learnt_from or {}).get("learnt") or []
        return tuple((what, which) for what, which in said)


def check_comparable(column: str, readings: Iterable[Reading]) -> None:
    """Raises Incomparable where the values of a column, or those that they follow from, hold under conditions that
    differ, or were trained on samples that differ though their configs name the same data."""
    done = [reading for reading in readings if reading.state == "done"]
    if any(reading.conditions != done[0].conditions for reading in done):
        lines = [f"  {r.row} (run {r.signature}): {told(r.conditions)}" for r in done]
        raise Incomparable(
            f"{column}: the rows were not measured under the same conditions; measure them again under the same\n"
            + "\n".join(lines)
        )
    _check_learnt(column, done)
    for parts in zip(*(reading.parts for reading in done), strict=True):
        check_comparable(f"{column}: {parts[0].key}", parts)


def _check_learnt(column: str, done: Iterable[Reading]) -> None:
    """Rows may learn from different data when their configs say so; not when those name the same."""
    seen: dict[str, tuple[str, Reading]] = {}
    for reading in done:
        for what, which in reading.learnt:
            first, other = seen.setdefault(what, (which, reading))
            if first != which:
                raise Incomparable(
                    f"{column}: rows that name the same training data or weights learnt from different ones; train "
                    "them again on the same\n"
                    f"  {other.row} (run {other.signature}): {what} is {first}\n"
                    f"  {reading.row} (run {reading.signature}): {what} is {which}"
                )


def told(conditions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in conditions.items())
