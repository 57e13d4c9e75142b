"""A run's final weights as an MLflow model: it predicts what the run's evaluation measured, wherever it is loaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tracking_store import Seen, empty_store  # noqa: F401 (a fixture)
from trial import Server

from multimae.cli import main
from multimae.config import ConfigError, Evaluate, RunConfig, Runtime, build
from multimae.data.datasets import open_dataset
from multimae.export import log, register, save
from multimae.export.predictor import Predictor
from multimae.model.multimae import MultiMAE
from multimae.record.folder import RunFolder
from multimae.run import make_task, run
from multimae.study import Evaluation, Mean, Row, Study, Table
from multimae.weights import read
from sweeps import command

ROOT = Path(__file__).parents[2]
TINY = {
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
    "data": {"name": "scenes", "render_size": 40, "train_samples": 16, "eval_samples": 9},
    "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "semseg_classes": 14},
    "optimizer": {"warmup_epochs": 0},
}
DPT = {"layers": [1, 1, 2, 2], "widths": [4, 4, 4, 4], "dim": 4}
PRETRAIN = build(
    TINY
    | {"task": "pretrain", "decoder": {"dim": 16, "depth": 1, "heads": 2}}
    | {"masking": {"visible_tokens": 8, "mask_tokens_in_encoder": True}}
)


def transfer(task: str, **settings) -> RunConfig:
    return build(TINY | {"task": task, "init": f"run:{PRETRAIN.signature}"} | settings)


CLASSIFY = transfer("classify", classes=10, augmentation={"rand_augment": None})
KINDS = {
    "pretrain": PRETRAIN,
    "classify": CLASSIFY,
    "segment": transfer("segment", classes=14, zero_is_unlabelled=False, head={"dim": 32, "depth": 1}),
    "depth": transfer("depth", head=DPT),
    "regress": transfer("regress", target="edges", head=DPT, selection={"kind": "last"}),
}
SECOND = CLASSIFY.edit({"seed": 1})
TWO = transfer(
    "classify", classes=10, inputs=["rgb", "pseudo_depth", "semseg"],
    augmentation={"rand_augment": None, "mixup": 0, "cutmix": 0},
)  # fmt: skip
FILES = {
    *("MLmodel", "pyfunc.py", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json"),
    *("serving_input_example.json", "artifacts/weights.safetensors", "artifacts/config.yaml"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Runtime:
    """Runs that are done, one of each kind."""
    runtime = Runtime(runs=tmp_path_factory.mktemp("place") / "runs", threads=1)
    for config in (*KINDS.values(), SECOND, TWO):
        assert run(config, runtime) == "finished"
    return runtime


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


@pytest.fixture
def runs(trained, empty_store, tmp_path, monkeypatch) -> Path:
    """A copy of them, with an MLflow store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return shutil.copytree(trained.runs, tmp_path / "runs")


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


# ---- MLflow


def models_in(runs: Path) -> list:
    client = Seen(runs).client
    return client.search_logged_models([e.experiment_id for e in client.search_experiments()])


def test_given_twice_it_is_one_model_of_the_runs_mlflow_run(runs, capsys):
    words = ["model", CLASSIFY.signature, "--runs", str(runs), "--register", "mine"]
    assert main(words) == main(words) == 0
    out = capsys.readouterr().out
    (model,) = models_in(runs)
    (mlflow_run,) = Seen(runs).all()
    assert mlflow_run.data.tags["multimae.signature"] == CLASSIFY.signature == model.tags["multimae.signature"]
    assert model.source_run_id == mlflow_run.info.run_id and model.status == "READY"
    assert [output.model_id for output in mlflow_run.outputs.model_outputs] == [model.model_id]
    (version,) = Seen(runs).client.search_model_versions("name = 'mine'")
    assert version.tags["signature"] == CLASSIFY.signature
    assert out.count("was already in MLflow") == 1 and out.count("version 1 of mine") == 2


@pytest.fixture(params=["sqlite", "server"])
def uri(request, runs, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    server = Server(tmp_path / "server")
    server.start()
    yield server.uri
    server.stop()


@pytest.mark.slow
def test_the_lines_that_are_printed_load_it(runs, uri, tmp_path, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["model", CLASSIFY.signature, "--runs", str(runs), "--uri", uri, "--register", "mine"]
    assert main(words) == main(words) == 0
    out = capsys.readouterr().out
    assert out.count("version 1 of mine") == 2
    lines = [line.strip() for line in out.split("To load it:")[-1].splitlines()]
    code = "\n".join([*lines, "print(model.predict(model.input_example).shape)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0 and "(2, 10)" in done.stdout, done.stderr


def test_an_upload_that_was_cut_off_leaves_no_second_model(runs, monkeypatch):
    from mlflow import MlflowClient

    def dies(*_, **__):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", dies)
        patch.setattr(MlflowClient, "delete_logged_model", dies)  # as if it was killed
        with pytest.raises(ConfigError, match="did not take the model: the disk is full"):
            log(runs, CLASSIFY.signature)
    assert [model.status for model in models_in(runs)] == ["PENDING"]
    made = log(runs, CLASSIFY.signature)
    assert made.new and [(m.model_id, m.status) for m in models_in(runs)] == [(made.model_id, "READY")]


def test_other_weights_are_another_model(runs):
    first = log(runs, CLASSIFY.signature)
    folder = RunFolder.of(runs, CLASSIFY.signature)
    shutil.copy(RunFolder.of(runs, SECOND.signature).weights, folder.weights)
    with pytest.raises(ConfigError, match="weights of another run"):
        log(runs, CLASSIFY.signature)
    second = log(runs, SECOND.signature)
    versions = [register(runs, model, "both", {"n": n}) for n, model in enumerate((first, second, first))]
    assert versions == ["1", "2", "1"]
    assert {v.version: v.tags["n"] for v in Seen(runs).client.search_model_versions()} == {1: "2", 2: "1"}


def test_a_deleted_mlflow_run_gets_no_model(runs):
    made = log(runs, CLASSIFY.signature)
    Seen(runs).client.delete_run(made.run_id)
    with pytest.raises(ConfigError, match=f"mlflow runs restore --run-id {made.run_id}"):
        log(runs, CLASSIFY.signature)


# ---- what has no model


def rewrite(folder: RunFolder, kind: str, **values) -> None:
    records = [json.loads(line) for line in folder.journal.path.read_text().splitlines()]
    changed = [record | (values if record["kind"] == kind else {}) for record in records]
    folder.journal.path.write_text("".join(json.dumps(record) + "\n" for record in changed))


def refused(words: list[str], capsys) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["model", *words])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert not told.out and "Traceback" not in told.err
    return told.err


def test_runs_that_have_no_model_say_why_and_what_to_do(runs, tmp_path, capsys):
    here, signature = ["--runs", str(runs)], CLASSIFY.signature
    folder = RunFolder.of(runs, signature)
    assert "no run 'nothing' has begun" in refused(["nothing", *here], capsys)
    assert f"did you mean '{signature}'" in refused([signature[:-1], *here], capsys)
    assert "there is no folder" in refused([signature, "--runs", "nowhere"], capsys)
    assert "give one" in refused([signature, *here, "--out", "x", "--register", "mine"], capsys)
    assert "found 'a/b'" in refused([signature, *here, "--register", "a/b"], capsys)
    assert "choose another" in refused([signature, *here, "--out", str(runs)], capsys)

    evaluate = Evaluate().edit({"init": f"run:{signature}", "data": TINY["data"]})
    assert run(evaluate, Runtime(runs=runs, threads=1)) == "finished"
    said = refused([evaluate.signature, *here], capsys)
    assert "leaves no model" in said and f"multimae model {signature}" in said

    whole = folder.weights.read_bytes()
    folder.weights.write_bytes(whole[:-100])
    assert "is cut short" in refused([signature, *here, "--out", "x"], capsys)
    folder.weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said = refused([signature, *here, "--out", "x"], capsys)
    assert "is not what was written" in said and "multimae run" in said
    folder.weights.unlink()
    assert "is gone" in refused([signature, *here], capsys)

    journal = folder.journal.path.read_text().splitlines(keepends=True)
    folder.journal.path.write_text("".join(journal[:-1]))
    assert "a model is made of a run that is done; to continue it: multimae run" in refused([signature, *here], capsys)
    assert not (tmp_path / "x").exists() and not models_in(runs)


def test_a_pre_training_without_rgb_gives_no_features(tmp_path):
    config = PRETRAIN.edit({"inputs": ["depth", "semseg"], "targets": ["depth", "semseg"]})
    with pytest.raises(ConfigError, match="it has seen depth, semseg alone"):
        Predictor(config, tmp_path / "weights.safetensors")


def test_no_secret_of_a_store_that_is_gone_is_told(runs, capsys):
    uri = "http://me:swordfish@127.0.0.1:9"
    said = refused([CLASSIFY.signature, "--runs", str(runs), "--uri", uri], capsys)
    assert "127.0.0.1:9" in said and "swordfish" not in said


# ---- the best of a study

TABLE = Table(
    "mine", "Mine",
    (
        Evaluation("seg", stage="segment", metric="mIoU", label="segmentation"),
        top := Evaluation("top", stage="classify", metric="accuracy"),
        Evaluation("edges", stage="regress", metric="l1"),
        Mean("mean", metric="accuracy", of=(top,)),
    ),
)  # fmt: skip
ROWS = (
    Row("aside", {"pretrain": PRETRAIN, "classify": CLASSIFY.edit({"seed": 2})}, aside="not in the paper"),
    Row("one", {"pretrain": PRETRAIN} | {kind: KINDS[kind] for kind in ("classify", "segment", "regress")}),
    Row("two", {"pretrain": PRETRAIN, "classify": SECOND, "segment": KINDS["segment"].edit({"seed": 1})}),
)
STUDY = Study("mine", "Mine", lambda scale: ROWS, (TABLE,))


def test_the_best_row_of_a_column_is_registered_once(runs, capsys):
    def registered(*words: str) -> str:
        assert command.main(STUDY, ["--runs", str(runs), "--register", *words]) == 0
        return capsys.readouterr().out

    client, name = Seen(runs).client, "mine-smoke-classify"
    for accuracies, best in (((10.0, 20.0), 1), ((30.0, 20.0), 0), ((30.0, 20.0), 0)):
        for config, accuracy in zip((CLASSIFY, SECOND), accuracies):
            rewrite(RunFolder.of(runs, config.signature), "eval", metrics={"accuracy": accuracy})
        said = registered("top")
        assert f"{('one', 'two')[best]} is the best of 2 rows" in said and f"{name}@best" in said
    versions = {v.tags["row"]: v for v in client.search_model_versions(f"name = '{name}'")}
    assert {row: v.version for row, v in versions.items()} == {"two": 1, "one": 2}
    assert client.get_model_version_by_alias(name, "best").version == 2
    told = {"study": "mine", "scale": "smoke", "stage": "classify", "measure": "top", "seed": "0", "value": "30"}
    assert told.items() <= versions["one"].tags.items() and versions["two"].tags["seed"] == "1"
    assert len(models_in(runs)) == 2

    assert "one is the best of 1 rows" in registered("segmentation")  # by its label; the other has not begun


def test_a_lower_number_is_better_where_the_measure_says_so(runs, capsys):
    rows = [Row(f"seed={c.seed}", {"classify": c}) for c in (CLASSIFY, SECOND)]
    for config, error in ((CLASSIFY, 0.1), (SECOND, 0.2)):
        rewrite(RunFolder.of(runs, config.signature), "eval", metrics={"l1": error})
    measure = Evaluation("error", stage="classify", metric="l1")
    study = Study("low", "Low", lambda scale: rows, (Table("low", "Low", (measure,)),))
    assert command.main(study, ["--runs", str(runs), "--register", "error"]) == 0
    assert "seed=0 is the best of 2 rows by error (lower is better): 10 1e-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "column, expected",
    [
        ("tops", ["unknown column 'tops'", "did you mean 'top'"]),
        ("mean", ["it follows from several runs"]),
        ("top", ["no row has a number yet (one missing, two missing)", "without it trains"]),
    ],
)
def test_a_column_without_a_best_registers_nothing(column, expected, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    assert command.main(STUDY, ["--runs", str(tmp_path / "runs"), "--register", column]) == 2
    said = capsys.readouterr().err
    assert all(text in said for text in expected), said
    assert not (tmp_path / "mlflow.db").exists()
