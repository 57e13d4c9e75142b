"""Tables: a study joined with its runs, and what a table refuses."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import SyntheticRun

from analysis import paper, tables
from analysis.sheet import number, sheet
from multimae.config import ConfigError
from multimae.study import Evaluation, Row, Table
from sweeps.alpha_ablation import study, table
from sweeps.command import main

GOLDEN = Path(__file__).parents[1] / "golden" / "table_10.txt"
ROWS = [row for row in study.build("smoke") if not row.aside]


def finish(runs: Path, row: Row, accuracy: float, miou: float, **conditions) -> None:
    """All stages of a row, done."""
    metrics = {"pretrain": {"loss": 0.3}, "classify": {"accuracy": accuracy}, "segment": {"mIoU": miou}}
    for stage, config in row.stages.items():
        SyntheticRun(runs, config).whole(metrics=metrics[stage], **conditions)


def built(runs: Path, rows=ROWS, only=(), scale="smoke"):
    return tables.build(table, scale, tables.read(runs, rows), only)


def partly_done(runs: Path) -> None:
    """One row done, one training its segmentation, one with a failed classification, one missing."""
    finish(runs, ROWS[0], 41.25, 20.5)
    finish(runs, Row("a part", {s: c for s, c in ROWS[1].stages.items() if s != "segment"}), 43.0, 0.0)
    finish(runs, Row("a part", {s: c for s, c in ROWS[2].stages.items() if s != "classify"}), 0.0, 22.04)
    failed = SyntheticRun(runs, ROWS[2].stages["classify"])
    failed.start()
    failed.journal.write("failed", step=3, reason="the loss was not finite 3 times")


def test_the_table_joins_what_was_measured_with_what_was_published(tmp_path):
    partly_done(tmp_path)
    frame = built(tmp_path)
    cells = frame.set_index(["row", "key"])
    assert len(frame) == 8 and set(frame["key"]) == {"classify", "segment_ade20k"}
    done = cells.loc["alpha=0.2", "classify"]
    assert (done["value"], done["paper"], done["unit"]) == (41.25, 82.7, "%")
    assert done["conditions"] == {"dataset": "scenes", "split": "val", "n": 500, "fingerprint": "f00d"}
    assert done["signature"] == ROWS[0].stages["classify"].signature and done["scale"] == "smoke"
    assert cells["state"].to_dict() == {
        ("alpha=0.2", "classify"): "done",
        ("alpha=0.2", "segment_ade20k"): "done",
        ("alpha=0.5", "classify"): "done",
        ("alpha=0.5", "segment_ade20k"): "missing",
        ("alpha=1", "classify"): "failed",
        ("alpha=1", "segment_ade20k"): "done",
        ("alpha=inf", "classify"): "missing",
        ("alpha=inf", "segment_ade20k"): "missing",
    }
    assert all(math.isnan(cells.loc[cell, "value"]) for cell in cells.index if cells.loc[cell, "state"] != "done")


def test_the_text_is_that_of_the_golden_file(tmp_path):
    """Others read this: when it changes on purpose, replace the file with the new text."""
    partly_done(tmp_path)
    text = tables.text(table, built(tmp_path))
    assert text + "\n" == GOLDEN.read_text()


def test_only_the_paper_scale_is_comparable(tmp_path):
    for scale in ("smoke", "mini", "paper"):
        text = tables.text(table, built(tmp_path, study.build(scale), scale=scale))
        assert ("not comparable with the paper's" in text) == (scale != "paper")


@pytest.mark.parametrize("differing", [{"n": 499}, {"fingerprint": "beef"}])
def test_rows_measured_over_other_samples_are_refused(tmp_path, differing):
    finish(tmp_path, ROWS[0], 41.0, 20.0)
    finish(tmp_path, ROWS[1], 43.0, 21.0, **differing)
    with pytest.raises(tables.Incomparable) as error:
        built(tmp_path)
    message = str(error.value)
    assert "Table 10, classify" in message and "--only" in message
    assert "alpha=0.2" in message and "alpha=0.5" in message and str(next(iter(differing.values()))) in message
    assert len(built(tmp_path, only=["alpha=0.2"])) == 2  # alone, each is fine


def test_rows_evaluated_on_another_split_or_data_set_are_refused(tmp_path):
    """Each as its own config says; as one column they make no sense."""
    for key, value in (("data.eval_split", "test"), ("data.name", "imagenet")):
        edited = study.build("smoke", {"classify": {key: value, "data.train_samples": None}})[1]
        runs = tmp_path / value
        finish(runs, ROWS[0], 41.0, 20.0)
        finish(runs, edited, 43.0, 20.0, split=edited.stages["classify"].data.eval_split)
        SyntheticRun(runs, edited.stages["segment"]).whole()
        with pytest.raises(tables.Incomparable, match=value):
            built(runs, [ROWS[0], edited])


def test_a_run_that_measured_something_else_is_an_error(tmp_path):
    SyntheticRun(tmp_path, ROWS[0].stages["classify"]).whole(metrics={"top5": 80.0})
    with pytest.raises(
        ConfigError, match="with accuracy on scenes val, found top5 on scenes val in .* make them again"
    ):
        built(tmp_path)


def test_the_last_evaluation_counts(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    run.evaluate(step=20, metrics={"accuracy": 50.0})
    run.evaluate(step=40, metrics={"accuracy": 45.0})
    run.finish()
    frame = built(tmp_path, ROWS[:1])
    assert frame.set_index("key").loc["classify", "value"] == 45.0  # not the best one


def test_an_earlier_evaluation_is_not_taken_for_the_last_that_is_torn(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    run.evaluate(step=20, metrics={"accuracy": 50.0})
    run.evaluate(step=40, metrics={"accuracy": 45.0})
    run.finish()
    *before, last, finished = run.journal.path.read_bytes().splitlines(keepends=True)
    run.journal.path.write_bytes(b"".join([*before, bytes(len(last) - 1) + b"\n", finished]))
    with pytest.raises(ConfigError, match="with accuracy on scenes val, found nothing in .*to make them again"):
        built(tmp_path, ROWS[:1])


def test_rows_and_stages_the_paper_does_not_have(tmp_path):
    extra = Row("alpha=2", dict(ROWS[0].stages))
    text = tables.text(table, built(tmp_path, [extra]))
    assert "alpha=2" in text and "-" in text.splitlines()[4]
    with pytest.raises(ConfigError, match="no row has a run of classify, segment"):
        built(tmp_path, [Row("a", {"pretrain": ROWS[0].stages["pretrain"]})])


def test_a_row_without_a_run_of_a_column_shows_a_dash_there(tmp_path):
    short = Row("short", {stage: ROWS[1].stages[stage] for stage in ("pretrain", "classify")})
    line = sheet(table, built(tmp_path, [short, ROWS[0]])).lines[0]
    assert [cell.text for cell in line.cells] == ["missing", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (82.76, "%", "82.8"),
        (0.864, "%", "0.9"),  # of a hundred, as all accuracies are
        (4.455, "1e-2", "4.455"),
        (3.75, "rank", "3.8"),
        (4, "rank", "4.0"),
        (49.0, "tokens", "49"),
        (43.333, "minutes", "43.3"),
        (0.31234, "", "0.312"),
        (2, "setting", "2"),
        (0.2, "setting", "0.2"),
        (1281167, "setting", "1281167"),
        (math.inf, "setting", "inf"),
    ],
)
def test_numbers_are_printed_by_their_unit(value, unit, text):
    assert number(value, unit) == text


def test_the_command(tmp_path, capsys):
    finish(tmp_path, ROWS[0], 41.0, 20.0)
    assert main(study, ["--table", "--runs", str(tmp_path), "--only", "alpha=0.2"]) == 0
    out = capsys.readouterr().out
    assert "41.0" in out and "alpha=0.5" not in out
    assert main(study, ["--table", "--set", "pretrain.epochs=7", "--runs", str(tmp_path)]) == 0
    assert "41.0" not in capsys.readouterr().out


def test_seeds_are_averaged_and_their_spread_is_shown(tmp_path, capsys):
    for seed, accuracy in enumerate((40.0, 42.0)):
        edits = {stage: {"seed": seed} for stage in ("pretrain", "classify", "segment")}
        finish(tmp_path, study.build("smoke", edits)[0], accuracy, 20.0)
    command = ["--table", "--runs", str(tmp_path), "--only", "alpha=0.2", "--seeds"]
    assert main(study, [*command, "0", "1"]) == 0
    out = capsys.readouterr().out
    assert "41.0 ± 1.4 (2)" in out and "2 seeds a row" in out
    assert main(study, [*command, "0", "1", "2"]) == 0
    assert "41.0 ± 1.4 (2 of 3)" in capsys.readouterr().out


def test_building_a_table_imports_no_torch(tmp_path):
    code = (
        "import sys\nfrom sweeps.alpha_ablation import main, study\n"
        f"assert main(study, ['--table', '--runs', {str(tmp_path)!r}]) == 0\n"
        "assert not {'torch', 'deepspeed', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_one_table_that_is_refused_hides_no_other(tmp_path, capsys):
    finish(tmp_path, ROWS[0], 41.0, 20.0)
    SyntheticRun(tmp_path, ROWS[1].stages["pretrain"]).whole()
    SyntheticRun(tmp_path, ROWS[1].stages["classify"]).whole(fingerprint="beef")
    own = Table("ours", "Losses", (Evaluation("pretraining", stage="pretrain", metric="loss"),))
    two = replace(study, tables=(table, own))
    assert main(two, ["--table", "--runs", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "Table 10, classify" in said.err and "beef" in said.err
    assert "Table 10" not in said.out and "Table ours. Losses" in said.out
    assert main(two, ["--table", "--runs", str(tmp_path), "--only", "alpha=0.2"]) == 0
    said = capsys.readouterr().out
    assert said.index("Table 10.") < said.index("Table ours. Losses") and "41.0" in said and "0.300" in said


@pytest.mark.parametrize(
    "name, measure, message",
    [
        ("10", Evaluation("classify", stage="classify", metric="accuracy"), None),  # a part of the paper's table
        ("ours", Evaluation("top", stage="classify", metric="accuracy"), None),  # which is in no file
        (
            "10",
            Evaluation("classify", stage="clasify", metric="accuracy"),
            "classify: unknown stage 'clasify'; did you",
        ),
        (
            "10",
            Evaluation("clasify", stage="classify", metric="accuracy"),
            "no column 'clasify'; did you mean 'classify'",
        ),
        (
            "10",
            Evaluation("classify", stage="classify", metric="mIoU"),
            "classify: the paper's is accuracy, found mIoU",
        ),
        (
            "ours",
            Evaluation("top", stage="classify", metric="acuracy"),
            "'acuracy' is declared; did you mean 'accuracy'?",
        ),
    ],
)
def test_a_table_that_a_study_cannot_fill_is_told_before_it_is_trained(name, measure, message, tmp_path, capsys):
    asked = replace(study, tables=(Table(name, "A table", (measure,)),))
    assert main(asked, ["--dry-run", "--runs", str(tmp_path)]) == (2 if message else 0)
    assert (message or "") in capsys.readouterr().err


def test_a_metric_of_the_paper_that_is_not_declared_is_told_with_the_line_that_declares_it():
    entry = {"title": "", "columns": {"classify": {"metric": "acuracy", "label": ""}}, "rows": {}}
    with pytest.raises(
        ConfigError, match=r"'acuracy' is declared; did you mean 'accuracy'\? To add it, a line of METRICS"
    ):
        paper._table("ours", entry)
