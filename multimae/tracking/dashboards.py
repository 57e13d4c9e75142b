"""Dashboards as code: views of an experiment's page, which MLflow keeps as tags of the experiment.

A view is what its user would have saved there: a filter, an order, columns, charts. MLflow adds a chart for each metric
that a view does not name; so all others are named as removed.
"""

import base64
import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ..record.outline import Outline

TAG = "mlflow.sharedViewState."
PREFIX = "multimae-"  # of the ids of our views
LONGEST = 15_000  # characters of a tag, of which MLflow takes 20,000
NOTE, OURS = "mlflow.note.content", "Dashboards: "  # the description of an experiment, and how ours begins
IMAGE = "predictions"  # the key of a run's pictures, as MLflow's grid calls it
ROW, PRETRAIN = "tags.stage = 'row'", "tags.task = 'pretrain'"
# All of what a page may show; what it is not told it would take from the user's last visit.
PAGE: dict[str, Any] = {
    "orderByKey": "tags.`place`",
    "orderByAsc": True,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsHiddenMode": "SHOWALL",
    "runsVisibilityMap": {},
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": True,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
LINE = {
    "yAxisKey": "metric",
    "xAxisKey": "step",
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "lineSmoothness": 0,
    "selectedXAxisMetricKey": "",
    "range": {},
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}
COST = ("epoch/seconds", "epoch/images_per_second", "epoch/data_share", "epoch/memory_gib")  # of the last epoch
NO_ROWS = ("train/", "epoch/", "system/")  # metrics of runs that are not of rows
LABELS = ("place", "seed", "alpha", "inputs", "state")  # tags among the columns of rows


@dataclass(frozen=True)
class Dashboard:
    id: str
    title: str
    filter: str
    charts: Sequence[Mapping[str, Any]]
    columns: Sequence[str] = ()  # metrics
    groups: str = ""  # the tag whose values are averaged over
    across: int = 2  # charts side by side
    height: int = 360  # of a chart, in pixels

    @property
    def key(self) -> str:
        return PREFIX + self.id

    def state(self, metrics: Iterable[str]) -> dict[str, Any]:
        """`metrics`: all that the experiment's runs have."""
        section = {"uuid": self.key, "name": self.title, "display": True, "isReordered": True}
        section |= {"deleted": False, "isGenerated": False, "columns": self.across, "cardHeight": self.height}
        shown = {chart.get("metricKey") for chart in self.charts}
        removed = [_chart("BAR", key, deleted=True, isGenerated=True) for key in sorted(set(metrics) - shown)]
        columns = [*(f"tags.`{tag}`" for tag in LABELS), *(f"metrics.`{metric}`" for metric in self.columns)]
        groups = [{"mode": "tag", "groupByData": self.groups}]
        return PAGE | {
            "searchFilter": self.filter,
            "selectedColumns": columns,
            "compareRunCharts": [{**chart, "metricSectionId": self.key} for chart in (*self.charts, *removed)],
            "compareRunSections": [section],
            "groupBy": {"aggregateFunction": "average", "groupByKeys": groups} if self.groups else None,
        }

    def link(self, experiment: str) -> str:
        """Of the experiment with this id, below the address of a server. With a filter in it, the view would not be
        looked at."""
        words = {"viewStateShareKey": self.key, "compareRunsMode": "CHART", "workflowType": "machine_learning"}
        return f"#/experiments/{experiment}/runs?{urlencode(words)}"


def _chart(kind: str, metric: str, **more: Any) -> dict[str, Any]:
    chart = {"uuid": f"{kind}-{metric}", "type": kind, "metricKey": metric, "runsCountToCompare": 100}
    return chart | {"deleted": False, "isGenerated": False} | more


def _line(metric: str) -> dict[str, Any]:
    return _chart("LINE", metric, selectedMetricKeys=[metric], **LINE)


def dashboards(outline: Outline, metrics: Collection[str]) -> list[Dashboard]:
    """Those of a study: its outline, and the metrics that its runs have."""
    measures = outline.metrics
    if not measures:  # no table: whatever the rows have been given
        measures = [key for key in sorted(metrics) if "/" in key and not key.startswith(NO_ROWS)]
    bars = [_chart("BAR", metric) for metric in measures]
    losses = sorted(key for key in metrics if key.startswith("train/loss_"))
    lines = [_line(key) for key in ("train/loss", "train/lr", "train/grad_norm", *losses)]
    grid = _chart("IMAGE", "", displayName=IMAGE, imageKeys=[IMAGE], step=0, showRunParams=False)
    return [
        Dashboard("results", "Results", ROW, bars, measures),
        Dashboard("seeds", "Results, means over seeds", ROW, bars, measures, groups="row"),
        Dashboard("training", "Training", PRETRAIN, lines, ["train/loss"]),
        Dashboard(
            "cost", "Cost, means over seeds", PRETRAIN, [_chart("BAR", metric) for metric in COST], COST, groups="row"
        ),
        Dashboard("pictures", "Pictures", "tags.`mlflow.loggedImages` = 'True'", [grid], across=1, height=900),
    ]


def tags(of: Sequence[Dashboard], metrics: Collection[str], now: int, before: Mapping[str, str]) -> dict[str, str]:
    """The tags that make these views, those that stand there (`before`) already left out. `now`: milliseconds."""
    found = {}
    for view in of:
        name, state = f"MultiMAE: {view.title}", _packed(view.state(metrics))
        if len(state) > LONGEST:  # of many nodes: their charts, which MLflow keeps in a section of their own, may come
            state = _packed(view.state(key for key in metrics if not key.startswith("system/")))
        there = _read(before.get(TAG + view.key, ""))
        if (there.get("name"), there.get("state")) == (name, state) or len(state) > LONGEST:
            continue
        made = {"name": name, "createdAt": there.get("createdAt", now), "updatedAt": now, "state": state}
        found[TAG + view.key] = json.dumps(made)
    return found


def known(before: Mapping[str, str]) -> set[str]:
    """The metrics that the views in an experiment's tags know of."""
    state = _read(before.get(f"{TAG}{PREFIX}results", "")).get("state", "")
    try:
        charts = json.loads(zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))))["compareRunCharts"]
        return {chart["metricKey"] for chart in charts}
    except (ValueError, KeyError, TypeError, zlib.error):  # none, or somebody else's
        return set()


def note(outline: Outline, experiment: str, of: Sequence[Dashboard]) -> str:
    """The description of an experiment, its first line the dashboards: more is folded away."""
    links = " · ".join(f"[{view.title}]({view.link(experiment)})" for view in of)
    return (
        f"{OURS}{links}\n\n{outline.title}\n\nRows of the table are parent runs, with the results of their stages as "
        "`stage/metric`; the runs of the stages are nested in them. Numbers of the scales smoke, laptop, mini and lab "
        "are not comparable with the paper's."
    )


def _packed(state: Mapping[str, Any]) -> str:
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)).decode()


def _read(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
