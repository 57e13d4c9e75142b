"""Sends the news of run folders to an MLflow store, pass after pass."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..config import RunConfig, Transfer
from ..config.settings import flatten
from ..files import Locked, locked
from ..record.folder import RunFolder
from ..record.outline import Outline
from ..record.reading import FolderError
from ..redact import public, redact
from . import dashboards
from .records import (
    NO_STUDY,
    STATUS,
    STOPPED,
    Cell,
    Cursor,
    News,
    cells_of,
    differing,
    pretrained,
    row_metrics,
    state_of,
)
from .store import KIND, Store, StoreUnavailable, brief, default_uri

SIGNATURE = "multimae.signature"  # the tag of a run
ROW = "multimae.row"  # the tag of a parent run
LOCK = ".mlflow.lock"  # in a run's folder: of who sends it; beside them: of who makes a run in MLflow
SECONDS_TO_MAKE = 60.0  # that others may take for theirs
METRICS_AT_ONCE = 900
MANY = 20  # runs to be found, from which on all are asked for at once

RowKey = tuple[str, str]  # (experiment, Cell.row_key)


@dataclass
class Experiment:
    """What an experiment's dashboards follow from, and what they were last made from."""

    study: str
    scale: str
    metrics: set[str] = field(default_factory=set)
    told: tuple[Outline, set[str]] | None = None


@dataclass
class SyncReport:
    """What one pass did. `problems` has a line for each thing that could not be sent, and why."""

    uri: str  # without secrets
    runs: int = 0
    metrics: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        sent = f"MLflow at {self.uri}: {self.runs} runs; sent {self.metrics} metrics and {self.files} files"
        return "\n".join([sent, *(f"  not sent: {problem}" for problem in self.problems)])


def sync(runs: Path, uri: str | None = None, signatures: Iterable[str] | None = None) -> SyncReport:
    """Send what MLflow has missed of these runs (None: of all). Does not raise for what MLflow does or fails to do."""
    return Syncer(runs, uri).once(signatures, wait=30.0)


def mend(runs: Path, states: Mapping[str, str]) -> SyncReport | None:
    """Send what MLflow has missed of the runs whose states it shows otherwise; None where there are none."""
    stale = differing(runs, states, default_uri(runs))
    return sync(runs, signatures=stale) if stale else None


class Syncer:
    """Sends the news of the runs in one folder to one store, pass after pass."""

    def __init__(self, runs: Path, uri: str | None = None):
        self.runs = Path(runs)
        self.uri = uri or default_uri(self.runs)
        self._verified: set[str] = set()  # signatures whose MLflow run is known to exist
        self._rows: dict[RowKey, str] = {}  # -> MLflow run
        self._changed: set[RowKey] = set()  # rows whose state may not be what MLflow shows
        self._experiments: dict[str, Experiment] = {}  # of the experiments that have runs here

    @cached_property
    def _store(self) -> Store:
        return Store(self.uri, self.runs)

    def once(self, signatures: Iterable[str] | None = None, wait: float = 0.0) -> SyncReport:
        """One pass. `wait`: seconds to wait for another process that is sending these runs."""
        report = SyncReport(public(self.uri))
        if not self.runs.is_dir():
            report.problems.append(f"there is no folder {self.runs}")
            return report
        try:
            self._pass(self._folders(signatures), time.monotonic() + wait, report)
        except (StoreUnavailable, OSError) as error:
            report.problems.append(redact(str(error), self.uri))
        return report

    def _pass(self, folders: list[RunFolder], until: float, report: SyncReport) -> None:
        report.runs = len(folders)
        if not folders:
            return
        self._store.check()
        if sum(folder.signature not in self._verified for folder in folders) > MANY:
            self._store.learn(SIGNATURE, ROW)
        for folder in folders:
            left = max(0.0, until - time.monotonic())
            with self._survived(folder.signature, report), locked(folder.path / LOCK, left):  # by itself: jobs are many
                self._send(folder, report)
        if self._changed:
            with self._survived("state of the rows", report):
                self._tell_rows()
        for name, experiment in self._experiments.items():
            with self._survived(f"dashboards of {name}", report):
                self._tell_dashboards(name, experiment)

    @contextlib.contextmanager
    def _survived(self, what: str, report: SyncReport) -> Iterator[None]:
        """Whatever MLflow or a damaged folder raises is reported, and the rest goes on unless the store is gone."""
        try:
            yield
        except Locked as error:
            report.problems.append(f"{what}: {error.holder} sends it; what that misses: `multimae sync`")
        except FolderError as error:
            report.problems.append(f"{what}: {error}")
        except Exception as error:
            report.problems.append(f"{what}: {brief(error, self.uri)}")
            self._store.check()

    def _folders(self, signatures: Iterable[str] | None) -> list[RunFolder]:
        """Runs that have begun, the oldest first."""
        folders = RunFolder.all(self.runs)
        if signatures is not None:
            folders = [RunFolder.of(self.runs, name) for name in signatures]
        begun = [folder for folder in folders if folder.journal.path.exists()]
        made = {f.signature: (f.config_file if f.config_file.exists() else f.path).stat().st_mtime for f in begun}
        return sorted(begun, key=lambda folder: (made[folder.signature], folder.signature))

    # ---- one run

    def _send(self, folder: RunFolder, report: SyncReport) -> None:
        """Send the news of a run."""
        cursor = Cursor.load(folder, public(self.uri))
        if cursor and self._store.knows(cursor.run_id):
            self._verified.add(folder.signature)
        verified = folder.signature in self._verified
        if cursor and verified and not cursor.has_news(folder):
            for cell in cursor.cells or ():
                self._experiments.setdefault(cell.experiment, Experiment(cell.study, cell.scale))
            return
        config = folder.config()
        cells = cells_of(folder, self._root(config))
        if cursor is None or not verified:
            cursor = self._find_or_create(folder, config, cells, cursor)
        if cursor.run_id in self._store.deleted:
            return  # by someone who does not want to see it

        rows = {cell: self._row(cell, folder) for cell in cells}
        self._changed |= {(cell.experiment, cell.row_key) for cell in cells}
        news = News(folder, cursor, config.data.name)
        jobs = folder.jobs.path.stat().st_size if folder.jobs.path.exists() else 0
        if cursor.cells != cells:
            news.describe(config, cells)
            news.tags |= self._place(cells, folder) if cells else {}
            if cells:
                news.tags["mlflow.parentRunId"] = rows[cells[0]]
            news.results += folder.journal.records("eval") if cursor.offset else []
        for offset, record in folder.journal.read(cursor.offset):
            news.add(record)
            cursor.offset = offset
            if len(news.metrics) >= METRICS_AT_ONCE:
                self._flush(folder, news, rows, report)
        begun = _begun(folder)
        for node in folder.nodes:
            for offset, record in node.read(cursor.sent(node)):
                news.measure(node.path.stem, record, begun)
                cursor.system[node.path.name] = offset
                if len(news.metrics) >= METRICS_AT_ONCE:
                    self._flush(folder, news, rows, report)
        cursor.cells, cursor.jobs = cells, jobs
        status, seen = state_of(folder)
        news.tags |= {"state": status.state, "reason": status.in_full} if status.state != cursor.state else {}
        if news.epochs or status.state != cursor.state:
            news.judge()
        self._flush(folder, news, rows, report)
        if status.state != cursor.state:
            self._store.status(cursor.run_id, STATUS.get(status.state, STOPPED), round(seen * 1000))
            cursor.state = status.state
            cursor.save(folder)
        self._send_files(folder, cursor, report)

    def _flush(self, folder: RunFolder, news: News, rows: dict[Cell, str], report: SyncReport) -> None:
        """Send, then write down that it was sent: a kill in between sends the same again, which changes nothing."""
        self._store.log(news.cursor.run_id, news.metrics, news.params, news.tags)
        for cell, run_id in rows.items():
            metrics, tags = row_metrics(cell, news.results, news.dataset)
            if news.results and run_id not in self._store.deleted:
                self._store.log(run_id, metrics, tags=tags)
            experiment = self._experiments.setdefault(cell.experiment, Experiment(cell.study, cell.scale))
            experiment.metrics |= {metric.key for metric in (*news.metrics, *metrics)}
        news.cursor.save(folder)
        report.metrics += len(news.metrics)
        news.clear()

    def _send_files(self, folder: RunFolder, cursor: Cursor, report: SyncReport) -> None:
        for name in list(cursor.files):
            file = folder.path / name
            if file.exists():
                self._store.artifact(cursor.run_id, file, str(Path(name).parent) if "/" in name else None)
                if file.suffix == ".png":
                    self._store.picture(cursor.run_id, file, dashboards.IMAGE, folder.signature)
                report.files += 1
            cursor.files.remove(name)
            cursor.save(folder)

    def _find_or_create(self, folder: RunFolder, config: RunConfig, cells: list[Cell], cursor: Cursor | None) -> Cursor:
        """The cursor, or a new one where MLflow does not have the run it speaks of."""
        homes = [*(cell.experiment for cell in cells), NO_STUDY]
        name = f"{cells[0].row} {cells[0].stage}" if cells else f"{config.task} {folder.signature}"
        redone = folder.jobs.last("redone")
        which = f"{folder.signature}, again {redone['number']}" if redone else folder.signature
        run_id = self._run(homes, (SIGNATURE, which), name, folder)
        self._verified.add(folder.signature)
        return cursor if cursor and cursor.run_id == run_id else Cursor(public(self.uri), run_id)

    def _run(self, homes: list[str], tag: tuple[str, str], name: str, folder: RunFolder) -> str:
        """The id of the MLflow run with this tag in one of these experiments, made in the first if need be."""
        if found := self._store.find(homes, tag):
            return found
        with locked(self.runs / LOCK, SECONDS_TO_MAKE):  # or two would make it
            return self._store.find(homes, tag) or self._store.create(homes[0], tag, name, _begun(folder))

    # ---- rows

    def _row(self, cell: Cell, folder: RunFolder) -> str:
        """The parent run of a cell, made if need be."""
        key = (cell.experiment, cell.row_key)
        if key not in self._rows:
            run_id = self._run([cell.experiment], (ROW, cell.row_key), cell.row, folder)
            if run_id not in self._store.deleted:
                root = RunFolder.of(self.runs, cell.root)
                params = flatten(root.config().resolved()) if _told(root) else {"init": cell.root}
                tags = {"study": cell.study, "scale": cell.scale, "row": cell.row, "stage": "row", "root": cell.root}
                tags |= self._place([cell], folder) | {"seed": f"{folder.config().seed}"}
                self._store.log(run_id, params=params, tags=tags)
            self._rows[key] = run_id
        return self._rows[key]

    def _root(self, config: RunConfig) -> str:
        """What the stages of a row have in common: the pre-training they start from, or another `init`."""
        if not config.needs:
            seeded = f" seed {config.seed}" if config.seed else ""  # or seeds from scratch would share a row
            return f"{config.init}{seeded}" if isinstance(config, Transfer) else config.signature
        needed = RunFolder.of(self.runs, config.needs[0])
        return self._root(needed.config()) if _told(needed) else config.needs[0]

    def _place(self, cells: list[Cell], folder: RunFolder) -> dict[str, str]:
        """Tags that say where in its table a row or a run stands, and what was pre-trained."""
        rows = list(Outline.of(self.runs, cells[0].study, cells[0].scale).rows)
        place = {"place": f"{rows.index(cells[0].row):04d}"} if cells[0].row in rows else {}
        root = RunFolder.of(self.runs, cells[0].root)
        return place | pretrained(root.config() if _told(root) else folder.config())

    def _tell_dashboards(self, name: str, experiment: "Experiment") -> None:
        """Make the dashboards of an experiment what they should be."""
        outline = Outline.of(self.runs, experiment.study, experiment.scale)
        if experiment.told == (outline, experiment.metrics):
            return
        id, before = self._store.page(name)
        experiment.metrics |= dashboards.known(before)
        made = dashboards.dashboards(outline, experiment.metrics)
        tags = dashboards.tags(made, experiment.metrics, round(time.time() * 1000), before)
        told = dict(KIND)
        if not (there := before.get(dashboards.NOTE)) or there.startswith(dashboards.OURS):  # else it is a user's own
            told[dashboards.NOTE] = dashboards.note(outline, id, made)
        self._store.tag_page(name, tags | {key: text for key, text in told.items() if before.get(key) != text})
        experiment.told = (outline, set(experiment.metrics))

    def _tell_rows(self) -> None:
        """Give changed rows the state of their stages: of each stage the run that came last."""
        stages: dict[RowKey, dict[str, RunFolder]] = {key: {} for key in self._changed}
        for folder in self._folders(None):
            cursor = Cursor.load(folder, public(self.uri))
            for cell in (cursor.cells or []) if cursor else []:
                if (cell.experiment, cell.row_key) in stages:
                    stages[cell.experiment, cell.row_key][cell.stage] = folder
        for key, folders in stages.items():
            told = [state_of(folder) for folder in folders.values()]
            if told and self._rows[key] not in self._store.deleted:
                states = {STATUS.get(status.state, STOPPED) for status, _ in told}
                worst = next(s for s in ("FAILED", "RUNNING", STOPPED, "FINISHED") if s in states)
                self._store.status(self._rows[key], worst, round(max(seen for _, seen in told) * 1000))
        self._changed.clear()


def _told(folder: RunFolder) -> bool:
    """Whether a run's folder says what the run is."""
    return folder.config_file.exists() or folder.journal.path.exists()


def _begun(folder: RunFolder) -> int:
    """When a run began, in milliseconds."""
    _, record = next(folder.journal.read(), (0, {"time": time.time()}))
    return round(record["time"] * 1000)
