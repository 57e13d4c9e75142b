"""The MLflow side of tracking: experiments, runs found again by a tag, and writes that may be repeated.

mlflow is imported when a `Store` is opened, not before. A metric sent twice with the same key, step, value and time
stamp is stored once by MLflow, and everything else here overwrites: so a write that may or may not have arrived is
simply made again.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..redact import FIX, parse, public, redact
from .records import Metric

DEFAULT_FILE = "mlflow.db"  # what a plain `mlflow ui` opens in the folder where it is typed
# For this process alone. MLflow's own settings make one call to a dead server last minutes (7 retries of 120 s); here
# the next pass is the retry.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a model has the uv.lock of whichever folder one stands in
}
THUMBNAIL = 512  # pixels
# MLflow's limits (mlflow.utils.validation).
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
KIND = {"mlflow.experimentKind": "custom_model_development"}  # of an experiment: not of prompts and traces


class StoreUnavailable(RuntimeError):
    """MLflow cannot be reached: dead, hanging, or refusing everyone."""


def default_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI, else a SQLite file beside `runs`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _sqlite(Path(runs).resolve().parent / DEFAULT_FILE)


def set_patience() -> None:
    """MLflow reads its settings when it is imported, or later."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)


def is_server(uri: str) -> bool:
    """Whether many processes on many machines may write there at the same time: not into a file."""
    return uri.startswith("databricks") or ("://" in uri and not uri.startswith(("sqlite:", "file:")))


class Store:
    """One MLflow tracking store. To make one and `check` raise StoreUnavailable, without secrets; all else raises
    mlflow's own exceptions, which `brief` makes fit to be told."""

    def __init__(self, uri: str, runs: Path):
        """The store at `uri`; the default one is made if need be.

        A server's address that can be read in two ways is refused: half of a password would be asked for as a host.
        """
        if uri.lower().startswith(("http:", "https:")) and not parse(uri):
            raise StoreUnavailable(f"the address of MLflow, {public(uri)}, can be read in several ways: {FIX}")
        if problem := _no_file(uri):
            raise StoreUnavailable(f"MLflow at {public(uri)}: {problem}")
        set_patience()
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.uri = uri
        self.deleted: set[str] = set()  # runs found, that a user has deleted in MLflow
        self._experiments: dict[str, str] = {}
        self._learnt: dict[tuple[str, str, str], str] = {}  # (experiment, key, value of a tag) -> run
        self._ids: set[str] = set()  # of what was learnt
        home = Path(runs).resolve().parent
        default = uri == _sqlite(home / DEFAULT_FILE)
        try:
            _check_database(uri)
            # MLflow puts the artifacts of a local store in ./mlruns.
            with contextlib.chdir(home) if default else contextlib.nullcontext():
                if default:
                    _create(home / DEFAULT_FILE)
                self._client = MlflowClient(uri)
                self._client.search_experiments(max_results=1)
        except Exception as error:  # requests', SQLAlchemy's and MLflow's own
            raise _unavailable(uri, error) from None

    def check(self) -> None:
        try:
            self._client.search_experiments(max_results=1)
        except Exception as error:
            raise _unavailable(self.uri, error) from None

    # ---- finding and making

    def find(self, experiments: Sequence[str], tag: tuple[str, str]) -> str | None:
        """The id of the run in any of these experiments (names) that has this tag.

        Asks for what `learn` has not found: another process may have made the run a moment ago.
        """
        from mlflow.entities import ViewType

        key, value = tag
        if learnt := next((id for name in experiments if (id := self._learnt.get((name, key, value)))), None):
            return learnt
        found = (self._client.get_experiment_by_name(name) for name in dict.fromkeys(experiments))
        ids = [experiment.experiment_id for experiment in found if experiment]
        quote = '"' if "'" in value else "'"
        runs = self._client.search_runs(ids, f"tags.`{key}` = {quote}{value}{quote}", ViewType.ALL) if ids else []
        self.deleted |= {run.info.run_id for run in runs if run.info.lifecycle_stage == "deleted"}
        return runs[0].info.run_id if runs else None

    def learn(self, *keys: str) -> None:
        """Ask once for all runs that have one of these tags: by themselves, a thousand take a minute."""
        from mlflow.entities import ViewType

        for experiment in self._client.search_experiments():
            token: str | None = None
            while token != "":
                found = self._client.search_runs([experiment.experiment_id], "", ViewType.ALL, page_token=token)
                for run in found:
                    self._ids.add(run.info.run_id)
                    tags = {key: run.data.tags[key] for key in keys if key in run.data.tags}
                    self._learnt |= {(experiment.name, key, tag): run.info.run_id for key, tag in tags.items()}
                    if tags and run.info.lifecycle_stage == "deleted":
                        self.deleted.add(run.info.run_id)
                token = found.token or ""

    def knows(self, run_id: str) -> bool:
        """Whether `learn` has found it."""
        return run_id in self._ids

    def create(self, experiment: str, tag: tuple[str, str], name: str, milliseconds: int) -> str:
        """The id of a new run that `find` will find by `tag`."""
        run = self._client.create_run(self._experiment(experiment), milliseconds, tags=dict([tag]), run_name=name)
        return run.info.run_id

    def _experiment(self, name: str) -> str:
        """The id of the experiment, made if need be."""
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            self._experiments[name] = found.experiment_id if found else self._client.create_experiment(name, tags=KIND)
        return self._experiments[name]

    def page(self, experiment: str) -> tuple[str, dict[str, str]]:
        """(id, tags) of an experiment."""
        found = self._client.get_experiment(self._experiment(experiment))
        return found.experiment_id, dict(found.tags)

    def pages(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Of all experiments, by name."""
        return {e.name: (e.experiment_id, dict(e.tags)) for e in self._client.search_experiments()}

    # ---- writing

    def log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        from mlflow import entities

        batches: tuple[tuple[str, Any, int], ...] = (
            ("params", [entities.Param(k, clip(v, PARAM_LENGTH)) for k, v in (params or {}).items()], PARAMS_PER_BATCH),
            ("tags", [entities.RunTag(k, clip(v, TAG_LENGTH)) for k, v in (tags or {}).items()], PARAMS_PER_BATCH),
            ("metrics", [entities.Metric(*metric) for metric in metrics], METRICS_PER_BATCH),
        )
        for kind, items, most in batches:
            for start in range(0, len(items), most):
                self._client.log_batch(run_id, **{kind: items[start : start + most]})

    def tag_page(self, experiment: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_experiment_tag(self._experiment(experiment), key, value)

    def status(self, run_id: str, status: str, milliseconds: int | None = None) -> None:
        """RUNNING, or how and when it ended."""
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, milliseconds)

    def artifact(self, run_id: str, file: Path, folder: str | None) -> None:
        self._client.log_artifact(run_id, str(file), folder)

    def picture(self, run_id: str, file: Path, key: str, id: str) -> None:
        """An image of a run, as the grids of MLflow's pages show it. `id`: by which the same one is the same file."""
        # As `log_image` calls its two files. A page decodes the name twice, so no % may stand before two digits.
        name = f"{key}%step%0%timestamp%0%run-{id}"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(file, Path(folder, f"{name}.png"))
            _thumbnail(file, Path(folder, f"{name}%compressed.webp"))
            self._client.log_artifacts(run_id, folder, "images")
        self._client.set_tag(run_id, "mlflow.loggedImages", True)


def _thumbnail(file: Path, to: Path) -> None:
    from PIL import Image

    with Image.open(file) as picture:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.convert("RGB").save(to, "WEBP")


def tell(
    runs: Path,
    experiment: str,
    tag: tuple[str, str],
    name: str,
    *,
    metrics: Mapping[str, float],
    tags: Mapping[str, object],
    files: Iterable[Path],
    uri: str | None = None,
) -> str:
    """Give MLflow what belongs to no run of ours, as a run of its own that is found again by `tag`. Returns why that
    could not be done, without secrets; empty: it is done."""
    uri, now = uri or default_uri(runs), round(time.time() * 1000)
    try:
        store = Store(uri, runs)
        run_id = store.find([experiment], tag) or store.create(experiment, tag, name, now)
        if run_id not in store.deleted:  # by someone who does not want to see it
            store.log(run_id, [Metric(key, value, now, 0) for key, value in metrics.items()], tags=tags)
            for file in files:
                store.artifact(run_id, file, None)
            store.status(run_id, "FINISHED", now)
    except Exception as error:  # whatever the store raises, the files are there
        return brief(error, uri)
    return ""


def clip(value: object, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def brief(error: BaseException, uri: str) -> str:
    """The first line of an error, without the secrets of the store at `uri`."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return clip(redact(text, uri), 300)


def _no_file(uri: str) -> str:
    """Why an address of SQLite keeps nothing; empty for all others. SQLAlchemy would try for minutes, or in memory."""
    if not uri.startswith("sqlite:"):
        return ""
    file = uri.removeprefix("sqlite:").partition("?")[0].removeprefix("///")
    if not file.strip("/") or ":memory:" in file:
        return "a database in memory keeps nothing; write sqlite:///FILE"
    return "" if Path(file).absolute().parent.is_dir() else f"there is no folder {Path(file).absolute().parent}"


def _check_database(uri: str) -> None:
    """Raises what SQLAlchemy raises where a database does not answer: MLflow itself would try for hours."""
    if not uri.startswith(("postgresql", "mysql")):
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        uri, connect_args={"connect_timeout": int(PATIENCE["MLFLOW_HTTP_REQUEST_TIMEOUT"])}
    )
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _unavailable(uri: str, error: Exception) -> StoreUnavailable:
    hint = "" if parse(uri) or not is_server(uri) or "://" not in uri else f"; if its address is meant otherwise, {FIX}"
    return StoreUnavailable(f"MLflow at {public(uri)} does not answer: {brief(error, uri)}{hint}")


def _sqlite(file: Path) -> str:
    return f"sqlite:///{file}"


def _create(file: Path) -> None:
    """Make an empty SQLite store, beside and then linked: one killed while it is made would never open again."""
    if file.exists():
        return
    from mlflow import MlflowClient

    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.touch()  # or SQLite would make what no colleague may write, whatever the umask
        MlflowClient(_sqlite(beside)).search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.link(beside, file)
    finally:
        beside.unlink(missing_ok=True)
