"""Whether our runs say what the paper concludes (`claims`).

A claim is `reproduced` where each of its inequalities is, `contradicted` where one of them is, else `not decidable`. An
inequality is reproduced where all seeds agree with it and the mean over seeds by which it is fulfilled exceeds the
pooled standard deviation of its two cells; contradicted where that is so of its opposite. Two cells of which neither is
better than the best constant prediction decide nothing: neither has learnt anything.

A claim of many inequalities is hard to reproduce and easy to contradict, so beside a verdict stands how often as many
of them would come out so by chance: with cells that differ by nothing but their seeds.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from .claims import Claim, Place, claims
from .paper import paper_tables
from .sheet import Heading, Line, Numbers, Printed, Sheet

WORDS = ("reproduced", "contradicted", "not decidable")
LEAST = 2  # seeds
TOLD = 3  # reasons of a verdict
DRAWS = 10_000
BELOW = "These runs are of the {scale} scale: far smaller models, of which the paper says nothing."
CHANCE = (
    "By chance: how often as many of a claim's inequalities would come out so if its cells differed by nothing but "
    "seeds, with the deviation that was measured."
)


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    verdict: str  # one of WORDS
    why: str
    outcomes: tuple[int, int, int]  # how many of its inequalities are fulfilled, are not, are open
    chance: float | None = None  # of as many for or against it, were all cells the same; None of what is not decidable

    @property
    def printed(self) -> Printed:
        chance = "" if self.chance is None else f"{self.chance:.0%}" if self.chance >= 0.005 else "< 1%"
        by_chance = f" (by chance: {chance})" if chance else ""
        return Printed(f"{self.verdict}{by_chance}", "" if by_chance else "state")


@dataclass(frozen=True)
class Evidence:
    """What is there of one inequality: the values of both cells by seed, or why that is not enough."""

    key: str
    one: Place
    other: Place
    lack: str = ""
    values: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))  # (cells, seeds)
    constant: float = np.nan  # of the best constant prediction, where it is known

    @property
    def pooled(self) -> float:
        """Standard deviation over seeds."""
        return float(np.sqrt(self.values.var(axis=-1, ddof=1).mean()))


def judge(claim: Claim, frames: Mapping[str, pd.DataFrame]) -> Verdict:
    """`frames`: of tables by name, as `tables.build` makes them, of several seeds."""
    found = [_evidence(*inequality, frames) for inequality in claim.inequalities]
    outcomes = [_outcome(claim, each) for each in found]
    signs = [sign for sign, *_ in outcomes]
    counts = (signs.count(1), signs.count(-1), signs.count(0))
    if against := [why for sign, _, why in outcomes if sign < 0]:
        return Verdict(claim, "contradicted", _told(against, counts), counts, _chance(claim, found, -1, counts[1]))
    if undecided := [why for sign, _, why in outcomes if sign == 0]:
        return Verdict(claim, "not decidable", _told(undecided, counts), counts)
    weakest = min(outcomes, key=lambda outcome: outcome[1])
    return Verdict(claim, "reproduced", _told([weakest[2]], counts), counts, _chance(claim, found, 1, counts[0]))


def _told(reasons: Sequence[str], counts: Sequence[int]) -> str:
    """Some of the reasons; of several inequalities how they turned out."""
    told = ", ".join(f"{number} {word}" for number, word in zip(counts, ("for", "against", "open")) if number)
    reasons = list(dict.fromkeys(reasons))
    return "; ".join(reasons[:TOLD]) + (f" ({told})" if sum(counts) > 1 else "")


# ---- one inequality


def _evidence(key: str, one: Place, other: Place, frames: Mapping[str, pd.DataFrame]) -> Evidence:
    cells = [_cells(frames, place, key) for place in (one, other)]
    if lacks := [lack for _, lack in cells if lack]:
        return Evidence(key, one, other, "; ".join(dict.fromkeys(lacks)))
    both = pd.merge(cells[0][0], cells[1][0], on="seed")
    if any(a != b for a, b in zip(both["conditions_x"], both["conditions_y"])):
        return Evidence(key, one, other, f"{key} of {one[1]} and {other[1]} was measured under other conditions")
    if len(both) < LEAST:
        return Evidence(key, one, other, f"{len(both)} seed{'s' * (len(both) != 1)} of {key}, two are the least")
    return Evidence(key, one, other, "", both[["value_x", "value_y"]].to_numpy(float).T, both["constant_x"].mean())


def _cells(frames: Mapping[str, pd.DataFrame], place: Place, key: str) -> tuple[pd.DataFrame, str]:
    """(those of all seeds, what of them is not there)."""
    table, row = place
    if table not in frames:
        return pd.DataFrame(), f"Table {table} is not at hand"
    frame = frames[table]
    cells = frame[(frame["row"] == row) & (frame["key"] == key)]
    if cells.empty:
        return cells, f"{row} {key} is not in our table"
    missing = cells[cells["state"] != "done"]
    if missing.empty:
        return cells, ""
    of = "" if len(missing) == len(cells) else f" of seed {', '.join(map(str, missing['seed']))}"
    return cells, f"{row} {key}{of} {missing['state'].iloc[0]}"


def _outcome(claim: Claim, found: Evidence) -> tuple[int, float, str]:
    """(1, -1, or 0 where it is not decidable; by how many deviations it is fulfilled; the numbers, or why not)."""
    if found.lack:
        return 0, 0.0, found.lack
    column, key = paper_tables()[claim.table].columns[found.key], found.key
    better, (one, other) = 1 if column.better == "higher" else -1, (found.one[1], found.other[1])
    means, pooled = found.values.mean(axis=-1), found.pooled
    if (better * means).max() <= better * found.constant:
        return 0, 0.0, f"{key}: neither {one} nor {other} is better than the best constant prediction"
    slacks = claim.slacks(key, *found.values)
    sign = int(_signs(slacks, pooled))
    style = Numbers(column.unit, column.decimals)
    shown = [style.text(number) for number in (*means, pooled)]
    told = f"{key}: {one} {shown[0]}, {other} {shown[1]}, pooled deviation {shown[2]}"
    worst = slacks[slacks.mean(axis=-1).argmin()]
    return sign, float(worst.mean() / pooled) if pooled else np.inf, told if sign else f"{told}{_open(worst)}"


def _signs(slacks: np.ndarray, pooled: np.ndarray | float) -> np.ndarray:
    """Of slacks (sides, ..., seeds) and deviations (...): 1, -1 or 0 (...)."""
    means = slacks.mean(axis=-1)
    fulfilled = ((slacks.min(axis=-1) > 0) & (means > pooled)).all(axis=0)
    opposite = ((slacks.max(axis=-1) < 0) & (-means > pooled)).any(axis=0)
    return fulfilled.astype(int) - opposite.astype(int)


def _open(slacks: np.ndarray) -> str:
    agree = int((slacks > 0).sum())
    return f" ({agree} of {len(slacks)} seeds agree)" if 0 < agree < len(slacks) else " (within the deviation)"


def _chance(claim: Claim, found: Sequence[Evidence], sign: int, number: int) -> float:
    """How often so many inequalities, or more, would have this sign if the cells of a column were the same but for
    their seeds: normal, with the mean and the deviation that were measured. What lacks values has none."""
    random = np.random.default_rng(0)
    signs = []
    for _, its in itertools.groupby((each for each in found if not each.lack), key=lambda each: each.key):
        column = list(its)
        places = list(dict.fromkeys(place for each in column for place in (each.one, each.other)))
        center = np.mean([each.values.mean() for each in column])
        deviation = np.sqrt(np.mean([each.pooled**2 for each in column]))
        seeds = column[0].values.shape[-1]
        drawn = dict(zip(places, random.normal(center, deviation, (len(places), DRAWS, seeds))))
        for each in column:
            cells = drawn[each.one], drawn[each.other]
            pooled = np.sqrt(np.mean([cell.var(axis=-1, ddof=1) for cell in cells], axis=0))
            signs.append(_signs(claim.slacks(each.key, *cells), pooled))
    return float(((np.array(signs) == sign).sum(axis=0) >= number).mean())


# ---- to be printed


def of_table(table: str, frames: Mapping[str, pd.DataFrame]) -> Iterator[Verdict]:
    """Of the claims that are made of a table, in the order of the file. `frames`: that table and others."""
    return (judge(claim, frames) for claim in claims() if claim.table == table)


def sheet(table: str, frames: Mapping[str, pd.DataFrame]) -> Sheet:
    judged = list(of_table(table, frames))
    lines = (Line(_says(each.claim), "", (each.printed, Printed(each.why))) for each in judged)
    claimed = (each.claim for each in judged if each.claim.disagrees)
    notes = [f"{claim.says} The paper's own table disagrees: {claim.disagrees}" for claim in claimed]
    if any(each.chance is not None for each in judged):
        notes.append(CHANCE)
    if (scale := frames[table]["scale"].iloc[0]) != "paper":
        notes.append(BELOW.format(scale=scale))
    headings = (Heading("our runs", left=True), Heading("because of", left=True))
    return Sheet(f"What the paper concludes from Table {table}", headings, tuple(lines), tuple(notes))


def _says(claim: Claim) -> str:
    return f"{claim.says} (Section {claim.section})"
