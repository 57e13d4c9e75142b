"""A study is a table of the paper as rows of run configs. Imports no torch."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ConfigError, RunConfig, Transfer
from ..config.settings import flatten, nearest, shown

if TYPE_CHECKING:
    from .measures import Table

Edits = Mapping[str, Mapping[str, Any]]  # stage -> dotted key -> value
TOLD = 8  # rows in a message
STAGE = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Row:
    """A line of a table: its runs, by stage. A stage stands after the stage that it needs."""

    name: str
    stages: dict[str, RunConfig]

    def __post_init__(self) -> None:
        """Raises ConfigError: the names stand in batch scripts, in commands and in tables."""
        if not self.name.strip() or not self.name.isprintable():
            raise ConfigError(f"row {shown(self.name)}: expected a name of printable characters")
        for stage in self.stages:
            if not STAGE.fullmatch(stage):
                raise ConfigError(f"stage {shown(stage)}: expected a name of letters, digits and _ . -")


@dataclass(frozen=True)
class Run:
    """One training, and every place in the table where its result is used."""

    signature: str
    config: RunConfig
    cells: tuple[tuple[str, str], ...]  # (row, stage)

    @property
    def needs(self) -> str | None:
        """The signature of the run that must be done before this one can start."""
        return self.config.needs

    @property
    def label(self) -> str:
        return " ".join(self.cells[0])


@dataclass(frozen=True)
class Study:
    """`rows` is a function of the scale: `smoke`, `mini` or `paper`."""

    name: str  # of the file in sweeps/
    title: str
    rows: Callable[[str], Iterable[Row]]
    tables: tuple["Table", ...] = ()

    @property
    def heading(self) -> str:
        """Its title, and which tables it fills: `... (Tables 4a, 12)`."""
        names = [table.name for table in self.tables]
        return f"{self.title} (Table{'s'[: len(names) > 1]} {', '.join(names)})" if names else self.title

    @property
    def command(self) -> str:
        """What starts it from here: a script of the checkout where one stands; else its module, as it is installed."""
        script = Path("sweeps", f"{self.name}.py")
        here = script.exists() and script.absolute().parents[1] == Path(__file__).parents[2]
        return f"python {script}" if here else f"python -m sweeps.{self.name}"

    def build(self, scale: str, edits: Edits | None = None) -> tuple[Row, ...]:
        """The rows at a scale, with edits made to stages.

        A transfer names its pre-training by signature, so an edited pre-training moves the transfers that start from
        it: they are pointed at the new signature. Raises ConfigError for a stage or key that does not exist, and for an
        edit of what the rows vary: they keep their names, and would no longer be what those say.
        """
        rows = tuple(self.rows(scale))
        if not edits:
            return rows
        stages = stages_of(rows)
        for stage in edits:
            if stage not in stages:
                raise ConfigError(unknown("stage", stage, stages))
        moves: list[Move] = []
        moved: dict[str, str] = {}  # signature in the study -> signature after the edits
        edited = tuple(_edited(row, edits, moves, moved) for row in rows)
        _check_names(rows, edits, moves)
        return edited


def stages_of(rows: Iterable[Row]) -> dict[str, RunConfig]:
    """The stages, in order, each as the first row has it."""
    stages: dict[str, RunConfig] = {}
    for row in rows:
        for stage, config in row.stages.items():
            stages.setdefault(stage, config)
    return stages


def runs_of(rows: Iterable[Row]) -> dict[str, Run]:
    """Each run once, by signature; those that others need come first, else in the order of the rows.

    Raises ConfigError for a transfer whose encoder is not the one it starts from.
    """
    cells: dict[str, list[tuple[str, str]]] = {}
    configs: dict[str, RunConfig] = {}
    for row in rows:
        for stage, config in row.stages.items():
            signature = config.signature
            configs[signature] = config
            cells.setdefault(signature, []).append((row.name, stage))
    runs = {signature: Run(signature, config, tuple(cells[signature])) for signature, config in configs.items()}
    for run in runs.values():
        if run.needs in runs and isinstance(run.config, Transfer):
            try:
                run.config.check_source(runs[run.needs].config)
            except ConfigError as error:
                raise ConfigError(f"{run.label}: {error}") from None
    needed = {run.needs for run in runs.values()}
    return {s: runs[s] for s in sorted(runs, key=lambda s: s not in needed)}


def only(rows: tuple[Row, ...], names: Iterable[str]) -> tuple[Row, ...]:
    """The rows of these names, in the table's order; all of them where no name is given."""
    names = list(names)
    valid = [row.name for row in rows]
    for name in names:
        if name not in valid:
            raise ConfigError(unknown("row", name, valid))
    return tuple(row for row in rows if not names or row.name in names)


def unknown(noun: str, name: str, valid: Iterable[str]) -> str:
    return f"unknown {noun} {shown(name)}{nearest(name, list(valid))} Valid: {', '.join(valid)}"


@dataclass(frozen=True)
class Move:
    """What edits make of a row's run."""

    row: str
    stage: str
    before: str  # signatures
    after: str


def _check_names(rows: tuple[Row, ...], edits: Edits, moves: list[Move]) -> None:
    """Refuse edits by which a row is no longer what its name says."""
    for stage, changes in edits.items():
        for key in flatten(changes):
            with_stage = [row for row in rows if stage in row.stages]
            values = {row.name: shown(reduce(getattr, key.split("."), row.stages[stage])) for row in with_stage}
            if len(set(values.values())) > 1:
                told = ", ".join(f"{name}: {value}" for name, value in list(values.items())[:TOLD])
                raise ConfigError(
                    f"{stage}.{key} is what the rows vary ({told}); edited, they would keep names that are no longer "
                    "true. Choose rows with --only, or write a study of your own in sweeps/"
                )
    first: dict[tuple[str, str], Move] = {}  # stage, signature after the edits
    for move in moves:
        other = first.setdefault((move.stage, move.after), move)
        if other.before != move.before:
            raise ConfigError(
                f"{move.stage}: with these edits the rows {other.row} and {move.row} would be one run under two names. "
                "Choose other edits, or write a study of your own in sweeps/"
            )


def _edited(row: Row, edits: Edits, moves: list[Move], moved: dict[str, str]) -> Row:
    stages = {}
    for stage, config in row.stages.items():
        changes = dict(edits.get(stage, {}))
        if config.needs in moved:
            changes = {"init": f"run:{moved[config.needs]}"} | changes
        try:
            stages[stage] = config.edit(changes) if changes else config
        except ConfigError as error:
            raise ConfigError(f"{stage}: {error}") from None
        moves.append(Move(row.name, stage, config.signature, stages[stage].signature))
        moved[moves[-1].before] = moves[-1].after
    return Row(row.name, stages)
