"""A run's final weights as an MLflow model: it predicts what the run's evaluation measured, wherever it is loaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from final_models import CLASSIFY, KINDS, PRETRAIN, TWO, trained  # noqa: F401 (a fixture)

from multimae.config import RunConfig, Runtime
from multimae.data.datasets import open_dataset
from multimae.export import save
from multimae.export.predictor import Predictor
from multimae.model.multimae import MultiMAE
from multimae.record.folder import RunFolder
from multimae.run import make_task
from multimae.weights import read

ROOT = Path(__file__).parents[2]
FILES = {
    *("MLmodel", "pyfunc.py", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json"),
    *("serving_input_example.json", "artifacts/weights.safetensors", "artifacts/config.yaml"),
}


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory) -> Path:
    """The model of each kind, as a folder, made without another process."""
    out = tmp_path_factory.mktemp("models")
    import mlflow.pyfunc  # noqa: F401 - which asks `uname` for the name of the machine

    def refused(*_, **__):
        raise AssertionError("a process is started")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", refused)
        for kind, config in KINDS.items():
            save(RunFolder.of(trained.runs, config.signature), out / kind)
    return out


def loaded(path: Path | str):
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(path))


def evaluation(config: RunConfig, runtime: Runtime) -> tuple[np.ndarray, list[dict[str, torch.Tensor]], dict]:
    """Of a run: (the photographs of its evaluation, as a user has them; the transformed samples; what it recorded)."""
    task = make_task(config, runtime)
    samples = [task.eval_set.sample(row, config.fields) for row in range(len(task.eval_set))]
    images = np.stack([sample["rgb"].permute(1, 2, 0).numpy() for sample in samples])
    recorded = RunFolder.of(runtime.runs, config.signature).journal.last("eval")["metrics"]
    return images, [task.transforms[False](sample) for sample in samples], recorded


# ---- what it predicts


def test_probabilities_are_those_that_the_run_measured(models, trained):
    images, samples, recorded = evaluation(CLASSIFY, trained)
    model = loaded(models / "classify")
    found = model.predict(images)
    assert found.shape == (9, 10) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    right = found.argmax(1) == [sample["label"] for sample in samples]
    assert 100 * right.mean() == pytest.approx(recorded["accuracy"], abs=1e-4)
    assert len(model.metadata.metadata["class_names"]) == 10


def test_class_maps_are_those_that_the_run_measured(models, trained):
    images, samples, recorded = evaluation(KINDS["segment"], trained)
    found, truth = loaded(models / "segment").predict(images), np.stack([s["target"] for s in samples])
    assert found.shape == (9, 32, 32) and found.dtype == np.uint8
    truth = np.where(truth == 255, 14, truth)
    confusion = np.bincount(15 * truth.ravel() + found.ravel(), minlength=225).reshape(15, 15)[:14, :14]
    hits, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    assert 100 * (hits[union > 0] / union[union > 0]).mean() == pytest.approx(recorded["mIoU"], abs=1e-6)
    assert recorded["mIoU"] > 0


def test_depth_is_in_metres_as_the_run_measured_it(models, trained):
    images, samples, recorded = evaluation(KINDS["depth"], trained)
    found, truth = loaded(models / "depth").predict(images), np.stack([s["target"] for s in samples])
    assert found.shape == (9, 32, 32, 1) and found.dtype == np.float32
    found, valid = found.transpose(0, 3, 1, 2), np.isfinite(truth)
    errors = np.abs(found - truth)[valid]
    assert np.sqrt((errors.astype(float) ** 2).mean()) == pytest.approx(recorded["rmse"], rel=1e-5)


def test_regression_is_as_the_run_measured_it(models, trained):
    images, samples, recorded = evaluation(KINDS["regress"], trained)
    found, truth = loaded(models / "regress").predict(images), np.stack([s["target"] for s in samples])
    assert found.shape == (9, 32, 32, 1)
    assert np.nanmean(np.abs(found.transpose(0, 3, 1, 2) - truth)) == pytest.approx(recorded["l1"], rel=1e-5)


def test_features_are_the_mean_of_the_tokens_that_the_pre_trained_encoder_makes_of_rgb(models, trained):
    images, samples, _ = evaluation(PRETRAIN, trained)
    model = MultiMAE(PRETRAIN).eval()
    model.load_state_dict(read(RunFolder.of(trained.runs, PRETRAIN.signature).weights))
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    rgb = torch.stack([(sample["rgb"] / 255 - mean) / deviation for sample in samples])
    with torch.no_grad():
        expected = model.encode({"rgb": rgb}).mean(1)
    found = loaded(models / "pretrain").predict(images)
    assert found.shape == (9, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3  # it tells images apart


def test_a_map_covers_the_image_and_no_padding(trained):
    predict = Predictor(KINDS["segment"], RunFolder.of(trained.runs, KINDS["segment"].signature).weights)
    wide = np.random.default_rng(0).integers(0, 256, (2, 20, 64, 3), dtype=np.uint8)
    assert predict(wide).shape == (2, 10, 32) and predict(wide.transpose(0, 2, 1, 3)).shape == (2, 32, 10)


def test_batches_change_nothing(trained):
    predict = Predictor(CLASSIFY, RunFolder.of(trained.runs, CLASSIFY.signature).weights)
    images, _, _ = evaluation(CLASSIFY, trained)
    whole = predict(images)
    predict.batch_size = 4
    np.testing.assert_allclose(predict(images), whole, atol=1e-6)


def test_several_inputs_have_names(trained, tmp_path):
    save(RunFolder.of(trained.runs, TWO.signature), tmp_path / "model")
    model = loaded(tmp_path / "model")
    assert [(spec.name, spec.type.name, spec.shape) for spec in model.metadata.signature.inputs] == [
        ("rgb", "uint8", (-1, -1, -1, 3)),
        ("pseudo_depth", "float32", (-1, -1, -1, 1)),
        ("semseg", "uint8", (-1, -1, -1)),
    ]
    dataset = open_dataset(TWO.data, "eval", trained, TWO.fields)
    samples = [dataset.sample(row, TWO.fields) for row in range(len(dataset))]
    images = {name: torch.stack([sample[name] for sample in samples]).numpy() for name in TWO.inputs}
    images |= {name: images[name].transpose(0, 2, 3, 1) for name in ("rgb", "pseudo_depth")}
    right = model.predict(images).argmax(1) == [sample["label"] for sample in samples]
    recorded = RunFolder.of(trained.runs, TWO.signature).journal.last("eval")["metrics"]["accuracy"]
    assert 100 * right.mean() == pytest.approx(recorded, abs=1e-4)
    assert model.predict(model.input_example).shape == (2, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_its_example_is_real_and_fits_its_signature(kind, models):
    model = loaded(models / kind)
    example = model.input_example
    assert example.shape == (2, 64, 64, 3) and example.dtype == np.uint8 and example.std() > 10
    found, (spec,) = model.predict(example), model.metadata.signature.outputs
    assert spec.type == found.dtype and all(n in (-1, m) for n, m in zip(spec.shape, found.shape, strict=True))


@pytest.mark.parametrize(
    "images, expected",
    [
        (np.zeros((2, 32, 32, 3)), "rgb: expected uint8 (N, H, W, 3), found float64 (2, 32, 32, 3)"),
        (np.zeros((2, 3, 32, 32), np.uint8), "found uint8 (2, 3, 32, 32)"),
        (np.zeros((0, 32, 32, 3), np.uint8), "found uint8 (0, 32, 32, 3)"),
        ({"depth": np.zeros((2, 32, 32, 1), np.float32)}, "expected images of rgb, found those of depth"),
    ],
)
def test_other_arrays_are_refused(images, expected, trained):
    predict = Predictor(CLASSIFY, RunFolder.of(trained.runs, CLASSIFY.signature).weights)
    with pytest.raises(ValueError) as told:
        predict(images)
    assert expected in str(told.value)


# ---- what it is made of


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_these_files_without_pickle_and_without_paths(kind, models, trained):
    files = {str(file.relative_to(models / kind)): file for file in (models / kind).rglob("*") if file.is_file()}
    assert files.keys() - {name for name in files if "__pycache__" in name} == FILES
    assert not [name for name, file in files.items() if file.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05", b"PK")]
    folder = RunFolder.of(trained.runs, KINDS[kind].signature)
    assert files["artifacts/weights.safetensors"].read_bytes() == folder.weights.read_bytes()
    assert files["artifacts/config.yaml"].read_text() == folder.config_file.read_text()
    for name in ("MLmodel", "conda.yaml", "requirements.txt"):
        assert str(trained.runs.parent) not in files[name].read_text() and str(ROOT) not in files[name].read_text()
    required = files["requirements.txt"].read_text().split()
    assert (
        any(line.startswith("multimae") for line in required)
        and f"torch=={torch.__version__}".split("+")[0] in required
    )


ALONE = """
import socket, subprocess, sys
sys.path[:0] = [sys.argv[1]]
sys.path += sys.argv[4:]
def refused(*_, **__):
    raise AssertionError("the network, or another process")
for room in ("sweeps", "slurm", "analysis", "tests"):
    try:
        __import__(room)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{room} can be imported")
import mlflow.pyfunc, multimae, numpy, torch
socket.socket.connect = subprocess.Popen.__init__ = refused
assert multimae.__path__[0].startswith(sys.argv[1]), multimae.__path__
model = mlflow.pyfunc.load_model(sys.argv[2])
numpy.save(sys.argv[3], model.predict(model.input_example))
"""


@pytest.mark.slow
def test_it_loads_where_the_library_is_alone(models, tmp_path):
    shutil.copytree(ROOT / "multimae", tmp_path / "lib/multimae", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(models / "classify", tmp_path / "model")
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    words = [tmp_path / "lib", tmp_path / "model", tmp_path / "found.npy", *packages]
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW"))}
    # -S: an editable installation of this checkout is a line in a .pth file, which is then not read.
    done = subprocess.run(
        [sys.executable, "-S", "-c", ALONE, *map(str, words)], cwd=tmp_path, env=own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model = loaded(models / "classify")
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), model.predict(model.input_example), atol=1e-6)
