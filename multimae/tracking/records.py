"""What a run's folder has to say to a tracking store: labels, metrics, state; and how far it has been told.

Knows the journal's records and nothing of MLflow's calls.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..config import RunConfig
from ..config.settings import flatten
from ..files import write_atomic
from ..record.epochs import KINDS, bound_by, waited
from ..record.folder import RunFolder
from ..record.journal import Journal
from ..record.reading import read_json
from ..record.shape import NONFINITE, count, fits, list_of, mapping_of, maybe, text
from ..record.state import Status, Traces
from ..redact import public

STARTED = ("attempt", "device", "host", "processes", "threads", "matrix_gflops")  # tags, of the record `start`
NO_STUDY = "runs"  # the experiment of runs that belong to none
STATUS = {"running": "RUNNING", "done": "FINISHED", "failed": "FAILED"}  # of a run -> of MLflow
STOPPED = "KILLED"  # any other; set back to RUNNING when it goes on


class Metric(NamedTuple):
    key: str
    value: float
    milliseconds: int  # since the epoch
    step: int


class Cell(NamedTuple):
    """A place in a study's table where a run is used."""

    study: str
    scale: str
    row: str
    stage: str
    root: str  # what the row's stages start from: the signature of its pre-training, or an `init` and a seed

    @property
    def experiment(self) -> str:
        return f"{self.study}/{self.scale}"

    @property
    def row_key(self) -> str:
        """Tells rows of one name apart, when a study was run with its pre-training changed."""
        return f"{self.row} {self.root}"


@dataclass
class Cursor:
    """`mlflow.json`: how far a run's journal has been sent, and to which MLflow run of which store."""

    uri: str
    run_id: str
    offset: int = 0  # bytes of journal.jsonl
    jobs: int = 0  # bytes of jobs.jsonl
    steps: dict[str, int] = field(default_factory=dict)  # kind -> last step sent: a resumed run repeats steps
    state: str = ""  # as last told
    cells: list[Cell] | None = None  # as last described
    files: list[str] = field(default_factory=list)  # still to send, relative to the run's folder
    system: dict[str, int] = field(default_factory=dict)  # a node's file -> bytes of it

    @staticmethod
    def load(folder: RunFolder, uri: str) -> "Cursor | None":
        """None where nothing was sent to this store, or what was written down does not fit: all is sent again."""
        values = read_json(folder.path / "mlflow.json")
        if not fits(values, CURSOR) or values["uri"] != uri or values["offset"] > _size(folder.journal.path):
            return None
        cursor = Cursor(**{name: values[name] for name in CURSOR if values.get(name) is not None})
        if cursor.cells is not None:
            cursor.cells = [Cell(*c) for c in cursor.cells]
        return cursor

    def save(self, folder: RunFolder) -> None:
        write_atomic(folder.path / "mlflow.json", json.dumps(asdict(self)))

    def has_news(self, folder: RunFolder) -> bool:
        return (
            self.state == "running"  # it may have died
            or bool(self.files)
            or _size(folder.journal.path) != self.offset
            or _size(folder.jobs.path) != self.jobs
            or any(_size(node.path) != self.system.get(node.path.name, 0) for node in folder.nodes)
        )

    def sent(self, node: Journal) -> int:
        """How many bytes of a node's file. One that has less is another file: all of it is to be sent."""
        sent = self.system.get(node.path.name, 0)
        return sent if sent <= _size(node.path) else 0


_CELL = list_of(text)
CURSOR = {
    "uri": text,
    "run_id": text,
    "offset": count,
    "jobs": count,
    "steps": mapping_of(count),
    "state": text,
    "cells": maybe(list_of(lambda c: _CELL(c) and len(c) == len(Cell._fields))),
    "files": list_of(text),
    "system": maybe(mapping_of(count)),  # older versions sent none
}


def differing(runs: Path, states: Mapping[str, str], uri: str) -> list[str]:
    """The runs, of which these are the states, that the store at `uri` has been told otherwise of."""
    told = {signature: Cursor.load(RunFolder.of(runs, signature), public(uri)) for signature in states}
    return [signature for signature, cursor in told.items() if cursor and cursor.state != states[signature]]


class News:
    """What to send next, gathered record by record."""

    def __init__(self, folder: RunFolder, cursor: Cursor, dataset: str):
        self.folder = folder
        self.cursor = cursor
        self.dataset = dataset  # the run's own
        self.epochs = False  # whether there are new ones
        self.clear()

    def clear(self) -> None:
        self.metrics: list[Metric] = []
        self.results: list[dict[str, Any]] = []  # eval records, for the rows
        self.params: dict[str, Any] = {}
        self.tags: dict[str, Any] = {}

    def describe(self, config: RunConfig, cells: list[Cell]) -> None:
        """Tags that stand in the UI's columns. A run of several cells has the labels of all, joined by commas."""
        self.tags |= {"task": config.task, "init": getattr(config, "init", ""), "seed": config.seed}
        self.tags["signature"] = config.signature
        for label in ("study", "scale", "row", "stage"):
            self.tags[label] = ", ".join(dict.fromkeys(getattr(cell, label) for cell in cells))

    def add(self, record: dict[str, Any]) -> None:
        kind, step = record["kind"], record.get("step", 0)
        self.epochs |= kind in ("epoch", "finished")
        split = f"{_elsewhere(record, self.dataset)}{record['split']}" if kind == "eval" else ""
        series = f"eval {split}" if kind == "eval" else kind
        if values := _numbers(record, split):
            if step <= self.cursor.steps.get(series, -1):
                return
            self.cursor.steps[series] = step
            milliseconds = round(record["time"] * 1000)
            self.metrics += [Metric(key, value, milliseconds, step) for key, value in values.items()]
        match kind:
            case "start":
                self._start(record)
            case "eval":
                self.results.append(record)
                self.tags |= provenance(split, record)
            case "sample":
                self._file(record["file"])
            case "nonfinite":
                self.tags["nonfinite"] = f"step {step}, rank {record.get('rank')}"

    def measure(self, name: str, record: dict[str, Any], begun: int) -> None:
        """A sample of a node, of the file of this name. MLflow's steps are seconds since the run was `begun`
        (milliseconds): they go on where another attempt does, and are the same where they are sent again."""
        milliseconds, place = round(record["time"] * 1000), "system"
        if record["nodes"] > 1:
            place += f"/node_{record['node']}"  # as MLflow's page tells nodes apart
            self.tags[f"node_{record['node']}"] = name
        step = max(0, milliseconds - begun) // 1000
        self.metrics += [Metric(f"{place}/{key}", v, milliseconds, step) for key, v in record["metrics"].items()]

    def judge(self) -> None:
        """Whether the run is bound by data or by compute."""
        if (verdict := bound_by(waited(self.folder.journal.records(*KINDS)))) != "unknown":
            self.tags["bound_by"] = verdict

    def _start(self, record: dict[str, Any]) -> None:
        if "start" not in self.cursor.steps:  # the settings of a run do not change
            self.cursor.steps["start"] = record["step"]
            self.params |= flatten(record.get("params") or {})
        self.tags |= {key: record[key] for key in STARTED if key in record}
        environment = read_json(self.folder.environment) or {}
        if record.get("commit"):
            commit = record["commit"]
            self.tags |= {"commit": commit, "mlflow.source.git.commit": commit, "dirty": environment.get("dirty")}
        if "SLURM_JOB_ID" in (environment.get("variables") or {}):
            began = self.folder.jobs.last("began") or {}  # the job that trains, or trained last
            named = {"slurm_job": "job", "slurm_cluster": "cluster", "slurm_nodes": "nodes", "slurm_restart": "restart"}
            self.tags |= {tag: str(began[key]).removeprefix("slurm:") for tag, key in named.items() if key in began}
        self._file("config.yaml")
        self._file("environment.json")

    def _file(self, name: str) -> None:
        if name not in self.cursor.files:
            self.cursor.files.append(name)


def pretrained(config: RunConfig) -> dict[str, str]:
    """What a pre-training is, as tags of its row and of all runs that start from it; of another run, nothing."""
    settings = flatten(config.resolved())
    sets = {key: "-".join(settings[key]) for key in ("inputs", "targets") if isinstance(settings.get(key), list)}
    return sets | ({"alpha": f"{settings['masking.alpha']}"} if "masking.alpha" in settings else {})


def provenance(prefix: str, record: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation was made over, as tags."""
    return {f"{prefix}/n": record["n"], f"{prefix}/fingerprint": record["fingerprint"]}


def row_metrics(cell: Cell, records: Iterable[dict[str, Any]], dataset: str) -> tuple[list[Metric], dict[str, Any]]:
    """(metrics, tags) that evaluations of the run in `cell` add to its row. `dataset`: the run's own. Those on the way,
    by which weights are selected, are the run's alone."""
    metrics: list[Metric] = []
    tags: dict[str, Any] = {}
    for record in records:
        if record.get("selects"):
            continue
        milliseconds, step = round(record["time"] * 1000), record["step"]
        place = f"{cell.stage}/{_elsewhere(record, dataset)}".rstrip("/")
        metrics += [Metric(f"{place}/{k}", float(v), milliseconds, step) for k, v in record["metrics"].items()]
        tags |= provenance(place, record) | {f"{place}/split": record["split"]}
    return metrics, tags


def cells_of(folder: RunFolder, root: str) -> list[Cell]:
    """Where a run is used, the place it was first submitted for first."""
    places = ([r.get(label) for label in Cell._fields[:-1]] for r in folder.jobs.records("submitted"))
    return list(dict.fromkeys(Cell._make([*place, root]) for place in places if all(place)))


def state_of(folder: RunFolder) -> tuple[Status, float]:
    """(what the run is doing, as far as its files tell; seconds since the epoch of its last sign of life)."""
    run = Traces(folder)
    return run.status, run.seen


def _elsewhere(record: dict[str, Any], dataset: str) -> str:
    """What goes before the names of an evaluation: its data set, where that is not the run's own."""
    return f"{record['dataset']}/" if record.get("dataset") not in (None, dataset) else ""


def _numbers(record: dict[str, Any], split: str) -> dict[str, float]:
    """The metrics in a record, by the name they have in MLflow."""
    kind = record["kind"]
    if kind == "eval":
        return {f"{split}/{name}": float(value) for name, value in record["metrics"].items()}
    if kind not in ("train", "epoch"):
        return {}
    own = {key: value for key, value in record.items() if key not in ("time", "kind", "step", kind)}
    numbers = {f"{kind}/{k}": float(v) for k, v in own.items() if isinstance(v, int | float) or v in NONFINITE}
    return numbers | {f"{kind}/loss_{target}": float(value) for target, value in record.get("losses", {}).items()}


def _size(path) -> int:
    return path.stat().st_size if path.exists() else 0
