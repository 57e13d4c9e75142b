"""Tables: a study joined with its runs, and what a table refuses."""

import contextlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_runs import SyntheticRun

from analysis import paper, tables
from multimae.config import ConfigError
from multimae.study.study import Row, Study
from sweeps.alpha_ablation import study
from sweeps.command import main

GOLDEN = Path(__file__).parents[1] / "golden" / "table_10.txt"
ROWS = study.build("smoke")


def finish(runs: Path, row: Row, accuracy: float, miou: float, **conditions) -> None:
    """All stages of a row, done."""
    metrics = {"pretrain": {"loss": 0.3}, "classify": {"accuracy": accuracy}, "segment": {"mIoU": miou}}
    for stage, config in row.stages.items():
        SyntheticRun(runs, config).whole(metrics=metrics[stage], **conditions)


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
    frame = tables.build(study, "smoke", ROWS, tmp_path)
    cells = frame.set_index(["row", "stage"])
    assert len(frame) == 8 and set(frame["stage"]) == {"classify", "segment"}
    done = cells.loc["alpha=0.2", "classify"]
    assert (done["value"], done["paper"], done["split"], done["n"], done["fingerprint"]) == (
        41.25,
        82.7,
        "val",
        500,
        "f00d",
    )
    assert done["signature"] == ROWS[0].stages["classify"].signature and done["scale"] == "smoke"
    assert cells["state"].to_dict() == {
        ("alpha=0.2", "classify"): "done",
        ("alpha=0.2", "segment"): "done",
        ("alpha=0.5", "classify"): "done",
        ("alpha=0.5", "segment"): "missing",
        ("alpha=1", "classify"): "failed",
        ("alpha=1", "segment"): "done",
        ("alpha=inf", "classify"): "missing",
        ("alpha=inf", "segment"): "missing",
    }
    assert all(math.isnan(cells.loc[cell, "value"]) for cell in cells.index if cells.loc[cell, "state"] != "done")


def test_the_text_is_that_of_the_golden_file(tmp_path):
    """Others read this: when it changes on purpose, replace the file with the new text."""
    partly_done(tmp_path)
    text = tables.text(study, tables.build(study, "smoke", ROWS, tmp_path))
    assert text + "\n" == GOLDEN.read_text()


def test_only_the_paper_scale_is_comparable(tmp_path):
    for scale in ("smoke", "mini", "paper"):
        text = tables.text(study, tables.build(study, scale, study.build(scale), tmp_path))
        assert ("not comparable with the paper's" in text) == (scale != "paper")


@pytest.mark.parametrize("differing", [{"n": 499}, {"split": "train"}, {"fingerprint": "beef"}])
def test_rows_measured_over_other_samples_are_refused(tmp_path, differing):
    finish(tmp_path, ROWS[0], 41.0, 20.0)
    finish(tmp_path, ROWS[1], 43.0, 21.0, **differing)
    with pytest.raises(tables.Incomparable) as error:
        tables.build(study, "smoke", ROWS, tmp_path)
    message = str(error.value)
    assert "alpha=0.2" in message and "alpha=0.5" in message and str(next(iter(differing.values()))) in message
    assert len(tables.build(study, "smoke", [ROWS[0]], tmp_path)) == 2  # alone, each is fine


def test_a_run_that_measured_something_else_is_an_error(tmp_path):
    SyntheticRun(tmp_path, ROWS[0].stages["classify"]).whole(metrics={"top5": 80.0})
    with pytest.raises(ConfigError, match="expected an evaluation with accuracy, found top5"):
        tables.build(study, "smoke", ROWS, tmp_path)


def test_the_last_evaluation_counts(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    run.evaluate(step=20, metrics={"accuracy": 50.0})
    run.evaluate(step=40, metrics={"accuracy": 45.0})
    run.finish()
    frame = tables.build(study, "smoke", ROWS[:1], tmp_path)
    assert frame.set_index("stage").loc["classify", "value"] == 45.0  # not the best one


def test_an_earlier_evaluation_is_not_taken_for_the_last_that_is_torn(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    run.evaluate(step=20, metrics={"accuracy": 50.0})
    run.evaluate(step=40, metrics={"accuracy": 45.0})
    run.finish()
    *before, last, finished = run.journal.path.read_bytes().splitlines(keepends=True)
    run.journal.path.write_bytes(b"".join([*before, bytes(len(last) - 1) + b"\n", finished]))
    with pytest.raises(
        ConfigError, match="expected an evaluation with accuracy, found nothing in .*to make them again"
    ):
        tables.build(study, "smoke", ROWS[:1], tmp_path)


def test_rows_and_stages_the_paper_does_not_have(tmp_path):
    extra = Row("alpha=2", dict(ROWS[0].stages))
    text = tables.text(study, tables.build(study, "smoke", [extra], tmp_path))
    assert "alpha=2" in text and "-" in text.splitlines()[4]
    other = Study("other", "Other", "10", lambda scale: [])
    with pytest.raises(ConfigError, match="classify, segment"):
        tables.build(other, "smoke", [Row("a", {"pretrain": ROWS[0].stages["pretrain"]})], tmp_path)


def test_values_are_shown_in_the_papers_units():
    assert tables.number(82.76, "%") == "82.8"
    assert tables.number(0.04455, "1e-2") == "4.455"
    assert tables.number(0.000591, "1e-4") == "5.910"


def test_html_marks_the_best_and_greys_what_is_missing(tmp_path):
    partly_done(tmp_path)
    frame = tables.build(study, "smoke", ROWS, tmp_path)
    html = tables.styled(study, frame).to_html()
    assert "font-weight: bold" in html and "color: grey" in html and "not comparable" in html
    bold = next(block for block in html.split("}") if "font-weight: bold" in block)
    # classify: ours of alpha=0.5, the paper's of inf; segment: ours of alpha=1, the paper's of 1
    cells = sorted(part.split()[0].strip(",{") for part in bold.split("_row")[1:])
    assert cells == ["1_col0", "2_col2", "2_col3", "3_col1"]


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
    assert "41.0 ± 1.4 (2 of 2 seeds)" in out and "2 seeds a row" in out
    assert main(study, [*command, "0", "1", "2"]) == 0
    assert "41.0 ± 1.4 (2 of 3 seeds)" in capsys.readouterr().out


def test_building_a_table_imports_no_torch(tmp_path):
    code = (
        "import sys\nfrom sweeps.alpha_ablation import main, study\n"
        f"assert main(study, ['--table', '--runs', {str(tmp_path)!r}]) == 0\n"
        "assert not {'torch', 'deepspeed', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "table, stages, message",
    [
        ("10", ["pretrain", "classify"], None),  # a part of the paper's table
        ("10", ["pretrain", "clasify"], "has no stage 'classify'; did you mean 'clasify'?"),
        ("ours", ["pretrain", "classify_macro"], "has no stage 'classify_mcro'; did you mean 'classify_macro'?"),
        ("99", ["pretrain"], "has no Table 99"),
    ],
)
def test_a_table_that_a_study_cannot_fill_is_told_before_it_is_trained(table, stages, message, monkeypatch):
    ours = paper.PaperTable("Ours", {"classify_mcro": paper.Column(metric="accuracy", label="")}, {})
    monkeypatch.setattr(paper, "paper_tables", lambda tables={**paper.paper_tables(), "ours": ours}: tables)
    with pytest.raises(ConfigError, match=re.escape(message)) if message else contextlib.nullcontext():
        paper.check_table(table, stages)


def test_a_metric_that_is_not_declared_is_told_with_the_line_that_declares_it():
    entry = {"title": "", "columns": {"classify": {"metric": "acuracy", "label": ""}}, "rows": {}}
    with pytest.raises(ConfigError, match=r"'acuracy' is declared; did you mean 'accuracy'\? To add it"):
        paper._table("ours", entry, {"accuracy": {"unit": "%", "better": "higher"}})
