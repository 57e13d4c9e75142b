"""A table of the paper, rebuilt: the measures of a study joined with what was published, as a DataFrame.

`analysis.sheet` makes of it what is printed, `analysis.formats` prints that. Reads run folders only, so it needs no
MLflow; imports no torch.
"""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from multimae.config import ConfigError
from multimae.record.folder import RunFolder
from multimae.record.reading import FolderError, read_json
from multimae.study import Row, Table
from multimae.study.results import Incomparable, Results, check_comparable
from slurm.jobs import Slurm

from .formats import FORMATS
from .paper import paper_tables
from .sheet import sheet

NOWHERE = dict.fromkeys(("folder", "config", "journal", "weights", "commit"), "")


def read(runs: Path, *trials: Sequence[Row], files: Collection[str] = (), own: Path | None = None) -> Results:
    """What the runs of a study have recorded, of which `build` makes its tables. `trials`: of each seed, all rows.
    `files`: names of weights that are given; `own`: the folder of one's own that all stages read."""
    return Results(runs, trials, Slurm(), files, own)


def build(table: Table, scale: str, results: Results, only: Collection[str] = ()) -> pd.DataFrame:
    """One line for each cell of a table, row by row; several where there are several seeds. `only`: these rows.

    Columns: row, aside (why it stands beside the comparison, or empty), key (of the measure), scale, seed, state
    (`done`, `missing`, ...: see `Reading`), reason (of that state), value (NaN unless done), paper (NaN where nothing
    was published) and constant (what the best constant prediction has; NaN where that is not known), all in `unit`,
    grey (whether the cell stands beside the comparison), conditions ({name: value}; where a value follows from others,
    {their key: theirs}), learnt (settings and fingerprint of the data that each run it comes from was trained on, then
    of the runs that `init` leads back to), waited (for data, of the run's time from 0 to 1; NaN where that is not
    known). The others lead to the run, and are empty where a value follows from others,
    or where there is none yet: signature, folder, config, journal, weights (of a run that trains, its newest
    checkpoint) and commit (with `-dirty` where there were uncommitted changes).

    Raises Incomparable where the values of a column hold under different conditions, or were trained on samples that
    differ though their configs name the same data; and ConfigError where a run that is done has not measured a column.
    """
    published = paper_tables().get(table.name)
    rows = {row.name: row for row in results.trials[0]}
    origins: dict[str, dict[str, str]] = {"": NOWHERE}
    cells: list[dict[str, Any]] = []
    for measure in table.measures:
        column = [cell for trial in results.trials for cell in measure.column(trial, results)]
        shown = [cell for cell in column if cell and (not only or cell.row in only)]
        try:
            check_comparable(f"Table {table.name}, {measure.key}", shown)
        except Incomparable as error:
            raise Incomparable(f"{error}\nTo show rows without the others: --only") from None
        unit = published.columns[measure.key].unit if published else measure.quantity.unit
        hundredths = float(unit) if unit.startswith("1e-") else 1.0
        for cell in shown:
            if cell.signature not in origins:
                origins[cell.signature] = _origin(results.folder(cell.signature))
            row, sources = rows[cell.row], cell.sources
            cells.append(
                {
                    "row": cell.row,
                    "aside": row.aside,
                    "key": cell.key,
                    "scale": scale,
                    "seed": cell.seed,
                    "signature": cell.signature,
                    "state": cell.state,
                    "reason": cell.reason,
                    "value": None if cell.value is None else cell.value / hundredths,
                    "paper": published.rows.get(cell.row, {}).get(cell.key) if published else None,
                    "constant": None if cell.constant is None else cell.constant / hundredths,
                    "unit": unit,
                    "grey": bool(row.aside) or cell.key in row.grey,
                    "conditions": {s.key: s.conditions for s in sources} if cell.parts else cell.conditions,
                    "learnt": tuple(source.learnt for source in sources),
                    "waited": _waited(results, cell.signature) if cell.state == "done" else None,
                    **origins[cell.signature],
                }
            )
    if not cells:
        raise ConfigError(f"Table {table.name}: no row has a run of {', '.join(m.key for m in table.measures)}")
    names = list(rows)
    cells.sort(key=lambda cell: names.index(cell["row"]))
    return pd.DataFrame(cells).astype({"paper": float, "value": float, "constant": float, "waited": float})


def show(table: Table, frame: pd.DataFrame, form: str = "text", **how: Any) -> str:
    """What `build` made, as `text`, `markdown`, `latex` or `html`. `how`: what that takes (`analysis.formats`)."""
    return FORMATS[form](sheet(table, frame), **how)


def text(table: Table, frame: pd.DataFrame) -> str:
    return show(table, frame)


def _waited(results: Results, signature: str) -> float | None:
    status = results.statuses.get(signature)
    return status.heartbeat.get("waited") if status else None


def _origin(folder: RunFolder) -> dict[str, str]:
    """The files of a run, as far as they are there, and the commit that it was computed with."""
    checkpoints = sorted(folder.checkpoints.glob("step-*"))
    weights = folder.weights if folder.weights.exists() or not checkpoints else checkpoints[-1]
    files = {"folder": folder.path, "config": folder.config_file, "journal": folder.journal.path, "weights": weights}
    return {name: str(file) if file.exists() else "" for name, file in files.items()} | {"commit": _commit(folder)}


def _commit(folder: RunFolder) -> str:
    environment = None
    with contextlib.suppress(FolderError):
        environment = read_json(folder.environment)
    commit = (environment or {}).get("commit")
    return f"{commit}{'-dirty' if environment and environment.get('dirty') else ''}" if commit else ""
