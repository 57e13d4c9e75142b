"""The numbers of the paper's tables, from paper.yaml."""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from multimae.config import ConfigError
from multimae.config.settings import nearest

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


@dataclass(frozen=True)
class PaperTable:
    title: str
    columns: dict[str, Column]  # by the stage of a study that measures it
    rows: dict[str, dict[str, float]]  # row -> stage -> published value


@functools.cache
def paper_tables() -> dict[str, PaperTable]:
    """Every table of paper.yaml, by its number. Raises ConfigError where a row does not fit its columns, and for a
    metric that is not declared."""
    content = yaml.load(FILE.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {number: _table(number, entry, content["metrics"]) for number, entry in content["tables"].items()}


def paper_table(number: str) -> PaperTable:
    tables = paper_tables()
    if number not in tables:
        raise ConfigError(f"{FILE.name} has no Table {number}; it has {', '.join(tables)}")
    return tables[number]


def check_table(number: str, stages: Collection[str]) -> None:
    """Raises ConfigError where a study of these stages would find no table to fill, once it is trained."""
    table = paper_table(number)
    lost = [key for key in table.columns if key not in stages]
    if lost and (not table.rows or len(lost) == len(table.columns)):  # a study may show a part of the paper's
        raise ConfigError(
            f"{FILE.name}: Table {number}: a column's key is the stage that it shows, and the study has no stage "
            f"'{lost[0]}'{nearest(lost[0], list(stages))} Its stages: {', '.join(stages)}"
        )


def _table(number: str, entry: dict, metrics: dict) -> PaperTable:
    columns, rows = {}, {}
    for key, values in entry["columns"].items():
        if (metric := values["metric"]) not in metrics:
            raise ConfigError(
                f"{FILE.name}: Table {number}, {key}: no metric '{metric}' is declared{nearest(metric, list(metrics))} "
                f"To add it to `metrics`: {metric}: {{unit: '%', better: higher}}"
            )
        columns[key] = Column(**metrics[metric] | values)
    for name, values in entry["rows"].items():
        if len(values) != len(columns):
            raise ConfigError(f"{FILE.name}: Table {number}, {name}: {len(values)} values for {len(columns)} columns")
        rows[name] = dict(zip(columns, values, strict=True))
    return PaperTable(entry["title"], columns, rows)
