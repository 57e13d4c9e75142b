"""The parts of a document of what runs say of the paper's ablations, made of what is kept of them (`kept`): tables,
figures, verdicts, and what it took. Imports no torch.
"""

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from multimae.config import ConfigError
from multimae.files import write_atomic
from multimae.study import Measure, Table
from multimae.units import counted

from . import figures, verdicts
from .claims import Claim, claims
from .formats import markdown
from .kept import Kept, differences
from .page import Page
from .sheet import Heading, Line, Printed, Sheet, numbers, sheet

Frames = Mapping[str, pd.DataFrame]  # of tables, by name

TIMES = ("minutes", "images/s")  # units of what is not claimed: these runs share a machine
DOTS = 80  # per inch of a figure
DRAWN_FROM = "Drawn from"  # the field of a PNG that names the figure, and the digest of the files that it shows
TOOK = ("runs", "core-hours", "restarts", "of these without a word", "ended by an error", "steps without a finite loss")
COUNTED = (
    "A run that several studies have stands with the first of them. Core-hours: CPU time of the processes in completed "
    "epochs of training. A run that an error ended may have gone on from there."
)


class Chapter:
    """A study with some seeds, and perhaps some settings, as its page has them."""

    def __init__(self, page: Page):
        self.page, self.study = page, page.study

    @cached_property
    def every(self) -> list[tuple[Table, pd.DataFrame]]:
        """Its tables without times, and their frames; those of which no run is done are left out. Raises ConfigError
        where a run is refused: then its config is not what it was."""
        tables = [replace(table, measures=tuple(filter(_no_time, table.measures))) for table in self.study.tables]
        frames = [(table, self.page.frame(table)) for table in tables]
        for _, frame in frames:
            for cell in frame[(frame["state"] == "refused") & (frame["signature"] != "")].itertuples():
                raise ConfigError(f"run {cell.signature} ({cell.row} {cell.key}) is not what its name says any more")
        return [each for each in frames if ((each[1]["state"] == "done") & (each[1]["folder"] != "")).any()]

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        return {table.name: frame for table, frame in self.every}

    @property
    def tables(self) -> list[Table]:
        return [table for table, _ in self.every]

    @property
    def complete(self) -> bool:
        """Whether all its runs are done that can be."""
        return all(frame["state"].isin(["done", "blocked"]).all() for frame in self.frames.values())

    @property
    def commands(self) -> str:
        """What makes its runs, then prints its tables."""
        words = [f"python sweeps/{self.study.name}.py --scale {self.page.scale}"]
        command = " ".join([*words, *(f"--set {shlex.quote(edit)}" for edit in self.page.edits)])
        seeds = " ".join(map(str, self.page.seeds))
        if len(self.page.seeds) == 1:
            return f"```\n{command} --seed {seeds}\n```"
        return f"```\nfor seed in {seeds}; do {command} --seed $seed; done\n{command} --table --seeds {seeds}\n```"


def _no_time(measure: Measure) -> bool:
    return measure.quantity.unit not in TIMES


@dataclass
class Figures:
    """Those of a document; `digest`: of what they are drawn from."""

    folder: Path
    digest: str
    drawn: dict[str, Figure] = field(default_factory=dict)

    def place(self, name: str, figure: Figure, says: str) -> str:
        """Markdown that shows it, for a document two folders above."""
        self.drawn[name] = figure
        return f"![{says}]({self.folder.parent.name}/{self.folder.name}/{name}.png)\n\n*{says}*"

    def save(self) -> None:
        for name, figure in self.drawn.items():
            metadata = {DRAWN_FROM: self._stamp(name), "Software": None}
            figure.savefig(file := BytesIO(), dpi=DOTS, metadata=metadata)
            write_atomic(self.folder / f"{name}.png", file.getvalue())

    def stale(self) -> list[str]:
        """The figures whose file is not there, or shows another figure or other results."""
        return [name for name in self.drawn if drawn_from(self.folder / f"{name}.png") != self._stamp(name)]

    def _stamp(self, name: str) -> str:
        return f"{name} {self.digest}"


def digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def drawn_from(file: Path) -> str:
    if not file.exists():
        return ""
    with Image.open(file) as image:
        return str(image.info.get(DRAWN_FROM, ""))


# ---- the paper's tables


def shown(chapter: Chapter, frames: Frames, drawn: Figures) -> Iterator[str]:
    """The tables of a study, with figures and verdicts. `frames`: of all studies, as claims may compare tables."""
    claimed = {claim.table for claim in claims()}
    for table in chapter.tables:
        frame, name = chapter.frames[table.name], numbered(table)
        if len(chapter.tables) > 1:
            yield f"### {name}: {table.title}"
        yield markdown(_without_differences(sheet(table, frame)))
        says = f"{name}: the mean over seeds, each seed as a dot, and the standard deviation."
        yield drawn.place(f"table_{table.name}", figures.bars(table, frame), says)
        if table.name in claimed:
            yield markdown(verdicts.sheet(table.name, frames))
    says = (
        "Losses of the pre-trainings, means of each epoch: over seeds, in a band from the lowest seed to the highest."
    )
    says += " Rows that mask otherwise, or predict other modalities, have another task."
    yield drawn.place(f"{chapter.study.name}_losses", chapter.page.curves(), says)
    yield chapter.commands


def _without_differences(sheet: Sheet) -> Sheet:
    """Without the columns that mean nothing below paper scale."""
    kept = [[side != "diff" for side in heading.sides] for heading in sheet.headings]
    flags = [flag for its in kept for flag in its]
    return replace(
        sheet,
        headings=tuple(replace(h, sides=tuple(compress(h.sides, its))) for h, its in zip(sheet.headings, kept)),
        lines=tuple(replace(line, cells=tuple(compress(line.cells, flags))) for line in sheet.lines),
        notes=tuple(note for note in sheet.notes if not note.startswith("diff:")),
    )


def numbered(table: Table) -> str:
    return f"Table {table.name}"


# ---- verdicts


def summary(frames: Frames, others: Frames) -> Sheet:
    """Every claim with its verdict, how its inequalities turned out, and, where its cells in other frames come from
    other runs, the verdict there."""
    lines, counts = [], Counter[str]()
    for claim in claims():
        says = f"{claim.says} (Section {claim.section})" + " The paper's own table disagrees." * bool(claim.disagrees)
        if claim.table not in frames:
            counts["not run"] += 1
            lines.append(Line(claim.table, "", (Printed(says), Printed("not run", "state"), *[Printed("-")] * 2)))
            continue
        judged = verdicts.judge(claim, frames)
        counts[judged.verdict] += 1
        elsewhere = verdicts.judge(claim, others).printed if _differ(claim, frames, others) else Printed("-")
        outcomes = Printed(" / ".join(map(str, judged.outcomes)))
        lines.append(Line(claim.table, "", (Printed(says), judged.printed, outcomes, elsewhere)))
    words = (*verdicts.WORDS, "not run")
    title = f"{counted(len(lines), 'claim')}: {', '.join(f'{counts[word]} {word}' for word in words)}"
    heads = ("the paper concludes", "our runs", "for / against / open", "at the rate that was found")
    return Sheet(title, tuple(Heading(head, left=True) for head in heads), tuple(lines), (verdicts.CHANCE,))


def _differ(claim: Claim, frames: Frames, others: Frames) -> bool:
    """Whether the claim can be judged by others, which are not the same."""
    places = {(table, row, key) for key, *both in claim.inequalities for table, row in both}
    return all(table in others for table, *_ in places) and any(
        _values(frames[table], row, key) != _values(others[table], row, key) for table, row, key in places
    )


def _values(frame: pd.DataFrame, row: str, key: str) -> dict[int, float]:
    cells = frame[(frame["row"] == row) & (frame["key"] == key) & (frame["state"] == "done")]
    return dict(zip(cells["seed"], cells["value"]))


def fresh(table: str, frames: Frames, alone: Frames, together: Frames) -> Sheet:
    """What a seed more says of a table's claims: how many of their inequalities hold in it, and the verdict with it."""
    lines = []
    for claim in (claim for claim in claims() if claim.table == table):
        held = 0
        inequalities = list(claim.inequalities)
        for key, one, other in inequalities:
            values = [np.array(list(_values(alone[place[0]], place[1], key).values())) for place in (one, other)]
            held += bool((claim.slacks(key, *values) > 0).all())
        verdict = [verdicts.judge(claim, each).printed for each in (frames, together)]
        lines.append(Line(claim.says, "", (verdict[0], Printed(f"{held} of {len(inequalities)}"), verdict[1])))
    heads = ("before", "of its inequalities, true in this seed", "with it")
    return Sheet(f"What it says of Table {table}", tuple(Heading(head, left=True) for head in heads), tuple(lines), ())


# ---- results beside results


def beside(table: Table, one: pd.DataFrame, other: pd.DataFrame, sides: tuple[str, str], title: str) -> Sheet:
    """Two frames of one table, in the columns whose numbers are not the same: those of each, and by how many standard
    deviations over the seeds of the first the mean of the other lies above."""
    headings, columns = [], []
    rows = list(dict.fromkeys(one["row"]))
    for measure in table.measures:
        cells = [frame[frame["key"] == measure.key] for frame in (one, other)]
        done = [its[its["state"] == "done"] for its in cells]
        if done[1].empty or set(done[0]["value"]) == set(done[1]["value"]):
            continue
        style = numbers(table, measure.key, cells[0]["unit"].iloc[0])
        column = {}
        for row in rows:
            asked = [int((its["row"] == row).sum()) for its in cells]
            values = [its[its["row"] == row]["value"] for its in done]
            texts = [style.seeds(its, number) if len(its) else "-" for its, number in zip(values, asked)]
            away = (values[1].mean() - values[0].mean()) / values[0].std() if len(values[0]) > 1 else float("nan")
            column[row] = tuple(map(Printed, [*texts, f"{round(away, 1) + 0.0:+.1f}" if away == away else "-"]))
        headings.append(Heading(measure.name, (*sides, "deviations")))
        columns.append(column)
    lines = tuple(Line(row, "", tuple(cell for column in columns for cell in column[row])) for row in rows)
    note = (
        f"Deviations: by how many standard deviations over the seeds of '{sides[0]}' the mean of '{sides[1]}' is above."
    )
    return Sheet(title, tuple(headings), lines, (note,))


def again(first: Mapping[str, Kept], second: Mapping[str, Kept]) -> str:
    """How two makings of the same runs compare, each from nothing. Raises ConfigError where they are not two makings of
    the same."""
    if others := [run for run in second if run not in first]:
        raise ConfigError(f"what was made again has runs that are not kept of the first time: {', '.join(others[:3])}")
    if same := [run for run in second if first[run].began == second[run].began]:
        raise ConfigError(
            f"run {same[0]}, and {len(same) - 1} more, were not made again: they are those of the first time"
        )
    if ended := [run for run in second if not (first[run].finished and second[run].finished)]:
        raise ConfigError(f"run {ended[0]} did not finish both times")
    differing = {run: what for run in second if (what := differences(first[run], second[run]))}
    losses = sum(bool(kept.outcome["losses"]) for kept in second.values())
    commits = [_commits(kept[run] for run in second) for kept in (first, second)]
    lines = [
        f"{len(second) - len(differing)} of {counted(len(second), 'run')} have the same evaluations and the same "
        f"weights, to the last bit, and so the same losses, which are kept of {losses}. The results above were made at "
        f"{commits[0]}; the other time at {commits[1]}.",
        *(f"- {first[run].row} {first[run].stage} ({run}): another {', '.join(w)}" for run, w in differing.items()),
    ]
    return "\n".join(lines)


# ---- what it took


def took(parts: Mapping[str, Iterable[Kept]]) -> Sheet:
    """What runs cost, and what befell them. `parts`: those of each study."""
    told: dict[str, Kept] = {}
    lines = []
    for name, runs in parts.items():
        its = {kept.run: kept for kept in runs if kept.run not in told}
        told |= its
        lines.append(_took(name, list(its.values())))
    lines.append(_took("together", list(told.values())))
    notes = (COUNTED, f"Commits: {_commits(told.values())}.")
    return Sheet("Each run counted once", tuple(map(Heading, TOOK)), tuple(lines), notes)


def _took(name: str, runs: Sequence[Kept]) -> Line:
    hours = sum(run.core_seconds for run in runs) / 3600
    counts = [sum(run.restarts for run in runs), sum(run.killed for run in runs)]
    counts += [sum(len(run.of(kind)) for run in runs) for kind in ("failed", "nonfinite")]
    return Line(name, "", tuple(map(Printed, [str(len(runs)), f"{hours:.1f}", *map(str, counts)])))


def _commits(runs: Iterable[Kept]) -> str:
    told = Counter(_commit(commit) for run in runs for commit in run.commits)
    return ", ".join(f"{commit} ({counted(number, 'run')})" for commit, number in told.items())


def _commit(name: str) -> str:
    commit, _, dirty = name.partition("-")
    return f"{commit[:7]}{' with uncommitted changes' * bool(dirty)}"
