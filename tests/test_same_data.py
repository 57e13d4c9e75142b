"""A run belongs to the samples it learnt from: in its journal, when it goes on, when it is done, and in a table."""

import os
import shutil

import pytest
from image_files import picture, write
from plans import wanted
from synthetic_runs import SyntheticRun
from training import tiny_table

from analysis import tables
from multimae import run
from multimae.cli import main
from multimae.config import Classify, ConfigError, Depth, Pretrain, Runtime, build
from multimae.data import about, listing, subsets
from multimae.record.folder import RunFolder
from multimae.study import data as study_data
from multimae.study import planning
from multimae.study.study import Row, Study

SETTINGS = {
    "task": "classify", "classes": 3, "epochs": 1, "batch_size": 4, "precision": "fp32", "data": {"name": "pets"},
    "model": {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2},
    "augmentation": {"rand_augment": None, "mixup": 0, "cutmix": 0},
}  # fmt: skip
CONFIG = build(SETTINGS)
STUDY = Study("tiny", "A tiny study", lambda scale: [Row("row", {"classify": CONFIG})])


@pytest.fixture(autouse=True)
def fresh():
    """What planning has counted in this process."""
    forget()


def learns(config) -> str:
    return f"train: {config.data.said('train', config.fields)}"


def forget():
    for counted in (subsets.contents, listing.listed, listing.count_images):
        counted.cache_clear()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A run that is done on `pets`, beside a copy of them and another folder with one image more."""
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "pets", ("cat", "dog", "owl"), 4)
    runtime = Runtime(runs=tmp_path / "runs", data_roots={"pets": root}, device="cpu")
    assert run.run(CONFIG, runtime) == "finished"
    shutil.copytree(root, tmp_path / "copy" / "pets")
    shutil.copytree(root, tmp_path / "other" / "pets")
    picture(99).save(tmp_path / "other/pets/train/rgb/owl/9.jpg")
    return tmp_path


def planned(runs, root) -> list[str]:
    plan = planning.plan(wanted(STUDY, STUDY.build("smoke"), runs))
    return study_data.other_data(plan, {"pets": root})


def test_the_journal_says_what_a_run_learnt_from(here):
    (said,) = RunFolder.of(here / "runs", CONFIG.signature).journal.records("data")
    assert said["root"] == str(here / "pets") and said["train"]["n"] == said["eval"]["n"] == 12
    assert (
        said["classes"] == ["cat", "dog", "owl"]
        and said["fields"] == ["rgb", "label"]
        and said["learnt"] == [[learns(CONFIG), said["train"]["fingerprint"]]]
    )
    now = subsets.contents(here / "pets", subsets.folder_reads(CONFIG), ("rgb", "label"))
    assert now == {split: said[split] for split in ("train", "eval")}  # planning sees what training saw


def test_a_run_that_is_done_is_not_taken_for_one_on_other_data(here):
    again = lambda root: run.run(CONFIG, Runtime(runs=here / "runs", data_roots={"pets": root}))
    assert again(here / "pets") == again(here / "copy" / "pets") == "finished"
    with pytest.raises(ConfigError, match="begun on other data: its train samples were those of .*/pets, and .*other"):
        again(here / "other" / "pets")
    shutil.rmtree(here / "other/pets/val")
    with pytest.raises(ConfigError, match="is done and learnt from .*other/pets/val is not there"):
        again(here / "other" / "pets")
    shutil.rmtree(here / "pets")
    assert again(here / "pets") == "finished"  # its data were cleared away since


def test_what_a_data_set_came_to_say_of_itself_holds_for_runs_that_are_done(here):
    """Their numbers are of another unit."""
    config = Depth().edit({"data": {"name": "pets"}, "masked": False})
    made = SyntheticRun(here / "runs", config)
    made.journal.write("data", root=str(here / "pets"), fields=["rgb"], learnt=[])
    made.finish()
    about.About(name="pets", fields={"depth": {"unit": 0.001}}).write(here / "pets")
    with pytest.raises(ConfigError, match="data.depth_unit is .*dataset.yaml says 0.001"):
        run.learnt_from(config, Runtime(runs=here / "runs", data_roots={"pets": here / "pets"}), made.folder)
    plan = planning.plan(wanted(STUDY, [Row("deep", {"depth": config})], here / "runs"))
    assert plan.entries[config.signature].status.state == "done"
    with pytest.raises(ConfigError, match="deep depth: data.depth_unit is"):
        study_data.other_settings(plan, {"pets": here / "pets"})


def test_planning_compares_a_folder_at_another_place(here):
    runs = here / "runs"
    assert planned(runs, here / "pets") == planned(runs, here / "copy" / "pets") == []
    with pytest.raises(ConfigError, match=f"row classify .run {CONFIG.signature}: train samples from .*Rename this"):
        planned(runs, here / "other" / "pets")
    (note,) = planned(runs, here / "gone" / "pets")
    assert "cannot be said from here" in note
    os.symlink(here / "pets", here / "linked")
    assert planned(runs, here / "linked") == []


def test_planning_compares_a_folder_at_the_same_place(here, monkeypatch):
    """Files may have changed in it since. One listing of it serves all runs of a study."""
    runs = here / "runs"
    picture(99).save(here / "pets/train/rgb/owl/9.jpg")
    with pytest.raises(ConfigError, match=f"row classify .run {CONFIG.signature}: train samples from .*/pets"):
        planned(runs, here / "pets")
    (here / "pets/train/rgb/owl/9.jpg").unlink()
    forget()
    listed = []
    monkeypatch.setattr(listing, "start", lambda top, start=listing.start: listed.append(top) or start(top))
    assert planned(runs, here / "pets") == planned(runs, here / "pets") == []
    few = CONFIG.edit({"data.train_samples": 9})
    subsets.contents(here / "pets", subsets.folder_reads(few), ("rgb", "label"))
    assert len(listed) == 2  # a split each
    shutil.rmtree(here / "pets")
    assert planned(runs, here / "pets") == []


def test_classes_numbered_otherwise_are_refused(here):
    folder = RunFolder.of(here / "runs", CONFIG.signature)
    lines = folder.journal.path.read_text().replace('["cat", "dog", "owl"]', '["dog", "cat", "owl"]').splitlines()
    folder.journal.path.write_text(next(line for line in lines if '"kind": "data"' in line) + "\n")
    runtime = Runtime(runs=here / "runs", data_roots={"pets": here / "pets"})
    with pytest.raises(ConfigError, match="numbers its classes dog, cat, owl, and .*/pets gives cat, dog, owl now"):
        run.run(CONFIG, runtime)


def test_the_same_by_the_command(here, capsys):
    (here / "pets.yaml").write_text(CONFIG.to_yaml())
    words = ["run", "pets.yaml", "--no-track", "--data"]
    assert main([*words, "pets=copy/pets"]) == 0
    assert main([*words, "pets=other/pets"]) == 2
    assert "was begun on other data" in capsys.readouterr().err


# ---- tables


def table_rows(**edits):
    for alpha in (0.5, 1.0):
        pretrain = Pretrain().edit({"masking.alpha": alpha, "data.train_samples": 4096})
        init = {"init": f"run:{pretrain.signature}"} | edits
        yield Row(f"alpha={alpha:g}", {"pretrain": pretrain, "classify": Classify().edit(init)})


def finish(runs, row, pretrain="aaaa", classify="bbbb", before=None) -> None:
    learnt = [[learns(row.stages["pretrain"]), before or pretrain]]
    for stage, mark in (("pretrain", pretrain), ("classify", classify)):
        made = SyntheticRun(runs, row.stages[stage])
        if stage == "classify":
            learnt.insert(0, [learns(row.stages[stage]), mark])
        if mark:
            samples = {"n": 9, "fingerprint": mark}
            made.journal.write("data", root="/x", train=samples, eval=samples, learnt=learnt)
        made.whole()


def built(runs, rows):
    return tables.text(tiny_table, tables.build(tiny_table, "smoke", tables.read(runs, list(rows))))


def test_a_table_says_what_its_rows_learnt_from(tmp_path):
    rows = list(table_rows())
    for row in rows:
        finish(tmp_path, row)
    assert "classify: trained on bbbb, before that on aaaa." in built(tmp_path, rows)


@pytest.mark.parametrize(
    "differing, said",
    [({"classify": "cccc"}, "imagenet.* is cccc"), ({"pretrain": "cccc"}, "4096.* is cccc")],
)
def test_rows_that_learnt_from_different_samples_make_no_column(tmp_path, differing, said):
    first, second = table_rows()
    finish(tmp_path, first)
    finish(tmp_path, second, **differing)
    with pytest.raises(tables.Incomparable, match=said):
        built(tmp_path, [first, second])
    assert "alpha=1" in built(tmp_path, [second])  # alone, each is fine


def test_what_a_run_started_from_is_what_it_was_then(tmp_path):
    """The pre-training may have been made anew, on other data, since."""
    first, second = table_rows()
    finish(tmp_path, first)
    finish(tmp_path, second, before="cccc")
    with pytest.raises(tables.Incomparable, match="4096.* is cccc"):
        built(tmp_path, [first, second])


def test_rows_that_say_that_their_data_differ_may(tmp_path):
    first = next(table_rows())
    second = list(table_rows(**{"data.train_samples": 99}))[1]
    finish(tmp_path, first)
    finish(tmp_path, second, classify="cccc")
    text = built(tmp_path, [first, second])
    assert "trained on bbbb, before that on aaaa (alpha=0.5)" in text and "cccc, before that on aaaa (alpha=1)" in text


def test_rows_that_have_not_said_are_shown(tmp_path):
    first, second = table_rows()
    finish(tmp_path, first, pretrain="", classify="")
    finish(tmp_path, second)
    assert "bbbb" in built(tmp_path, [first, second])


def test_two_stages_that_read_other_fields_of_one_folder_are_no_contradiction(tmp_path):
    """A fingerprint is of the files that are read: of rgb alone, or of depth and classes too."""
    rows = list(table_rows(**{"data.train_samples": 4096}))
    for row in rows:
        assert row.stages["pretrain"].data.split("train") == row.stages["classify"].data.split("train")
        finish(tmp_path, row)
    assert "trained on bbbb, before that on aaaa" in built(tmp_path, rows)


def test_what_it_starts_from_was_made_anew_meanwhile(here):
    folder = RunFolder.of(here / "runs", CONFIG.signature)
    begun = folder.learnt_from | {"learnt": [*folder.learnt_from["learnt"], ["weights run:0123456789", "then"]]}
    run._refuse_other_learning([["weights run:0123456789", "then"]], begun, folder)
    with pytest.raises(ConfigError, match="begun from other weights run:0123456789: it was then .* now is now"):
        run._refuse_other_learning([["weights run:0123456789", "now"]], begun, folder)
