"""A run's final weights as an MLflow model: a folder, a model of the run's MLflow run, a registered version."""

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ConfigError, RunConfig, Runtime, Scenes, TrainingConfig
from ..files import Locked, locked, sha256
from ..record.folder import RunFolder
from ..record.state import Traces
from ..redact import public, redact
from ..tracking import default_uri, set_patience, sync
from ..tracking.models import ModelStore, RunDeleted
from ..tracking.records import Cursor
from ..tracking.store import brief

if TYPE_CHECKING:
    from .predictor import Predictor

CODE = Path(__file__).with_name("pyfunc.py")
# Of which the numbers depend. The others are requirements of multimae itself.
REQUIRED = ("multimae", "mlflow", "torch", "torchvision", "timm", "safetensors", "numpy")
EXAMPLE = Scenes(render_size=64, eval_samples=2)
WEIGHTS = "multimae.weights_sha256"  # the tag of a model
LOCK_SECONDS = 600.0  # for another process that uploads a model


@dataclass(frozen=True)
class FinalModel:
    """A model in MLflow."""

    uri: str  # of the store; may hold a password
    model_id: str
    run_id: str
    new: bool  # whether it was not there before

    @property
    def address(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.model_id}"


def finished(folder: RunFolder) -> RunConfig:
    """The config of a run whose weights are those it wrote when it finished. Raises ConfigError for any other."""
    config = folder.config()
    if not folder.done:
        status = Traces(folder).status
        state = f"{status.state} ({status.reason})" if status.reason else status.state
        raise ConfigError(
            f"run {folder.signature} is {state}, and a model is made of a run that is done; to continue it: "
            f"multimae run {folder.config_file} --runs {folder.path.parent} (with the --data and --weights of before)"
        )
    if not isinstance(config, TrainingConfig):
        named = "; ".join(f"multimae model {signature}" for signature in config.needs)
        hint = f". It evaluates that of another run: {named}" if named else ""
        raise ConfigError(f"run {folder.signature}: a run of the task {config.task} leaves no model{hint}")
    if problem := folder.weights_problem:
        raise ConfigError(problem)
    folder.check_weights()
    return config


def save(folder: RunFolder, out: Path, about: Any = None) -> None:
    """Write the model of a run as a folder, which must not be there or be empty: for `mlflow.pyfunc.load_model(out)`.

    `about`: an `mlflow.models.Model` to be written with it. Raises ConfigError as `finished` and `Predictor`.
    """
    if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise ConfigError(f"{out} is there already, and not an empty folder; choose another")
    config = finished(folder)
    from .predictor import Predictor  # torch is imported here, after what can go wrong without it

    predictor = Predictor(config, folder.weights)
    example = example_of(predictor)
    set_patience()
    import mlflow.pyfunc
    from mlflow.models import Model

    about = about or Model()
    with tempfile.TemporaryDirectory() as beside:
        settings = Path(beside) / "config.yaml"
        settings.write_text(config.to_yaml())  # of a folder whose own is gone, too
        mlflow.pyfunc.save_model(
            path=str(out),
            python_model=str(CODE),
            artifacts={"config": str(settings), "weights": str(folder.weights)},
            signature=_specs(predictor, predictor(example)),
            input_example=example,
            pip_requirements=[_pinned(package) for package in REQUIRED],
            metadata=_told(folder, predictor),
            mlflow_model=about,
        )
    _forget_paths(about)
    about.save(str(Path(out) / "MLmodel"))


def log(runs: Path, signature: str, uri: str | None = None) -> FinalModel:
    """Give the MLflow run of a run its model, or find the one that it has. The run's journal is sent first.

    Raises ConfigError as `save`, and for what MLflow does not take, without secrets.
    """
    uri = uri or default_uri(runs)
    folder = RunFolder.of(runs, signature)
    config = finished(folder)
    digest = sha256(folder.weights)
    tag = (WEIGHTS, digest)
    tags = {"multimae.signature": signature, WEIGHTS: digest, "task": config.task}
    if not (report := sync(runs, uri, [signature])).ok:
        raise ConfigError(f"run {signature} cannot be told to MLflow: {'; '.join(report.problems)}")
    cursor = Cursor.load(folder, public(uri))
    assert cursor
    try:
        with _alone(runs):
            store = ModelStore(uri, runs)
            if found := store.model_of(cursor.run_id, tag):
                return FinalModel(uri, found, cursor.run_id, new=False)
            step = folder.journal.last("finished")["step"]  # type: ignore[index]  # it is done
            made = store.add_model(
                cursor.run_id, config.task, tags, lambda out, about: save(folder, out, about), step=step
            )
            return FinalModel(uri, made, cursor.run_id, new=True)
    except (ConfigError, RunDeleted) as error:
        raise ConfigError(redact(str(error), uri)) from None
    except Exception as error:  # whatever the store raises
        raise ConfigError(f"MLflow at {public(uri)} did not take the model: {brief(error, uri)}") from None


def register(runs: Path, model: FinalModel, name: str, tags: Mapping[str, object], alias: str | None = None) -> str:
    """The version of the registered model `name` that is this model: the one that is there, or a new one.

    Its tags are set. `alias` then means this version: `models:/NAME@ALIAS`. Raises ConfigError, without secrets.
    """
    try:
        with _alone(runs):
            return ModelStore(model.uri, runs).register_model(name, model.model_id, tags, alias)
    except ConfigError:
        raise
    except Exception as error:
        where = public(model.uri)
        raise ConfigError(f"MLflow at {where} did not register {name}: {brief(error, model.uri)}") from None


@contextlib.contextmanager
def _alone(runs: Path) -> Iterator[None]:
    """The one process that adds a model: two that look and then make one would make two."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(Path(runs) / ".mlflow.models.lock", LOCK_SECONDS))
        except Locked as error:
            raise ConfigError(f"{error.holder} uploads a model; give the command again once it is done") from None
        yield


def example_of(predictor: "Predictor") -> Any:
    """Two embedded scenes, as the predictor takes them."""
    from ..data.datasets import open_dataset

    names = list(predictor.inputs)
    data = predictor.config.data
    scenes = EXAMPLE.model_copy(update={"name": data.name}) if isinstance(data, Scenes) else EXAMPLE
    with tempfile.TemporaryDirectory() as cache:
        dataset = open_dataset(scenes, "eval", Runtime(cache=Path(cache)), names)
        samples = [dataset.sample(row, names) for row in range(len(dataset))]
    images = {name: _stacked([sample[name] for sample in samples]) for name in names}
    return images if len(names) > 1 else images[names[0]]


def _stacked(images: list[Any]) -> Any:
    """Channels last."""
    import torch

    stacked = torch.stack(images)
    return (stacked.movedim(1, -1) if stacked.ndim > 3 else stacked).contiguous().numpy()


def _specs(predictor: "Predictor", answer: Any) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    named = len(predictor.inputs) > 1
    inputs: list[Any] = [
        TensorSpec(np.dtype(dtype), shape, name if named else None) for name, (dtype, shape) in predictor.inputs.items()
    ]
    images = min(answer.ndim, 3) if answer.ndim > 2 else 1  # axes of any size: N, h, w, or N alone
    output = TensorSpec(answer.dtype, (*[-1] * images, *answer.shape[images:]))
    return ModelSignature(Schema(inputs), Schema([output]))


def _told(folder: RunFolder, predictor: "Predictor") -> dict[str, Any]:
    config = predictor.config
    told: dict[str, Any] = {"signature": config.signature, "task": config.task, "gives": predictor.answers}
    told |= {"inputs": list(predictor.inputs), "weights_sha256": sha256(folder.weights)}
    return told | ({"class_names": list(predictor.class_names)} if predictor.class_names else {})


def _pinned(package: str) -> str:
    """MLflow compares with what is installed, and infers nothing: that would start processes."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return package
    return f"{package}=={version.partition('+')[0]}"


def _forget_paths(about: Any) -> None:
    """Paths of this machine, which MLflow writes down and reads no more than the last part of."""
    flavor = about.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
