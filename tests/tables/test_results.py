"""What is kept of runs, and the document that is made of it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from synthetic_runs import SyntheticRun

from analysis import kept, report
from analysis.page import Page
from multimae.config import ConfigError
from multimae.study import Row, runs_of
from sweeps import results
from sweeps.alpha_ablation import study, table

SEEDS = (0, 1)


# ---- what is kept


def rows(seed: int) -> tuple[Row, ...]:
    return Page(study, None, "smoke", (seed,)).trials[0]


def whole(runs: Path, seed: int, but: tuple[str, str] = ("", "")) -> None:
    """All runs of the study, but one."""
    for place, row in enumerate(rows(seed)):
        for stage, config in row.stages.items():
            if (row.name, stage) != but:
                run = SyntheticRun(runs, config)
                run.start()
                run.train(range(10, 41, 5))
                run.epoch(1)
                metrics = {"accuracy": 40.0 + place + seed / 3, "mIoU": 20 - place / 7, "loss": 0.3}
                run.evaluate(metrics=metrics, split=config.data.eval_split)
                run.finish()


def kept_of(tmp_path: Path, **how) -> list[Path]:
    """Files of two seeds."""
    files = []
    for seed in SEEDS:
        whole(tmp_path / "runs", seed, **how)
        files.append(kept.file_of(tmp_path / "kept", study.name, seed))
        kept.keep(tmp_path / "runs", rows(seed), files[-1])
    return files


def test_unpacked_they_make_the_same_tables_and_curves(tmp_path):
    files = kept_of(tmp_path, but=("alpha=0.5", "segment"))
    kept.unpack(files, tmp_path / "unpacked", started_from=True)
    frames = [Page(study, tmp_path / of, "smoke", SEEDS).frame(table) for of in ("runs", "unpacked")]
    differ = ["folder", "config", "journal", "weights"]
    pd.testing.assert_frame_equal(*(frame.drop(columns=differ) for frame in frames))
    assert set(frames[1]["state"]) == {"done", "missing"}
    kept.unpack(files, tmp_path / "for users")
    assert set(Page(study, tmp_path / "for users", "smoke", SEEDS).frame(table)["state"]) == {"done", "blocked"}
    shutil.rmtree(tmp_path / "runs")
    figure = Page(study, tmp_path / "unpacked", "smoke", SEEDS).curves()
    lines = figure.axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [4] * 4  # the means of the epochs


def test_an_epochs_losses_are_their_mean(tmp_path):
    (file, _) = kept_of(tmp_path)
    run = next(run for run in kept.read(file) if run.stage == "pretrain")
    losses = {record["epoch"]: record["loss"] for record in run.of("train")}
    assert losses == pytest.approx(
        {1.0: 1 / 10, 2.0: (1 / 15 + 1 / 20) / 2, 3.0: (1 / 25 + 1 / 30) / 2, 4.0: (1 / 35 + 1 / 40) / 2}
    )


def test_nothing_of_the_machine_is_kept(tmp_path):
    import socket

    for file in kept_of(tmp_path):
        text = file.read_text()
        assert str(tmp_path) not in text and '"host"' not in text and '"pid"' not in text
        assert json.dumps(socket.gethostname()) not in text


def test_what_is_under_way_is_not_kept_and_what_was_kept_stays(tmp_path):
    begun = SyntheticRun(tmp_path / "runs", rows(0)[0].stages["pretrain"])
    begun.start()
    begun.train([10])
    file = tmp_path / "kept.jsonl"
    of = len(runs_of(rows(0)))
    assert kept.keep(tmp_path / "runs", rows(0), file) == (0, of) and not file.exists()
    whole(tmp_path / "others", 0)
    assert kept.keep(tmp_path / "others", rows(0), file) == (of, of)
    before = file.read_text()
    assert kept.keep(tmp_path / "runs", rows(0), file) == (of, of) and file.read_text() == before


def test_a_failed_run_is_kept_as_that(tmp_path):
    config = rows(0)[0].stages["pretrain"]
    run = SyntheticRun(tmp_path / "runs", config)
    run.start()
    run.journal.write("nonfinite", step=3)
    run.journal.write("failed", step=3, reason="the loss was not finite 3 times")
    kept.keep(tmp_path / "runs", rows(0), file := tmp_path / "kept.jsonl")
    (line,) = kept.read(file)
    assert (len(line.of("failed")), len(line.of("nonfinite")), line.restarts) == (1, 1, 0)
    kept.unpack([file], tmp_path / "unpacked")
    frame = Page(study, tmp_path / "unpacked", "smoke", (0,)).frame(table)
    assert "blocked" in set(frame[frame["row"] == rows(0)[0].name]["state"])


def test_restarts_with_and_without_a_word(tmp_path):
    run = SyntheticRun(tmp_path / "runs", rows(0)[0].stages["pretrain"])
    run.start()
    run.end("interrupted", 10, "SIGTERM")
    run.start(10)
    run.start(10)  # the one before was killed
    run.end("failed", 12, "no space left on device")
    run.start(10)
    run.finish()
    kept.keep(tmp_path / "runs", rows(0), file := tmp_path / "kept.jsonl")
    (line,) = kept.read(file)
    assert (line.restarts, line.killed, len(line.of("failed"))) == (3, 1, 1)
    shown = report.took({"a study": [line], "another": [line]})
    cells = {row.name: [cell.text for cell in row.cells] for row in shown.lines}
    assert cells["a study"][0] == cells["together"][0] == "1" and cells["another"][0] == "0"
    assert cells["together"][2:] == ["3", "1", "1", "0"]


def test_two_files_that_contradict_each_other_are_refused(tmp_path):
    one, _ = kept_of(tmp_path)
    lines = [json.loads(line) for line in one.read_text().splitlines()]
    evaluation = next(
        r for line in lines if line["stage"] == "classify" for r in line["records"] if r["kind"] == "eval"
    )
    evaluation["metrics"]["accuracy"] += 1e-9
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        ConfigError, match=r"other.jsonl: run \w+ \(alpha=0.2 classify\) has another evaluations elsewhere"
    ):
        kept.unpack([one, other], tmp_path / "unpacked")


@pytest.mark.parametrize("line", ["{", "[]", '{"run": "a"}', "null"])
def test_a_damaged_line_is_named(line, tmp_path):
    one, _ = kept_of(tmp_path)
    one.write_text(one.read_text() + line + "\n")
    number = len(one.read_text().splitlines())
    with pytest.raises(ConfigError, match=f"line {number}: expected what is kept of a run"):
        kept.unpack([one], tmp_path / "unpacked")


# ---- results beside results


def test_the_same_from_nothing_and_what_is_not(tmp_path):
    (file, _) = kept_of(tmp_path)
    first = {run.run: run for run in kept.read(file)}
    assert report.again(first, first).startswith("14 of 14 runs have the same")
    changed = dict(first)
    run = next(run for run in first.values() if run.stage == "segment")
    records = tuple(r | {"weights_sha256": "0" * 64} if r["kind"] == "finished" else r for r in run.records)
    changed[run.run] = kept.Kept(**vars(run) | {"records": records})
    told = report.again(first, changed)
    assert told.startswith("13 of 14 runs have the same") and told.endswith(f"({run.run}): another weights")


def test_a_fresh_seed_beside_the_others(tmp_path):
    """Column by column: of each row the numbers, and by how many deviations they differ."""
    for seed in (0, 1, 2):
        whole(tmp_path, seed)
    frames = [Page(study, tmp_path, "smoke", seeds).frame(table) for seeds in ((0, 1), (2,))]
    shown = report.beside(table, *frames, ("two", "fresh"), "a title")
    assert [heading.text for heading in shown.headings] == ["classify"]  # of segmentation all seeds are the same
    first = [cell.text for cell in shown.lines[0].cells]
    assert first == ["40.2 ± 0.2 (2)", "40.7", "+2.1"]


# ---- the command


@pytest.mark.parametrize(
    "words, says",
    [
        (["--keep", "nowhere"], "expected a folder of runs, found nowhere"),
        (["--again"], "give both"),
        (["--folder", "nowhere"], "has no results; --keep RUNS takes them"),
        (["--unpack", "."], "is there already"),
    ],
)
def test_a_wrong_command_is_answered(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert results.main(words) == 2
    assert says in capsys.readouterr().err
