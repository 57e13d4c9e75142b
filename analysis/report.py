"""The parts of a document of what runs say of the paper's ablations, made of what is kept of them (`kept`): tables,
figures, verdicts, and what it took. Imports no torch.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from multimae.files import write_atomic
from multimae.study import Measure, Study, Table
from multimae.units import counted

from . import claims, figures
from .formats import markdown
from .kept import Kept, differences
from .page import Page
from .sheet import Heading, Line, Printed, Sheet, numbers, sheet

TIMES = ("minutes", "images/s")  # units of what is not claimed: these runs share a machine
DOTS = 80  # per inch of a figure
DRAWN_FROM = "Drawn from"  # the field of a PNG that has the digest of the files that it shows
TOOK = ("runs", "core-hours", "restarts", "of these without a word", "ended by an error", "steps without a finite loss")


@dataclass(frozen=True)
class Chapter:
    """A study with some seeds, and perhaps some settings."""

    page: Page
    seeds: tuple[int, ...]
    edits: tuple[str, ...] = ()  # as `--set` takes them

    @property
    def study(self) -> Study:
        return self.page.study

    @cached_property
    def every(self) -> list[tuple[Table, pd.DataFrame]]:
        """Its tables without times, and their frames; those of which no run is done are left out."""
        tables = [replace(table, measures=tuple(filter(_no_time, table.measures))) for table in self.study.tables]
        frames = [(table, self.page.frame(table)) for table in tables]
        return [each for each in frames if ((each[1]["state"] == "done") & (each[1]["folder"] != "")).any()]

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        return {table.name: frame for table, frame in self.every}

    @property
    def tables(self) -> list[Table]:
        return [table for table, _ in self.every]

    @property
    def commands(self) -> str:
        """What makes its runs, then prints its tables."""
        words = [f"python sweeps/{self.study.name}.py --scale {self.page.scale}", *(f"--set {e}" for e in self.edits)]
        each = f"for seed in {' '.join(map(str, self.seeds))}; do {' '.join(words)} --seed $seed; done"
        alone = f"{' '.join(words)} --seed {self.seeds[0]}"
        several = len(self.seeds) > 1
        return "\n".join(
            ["```", each if several else alone]
            + [f"{' '.join(words)} --table --seeds {' '.join(map(str, self.seeds))}"] * several
            + ["```"]
        )


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
            figure.savefig(file := BytesIO(), dpi=DOTS, metadata={DRAWN_FROM: self.digest, "Software": None})
            write_atomic(self.folder / f"{name}.png", file.getvalue())

    def stale(self) -> list[str]:
        """The figures whose file is not there, or shows other results than these."""
        return [name for name in self.drawn if drawn_from(self.folder / f"{name}.png") != self.digest]


def digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def drawn_from(file: Path) -> str:
    if not file.exists():
        return ""
    with Image.open(file) as image:
        return str(image.info.get(DRAWN_FROM, ""))


# ---- the paper's tables


def shown(chapter: Chapter, frames: Mapping[str, pd.DataFrame], drawn: Figures) -> Iterator[str]:
    """The tables of a study, with figures and verdicts. `frames`: of all studies, as claims may compare tables."""
    yield chapter.commands
    claimed = {claim.table for claim in claims.claims()}
    for table in chapter.tables:
        frame, name = chapter.frames[table.name], numbered(table)
        if len(chapter.tables) > 1:
            yield f"### {name}: {table.title}"
        yield markdown(sheet(table, frame))
        says = f"{name}: the mean over seeds, each seed as a dot, and the standard deviation."
        yield drawn.place(f"table_{table.name}", figures.bars(table, frame), says)
        if table.name in claimed:
            yield markdown(claims.sheet(table.name, frames))
    says = (
        "Losses of the pre-trainings, means of each epoch: over seeds, in a band from the lowest seed to the highest."
    )
    yield drawn.place(f"{chapter.study.name}_losses", chapter.page.curves(), says)


def numbered(table: Table) -> str:
    return f"Table {table.name}"


# ---- verdicts


def verdicts(frames: Mapping[str, pd.DataFrame], others: Mapping[str, Mapping[str, pd.DataFrame]]) -> Sheet:
    """Every claim of these tables with its verdict, how its inequalities turned out, and others' verdicts."""
    judged = [verdict for name in frames for verdict in claims.verdicts(name, frames)]
    lines = []
    for each in judged:
        cells = [Printed(f"{each.claim.says} (Section {each.claim.section})"), _verdict(each.verdict)]
        cells.append(Printed(" / ".join(map(str, each.outcomes))))
        cells += [_verdict(claims.judge(each.claim, frames | its).verdict) for its in others.values()]
        lines.append(Line(each.claim.table, "", tuple(cells)))
    counts = Counter(each.verdict for each in judged)
    title = f"{counted(len(judged), 'claim')}: {', '.join(f'{counts[word]} {word}' for word in claims.VERDICTS)}"
    heads = ("the paper concludes", "our runs", "for / against / open", *others)
    return Sheet(title, tuple(Heading(head, left=True) for head in heads), tuple(lines), ())


def _verdict(word: str) -> Printed:
    return Printed(word, "state" if word == "not decidable" else "")


# ---- results beside results


def beside(table: Table, one: pd.DataFrame, other: pd.DataFrame, sides: tuple[str, str], title: str) -> Sheet:
    """Two frames of one table, in the columns whose numbers are not the same: those of each, and by how many standard
    deviations over the seeds of the first the mean of the other lies above."""
    headings, columns = [], []
    rows = list(dict.fromkeys(one["row"]))
    for measure in table.measures:
        cells = [frame[(frame["key"] == measure.key) & (frame["state"] == "done")] for frame in (one, other)]
        if cells[1].empty or set(cells[0]["value"]) == set(cells[1]["value"]):
            continue
        style = numbers(table, measure.key, cells[0]["unit"].iloc[0])
        column = {}
        for row in rows:
            values = [frame[frame["row"] == row]["value"] for frame in cells]
            texts = [style.seeds(its, len(its)) if len(its) else "-" for its in values]
            away = (values[1].mean() - values[0].mean()) / values[0].std() if len(values[0]) > 1 else float("nan")
            column[row] = tuple(map(Printed, [*texts, f"{away:+.1f}" if away == away else "-"]))
        headings.append(Heading(measure.name, (*sides, "deviations")))
        columns.append(column)
    lines = tuple(Line(row, "", tuple(cell for column in columns for cell in column[row])) for row in rows)
    return Sheet(title, tuple(headings), lines, ())


def again(first: Mapping[str, Kept], second: Mapping[str, Kept]) -> str:
    """How two makings of the same runs compare, each from nothing."""
    both = [run for run in second if run in first]
    differing = {run: what for run in both if (what := differences(first[run], second[run]))}
    commits = [_commits(kept[run] for run in both) for kept in (first, second)]
    lines = [
        f"{len(both) - len(differing)} of {counted(len(both), 'run')} have the same losses, evaluations and weights to "
        f"the last bit. Made at {commits[0]}; the other time at {commits[1]}.",
        *(f"- {first[run].row} {first[run].stage} ({run}): another {', '.join(w)}" for run, w in differing.items()),
    ]
    return "\n".join(lines)


# ---- what it took


def took(parts: Mapping[str, Iterable[Kept]]) -> Sheet:
    """What runs cost, and what befell them. `parts`: those of each study; a run that is in several is told with the
    first."""
    told: dict[str, Kept] = {}
    lines = []
    for name, runs in parts.items():
        its = {kept.run: kept for kept in runs if kept.run not in told}
        told |= its
        lines.append(_took(name, list(its.values())))
    lines.append(_took("together", list(told.values())))
    notes = ("A run that several studies have stands with the first of them.", f"Commits: {_commits(told.values())}.")
    return Sheet("Each run counted once", tuple(map(Heading, TOOK)), tuple(lines), notes)


def _took(name: str, runs: Sequence[Kept]) -> Line:
    hours = sum(run.core_seconds for run in runs) / 3600
    counts = [sum(run.restarts for run in runs), sum(run.killed for run in runs)]
    counts += [sum(len(run.of(kind)) for run in runs) for kind in ("failed", "nonfinite")]
    return Line(name, "", tuple(map(Printed, [str(len(runs)), f"{hours:.1f}", *map(str, counts)])))


def _commits(runs: Iterable[Kept]) -> str:
    told: Counter[str] = Counter()
    for run in runs:
        commit = str(run.environment.get("commit") or "an unknown commit")[:7]
        told[f"{commit} with uncommitted changes" if run.environment.get("dirty") else commit] += 1
    return ", ".join(f"{commit} ({counted(number, 'run')})" for commit, number in told.items())
