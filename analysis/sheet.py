"""A table as it is printed: numbers, marks and words, made once. `analysis.formats` has only to draw it.

Numbers are printed as the paper prints them, the best of a column is marked, and the second best. Imports no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from multimae.record.epochs import DATA_BOUND
from multimae.study import Measure, Table
from multimae.study.lacks import short
from multimae.study.measures import Derived
from multimae.study.results import Learnt
from multimae.study.study import TOLD

from .paper import paper_tables

DECIMALS = {"%": 1, "minutes": 1, "rank": 1, "tokens": 0, "images/s": 0, "GiB": 2, "cores": 2}  # of others three
AS_WRITTEN = ("tokens", "setting")  # units of what is set, not measured
UNTOLD = {"missing": "not begun", "running": "at work", "pending": "in a queue"}  # of states without a reason
NOT_COMPARABLE = (
    "Numbers of the {scale} scale are not comparable with the paper's{differences}: model, data and training are far "
    "smaller. They show that the study runs from end to end."
)


@dataclass(frozen=True)
class Source:
    """A run that a cell shows."""

    seed: int | None
    signature: str
    folder: str  # empty where it has none yet
    commit: str
    state: str
    reason: str


@dataclass(frozen=True)
class Printed:
    """A cell. `mark`: best | second | grey (beside the comparison) | state (of what has no number) | empty."""

    text: str
    mark: str = ""
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Heading:
    """Of the columns that stand side by side under it, each with a name or none."""

    text: str
    sides: tuple[str, ...] = ("",)
    left: bool = False  # how they are justified


@dataclass(frozen=True)
class Line:
    name: str
    aside: str  # why it stands beside the comparison, or empty
    cells: tuple[Printed, ...]  # of all sides of all headings


@dataclass(frozen=True)
class Sheet:
    title: str
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        from .formats import html

        return html(self)


def sheet(table: Table, frame: pd.DataFrame) -> Sheet:
    """What `tables.build` made, as it is printed: in each column our mean over seeds, with their sample standard
    deviation and number, or the state of what is not done; beside it the paper's value, and the difference."""
    published = paper_tables().get(table.name)
    sides = ("ours", "paper", "diff") if published else ("",)
    columns: list[dict[str, tuple[Printed, ...]]] = []
    headings = []
    for measure in table.measures:
        cells = frame[frame["key"] == measure.key]
        if not cells.empty:
            headings.append(Heading(_head(measure, cells["unit"].iloc[0]), sides))
            columns.append(_column(table, measure, cells))
    nothing = (Printed("-"),) * len(sides)
    lines = (
        Line(row, aside, tuple(cell for column in columns for cell in column.get(row, nothing)))
        for row, aside in frame.drop_duplicates("row")[["row", "aside"]].itertuples(index=False)
    )
    return Sheet(_title(table, frame), tuple(headings), tuple(lines), tuple(_notes(table, frame)))


# ---- numbers


def number(value: float, unit: str, decimals: int | None = None) -> str:
    """A number of that unit, as it is printed. `decimals`: at most so many, and no zeros at the end."""
    if unit == "minutes" and value < 1:  # of small scales; the paper has none
        return f"{value:.2f}"
    if decimals:
        return f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return f"{value:.10g}" if unit == "setting" else f"{value:.{DECIMALS.get(unit, 3)}f}"


@dataclass(frozen=True)
class Numbers:
    """How those of a column are printed."""

    unit: str
    decimals: int | None = None

    def text(self, value: float) -> str:
        return number(value, self.unit, self.decimals)

    def rounded(self, value: float) -> float:
        """As a reader sees it: what looks the same is the same."""
        return float(self.text(value))

    def difference(self, ours: float, paper: float) -> str:
        """Of the numbers as they are printed, so that a reader who subtracts finds the same."""
        if (value := self.rounded(ours) - self.rounded(paper)) != value:  # of two infinities
            return "-"
        size = self.text(abs(value))
        return size if float(size) == 0 else f"{'+' if value > 0 else '-'}{size}"

    def seeds(self, values: pd.Series, asked: int) -> str:
        """Mean ± sample standard deviation (number of seeds)."""
        if asked == 1 or (self.unit in AS_WRITTEN and values.nunique() == 1):
            return self.text(values.iloc[0])
        spread = f" ± {self.text(values.std())}" if len(values) > 1 else ""
        of = "" if len(values) == asked else f" of {asked}"
        return f"{self.text(values.mean())}{spread} ({len(values)}{of})"


def numbers(table: Table, key: str, unit: str) -> Numbers:
    published = paper_tables().get(table.name)
    return Numbers(unit, published.columns[key].decimals if published else None)


# ---- cells


def _head(measure: Measure, unit: str) -> str:
    metric = "" if measure.metric in (measure.name, "setting") else f": {measure.metric}"
    return f"{measure.name}{metric}" + ("" if unit in ("", "rank", "setting") else f" ({unit})")


def _column(table: Table, measure: Measure, frame: pd.DataFrame) -> dict[str, tuple[Printed, ...]]:
    """{row: its cells under one heading}. `frame`: the lines of one measure."""
    style = numbers(table, measure.key, frame["unit"].iloc[0])
    by_row = dict(list(frame.groupby("row", sort=False)))
    ours = {row: style.rounded(cells["value"].mean()) for row, cells in by_row.items() if cells["value"].notna().any()}
    papers = {row: cells["paper"].iloc[0] for row, cells in by_row.items() if pd.notna(cells["paper"].iloc[0])}
    grey = {row for row, cells in by_row.items() if cells["grey"].iloc[0]}
    marks = [_marks(values, grey, measure.quantity.better) for values in (ours, papers)]
    shown = {}
    for row, cells in by_row.items():
        words = style.seeds(cells["value"].dropna(), len(cells)) if row in ours else _word(cells.iloc[0])
        mark = marks[0].get(row, "state")
        shown[row] = (Printed(words, mark, tuple(_source(cell) for cell in cells.itertuples() if cell.signature)),)
        if table.name in paper_tables():
            paper = Printed(style.text(papers[row]), marks[1][row]) if row in papers else Printed("-")
            both = row in ours and row in papers
            beside = "grey" if row in grey else ""
            difference = Printed(style.difference(ours[row], papers[row]), beside) if both else Printed("-")
            shown[row] += (paper, difference)
    return shown


def _word(cell: pd.Series) -> str:
    """Of a cell without a number."""
    return short(cell["reason"]) or cell["state"]


def _marks(values: dict[str, float], grey: set[str], better: str) -> dict[str, str]:
    """{row: mark} of numbers as they are printed: ties share. One alone is not the best of any."""
    compared = {row: value for row, value in values.items() if row not in grey}
    order = sorted(set(compared.values()), reverse=better == "higher") if better and len(compared) > 1 else []
    places = dict(zip(order, ("best", "second")))
    return {row: places.get(value, "") if row in compared else "grey" for row, value in values.items()}


def _source(cell: Any) -> Source:
    return Source(cell.seed, cell.signature, cell.folder, cell.commit, cell.state, cell.reason)


# ---- around the table


def _title(table: Table, frame: pd.DataFrame) -> str:
    seeds = int(frame.groupby(["row", "key"]).size().max())
    return f"Table {table.name}. {table.title} (scale {frame['scale'].iloc[0]}, {seeds} seed{'s'[: seeds > 1]} a row)"


def _notes(table: Table, frame: pd.DataFrame) -> list[str]:
    """Why cells have no number, under which conditions others were measured, what they may be compared with."""
    published = paper_tables().get(table.name)
    told: list[tuple[str, str]] = []  # (key of a measure, what holds for its numbers)
    constant: list[str] = []
    for measure in table.measures:
        done = frame[(frame["key"] == measure.key) & (frame["state"] == "done")]
        if done.empty or not (under := _conditions(measure, done["conditions"].iloc[0])):
            continue
        of = f"of {', '.join(each.key for each in measure.of)}; " if isinstance(measure, Derived) else ""
        theirs = f"; the paper's on {published.columns[measure.key].dataset}" if published else ""
        told.append((measure.key, f"{of}ours {under}{theirs}."))
        style = numbers(table, measure.key, done["unit"].iloc[0])
        if constants := list(dict.fromkeys(style.text(value) for value in done["constant"].dropna())):
            unit = f" x {style.unit}" if style.unit.startswith("1e-") else f" {style.unit}".rstrip()
            constant.append(f"{measure.key} {' or '.join(constants)}{unit}")
        told += [(measure.key, text) for text in _trained(done)]
    lines = _states(frame)
    for text in dict.fromkeys(text for _, text in told):
        lines.append(f"{_listed(key for key, its in told if its == text)}: {text}")
    lines += _bound(frame)
    lines += [f"The best constant prediction: {', '.join(constant)}."] if constant else []
    if published:
        lines.append("diff: ours - paper.")
    if (scale := frame["scale"].iloc[0]) != "paper":
        differences = ", and differences from them mean nothing" if published else ""
        lines.append(NOT_COMPARABLE.format(scale=scale, differences=differences))
    return lines


def _states(frame: pd.DataFrame) -> list[str]:
    """Why what has no number has none: each reason once, with the rows and measures that it is the reason of."""
    several = frame["seed"].nunique() > 1
    told: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for cell in frame[frame["state"] != "done"].itertuples():
        row = f"{cell.row} (seed {cell.seed})" if several else cell.row
        reason = cell.reason or UNTOLD.get(cell.state, "")
        told.setdefault((cell.state, reason), {}).setdefault(row, {})[cell.key] = None
    lines = []
    for (state, reason), rows in told.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for row, keys in rows.items():
            alike.setdefault(tuple(keys), []).append(row)
        what = "; ".join(f"{_listed(names)} {_listed(keys)}" for keys, names in alike.items())
        lines.append(f"{what} {state}{': ' if reason else ''}{reason}")
    return lines


def _bound(frame: pd.DataFrame) -> list[str]:
    """Which runs waited for data so long that they would have been faster by much."""
    slow = frame[frame["waited"] >= DATA_BOUND].drop_duplicates("signature")
    runs = (f"{cell.row} (run {cell.signature}, {cell.waited:.0%} of its time)" for cell in slow.itertuples())
    return [f"Bound by data, for which they waited: {_listed(runs)}."] if len(slow) else []


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return f"{', '.join(names[:TOLD])}{more}"


def _conditions(measure: Measure, conditions: dict[str, Any]) -> str:
    of_each = conditions if isinstance(measure, Derived) else {measure.key: conditions}
    told = [each.told(of_each[each.key]) for each in measure.measures if of_each.get(each.key)]
    return "; ".join(dict.fromkeys(told))


def _trained(cells: pd.DataFrame) -> list[str]:
    """What the rows of a column learnt from, where they have said; by row where that differs."""
    rows: dict[str, dict[str, None]] = {}
    for cell in cells.itertuples():
        for learnt in cell.learnt:
            rows.setdefault(_chain(learnt), {})[cell.row] = None
    everywhere = cells["row"].nunique()
    of = {chain: "" if len(names) == everywhere else f" ({', '.join(names)})" for chain, names in rows.items()}
    return [f"trained on {chain}{names}." for chain, names in of.items() if chain]


def _chain(learnt: Learnt) -> str:
    """The data of a run, then that of those that it starts from."""
    chain: list[str] = []
    for what, mark in learnt:
        if what.startswith("val: ") and chain:
            chain[-1] += f" (its weights chosen on {mark})"
        elif not what.startswith("weights run:"):
            chain.append(f"{what} {mark[:12]}" if what.startswith("weights ") else mark)
    return ", before that on ".join(chain)
