"""A study is the rows of one or more tables as run configs. Imports no torch."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ConfigError, RunConfig
from ..config.settings import flatten, nearest, shown

if TYPE_CHECKING:
    from .measures import Table

Edits = Mapping[str, Mapping[str, Any]]  # stage -> dotted key -> value
TOLD = 8  # rows in a message
STAGE = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Row:
    """A line of a table: its runs, by stage.

    `alone`: stages whose runs are timed: a back end runs nothing beside them on their machines. `aside`: why the row
    stands beside the comparison, such as `not in the paper`. It is shown in grey with these words; it is neither best
    nor second best, and takes no part in ranks. `grey`: keys of the measures for which that is so of its cell alone, as
    the paper greys a modality that a model was never pre-trained on. None of these changes what a run is.
    """

    name: str
    stages: dict[str, RunConfig]
    alone: tuple[str, ...] = ()
    aside: str = ""
    grey: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError: the names stand in batch scripts, in commands and in tables."""
        if not self.name.strip() or not self.name.isprintable():
            raise ConfigError(f"row {shown(self.name)}: expected a name of printable characters")
        for stage in self.stages:
            if not STAGE.fullmatch(stage):
                raise ConfigError(f"stage {shown(stage)}: expected a name of letters, digits and _ . -")
        for stage in self.alone:
            if stage not in self.stages:
                raise ConfigError(f"row {shown(self.name)}: alone: {unknown('stage', stage, self.stages)}")


@dataclass(frozen=True)
class Run:
    """One run, and every place in the table where its result is used."""

    signature: str
    config: RunConfig
    cells: tuple[tuple[str, str], ...]  # (row, stage)
    needed: Mapping[str, RunConfig]  # those it starts from, as far as the study has them
    alone: bool = False  # whether a row times it

    @property
    def needs(self) -> tuple[str, ...]:
        """The signatures of the runs that must be done before this one can start."""
        return self.config.needs

    @property
    def label(self) -> str:
        return " ".join(self.cells[0])

    @property
    def fields(self) -> tuple[str, ...]:
        """What its samples must hold."""
        return self.config.fields or next((config.fields for config in self.needed.values()), ())

    @property
    def operations(self) -> float | None:
        """Floating-point operations of it all; None where they cannot be counted."""
        return self.config.operations(self.needed)


@dataclass(frozen=True)
class Study:
    """`rows` is a function of the scale: `smoke`, `laptop`, `mini`, `lab` or `paper`."""

    name: str  # of the file in sweeps/
    title: str
    rows: Callable[[str], Iterable[Row]]
    tables: tuple["Table", ...] = ()
    parts: tuple["Study", ...] = ()  # those that it puts together: see `together`
    published: bool = True  # a part of the paper

    @property
    def heading(self) -> str:
        """Its title, and which tables it fills: `... (Tables 4a, 12)`."""
        names = [table.name for part in self.parts or (self,) for table in part.tables]
        return f"{self.title} (Table{'s'[: len(names) > 1]} {', '.join(names)})" if names else self.title

    @property
    def command(self) -> str:
        """What starts it from here: a script of the checkout where one stands; else its module, as it is installed."""
        script = Path("sweeps", f"{self.name}.py")
        here = script.exists() and script.absolute().parents[1] == Path(__file__).parents[2]
        return f"python {script}" if here else f"python -m sweeps.{self.name}"

    def build(self, scale: str, edits: Edits | None = None) -> tuple[Row, ...]:
        """The rows at a scale, with edits made to stages.

        A run names those it starts from by signature, so an edited pre-training moves all that start from it, and what
        starts from those: they are pointed at the new signatures. Raises ConfigError for a stage or key that does not
        exist, and for an edit of what the rows vary: they keep their names, and would no longer be what those say.
        """
        rows = tuple(self.rows(scale))
        names = [row.name for row in rows]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{self.name}: two rows are called {shown(twice[0])}; give each a name of its own")
        if not edits:
            return rows
        stages = stages_of(rows)
        for stage in edits:
            if stage not in stages:
                raise ConfigError(unknown("stage", stage, stages))
        moves = _moves(rows, edits)
        _check_names(rows, edits, moves)
        edited = ({stage: moves[row.name, stage].config for stage in row.stages} for row in rows)
        return tuple(replace(row, stages=stages) for row, stages in zip(rows, edited))

    # ---- of several studies

    def of_parts(self, rows: Iterable[Row]) -> list[tuple["Study", tuple[Row, ...]]]:
        """Each study that these rows are of, with its own under the names that they have there."""
        placed = [(*self.place(row.name), row) for row in rows]
        return [
            (part, tuple(replace(row, name=name) for study, name, row in placed if study == part.name))
            for part in self.parts or (self,)
        ]

    def place(self, row: str) -> tuple[str, str]:
        """(the name of the study that a row is of, its name there)."""
        study, _, name = row.partition(":")
        return (study, name) if self.parts else (self.name, row)


def together(name: str, title: str, parts: Sequence[Study]) -> Study:
    """One study of several, whose rows are called `study:row`. What two of them need is one run, as in any study."""
    return Study(name, title, lambda scale: joined((part, part.build(scale)) for part in parts), parts=tuple(parts))


def joined(rows: Iterable[tuple[Study, Iterable[Row]]]) -> tuple[Row, ...]:
    """The rows of several studies, as `together` calls them."""
    return tuple(replace(row, name=f"{study.name}:{row.name}") for study, its in rows for row in its)


def stages_of(rows: Iterable[Row]) -> dict[str, RunConfig]:
    """The stages, in order, each as the first row has it."""
    stages: dict[str, RunConfig] = {}
    for row in rows:
        for stage, config in row.stages.items():
            stages.setdefault(stage, config)
    return stages


def runs_of(rows: Iterable[Row], among: Iterable[Row] = ()) -> dict[str, Run]:
    """Each run once, by signature, after all that it needs, else in the order of the rows; with them those of the rows
    `among` that they need, to any depth.

    Raises ConfigError for a run that cannot start from what it names, such as a transfer from another encoder.
    """
    cells: dict[str, list[tuple[str, str]]] = {}
    configs: dict[str, RunConfig] = {}
    wanted: list[str] = []
    alone: set[str] = set()
    for theirs, table in ((False, rows), (True, among)):
        for row in table:
            for stage, config in row.stages.items():
                configs.setdefault(config.signature, config)
                places = cells.setdefault(config.signature, [])
                if (row.name, stage) not in places:
                    places.append((row.name, stage))
                if stage in row.alone:
                    alone.add(config.signature)
                if not theirs:
                    wanted.append(config.signature)
    runs = {}
    for signature in _in_order(configs, wanted):
        config = configs[signature]
        needed = {need: configs[need] for need in config.needs if need in configs}
        runs[signature] = Run(signature, config, tuple(cells[signature]), needed, signature in alone)
        try:
            config.check_needs(needed)
        except ConfigError as error:
            raise ConfigError(f"{runs[signature].label}: {error}") from None
    return runs


def _in_order(configs: Mapping[str, RunConfig], wanted: Iterable[str]) -> list[str]:
    """The signatures that are wanted and those that they need, each after its own needs.

    Level by level, and within a level as they come: what starts from nothing first.
    """
    graph: dict[str, list[str]] = {}
    pending = list(wanted)
    while pending:
        if (signature := pending.pop()) not in graph:
            graph[signature] = [need for need in configs[signature].needs if need in configs]
            pending += graph[signature]
    place = {signature: i for i, signature in enumerate(configs)}
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=place.__getitem__)
        order += ready
        sorter.done(*ready)
    return order


def twins(rows: Iterable[Row]) -> list[str]:
    """What to tell of rows that are the same runs under two names."""
    first: dict[tuple[tuple[str, str], ...], str] = {}
    told = []
    for row in rows:
        runs = tuple((stage, config.signature) for stage, config in row.stages.items())
        if (other := first.setdefault(runs, row.name)) != row.name:
            told.append(
                f"the rows {other} and {row.name} are one experiment: every setting of every stage is the same, so "
                f"each run is done once and stands in both ({', '.join(f'{stage} {s}' for stage, s in runs)})"
            )
    return told


def only(rows: tuple[Row, ...], names: Iterable[str]) -> tuple[Row, ...]:
    """The rows of these names, in the table's order; all of them where no name is given."""
    names = list(names)
    valid = [row.name for row in rows]
    for name in names:
        if name not in valid:
            raise ConfigError(unknown("row", name, valid))
    return tuple(row for row in rows if not names or row.name in names)


def named(rows: Iterable[Row], names: Iterable[str]) -> list[str]:
    """The signatures of the runs of these names: a row, or a row and a stage, as `alpha=1` or `alpha=1 classify`."""
    runs = {row.name: [config.signature for config in row.stages.values()] for row in rows}
    runs |= {f"{row.name} {stage}": [config.signature] for row in rows for stage, config in row.stages.items()}
    for name in (names := list(names)):
        if name not in runs:
            raise ConfigError(unknown("row", name, [row.name for row in rows]))
    return [signature for name in names for signature in runs[name]]


def unknown(noun: str, name: str, valid: Iterable[str]) -> str:
    return f"unknown {noun} {shown(name)}{nearest(name, list(valid))} Valid: {', '.join(valid)}"


@dataclass(frozen=True)
class Move:
    """What edits make of a row's run."""

    before: str  # its signature in the study
    config: RunConfig  # after the edits


Moves = Mapping[tuple[str, str], Move]  # by row and stage


def _moves(rows: tuple[Row, ...], edits: Edits) -> Moves:
    """Runs are edited after those that they start from, whose signatures they name."""
    stages = {(row.name, stage): config for row in rows for stage, config in row.stages.items()}
    places: dict[str, list[tuple[str, str]]] = {}
    for place, config in stages.items():
        places.setdefault(config.signature, []).append(place)
    configs = {config.signature: config for config in stages.values()}
    moves: dict[tuple[str, str], Move] = {}
    moved: dict[str, dict[str, str]] = {}  # signature in the study -> stage -> signature after the edits
    for signature in _in_order(configs, configs):
        for row, stage in places[signature]:
            config = stages[row, stage]
            changes = dict(edits.get(stage, {}))
            start = {need: _moved(moved[need], (row, stage), need) for need in config.needs if need in moved}
            changes = {key: value for key, value in config.moved(start).items() if key not in changes} | changes
            try:
                moves[row, stage] = Move(signature, config.edit(changes) if changes else config)
            except ConfigError as error:
                raise ConfigError(f"{stage}: {error}") from None
            moved.setdefault(signature, {})[stage] = moves[row, stage].config.signature
    return moves


def _moved(stages: Mapping[str, str], place: tuple[str, str], need: str) -> str:
    """What a run that is needed became. Raises ConfigError where edits made it two: it is not known which is meant."""
    if len(set(stages.values())) > 1:
        row, stage = place
        raise ConfigError(
            f"{stage} of {row} starts from a run ({need}) that the stages {' and '.join(stages)} share, and the edits "
            "make it two. Edit both stages alike"
        )
    return next(iter(stages.values()))


def _check_names(rows: tuple[Row, ...], edits: Edits, moves: Moves) -> None:
    """Refuse edits by which a row is no longer what its name says. A row that stands aside may differ in more."""
    for stage, changes in edits.items():
        compared = [row for row in rows if stage in row.stages and not row.aside]
        settings = {row.name: flatten(row.stages[stage].resolved()) for row in compared}
        if named := {key for row in compared for key in row.stages[stage].subject}.intersection(flatten(changes)):
            raise ConfigError(
                f"{stage}.{min(named)} is what the stage is named for, and its column; edited, they would keep names "
                "that are no longer true. Edit the stage of that name, or write a study of your own in sweeps/"
            )
        for key in flatten(changes):
            values = {name: shown(found.get(key)) for name, found in settings.items()}
            if len(set(values.values())) > 1:
                told = ", ".join(f"{name}: {value}" for name, value in list(values.items())[:TOLD])
                raise ConfigError(
                    f"{stage}.{key} is what the rows vary ({told}); edited, they would keep names that are no longer "
                    "true. Choose rows with --only, or write a study of your own in sweeps/"
                )
    first: dict[tuple[str, str], tuple[str, Move]] = {}  # stage, signature after the edits
    for (row, stage), move in moves.items():
        other, its = first.setdefault((stage, move.config.signature), (row, move))
        if its.before != move.before:
            raise ConfigError(
                f"{stage}: with these edits the rows {other} and {row} would be one run under two names. "
                "Choose other edits, or write a study of your own in sweeps/"
            )
