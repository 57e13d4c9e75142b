"""The best of a study, as a version of a model in MLflow's registry."""

from collections.abc import Sequence

from analysis import tables
from multimae.config import ConfigError
from multimae.export import log, register
from multimae.export.command import loading
from multimae.redact import public
from multimae.study import Row, Study, Table
from multimae.study.measures import Measure, OfRun
from multimae.study.results import Incomparable, Results
from multimae.study.study import unknown

ALIAS = "best"  # of the version that was registered last


def register_best(
    study: Study, scale: str, column: str, results: Results, rows: Sequence[Row], uri: str | None = None
) -> str:
    """Register the model of the run by which one of these rows is the best in `column`: a measure's key, or its label.

    It is a version of `<study>-<scale>-<stage>`, which the alias `best` then means; the same weights are one version.
    Rows that stand beside the comparison are left out, as in the table. Returns what to tell. Raises ConfigError.
    """
    if study.parts:
        parts = ", ".join(f"{part.command} --register COLUMN" for part in study.parts)
        raise ConfigError(f"--register: {study.name} is several studies, each with a best of its own: {parts}")
    table, measure = _column(study, column)
    better = measure.quantity.better
    if not better:
        raise ConfigError(f"--register {column}: of {measure.metric} neither higher nor lower is better")
    try:
        cells = tables.build(table, scale, results, [row.name for row in rows])
    except Incomparable as error:
        raise ConfigError(str(error)) from None
    cells = cells[(cells["key"] == measure.key) & ~cells["grey"]]
    known = cells[cells["value"].notna()]
    if known.empty:
        states = ", ".join(f"{cell.row} {cell.state}" for cell in cells.itertuples()) or "no row has such a run"
        raise ConfigError(
            f"--register {column}: no row has a number yet ({states}); the same command without it trains"
        )
    best = known.loc[known["value"].idxmax() if better == "higher" else known["value"].idxmin()]
    model = log(results.runs, best["signature"], uri)
    name = f"{study.name}-{scale}-{measure.stage}"
    tags = {
        "study": study.name,
        "scale": scale,
        "row": best["row"],
        "stage": measure.stage,
        "measure": measure.key,
        "metric": measure.metric,
        "value": f"{best['value']:.6g}",
        "unit": best["unit"],
        "seed": best["seed"],
        "signature": best["signature"],
    }
    version = register(results.runs, model, name, tags, ALIAS)
    lacks = len(cells) - len(known)
    return (
        f"{best['row']} is the best of {len(known)} rows by {measure.key} ({better} is better): {tags['value']} "
        f"{best['unit']}".rstrip()
        + (f"; {lacks} more have no number yet" if lacks else "")
        + f"\nits {measure.stage} (run {best['signature']}) is version {version} of {name}, in MLflow at "
        f"{public(model.uri)}\nTo load it:\n{loading(f'models:/{name}@{ALIAS}', model.uri)}"
    )


def _column(study: Study, column: str) -> tuple[Table, OfRun]:
    """The first table that shows it, and the measure; of one run, which has a model."""
    shown: dict[str, tuple[Table, Measure]] = {}
    for table in study.tables:
        for measure in table.measures:
            shown.setdefault(measure.key, (table, measure))
            shown.setdefault(measure.name, (table, measure))
    if column not in shown:
        raise ConfigError(f"--register: {unknown('column', column, shown)}")
    table, measure = shown[column]
    if not isinstance(measure, OfRun):
        ones = ", ".join(dict.fromkeys(m.key for _, m in shown.values() if isinstance(m, OfRun)))
        raise ConfigError(f"--register {column}: it follows from several runs, and a model is of one: {ones}")
    return table, measure
