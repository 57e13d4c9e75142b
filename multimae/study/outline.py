"""What a study writes down of itself for its dashboards. Imports no torch."""

from pathlib import Path

from ..record.outline import Outline
from .measures import Evaluation
from .study import Row, Study


def write_outlines(runs: Path, scale: str, study: Study, rows: tuple[Row, ...]) -> None:
    for part, its in study.of_parts(rows):
        if its:
            Outline(part.heading, tuple(row.name for row in its), _metrics(part)).save(runs, part.name, scale)


def _metrics(study: Study) -> tuple[str, ...]:
    """The measures that a row has in MLflow: what its runs have evaluated."""
    measures = [each for table in study.tables for column in table.measures for each in column.measures]
    evaluations = [measure for measure in measures if isinstance(measure, Evaluation)]
    return tuple(dict.fromkeys("/".join(filter(None, (m.stage, m.dataset, m.metric))) for m in evaluations))
