"""A table of the paper, rebuilt: the rows of a study joined with what their runs measured and with what was published.

Reads run folders only, so it needs no MLflow; imports no torch.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from multimae.config import ConfigError, RunConfig
from multimae.record.folder import RunFolder
from multimae.record.state import Status
from multimae.study import Row, Study
from multimae.study.status import read_all
from slurm.jobs import Slurm

from .paper import paper_table

CONDITIONS = ["split", "n", "fingerprint"]  # what all values of a column must have been measured over
NOT_COMPARABLE = (
    "Numbers of the {scale} scale are not comparable with the paper's: model, data and training are far smaller. "
    "They show that the study runs from end to end."
)


class Incomparable(ValueError):
    """The values of a column were not measured over the same samples."""


def build(study: Study, scale: str, rows: Iterable[Row], runs: Path) -> pd.DataFrame:
    """One line for each measured cell of the study's table.

    Columns: row, stage, scale, seed, signature, state (`done`, `missing`, `running`, ...: see multimae.record.state),
    reason (of that state), value (NaN unless done), paper (NaN where nothing was published), dataset, split, n,
    fingerprint, learnt (settings and fingerprint of the data it was trained on, then of the runs that `init` leads
    back to). Raises Incomparable where the values of a column differ in split, n or fingerprint, or were trained on
    samples that differ though their configs name the same data; and ConfigError where a run that is done has not
    measured the column's metric.
    """
    rows, published = list(rows), paper_table(study.table)
    shown = [(row, *cell) for row in rows for cell in row.stages.items() if cell[0] in published.columns]
    configs = {config.signature: config for _, _, config in shown}
    known = {config.signature: config for row in rows for config in row.stages.values()}
    statuses = read_all([RunFolder.of(runs, signature) for signature in configs], configs, Slurm())
    cells = [
        {"row": row.name, "stage": stage, "scale": scale, "paper": published.rows.get(row.name, {}).get(stage)}
        | _measured(config, published.columns[stage].metric, runs, statuses[config.signature], known)
        for row, stage, config in shown
    ]
    if not cells:
        raise ConfigError(f"{study.name}: no row has a stage of Table {study.table}: {', '.join(published.columns)}")
    frame = pd.DataFrame(cells).astype({"paper": float, "value": float, "n": "Int64"})
    return _comparable(frame, study.table)


def _measured(
    config: RunConfig, metric: str, runs: Path, status: Status, known: Mapping[str, RunConfig]
) -> dict[str, Any]:
    """What a run says of itself, and its last evaluation if it is done."""
    folder = RunFolder.of(runs, config.signature)
    cell = {"seed": config.seed, "signature": config.signature, "state": status.state, "reason": status.reason}
    cell |= {"dataset": config.data.name} | dict.fromkeys(["value", *CONDITIONS, "learnt"])
    if status.state != "done":
        return cell
    record = folder.journal.last("eval")
    if record is None or record["step"] != folder.journal.last("finished")["step"]:
        record = {"metrics": {}}  # an earlier one is none of what was trained
    if metric not in record["metrics"]:
        found = ", ".join(record["metrics"]) or "nothing"
        raise ConfigError(
            f"run {folder.signature}: expected an evaluation with {metric}, found {found} in {folder.journal.path}; "
            f"{folder.remake}"
        )
    if not isinstance(record["metrics"][metric], int | float) or not math.isfinite(record["metrics"][metric]):
        return cell | {"state": "failed", "reason": f"diverged: {metric} is {record['metrics'][metric]}"}
    measured = {"value": record["metrics"][metric], "learnt": tuple(_learnt(config, runs, known))}
    return cell | measured | {key: record[key] for key in CONDITIONS}


def _learnt(config: RunConfig, runs: Path, known: Mapping[str, RunConfig]) -> Iterator[tuple[str, str | None]]:
    """(settings of the data, fingerprint of the training samples) of a run, of the one it starts from, and so on back.

    The fingerprint is None where a run has not said. `known`: configs by signature, which need not be read.
    """
    said = RunFolder.of(runs, config.signature).learnt_from or {}
    yield repr(config.data), said["train"]["fingerprint"] if said else None
    needed = config.needs
    folder = RunFolder.of(runs, needed or "")
    start = known.get(needed) or (folder.config() if needed and folder.config_file.exists() else None)
    if start:
        before = dict(enumerate(said.get("before") or []))  # as it was then: that run may have been made anew since
        for back, (data, fingerprint) in enumerate(_learnt(start, runs, known)):
            yield data, before.get(back, fingerprint)


def _comparable(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    done = frame[frame["state"] == "done"]
    for stage, column in done.groupby("stage"):
        if len(column[CONDITIONS].drop_duplicates()) > 1:
            lines = [
                f"  {cell.row} (run {cell.signature}): split {cell.split}, n {cell.n}, fingerprint {cell.fingerprint}"
                for cell in column.itertuples()
            ]
            raise Incomparable(
                f"Table {table}, {stage}: the rows were not evaluated on the same samples, so they make no column. "
                "Train again on one dataset, or choose rows with --only.\n" + "\n".join(lines)
            )
        _same_training(column, f"Table {table}, {stage}")
    return frame


def _same_training(column: pd.DataFrame, where: str) -> None:
    """Rows may learn from different data when their configs say so; not when those name the same."""
    seen: dict[tuple[int, str], tuple[str, Any]] = {}
    for cell in column.itertuples():
        for back, (data, fingerprint) in enumerate(cell.learnt):
            if fingerprint is None:
                continue
            first, other = seen.setdefault((back, data), (fingerprint, cell))
            if first != fingerprint:
                whose = "the run it starts from learnt" if back else "learnt"
                raise Incomparable(
                    f"{where}: rows that name the same training data learnt from different samples, so they make no "
                    f"column. Train again on one folder, or choose rows with --only.\n"
                    f"  {other.row} (run {other.signature}): {whose} from {first}\n"
                    f"  {cell.row} (run {cell.signature}): {whose} from {fingerprint}"
                )


# ---- for eyes


def wide(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """The table as the paper prints it, in text: for each column of the paper our value, or state, and the paper's."""
    published = paper_table(study.table)
    rows = frame["row"].unique()
    table = {}
    for stage, cells in frame.groupby("stage", sort=False):
        column = published.columns[stage]
        head = f"{stage}: {column.metric} ({column.unit})"
        by_row = dict(list(cells.groupby("row", sort=False)))
        for side, show in (("ours", _ours), ("paper", _papers))[: 2 if published.rows else 1]:
            table[head, side] = [show(by_row[row], column.unit) if row in by_row else "-" for row in rows]
    return pd.DataFrame(table, index=rows)


def _ours(cells: pd.DataFrame, unit: str) -> str:
    """The mean over seeds and their sample standard deviation; the state of what is not done."""
    values = cells["value"].dropna()
    if values.empty:
        return cells["state"].iloc[0]
    if len(cells) == 1:
        return number(values.iloc[0], unit)
    spread = f" ± {number(values.std(), unit)}" if len(values) > 1 else ""
    return f"{number(values.mean(), unit)}{spread} ({len(values)} of {len(cells)} seeds)"


def _papers(cells: pd.DataFrame, unit: str) -> str:
    value = cells["paper"].iloc[0]
    return "-" if pd.isna(value) else _digits(value, unit)


def number(value: float, unit: str) -> str:
    """A value in the paper's unit: 0.0425 is 4.250 in hundredths."""
    return _digits(value / float(unit) if unit.startswith("1e-") else value, unit)


def _digits(value: float, unit: str) -> str:
    return f"{value:.{1 if unit in ('%', 'minutes') else 3}f}"


def title(study: Study, frame: pd.DataFrame) -> str:
    seeds = frame["seed"].nunique()
    return f"Table {study.table}. {study.title} (scale {frame['scale'].iloc[0]}, {seeds} seed{'s'[: seeds > 1]} a row)"


def notes(study: Study, frame: pd.DataFrame) -> list[str]:
    """Under which conditions the numbers were measured, why others were not, what they may be compared with."""
    published = paper_table(study.table)
    wrong = frame[frame["state"].isin(["failed", "refused"])]
    lines = [f"{c.row} {c.stage} {c.state}: {c.reason}" for c in wrong.itertuples()]
    for stage, cells in frame[frame["state"] == "done"].groupby("stage", sort=False):
        cell = cells.iloc[0]
        line = f"{stage}: ours on {cell['dataset']} {cell['split']}, {cell['n']} samples "
        line += f"(fingerprint {cell['fingerprint']})"
        lines.append(line + (f"; the paper's on {published.columns[stage].dataset}." if published.rows else "."))
        lines += _trained(stage, cells)
    scale = frame["scale"].iloc[0]
    return lines if scale == "paper" else [*lines, NOT_COMPARABLE.format(scale=scale)]


def _trained(stage: str, cells: pd.DataFrame) -> list[str]:
    """What the rows of a column learnt from, where they have said; by row where that differs."""
    rows: dict[str, dict[str, None]] = {}
    for cell in cells.itertuples():
        chain = [mark for _, mark in cell.learnt if mark]
        rows.setdefault(", before that on ".join(chain), {})[cell.row] = None
    of = {chain: "" if len(rows) == 1 else f" ({', '.join(names)})" for chain, names in rows.items()}
    return [f"{stage}: trained on {chain}{names}." for chain, names in of.items() if chain]


def text(study: Study, frame: pd.DataFrame) -> str:
    """For a terminal."""
    lines = [line.rstrip() for line in wide(study, frame).to_string().splitlines()]
    return "\n".join([title(study, frame), "", *lines, "", *notes(study, frame)])


def styled(study: Study, frame: pd.DataFrame) -> Styler:
    """For a notebook: the best of ours and of the paper's in bold, what is not done in grey."""
    table = wide(study, frame)
    columns = paper_table(study.table).columns

    def bold(column: pd.Series) -> list[str]:
        values = pd.to_numeric(column.str.split(" ").str[0], errors="coerce")
        best = values.max() if columns[column.name[0].split(":")[0]].better == "higher" else values.min()
        return ["color: grey" if pd.isna(v) else "font-weight: bold" if v == best else "" for v in values]

    caption = "<br>".join([f"<b>{title(study, frame)}</b>", *notes(study, frame)])
    left = {"selector": "caption", "props": "caption-side: bottom; text-align: left"}
    return table.style.apply(bold).set_caption(caption).set_table_styles([left])
