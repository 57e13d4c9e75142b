"""An MLflow store beside synthetic runs, and what it shows. The fixtures are imported by the tests that use them."""

import shutil
from pathlib import Path

import pytest
from synthetic_runs import SyntheticRun

from multimae.config import recipe
from multimae.tracking import store

PRETRAIN = recipe("pretrain", "smoke")
CLASSIFY = recipe("classify", "smoke").edit({"init": f"run:{PRETRAIN.signature}"})


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """An empty SQLite store: MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.Store(f"sqlite:///{file}", file.parent / "runs")
    return file


@pytest.fixture
def runs(tmp_path, empty_store, monkeypatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path / "runs"


class Seen:
    """What a store shows."""

    def __init__(self, runs: Path, uri: str | None = None):
        from mlflow import MlflowClient

        self.client = MlflowClient(uri or store.default_uri(runs))

    def runs(self, experiment: str) -> dict:
        found = self.client.get_experiment_by_name(experiment)
        return {run.info.run_name: run for run in self.client.search_runs([found.experiment_id])} if found else {}

    def all(self) -> list:
        return self.client.search_runs([e.experiment_id for e in self.client.search_experiments()])

    def steps(self, run, key: str) -> list[int]:
        return [m.step for m in self.client.get_metric_history(run.info.run_id, key)]

    def artifacts(self, run, folder: str | None = None) -> list[str]:
        return sorted(a.path for a in self.client.list_artifacts(run.info.run_id, folder))


def study_run(runs: Path, config=PRETRAIN, row: str = "alpha=1", stage: str = "pretrain") -> SyntheticRun:
    run = SyntheticRun(runs, config)
    run.submit("ablation", row, stage)
    return run
