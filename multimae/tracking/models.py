"""Models in an MLflow store: given to a run, found again by a tag, and registered."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .store import Store

UPLOAD_SECONDS = "600"  # until a server has taken a file


class RunDeleted(ValueError):
    """The MLflow run that a model belongs to was deleted."""


class ModelStore(Store):
    """Raises as `Store`."""

    def model_of(self, run_id: str, tag: tuple[str, str]) -> str | None:
        """The id of the run's model that has this tag. One whose upload was cut off is deleted.

        Raises RunDeleted.
        """
        key, value = tag
        run = self._client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise RunDeleted(
                f"its MLflow run {run_id} was deleted; to have it back: mlflow runs restore --run-id {run_id}"
            )
        found = self._client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
        ours = [model for model in found if model.tags.get(key) == value]
        whole = [model.model_id for model in ours if model.status == "READY"]
        for model in ours:
            if model.model_id not in whole:
                self._client.delete_logged_model(model.model_id)
        return whole[0] if whole else None

    def add_model(
        self, run_id: str, name: str, tags: Mapping[str, str], write: Callable[[Path, Any], None], step: int
    ) -> str:
        """The id of a new model of a run. `write` makes its folder, for an `mlflow.models.Model` that is about it."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        run = self._client.get_run(run_id)
        made = self._client.create_logged_model(run.info.experiment_id, name, run_id, dict(tags))
        about = Model(
            artifact_path=made.artifact_location, model_uuid=made.model_id, run_id=run_id, model_id=made.model_id
        )
        with tempfile.TemporaryDirectory() as folder, self._half(made.model_id), _unhurried():
            write(Path(folder) / "model", about)
            self._client.log_model_artifacts(made.model_id, str(Path(folder) / "model"))
            self._client.finalize_logged_model(made.model_id, "READY")
        self._client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step)])
        return made.model_id

    @contextlib.contextmanager
    def _half(self, model_id: str) -> Iterator[None]:
        """A model that cannot be written whole is none."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # the store may be what failed; `model_of` deletes it the next time
                self._client.delete_logged_model(model_id)
            raise

    def register_model(self, name: str, model_id: str, tags: Mapping[str, object], alias: str | None = None) -> str:
        """The version of the registered model `name` that is this model, made if need be; its tags are these, and
        `alias` points to it."""
        from mlflow.exceptions import MlflowException

        texts = {key: str(value) for key, value in tags.items()}
        model = self._client.get_logged_model(model_id)
        sources = (f"models:/{model_id}", model.artifact_location)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self._client.search_model_versions(f"name = '{name}'")
        version = next((found.version for found in versions if found.source in sources), None)
        if version is None:
            # A database's store would look for the first in whichever store is MLflow's default in this process.
            source = sources[0] if self.uri.startswith("http") else sources[1]
            version = self._client.create_model_version(
                name, source, model.source_run_id, texts, model_id=model_id
            ).version
            self._tell(model_id, name, version)
        else:
            for key, value in texts.items():
                self._client.set_model_version_tag(name, version, key, value)
        if alias:
            self._client.set_registered_model_alias(name, alias, version)
        return str(version)

    def _tell(self, model_id: str, name: str, version: object) -> None:
        """Where MLflow's pages of a model look for its versions."""
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS as KEY

        told = json.loads(self._client.get_logged_model(model_id).tags.get(KEY, "[]"))
        new = [*told, {"name": name, "version": version}]
        self._client.set_logged_model_tags(model_id, {KEY: json.dumps(new)})


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """Within, MLflow waits as long as an upload may take; unless a user has said how long."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]
    os.environ[name] = str(max(int(before), int(UPLOAD_SECONDS)))
    try:
        yield
    finally:
        os.environ[name] = before
