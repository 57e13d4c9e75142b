"""What the paper concludes from its tables (claims.yaml), and whether our runs say the same.

A claim is a set of inequalities between cells. It is `reproduced` where every one is, `contradicted` where one of them
is, else `not decidable`. An inequality is reproduced where all seeds agree with it and the mean over seeds by which it
is fulfilled exceeds the pooled standard deviation of the two cells; contradicted where that is so of its opposite. Of
two cells that are no better than the best constant prediction it says nothing: neither has learnt anything.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from multimae.config import ConfigError
from multimae.config.settings import nearest, shown

from .paper import PaperTable, paper_tables
from .sheet import Heading, Line, Numbers, Printed, Sheet

FILE = Path(__file__).with_name("claims.yaml")
RELATIONS = ("better", "worse", "similar", "not worse")
VERDICTS = ("reproduced", "contradicted", "not decidable")
EXACT = ("better", "worse")  # which have no margin
LEAST = 2  # seeds
TOLD = 3  # reasons of a verdict
BELOW = "These runs are of the {scale} scale: far smaller models, of which the paper says nothing."

Place = tuple[str, str]  # table, row


@dataclass(frozen=True)
class Claim:
    table: str
    section: str
    says: str
    row: str
    relation: str  # `is` in the file
    than: tuple[str, ...]
    keys: tuple[str, ...]  # of measures
    margin: float = 0.0  # as a share of the other's value
    than_table: str = ""
    disagrees: str = ""  # what in the paper's own table speaks against it

    @property
    def inequalities(self) -> Iterator[tuple[str, Place, Place]]:
        """(key, cell, other cell)."""
        for key, other in itertools.product(self.keys, self.than):
            yield key, (self.table, self.row), (self.than_table or self.table, other)

    def slack(self, key: str, value: float, other: float) -> float:
        """By how much one inequality is fulfilled, in the unit of the measure; negative where it is not."""
        better = value - other if paper_tables()[self.table].columns[key].better == "higher" else other - value
        margin = self.margin * abs(other)
        slacks = {"better": better, "worse": -better, "similar": margin - abs(better), "not worse": margin + better}
        return slacks[self.relation]

    @property
    def of_paper(self) -> bool:
        """Whether the paper's own numbers fulfil it."""
        tables = paper_tables()
        cells = (
            (key, tables[a].rows[row][key], tables[b].rows[other][key])
            for key, (a, row), (b, other) in self.inequalities
        )
        return all(self.slack(*cell) > 0 for cell in cells)


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    verdict: str  # one of VERDICTS
    why: str
    outcomes: tuple[int, int, int]  # how many of its inequalities are fulfilled, are not, are open


@functools.cache
def claims() -> tuple[Claim, ...]:
    """All of claims.yaml. Raises ConfigError for what does not fit paper.yaml."""
    entries = yaml.load(FILE.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["claims"]
    return tuple(parsed(entry, f"{FILE.name}, claim {number}") for number, entry in enumerate(entries, start=1))


def parsed(entry: Mapping[str, Any], where: str) -> Claim:
    """A claim of the file. Raises ConfigError that names what is wrong, and what was meant."""
    given = {"relation" if key == "is" else key: value for key, value in entry.items()}
    known = {field.name: field.default for field in fields(Claim)}
    for key in given:
        _check(key, known, f"{where}: no field")
    if lacks := [name for name, default in known.items() if default is MISSING and name not in given]:
        raise ConfigError(f"{where}: lacks {', '.join('is' if name == 'relation' else name for name in lacks)}")
    for name in ("than", "keys"):
        if not isinstance(given[name], list) or not given[name]:
            raise ConfigError(f"{where}, {name}: expected a list of names, found {shown(given[name])}")
    claim = Claim(**given | {name: tuple(given[name]) for name in ("than", "keys")})
    _check(claim.relation, RELATIONS, f"{where}, is: no relation")
    if (claim.relation in EXACT) == bool(claim.margin):
        raise ConfigError(f"{where}: {' and '.join(EXACT)} have no margin, the others have one; found {claim.margin}")
    table, other = (_table(name, where) for name in (claim.table, claim.than_table or claim.table))
    _check(claim.row, table.rows, f"{where}: Table {claim.table} has no row")
    for row in claim.than:
        _check(row, other.rows, f"{where}: Table {claim.than_table or claim.table} has no row")
    for key in claim.keys:
        _check(key, table.columns, f"{where}: Table {claim.table} has no column")
        _check(key, other.columns, f"{where}: Table {claim.than_table or claim.table} has no column")
        if not table.columns[key].better:
            raise ConfigError(f"{where}: of {key}, neither higher nor lower is better")
    return claim


def _table(name: str, where: str) -> PaperTable:
    _check(name, paper_tables(), f"{where}: no table")
    return paper_tables()[name]


def _check(name: str, known: Any, problem: str) -> None:
    if name not in known:
        raise ConfigError(f"{problem} {shown(name)}{nearest(str(name), list(known))} There are {', '.join(known)}")


# ---- of our runs


def judge(claim: Claim, frames: Mapping[str, pd.DataFrame]) -> Verdict:
    """`frames`: of tables by name, as `tables.build` makes them, of several seeds."""
    outcomes = [_outcome(claim, *inequality, frames) for inequality in claim.inequalities]
    signs = [sign for sign, *_ in outcomes]
    counts = (signs.count(1), signs.count(-1), signs.count(0))
    against = [why for sign, _, why in outcomes if sign < 0]
    undecided = list(dict.fromkeys(why for sign, _, why in outcomes if sign == 0))
    if against:
        return Verdict(claim, "contradicted", _told(against, counts), counts)
    if undecided:
        return Verdict(claim, "not decidable", _told(undecided, counts), counts)
    weakest = min(outcomes, key=lambda outcome: outcome[1])
    return Verdict(claim, "reproduced", _told([weakest[2]], counts), counts)


def _told(reasons: Sequence[str], counts: Sequence[int]) -> str:
    """Some of the reasons; of several inequalities how they turned out, since of many some do so by chance."""
    told = ", ".join(f"{number} {word}" for number, word in zip(counts, ("for", "against", "open")) if number)
    return "; ".join(reasons[:TOLD]) + (f" ({told})" if sum(counts) > 1 else "")


def _outcome(
    claim: Claim, key: str, one: Place, other: Place, frames: Mapping[str, pd.DataFrame]
) -> tuple[int, float, str]:
    """(1, -1, or 0 where it is not decidable; by how many deviations it is fulfilled; the numbers, or why not)."""
    cells = [_cells(frames, place, key) for place in (one, other)]
    if lacks := [lack for _, lack in cells if lack]:
        return 0, 0.0, "; ".join(dict.fromkeys(lacks))
    (values, constant), (others, _) = (
        (dict(zip(its["seed"], its["value"])), its["constant"].mean()) for its, _ in cells
    )
    seeds = [seed for seed in values if seed in others]
    if len(seeds) < LEAST:
        return 0, 0.0, f"{len(seeds)} seed{'s'[: len(seeds) != 1]} of {key}, two are the least"
    pairs = [(values[seed], others[seed]) for seed in seeds]
    slacks = [claim.slack(key, *pair) for pair in pairs]
    pooled = math.sqrt(statistics.fmean(statistics.variance(column) for column in zip(*pairs)))
    column = paper_tables()[claim.table].columns[key]
    style = Numbers(column.unit, column.decimals)
    means = [style.text(statistics.fmean(side)) for side in zip(*pairs)]
    told = f"{key}: {one[1]} {means[0]}, {other[1]} {means[1]}, pooled deviation {style.text(pooled)}"
    best = max if column.better == "higher" else min
    if best(statistics.fmean(side) for side in (*zip(*pairs), (constant,))) == constant:  # NaN where it is not known
        return 0, 0.0, f"{key}: neither {one[1]} nor {other[1]} is better than the best constant prediction"
    mean = statistics.fmean(slacks)
    sign = 1 if min(slacks) > 0 and mean > pooled else -1 if max(slacks) < 0 and -mean > pooled else 0
    return sign, mean / pooled if pooled else math.inf, told if sign else f"{told}{_open(slacks)}"


def _open(slacks: Sequence[float]) -> str:
    agree = sum(slack > 0 for slack in slacks)
    return f" ({agree} of {len(slacks)} seeds agree)" if 0 < agree < len(slacks) else " (within the deviation)"


def _cells(frames: Mapping[str, pd.DataFrame], place: Place, key: str) -> tuple[pd.DataFrame, str]:
    """(those of all seeds, what of them is not there)."""
    table, row = place
    if table not in frames:
        return pd.DataFrame(), f"Table {table} is not at hand"
    frame = frames[table]
    cells = frame[(frame["row"] == row) & (frame["key"] == key)]
    missing = cells[cells["state"] != "done"]
    if cells.empty:
        return cells, f"{row} {key} is not in our table"
    return cells, "" if missing.empty else f"{row} {key} {missing['state'].iloc[0]}"


def verdicts(table: str, frames: Mapping[str, pd.DataFrame]) -> list[Verdict]:
    """Of the claims that are made of a table, in the order of the file. `frames`: that table and others."""
    return [judge(claim, frames) for claim in claims() if claim.table == table]


def sheet(table: str, frames: Mapping[str, pd.DataFrame]) -> Sheet:
    """The same, to be printed."""
    judged = verdicts(table, frames)
    lines = []
    for each in judged:
        verdict = Printed(each.verdict, "state" if each.verdict == "not decidable" else "")
        lines.append(Line(f"{each.claim.says} (Section {each.claim.section})", "", (verdict, Printed(each.why))))
    claimed = (each.claim for each in judged if each.claim.disagrees)
    notes = [f"{claim.says} The paper's own table disagrees: {claim.disagrees}" for claim in claimed]
    if (scale := frames[table]["scale"].iloc[0]) != "paper":
        notes.append(BELOW.format(scale=scale))
    headings = (Heading("our runs", left=True), Heading("because of", left=True))
    return Sheet(f"What the paper concludes from Table {table}", headings, tuple(lines), tuple(notes))
