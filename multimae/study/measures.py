"""What the columns of a study's tables show: each a measure, which says what it reads. Imports no torch.

`Evaluation` reads what a run has recorded, `Setting` its config, `Mean` and `Rank` follow from other measures; those of
time, memory and FLOPs are in `timing`. A new one is a class with a `measured` or a `values`. Here a number is a number,
beside the conditions under which it holds; `analysis` makes tables of them.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple

from ..config import ConfigError, RunConfig, TrainingConfig, Transfer
from ..config.settings import flatten, nearest, shown
from ..record.folder import RunFolder
from .results import Incomparable, Reading, Results, check_comparable, told
from .study import Row, stages_of, unknown

LACKS = 2  # that a reason names


class Quantity(NamedTuple):
    """What a metric's values are."""

    # % | minutes | images/s | GiB | GFLOP | cores | rank | tokens | 1e-2 (printed in hundredths; so 1e-3, 1e-4) |
    # setting (any) | empty: none
    unit: str
    better: str = ""  # higher | lower


METRICS = {
    "accuracy": Quantity("%", "higher"),  # top-1
    "mIoU": Quantity("%", "higher"),
    "delta1": Quantity("%", "higher"),  # share of pixels with a max ratio below 1.25
    "mCE": Quantity("%", "lower"),  # mean corruption error
    "l1": Quantity("1e-2", "lower"),
    "loss": Quantity("", "lower"),  # of a pre-training: the sum over its targets
    "average_rank": Quantity("rank", "lower"),
    "epoch_minutes": Quantity("minutes", "lower"),
    "images_per_second": Quantity("images/s", "higher"),
    "waiting": Quantity("%", "lower"),
    "memory": Quantity("GiB", "lower"),
    "cores": Quantity("cores"),
    "image_flops": Quantity("GFLOP", "lower"),
    "utilization": Quantity("%", "higher"),
    "visible_tokens": Quantity("tokens"),
    "setting": Quantity("setting"),
}


def quantity(metric: str) -> Quantity:
    """Raises ConfigError for a metric that is not declared."""
    if metric not in METRICS:
        raise ConfigError(
            f"no metric {shown(metric)} is declared{nearest(metric, list(METRICS))} To add it, a line of METRICS in "
            f'multimae/study/measures.py: "{metric}": Quantity("%", "higher"); or declares=Quantity(...) in the measure'
        )
    return METRICS[metric]


@dataclass(frozen=True)
class Measure:
    """A column. One measurement has one key, in whichever tables show it."""

    key: str
    _: KW_ONLY
    metric: str
    label: str = ""  # for the reader, where the key is not enough
    declares: Quantity | None = None  # what the values of a metric are that is none of METRICS

    @property
    def name(self) -> str:
        return self.label or self.key

    @property
    def quantity(self) -> Quantity:
        """Raises ConfigError for a metric that is not declared."""
        return self.declares or quantity(self.metric)

    @property
    def measures(self) -> "Iterator[Measure]":
        """Itself, and those that it follows from."""
        yield self

    def check(self, rows: Sequence[Row]) -> None:
        """Raises ConfigError where no run of these rows can give it a value."""
        _ = self.quantity

    def column(self, rows: Sequence[Row], results: Results) -> list[Reading | None]:
        """One for each row of the table; None where it has nothing to be read. Raises ConfigError where a run that is
        done has not measured this."""
        raise NotImplementedError

    def told(self, conditions: Mapping[str, Any]) -> str:
        """The conditions of its values, for a reader."""
        return told(conditions)


@dataclass(frozen=True)
class Table:
    """`name`: the number that it has in the paper (a key of analysis/paper.yaml), or a name of one's own."""

    name: str
    title: str
    measures: tuple[Measure, ...]


def check_measures(tables: Sequence[Table], rows: Sequence[Row]) -> None:
    """Raises ConfigError where a column could not be filled, where one key stands for two measurements, and where one
    measurement has two keys."""
    _check_grey(tables, rows)
    keys: dict[Measure, str] = {}
    measurements: dict[str, Measure] = {}
    for table in tables:
        names = [measure.name for measure in table.measures]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"Table {table.name}: two columns are called {twice[0]}; give one another label")
        for measure in table.measures:
            try:
                measure.check(rows)
            except ConfigError as error:
                raise ConfigError(f"Table {table.name}, {measure.key}: {error}") from None
            for each in measure.measures:
                measurement, where = replace(each, key="", label=""), f"Table {table.name}"
                if measurements.setdefault(each.key, measurement) != measurement:
                    raise ConfigError(f"{where}: the key {each.key} stands for two measurements; give each its own")
                if (key := keys.setdefault(measurement, each.key)) != each.key:
                    raise ConfigError(f"{where}: {key} and {each.key} are one measurement; give it one key")


def _check_grey(tables: Sequence[Table], rows: Sequence[Row]) -> None:
    keys = {each.key: None for table in tables for measure in table.measures for each in measure.measures}
    for row in rows:
        if wrong := [key for key in row.grey if key not in keys]:
            raise ConfigError(f"row {row.name}, grey: {unknown('key', wrong[0], keys)}")


# ---- of the run that a row has in a stage


class Measured(NamedTuple):
    value: float
    conditions: dict[str, Any]
    constant: float | None = None  # what the best constant prediction would have, where that was recorded


@dataclass(frozen=True, kw_only=True)
class OfRun(Measure):
    stage: str

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        if self.stage not in (stages := stages_of(rows)):
            raise ConfigError(unknown("stage", self.stage, stages))

    def column(self, rows: Sequence[Row], results: Results) -> list[Reading | None]:
        return [
            self._read(row.name, row.stages[self.stage], results) if self.stage in row.stages else None for row in rows
        ]

    def _read(self, row: str, config: RunConfig, results: Results) -> Reading | None:
        status = results.statuses[config.signature]
        reading = Reading(row, self.key, status.state, status.reason, config=config, seed=results.seed(config))
        if status.state != "done":
            return reading
        try:
            found = Measured(*self.measured(config, results.folder(config.signature)))
        except Incomparable as error:
            return replace(reading, state="refused", reason=str(error))
        if not math.isfinite(found.value):
            return replace(reading, state="failed", reason=f"diverged: {self.metric} is {found.value}")
        return replace(reading, **found._asdict(), learnt=results.learnt(config))

    def measured(self, config: RunConfig, folder: RunFolder) -> "Measured | tuple[float, dict[str, Any]]":
        """(what a run that is done has measured, under which conditions). Raises ConfigError where it has not, and
        Incomparable where that is no one value."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Evaluation(OfRun):
    """Of the final step, on a data set and a split; by default those that the run's config names."""

    dataset: str | None = None
    split: str | None = None

    def measured(self, config: RunConfig, folder: RunFolder) -> Measured:
        wanted = (self.dataset or config.data.name, self.split or config.data.eval_split)
        records = folder.journal.records("eval", "finished")
        evaluations = [record for record in records if record["kind"] == "eval"]
        kept = self._steps(config, evaluations, [record for record in records if record["kind"] == "finished"])
        made: dict[tuple[str, str], dict[str, Any]] = {}
        for record in reversed(evaluations):
            if kept.get(record["split"], record["step"]) == record["step"]:
                made.setdefault((record.get("dataset") or config.data.name, record["split"]), record)
        record = made.get(wanted, {"metrics": {}})
        if self.metric not in record["metrics"]:
            found = "; ".join(f"{', '.join(made[on]['metrics'])} on {' '.join(on)}" for on in made) or "nothing"
            raise ConfigError(
                f"run {folder.signature}: expected an evaluation with {self.metric} on {' '.join(wanted)}, found "
                f"{found} in {folder.journal.path}; {folder.remake}"
            )
        conditions = dict(zip(("dataset", "split"), wanted)) | {key: record[key] for key in ("n", "fingerprint")}
        metrics = {name: float(value) for name, value in record["metrics"].items()}
        constant = metrics.get(f"{self.metric}_constant", math.nan)
        return Measured(metrics[self.metric], conditions, constant if math.isfinite(constant) else None)

    def _steps(self, config: RunConfig, evaluations: Sequence[dict], finished: Sequence[dict]) -> dict[str, int]:
        """By split, the step after which a training was as it is kept: the last one, or of the split that selects the
        weights, the selected one."""
        if not isinstance(config, TrainingConfig) or not finished:
            return {}
        last, chosen = finished[-1]["step"], finished[-1].get("selected_step")
        steps = {record["split"]: last for record in evaluations}
        if isinstance(config, Transfer) and config.validation and chosen is not None:
            steps[config.validation.eval_split] = chosen
        return steps

    def told(self, conditions: Mapping[str, Any]) -> str:
        return "on {dataset} {split}, {n} samples (fingerprint {fingerprint})".format(**conditions)


@dataclass(frozen=True, kw_only=True)
class OfConfig(OfRun):
    """A number that follows from the config. No run need be done; a row without it shows nothing."""

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        for row in rows:
            if self.stage in row.stages:
                self.number(row.stages[self.stage])

    def _read(self, row: str, config: RunConfig, results: Results) -> Reading | None:
        value = self.number(config)
        if value is None:
            return None
        return Reading(row, self.key, "done", value=value, config=config, seed=results.seed(config))

    def number(self, config: RunConfig) -> float | None:
        """Raises ConfigError where that is none."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Setting(OfConfig):
    """A number of the config, such as `masking.visible_tokens`."""

    setting: str
    metric: str = "setting"

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        configs = [row.stages[self.stage] for row in rows if self.stage in row.stages]
        keys = {key: None for config in configs for key in flatten(config.resolved())}
        if self.setting not in keys:
            raise ConfigError(f"{self.stage} has no setting {shown(self.setting)}{nearest(self.setting, list(keys))}")

    def number(self, config: RunConfig) -> float | None:
        value = flatten(config.resolved()).get(self.setting)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{self.stage}.{self.setting}: a column shows numbers, found {shown(value)}")
        return value


# ---- of other measures


@dataclass(frozen=True, kw_only=True)
class Derived(Measure):
    """Known where all that it follows from is: of its row, or where `across`, of all rows of the table."""

    of: tuple[Measure, ...]
    across = False

    @property
    def measures(self) -> Iterator[Measure]:
        yield self
        for measure in self.of:
            yield from measure.measures

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        if not self.of:
            raise ConfigError("`of` names no measures that it could follow from")
        for measure in self.of:
            measure.check(rows)

    def column(self, rows: Sequence[Row], results: Results) -> list[Reading | None]:
        compared = [row for row in rows if not (self.across and self._aside(row))]
        names = [row.name for row in compared]
        found = list(zip(*(measure.column(compared, results) for measure in self.of)))  # rows x measures
        if self.across:
            readings = self._derive(names, found)
        else:
            readings = [self._derive([name], [parts])[0] for name, parts in zip(names, found)]
        by_row = {reading.row: reading for reading in readings if reading.parts}
        return [by_row.get(row.name) for row in rows]

    def _aside(self, row: Row) -> bool:
        return bool(row.aside) or any(measure.key in row.grey for measure in self.measures)

    def _derive(self, names: list[str], found: list[tuple[Reading | None, ...]]) -> list[Reading]:
        """The readings of rows whose values depend on each other. `found`: rows x measures."""
        parts = [[part for part in line if part] for line in found]
        readings = [
            Reading(name, self.key, "done", seed=its[0].seed if its else None, parts=tuple(its))
            for name, its in zip(names, parts)
        ]
        lacks = [
            f"{measure.key} of {name} ({part.state if part else 'it has no such run'})"
            for name, line in zip(names, found)
            for measure, part in zip(self.of, line)
            if part is None or part.value is None
        ]
        if lacks:
            more = f" and {len(lacks) - LACKS} more" if len(lacks) > LACKS else ""
            reason = f"lacks {', '.join(lacks[:LACKS])}{more}"
            return [replace(reading, state="incomplete", reason=reason) for reading in readings]
        try:
            check_comparable(self.key, readings)
        except Incomparable as error:
            return [replace(reading, state="refused", reason=str(error)) for reading in readings]
        values = self.values([[part.value for part in its if part.value is not None] for its in parts])
        return [
            replace(reading, value=value, constant=self.constant([part.constant for part in reading.parts]))
            for reading, value in zip(readings, values)
        ]

    def values(self, table: list[list[float]]) -> list[float]:
        """One for each row. `table`: rows x measures."""
        raise NotImplementedError

    def constant(self, constants: list[float | None]) -> float | None:
        """What the best constant predictions have, of what those have whose measures it follows from."""
        return None


@dataclass(frozen=True, kw_only=True)
class Mean(Derived):
    """Of measures of one metric."""

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        for measure in self.of:
            if measure.metric != self.metric:
                raise ConfigError(
                    f"a mean of {self.metric} cannot be taken over {measure.key}, which is {measure.metric}"
                )

    def values(self, table: list[list[float]]) -> list[float]:
        return [statistics.fmean(line) for line in table]

    def constant(self, constants: list[float | None]) -> float | None:
        known = [constant for constant in constants if constant is not None]
        return statistics.fmean(known) if len(known) == len(constants) else None


@dataclass(frozen=True, kw_only=True)
class Rank(Derived):
    """The mean over measures of a row's rank among the rows of the table: 1 is best, ties share their mean.

    Rows that stand aside, and those of which a measure is grey, are left out."""

    metric: str = "average_rank"
    across = True

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        for measure in self.of:
            if not measure.quantity.better:
                raise ConfigError(
                    f"{measure.key} ranks no rows: of {measure.metric} neither higher nor lower is better"
                )

    def values(self, table: list[list[float]]) -> list[float]:
        lower = [measure.quantity.better == "lower" for measure in self.of]
        ranks = [_ranks([v if low else -v for v in column]) for low, column in zip(lower, zip(*table))]
        return [statistics.fmean(line) for line in zip(*ranks)]


def _ranks(values: list[float]) -> list[float]:
    """1 for the lowest; equal values share the mean of their ranks."""
    return [sum(v < value for v in values) + (1 + values.count(value)) / 2 for value in values]
