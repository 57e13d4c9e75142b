"""What the paper concludes from its tables (claims.yaml): each claim a set of inequalities between cells. How our runs
are judged by them: `verdicts`."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from multimae.config import ConfigError
from multimae.config.settings import nearest, shown

from .paper import PaperTable, paper_tables

FILE = Path(__file__).with_name("claims.yaml")
RELATIONS = ("better", "worse", "similar", "not worse")
EXACT = ("better", "worse")  # which have no margin

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

    def slacks(self, key: str, value: np.ndarray, other: np.ndarray) -> np.ndarray:
        """By how much one inequality between cells is fulfilled, in the unit of the measure; negative where it is not.
        An array as those of the cells, with one more dimension in front: `similar` has two sides."""
        better = value - other if paper_tables()[self.table].columns[key].better == "higher" else other - value
        margin = self.margin * abs(other)
        sides = {
            "better": [better],
            "worse": [-better],
            "similar": [margin + better, margin - better],
            "not worse": [margin + better],
        }
        return np.stack(sides[self.relation])

    @property
    def of_paper(self) -> bool:
        """Whether the paper's own numbers fulfil it."""
        tables = paper_tables()
        cells = (
            (key, np.array(tables[a].rows[row][key]), np.array(tables[b].rows[other][key]))
            for key, (a, row), (b, other) in self.inequalities
        )
        return all((self.slacks(*cell) > 0).all() for cell in cells)


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
