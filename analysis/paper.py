"""The numbers of the paper's tables, from paper.yaml."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from multimae.config import ConfigError
from multimae.config.settings import nearest, shown
from multimae.study import Row, Study
from multimae.study.measures import check_measures, quantity

FILE = Path(__file__).with_name("paper.yaml")


@dataclass(frozen=True)
class Column:
    """What a column of a published table holds."""

    label: str
    metric: str
    unit: str = ""
    better: str = ""  # higher | lower
    dataset: str = ""
    inputs: tuple[str, ...] = ()
    decimals: int | None = None  # at most so many, where the paper prints more than elsewhere in this unit


@dataclass(frozen=True)
class PaperTable:
    title: str
    columns: dict[str, Column]  # by the key of the measure that shows it
    rows: dict[str, dict[str, float]]  # row -> key -> published value, in the column's unit


@functools.cache
def paper_tables() -> dict[str, PaperTable]:
    """Every table of paper.yaml, by its number. Raises ConfigError where a row does not fit its columns, and for a
    metric that is not declared."""
    content = yaml.load(FILE.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {number: _table(number, entry) for number, entry in content["tables"].items()}


def check_tables(study: Study, rows: Sequence[Row]) -> None:
    """Raises ConfigError where a study of these rows would have a table that it cannot fill once it is trained, or that
    is not the paper's of that number. A table of one's own is in no file."""
    check_measures(study.tables, rows)
    for table in study.tables:
        if not (published := paper_tables().get(table.name)):
            continue
        for measure in table.measures:
            where, column = f"{FILE.name}: Table {table.name}", published.columns.get(measure.key)
            if column is None:
                raise ConfigError(
                    f"{where} has no column {shown(measure.key)}{nearest(measure.key, list(published.columns))} It has "
                    f"{', '.join(published.columns)}; a table of one's own has another name"
                )
            if column.metric != measure.metric:
                raise ConfigError(f"{where}, {measure.key}: the paper's is {column.metric}, found {measure.metric}")


def _table(number: str, entry: dict) -> PaperTable:
    columns, rows = {}, {}
    for key, values in entry["columns"].items():
        try:
            columns[key] = Column(**quantity(values["metric"])._asdict() | values)
        except ConfigError as error:
            raise ConfigError(f"{FILE.name}: Table {number}, {key}: {error}") from None
    for name, values in entry["rows"].items():
        if len(values) != len(columns):
            raise ConfigError(f"{FILE.name}: Table {number}, {name}: {len(values)} values for {len(columns)} columns")
        rows[name] = dict(zip(columns, values, strict=True))
    return PaperTable(entry["title"], columns, rows)
