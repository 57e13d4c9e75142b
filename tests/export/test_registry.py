"""Models in MLflow: once each, the best of a study by name; and the runs that have no model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from final_models import CLASSIFY, KINDS, PRETRAIN, SECOND, TINY, empty_store, runs, trained  # noqa: F401 (fixtures)
from tracking_store import Seen
from trial import Server

from multimae.cli import main
from multimae.config import ConfigError, Evaluate, Runtime
from multimae.export import log, register
from multimae.export.predictor import Predictor
from multimae.record.folder import RunFolder
from multimae.run import run
from multimae.study import Evaluation, Mean, Row, Study, Table
from sweeps import command

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
