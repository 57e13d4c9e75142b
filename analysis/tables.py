"""A table of the paper, rebuilt: the measures of a study joined with what was published.

Reads run folders only, so it needs no MLflow; imports no torch.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from multimae.config import ConfigError
from multimae.study import Measure, Row, Table
from multimae.study.measures import Derived
from multimae.study.results import Incomparable, Results, check_comparable
from slurm.jobs import Slurm

from .paper import paper_tables

DECIMALS = {"%": 1, "minutes": 1, "rank": 1, "tokens": 0, "images/s": 0, "GiB": 2, "cores": 2}  # of others three
AS_WRITTEN = ("tokens", "setting")  # units of what is set, not measured
EXPLAINED = ("failed", "refused", "incomplete")  # states whose reason stands below the table
NOT_COMPARABLE = (
    "Numbers of the {scale} scale are not comparable with the paper's: model, data and training are far smaller. "
    "They show that the study runs from end to end."
)


def read(runs: Path, *trials: Sequence[Row]) -> Results:
    """What the runs of a study have recorded, of which `build` makes its tables. `trials`: of each seed, all rows."""
    return Results(runs, trials, Slurm())


def build(table: Table, scale: str, results: Results, only: Collection[str] = ()) -> pd.DataFrame:
    """One line for each cell of a table, row by row; several where there are several seeds. `only`: these rows.

    Columns: row, key (of the measure), scale, seed, signature (empty where a value follows from others), state (`done`,
    `missing`, ...: see `Reading`), reason (of that state), value (NaN unless done) and paper (NaN where nothing was
    published), both in `unit`, conditions ({name: value}; where a value follows from others, {their key: theirs}),
    learnt (settings and fingerprint of the data that each run it comes from was trained on, then of the runs that
    `init` leads back to). Raises Incomparable where the values of a column hold under different conditions, or were
    trained on samples that differ though their configs name the same data; and ConfigError where a run that is done has
    not measured a column.
    """
    published = paper_tables().get(table.name)
    names = [row.name for row in results.trials[0]]
    cells: list[dict[str, Any]] = []
    for measure in table.measures:
        column = [cell for rows in results.trials for cell in measure.column(rows, results)]
        shown = [cell for cell in column if cell and (not only or cell.row in only)]
        try:
            check_comparable(f"Table {table.name}, {measure.key}", shown)
        except Incomparable as error:
            raise Incomparable(f"{error}\nTo show rows without the others: --only") from None
        unit = published.columns[measure.key].unit if published else measure.quantity.unit
        hundredths = float(unit) if unit.startswith("1e-") else 1.0
        for cell in shown:
            sources = cell.sources
            cells.append(
                {
                    "row": cell.row,
                    "key": cell.key,
                    "scale": scale,
                    "seed": cell.seed,
                    "signature": cell.signature,
                    "state": cell.state,
                    "reason": cell.reason,
                    "value": None if cell.value is None else cell.value / hundredths,
                    "paper": published.rows.get(cell.row, {}).get(cell.key) if published else None,
                    "unit": unit,
                    "conditions": {s.key: s.conditions for s in sources} if cell.parts else cell.conditions,
                    "learnt": tuple(source.learnt for source in sources),
                }
            )
    if not cells:
        raise ConfigError(f"Table {table.name}: no row has a run of {', '.join(m.key for m in table.measures)}")
    cells.sort(key=lambda cell: names.index(cell["row"]))
    return pd.DataFrame(cells).astype({"paper": float, "value": float})


# ---- for eyes


def number(value: float, unit: str) -> str:
    """A number of that unit, as it is printed."""
    return f"{value:.10g}" if unit == "setting" else f"{value:.{DECIMALS.get(unit, 3)}f}"


def wide(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """The table as the paper prints it, in numbers: in each column our mean over seeds, and the paper's."""
    return _wide(table, frame, lambda cells: cells["value"].mean(), lambda cells: cells["paper"].iloc[0])


def words(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """The same in text: with the spread over seeds, and the state of what is not done."""
    return _wide(table, frame, _ours, _papers).fillna("-")


def _wide(table: Table, frame: pd.DataFrame, ours: Callable, papers: Callable) -> pd.DataFrame:
    sides = {"ours": ours, "paper": papers} if table.name in paper_tables() else {"ours": ours}
    columns = {}
    for measure in table.measures:
        by_row = dict(list(frame[frame["key"] == measure.key].groupby("row")))
        for side, show in sides.items() if by_row else ():
            columns[_head(measure, frame), side] = {row: show(cells) for row, cells in by_row.items()}
    return pd.DataFrame(columns, index=frame["row"].unique())


def _head(measure: Measure, frame: pd.DataFrame) -> str:
    unit = frame.loc[frame["key"] == measure.key, "unit"].iloc[0]
    metric = "" if measure.metric in (measure.name, "setting") else f": {measure.metric}"
    return f"{measure.name}{metric}" + ("" if unit in ("", "setting") else f" ({unit})")


def _ours(cells: pd.DataFrame) -> str:
    """The mean over seeds and their sample standard deviation; the state of what is not done."""
    values, unit = cells["value"].dropna(), cells["unit"].iloc[0]
    if values.empty:
        return cells["state"].iloc[0]
    if len(cells) == 1 or (unit in AS_WRITTEN and values.nunique() == 1):
        return number(values.iloc[0], unit)
    spread = f" ± {number(values.std(), unit)}" if len(values) > 1 else ""
    return f"{number(values.mean(), unit)}{spread} ({len(values)} of {len(cells)} seeds)"


def _papers(cells: pd.DataFrame) -> str:
    value = cells["paper"].iloc[0]
    return "-" if pd.isna(value) else number(value, cells["unit"].iloc[0])


def title(table: Table, frame: pd.DataFrame) -> str:
    seeds = int(frame.groupby(["row", "key"]).size().max())
    return f"Table {table.name}. {table.title} (scale {frame['scale'].iloc[0]}, {seeds} seed{'s'[: seeds > 1]} a row)"


def notes(table: Table, frame: pd.DataFrame) -> list[str]:
    """Under which conditions the numbers were measured, why others were not, what they may be compared with."""
    published = paper_tables().get(table.name)
    wrong = frame[frame["state"].isin(EXPLAINED)].groupby(["key", "state", "reason"], sort=False)
    lines = [f"{', '.join(cells['row'].unique())} {key} {state}: {why}" for (key, state, why), cells in wrong]
    for measure in table.measures:
        done = frame[(frame["key"] == measure.key) & (frame["state"] == "done")]
        if done.empty or not (under := _conditions(measure, done["conditions"].iloc[0])):
            continue
        of = f"of {', '.join(each.key for each in measure.of)}; " if isinstance(measure, Derived) else ""
        theirs = f"; the paper's on {published.columns[measure.key].dataset}" if published else ""
        lines += [f"{measure.key}: {of}ours {under}{theirs}.", *_trained(measure.key, done)]
    scale = frame["scale"].iloc[0]
    return lines if scale == "paper" else [*lines, NOT_COMPARABLE.format(scale=scale)]


def _conditions(measure: Measure, conditions: dict[str, Any]) -> str:
    of_each = conditions if isinstance(measure, Derived) else {measure.key: conditions}
    told = [each.told(of_each[each.key]) for each in measure.measures if of_each.get(each.key)]
    return "; ".join(dict.fromkeys(told))


def _trained(key: str, cells: pd.DataFrame) -> list[str]:
    """What the rows of a column learnt from, where they have said; by row where that differs."""
    rows: dict[str, dict[str, None]] = {}
    for cell in cells.itertuples():
        for learnt in cell.learnt:
            known = [(what, mark) for what, mark in learnt if not what.startswith("weights run:")]
            chain = [f"{what} {mark[:12]}" if what.startswith("weights ") else mark for what, mark in known]
            rows.setdefault(", before that on ".join(chain), {})[cell.row] = None
    everywhere = cells["row"].nunique()
    of = {chain: "" if len(names) == everywhere else f" ({', '.join(names)})" for chain, names in rows.items()}
    return [f"{key}: trained on {chain}{names}." for chain, names in of.items() if chain]


def text(table: Table, frame: pd.DataFrame) -> str:
    """For a terminal."""
    lines = [line.rstrip() for line in words(table, frame).to_string().splitlines()]
    return "\n".join([title(table, frame), "", *lines, "", *notes(table, frame)])


def styled(table: Table, frame: pd.DataFrame) -> Styler:
    """For a notebook: the best of ours and of the paper's in bold, what is not done in grey."""
    numbers, shown = wide(table, frame), words(table, frame)
    better = {_head(m, frame): m.quantity.better for m in table.measures if (frame["key"] == m.key).any()}

    def marked(column: pd.Series) -> list[str]:
        best = {"higher": column.max(), "lower": column.min()}.get(better[column.name[0]])
        return ["color: grey" if pd.isna(v) else "font-weight: bold" if v == best else "" for v in column]

    caption = "<br>".join([f"<b>{title(table, frame)}</b>", *notes(table, frame)])
    left = {"selector": "caption", "props": "caption-side: bottom; text-align: left"}
    style = numbers.style.apply(marked).set_caption(caption).set_table_styles([left])
    for column in numbers:
        for row in numbers.index:
            cell = shown.loc[row, column]
            style = style.format(lambda _, cell=cell: cell, subset=([row], [column]))
    return style
