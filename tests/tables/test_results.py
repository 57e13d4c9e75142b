"""What is kept of runs, and the document that is made of it."""

import json
import re
import shutil
import socket
from pathlib import Path

import pandas as pd
import pytest
from synthetic_runs import SyntheticRun

from analysis import kept, report
from analysis.kept import Kept
from analysis.page import Page
from multimae.config import ConfigError
from multimae.files import write_atomic
from multimae.study import Row
from sweeps import results
from sweeps.alpha_ablation import study, table

SEEDS = (0, 1)
COMMIT = "0123abc"  # of synthetic runs


def rows(seed: int, scale: str = "smoke", edits: tuple[str, ...] = ()) -> tuple[Row, ...]:
    return Page(study, None, scale, (seed,), edits).trials[0]


def whole(
    runs: Path, seed: int, but: tuple[str, str] = ("", ""), shift: float = 0.0, dirty: bool = False, **where
) -> None:
    """All runs of the study that are not there yet, but one. `shift`: of the accuracies."""
    for place, row in enumerate(rows(seed, **where)):
        for stage, config in row.stages.items():
            run = SyntheticRun(runs, config)
            if (row.name, stage) == but or run.journal.path.exists():
                continue
            run.start()
            write_atomic(run.folder.environment, json.dumps({"commit": COMMIT, "dirty": dirty}))
            run.train(range(5, 41, 5))
            run.epoch(1)
            metrics = {"accuracy": 40.0 + place + seed / 3 + shift, "mIoU": 20 - place / 7 - seed / 9, "loss": 0.3}
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


@pytest.fixture
def begun(tmp_path) -> SyntheticRun:
    """A pre-training."""
    run = SyntheticRun(tmp_path / "runs", rows(0)[0].stages["pretrain"])
    run.start()
    return run


def line_of(tmp_path: Path) -> Kept:
    """What is kept, where it is one run."""
    kept.keep(tmp_path / "runs", rows(0), file := tmp_path / "kept.jsonl")
    (line,) = kept.read(file)
    return line


# ---- what is kept


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


def test_unpacked_and_kept_again_nothing_is_lost(tmp_path):
    files = kept_of(tmp_path)
    kept.unpack(files, tmp_path / "unpacked")
    for seed, file in zip(SEEDS, files):
        kept.keep(tmp_path / "unpacked", rows(seed), again := tmp_path / "again.jsonl")
        assert again.read_text() == file.read_text()
        again.unlink()
    assert all(run.core_seconds == round(3.5 * 0.9, 1) for run in kept.read(file))


def test_an_epochs_losses_are_their_mean_and_what_was_repeated_counts_once(begun, tmp_path):
    begun.train([5, 10, 15, 20])  # 10 steps an epoch, losses of 1 / step
    begun.start(10)  # killed, and on from the first epoch's end
    for step, loss in ((15, 0.5), (20, 0.7)):
        losses = {"rgb": loss, "depth": 0.0}
        begun.journal.write("train", step=step, epoch=step / 10, loss=loss, losses=losses)
    begun.finish()
    run = line_of(tmp_path)
    told = {record["epoch"]: (record["loss"], record["losses"]["rgb"]) for record in run.of("train")}
    assert told[1.0] == pytest.approx(((1 / 5 + 1 / 10) / 2, (0.5 / 5 + 0.5 / 10) / 2))
    assert told[2.0] == pytest.approx((0.6, 0.6)) and len(told) == 2
    assert run.restarts == run.killed == 1


def test_only_what_others_start_from_has_a_curve(tmp_path):
    (file, _) = kept_of(tmp_path)
    assert {run.stage: bool(run.of("train")) for run in kept.read(file)} == {
        "pretrain": True, "classify": False, "segment": False
    }  # fmt: skip


def test_core_hours_are_those_of_all_processes_and_of_repeated_epochs(begun, tmp_path):
    begun.epoch(1)
    begun.start(10, processes=4)
    begun.epoch(1)
    begun.epoch(2, seconds=10.0, cores=0.5)
    begun.finish()
    assert line_of(tmp_path).core_seconds == pytest.approx(4 * (2 * 3.5 * 0.9 + 10 * 0.5), abs=0.1)


def test_nothing_of_the_machine_is_kept(begun, tmp_path):
    begun.journal.write("failed", step=3, reason="No space left on device: /home/anna/mine/x.pt, at 3/4 of the epoch")
    kept.keep(tmp_path / "runs", rows(0), tmp_path / "failed.jsonl")
    assert "No space left on device: (path), at 3/4 of the epoch" in (tmp_path / "failed.jsonl").read_text()
    shutil.rmtree(tmp_path / "runs")
    for file in (*kept_of(tmp_path), tmp_path / "failed.jsonl"):
        text = file.read_text()
        assert str(tmp_path) not in text and '"host"' not in text and '"pid"' not in text
        assert json.dumps(socket.gethostname()) not in text and "anna" not in text


def test_what_is_under_way_is_not_kept_and_what_was_kept_stays(begun, tmp_path):
    begun.train([10])
    file = tmp_path / "kept.jsonl"
    assert kept.keep(tmp_path / "runs", rows(0), file) == 0 and not file.exists()
    whole(tmp_path / "others", 0)
    assert kept.keep(tmp_path / "others", rows(0), file) == 14
    before = file.read_text()
    assert kept.keep(tmp_path / "runs", rows(0), file) == 0 and file.read_text() == before


def test_other_results_of_a_run_that_is_kept_are_refused(tmp_path):
    (file, _) = kept_of(tmp_path)
    before = file.read_text()
    whole(tmp_path / "others", 0, shift=1e-9)
    with pytest.raises(ConfigError, match=r"\(alpha=0.2 pretrain\) has another evaluations in .*delete its line"):
        kept.keep(tmp_path / "others", rows(0), file)
    assert file.read_text() == before


def test_the_first_making_stays_but_for_uncommitted_changes(tmp_path):
    """And one that failed is replaced by one that did not."""
    whole(tmp_path / "dirty", 0, dirty=True)
    for runs in ("clean", "again"):
        whole(tmp_path / runs, 0)
    began, file = {}, tmp_path / "kept.jsonl"
    for runs in ("dirty", "clean", "again", "dirty"):
        assert kept.keep(tmp_path / runs, rows(0), file) == 14
        began[runs] = {run.began for run in kept.read(file)}
    assert began["dirty"] == began["clean"] == began["again"]  # after the first round: the clean ones
    assert not any(run.environment["dirty"] for run in kept.read(file))
    config = rows(0)[0].stages["classify"]
    failed = SyntheticRun(tmp_path / "failed", config)
    failed.start()
    failed.journal.write("failed", step=3, reason="diverged")
    assert kept.keep(tmp_path / "failed", rows(0), file) == 1  # which replaces nothing
    assert all(run.finished for run in kept.read(file))
    other = tmp_path / "other.jsonl"
    for runs, finished in (("failed", [False]), ("clean", [True] * 14)):
        kept.keep(tmp_path / runs, rows(0), other)
        assert sorted(run.finished for run in kept.read(other)) == finished


def test_a_failed_run_is_kept_as_that(begun, tmp_path):
    begun.journal.write("nonfinite", step=3)
    begun.journal.write("failed", step=3, reason="the loss was not finite 3 times")
    line = line_of(tmp_path)
    assert (len(line.of("failed")), len(line.of("nonfinite")), line.restarts) == (1, 1, 0)
    kept.unpack([tmp_path / "kept.jsonl"], tmp_path / "unpacked")
    frame = Page(study, tmp_path / "unpacked", "smoke", (0,)).frame(table)
    assert "blocked" in set(frame[frame["row"] == rows(0)[0].name]["state"])


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_restarts_with_and_without_a_word(end, begun, tmp_path):
    begun.end("interrupted", 10, "SIGTERM")
    begun.start(10)
    begun.start(10)  # the one before was killed
    begun.end("failed", 12, "no space left on device")
    begun.start(10)
    begun.start(10)  # and here again
    if end == "finished":
        begun.finish()
    else:
        begun.end("failed", 12, "no space left on device")
    line = line_of(tmp_path)
    assert (line.restarts, line.killed, len(line.of("failed"))) == (4, 2, 1 if end == "finished" else 2)
    shown = report.took({"a study": [line], "another": [line]})
    cells = {row.name: [cell.text for cell in row.cells] for row in shown.lines}
    assert cells["a study"][0] == cells["together"][0] == "1" and cells["another"][0] == "0"
    assert cells["together"][2:4] == ["4", "2"]


def test_each_commit_of_a_run_is_told(begun, tmp_path):
    """Begun at one, gone on with at another."""
    write_atomic(begun.folder.environment, json.dumps({"commit": COMMIT, "dirty": True}))
    begun.journal.write("start", step=10, processes=1, threads=1, commit="f" * 40)
    begun.finish()
    shown = report.took({"a study": [line_of(tmp_path)]})
    assert shown.notes[1] == "Commits: 0123abc with uncommitted changes (1 run), fffffff (1 run)."


# ---- files that are damaged


def test_two_files_that_contradict_each_other_are_refused(tmp_path):
    one, _ = kept_of(tmp_path)
    lines = [json.loads(line) for line in one.read_text().splitlines()]
    (evaluation,) = [r for r in next(k for k in lines if k["stage"] == "classify")["records"] if r["kind"] == "eval"]
    evaluation["metrics"]["accuracy"] += 1e-9
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match=r"other.jsonl: run \w+ \(alpha=0.2 classify\) has another evaluations else"):
        kept.unpack([one, other], tmp_path / "unpacked")


GOOD = {"run": "0123456789", "row": "a", "stage": "b", "config": "", "environment": {}, "core_seconds": 1}
END = {"records": [{"time": 1.0, "kind": "finished", "step": 1, "seconds": 1.0}]}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"run": "a"}',
        "null",
        "\udcff",
        GOOD | {"records": []},
        GOOD | {"records": [1]},
        GOOD | {"records": [{"kind": "finished"}]},
        GOOD | END | {"run": "../../etc/x"},
        GOOD | END | {"core_seconds": "x"},
        GOOD | END | {"environment": None},
        GOOD | {"records": [{"time": 1.0, "kind": "start"}]},
        GOOD | {"records": [{"time": 1.0, "kind": "strange"}]},
    ],
)
def test_a_damaged_line_is_named(line, tmp_path):
    file = tmp_path / "kept.jsonl"
    good = json.dumps(GOOD | END)
    bad = line if isinstance(line, str) else json.dumps(line)
    file.write_bytes(f"{good}\n{bad}\n".encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"kept.jsonl, line 2: expected what is kept of a run, found"):
        kept.unpack([file], tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


# ---- results beside results


def test_the_same_from_nothing_and_what_is_not(tmp_path):
    made = []
    for runs in ("first", "second"):
        whole(tmp_path / runs, 0)
        kept.keep(tmp_path / runs, rows(0), file := tmp_path / f"{runs}.jsonl")
        made.append({run.run: run for run in kept.read(file)})
    first, second = made
    assert report.again(first, second).startswith("14 of 14 runs have the same evaluations and the same weights")
    assert "which are kept of 4." in report.again(first, second)
    for stage, kind, change in (
        ("segment", "finished", {"weights_sha256": "0" * 64}),
        ("pretrain", "train", {"loss": 0.123}),
        ("classify", "eval", {"metrics": {"accuracy": 0.0}}),
    ):
        run = next(run for run in second.values() if run.stage == stage)
        records = tuple(r | change if r["kind"] == kind else r for r in run.records)
        told = report.again(first, second | {run.run: Kept(**vars(run) | {"records": records})})
        what = {"finished": "weights", "train": "losses", "eval": "evaluations"}[kind]
        assert told.startswith("13 of 14 runs have the same") and told.endswith(f"({run.run}): another {what}")


def test_what_was_not_made_again_is_not_compared(tmp_path):
    one, other = ({run.run: run for run in kept.read(file)} for file in kept_of(tmp_path))
    with pytest.raises(ConfigError, match="and 13 more, were not made again"):
        report.again(one, one)
    with pytest.raises(ConfigError, match="that are not kept of the first time"):
        report.again(one, other)


def test_a_fresh_seed_beside_the_others(tmp_path):
    """Column by column: of each row the numbers, and by how many deviations they differ."""
    for seed in (0, 1, 2):
        whole(tmp_path, seed)
    frames = [Page(study, tmp_path, "smoke", seeds).frame(table) for seeds in ((0, 1), (2,))]
    shown = report.beside(table, *frames, ("two", "fresh"), "a title")
    assert [heading.text for heading in shown.headings] == ["classify", "segment_ade20k"]
    first = [cell.text for cell in shown.lines[0].cells]
    assert first == ["40.2 ± 0.2 (2)", "40.7", "+2.1", "19.9 ± 0.1 (2)", "19.8", "-2.1"]
    lacking = frames[0].copy()
    lacking.loc[(lacking["seed"] == 1) & (lacking["row"] == "alpha=0.2"), ["state", "value"]] = ["missing", None]
    shown = report.beside(table, lacking, frames[1], ("two", "fresh"), "a title")
    assert [cell.text for cell in shown.lines[0].cells][:3] == ["40.0 (1 of 2)", "40.7", "-"]


# ---- the document


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Of one study: three seeds, at two rates, a fresh seed, and the first seed once more."""
    folder = tmp_path_factory.mktemp("built")
    runs, where = folder / "runs", {"scale": "laptop"}
    for seed in (0, 1, 2):
        whole(runs, seed, **where)
        whole(runs, seed, edits=results.FOUND, shift=10.0, **where)
    whole(runs, 3, shift=-100.0, **where)
    whole(folder / "again", 0, **where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "STUDIES", {study.name: study})
        assert results.main(["--folder", str(folder), "--keep", str(runs)]) == 0
        assert results.main(["--folder", str(folder), "--keep", str(folder / "again"), "--again"]) == 0
    return folder


@pytest.fixture
def folder(built, tmp_path, monkeypatch) -> Path:
    """A copy, without the runs."""
    monkeypatch.setattr(results, "STUDIES", {study.name: study})
    return Path(
        shutil.copytree(
            built, tmp_path / "copy", ignore=lambda place, _: {"runs", "again"} if place == str(built) else set()
        )
    )


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}")[1].split("\n## ")[0]


def test_the_document_says_what_there_is(folder):
    text = (folder / results.DOCUMENT).read_text()
    assert "| alpha=0.2 | 40.3 ± 0.3 (3) | 82.7 |" in section(text, "Mask sampling strategies (Table 10)\n")
    claimed = section(text, "What became of")
    assert "**23 claims: 1 reproduced, 3 contradicted, 0 not decidable, 19 not run**" in claimed
    found = section(text, "At the learning rate that the search found")
    assert "| alpha=0.2 | 40.3 ± 0.3 (3) | 50.3 ± 0.3 (3) | +30.0 |" in found and "segment" not in found.split("```")[2]
    fresh = section(text, "Mask sampling strategies (Table 10): a fresh seed")
    assert "| alpha=0.2 | 40.3 ± 0.3 (3) | -59.0 |" in fresh and "alpha\\_ablation.py" not in fresh
    says = "| For ImageNet, the same number of tokens from each modality is the best. "
    assert re.search(re.escape(says) + r"\| reproduced \(by chance: \d%\) \| 3 of 3 \| \*not decidable\* \|", fresh)
    assert "14 of 14 runs have the same evaluations" in section(text, "The same from nothing")
    took = section(text, "What it took")
    seconds = (3 * 19 + 14) * round(3.5 * 0.9, 1)
    assert (
        f"| together | {3 * 19 + 14} | {seconds / 3600:.1f} | 0 | 0 | 0 | 0 |" in took and "0123abc (71 runs)" in took
    )
    assert "/tmp" not in text and str(folder) not in text


def test_figures_are_of_these_results(folder):
    text, figures = results.made(folder / results.RESULTS)
    shown = re.findall(r"\]\((results/\S+\.png)\)", text)
    assert {Path(file).stem for file in shown} == set(figures.drawn) == {"table_10", "alpha_ablation_losses"}
    assert figures.stale() == []
    bars, losses = (folder / results.RESULTS / f"{name}.png" for name in figures.drawn)
    drawn = bars.read_bytes()
    bars.write_bytes(losses.read_bytes())
    assert figures.stale() == ["table_10"]  # another figure
    bars.unlink()
    assert figures.stale() == ["table_10"]
    bars.write_bytes(drawn)
    file = kept.file_of(folder / results.RESULTS, study.name, 2)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert results.made(folder / results.RESULTS)[1].stale() == ["table_10", "alpha_ablation_losses"]


def test_half_of_it_is_told_as_that(folder):
    """Without the seeds, the fresh one says nothing; without its transfers, it is not finished."""
    place = folder / results.RESULTS
    fresh = kept.file_of(place, study.name, 3)
    lines = fresh.read_text().splitlines(keepends=True)
    fresh.write_text("".join(lines[:3]))
    assert "It is not finished yet." in results.made(place)[0]
    shutil.rmtree(place / results.AGAIN)
    for seed in results.SEEDS:
        kept.file_of(place, study.name, seed).unlink()
    fresh.write_text("".join(lines))
    text, _ = results.made(place)
    assert "a fresh seed" not in text and "**23 claims: 0 reproduced, 0 contradicted, 0 not dec" in text


def test_a_run_that_no_study_has_any_more_is_told(folder, capsys):
    file = kept.file_of(folder / results.RESULTS, study.name, 0)
    file.write_text(file.read_text().replace('{"run": "4b8600b775"', '{"run": "0000000000"'))
    assert results.main(["--folder", str(folder)]) == 2
    assert "run 0000000000 (alpha=0.2 pretrain) is none of alpha_ablation with seed 0" in capsys.readouterr().err


def test_the_command_unpacks_either_making(folder, capsys):
    for words, runs in (([], 71), (["--again"], 14)):
        out = folder / f"unpacked{runs}"
        assert results.main(["--folder", str(folder), "--unpack", str(out), *words]) == 0
        assert len(list(out.iterdir())) == runs
    assert "71 runs in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, says",
    [
        (["--keep", "nowhere"], "expected a folder of runs, found nowhere"),
        (["--keep", "."], "no run of . that has ended is of these studies at laptop scale"),
        (["--again"], "give one of them"),
        (["--folder", "nowhere"], "has no results; --keep RUNS takes them"),
        (["--unpack", "."], "is there already"),
        (["--folder", "strange"], "expected the name of a study and a seed, as in alpha_ablation-3.jsonl"),
        (["--folder", "odd"], "Is a directory"),
    ],
)
def test_a_wrong_command_is_answered(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange" / results.RESULTS).mkdir(parents=True)
    (tmp_path / "strange" / results.RESULTS / "alpha_ablatoin-0.jsonl").touch()
    (tmp_path / "odd" / results.RESULTS / "alpha_ablation-0.jsonl").mkdir(parents=True)
    assert results.main(words) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
