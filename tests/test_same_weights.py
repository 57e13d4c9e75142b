"""A file's name is identity, and what is in it a condition: in the journal, when a run goes on, when it is done, and in
a table."""

import shutil
from dataclasses import replace

import pytest
from plans import wanted
from safetensors.torch import load_file, save_file

from analysis import tables
from multimae.config import ConfigError, Runtime, build
from multimae.files import sha256
from multimae.record.folder import RunFolder
from multimae.run import run
from multimae.study import Evaluation, Row, Study, Table, planning
from multimae.study import data as study_data

SMALL = {
    "precision": "fp32", "epochs": 1, "batch_size": 4, "optimizer": {"warmup_epochs": 0},
    "model": {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2},
    "data": {"name": "scenes", "train_samples": 8, "eval_samples": 4, "render_size": 16},
}  # fmt: skip
PRETRAIN = build({"task": "pretrain", "inputs": ["rgb"], "targets": ["rgb"], "masking.visible_tokens": 1} | SMALL)
PLAIN = {"rand_augment": None, "mixup": 0, "cutmix": 0}
CLASSIFY = build({"task": "classify", "classes": 10, "init": "official:theirs", "augmentation": PLAIN} | SMALL)
TABLE = Table("mine", "Mine", (Evaluation("classify", stage="classify", metric="accuracy"),))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    runtime = Runtime(runs=tmp_path_factory.mktemp("runs"), device="cpu", threads=1)
    assert run(PRETRAIN, runtime) == "finished"
    return RunFolder.of(runtime.runs, PRETRAIN.signature).weights


@pytest.fixture
def files(tmp_path, pretrained):
    """The weights, a copy of the file, and others of the same shapes."""
    one, copy, other = (tmp_path / name for name in ("one.safetensors", "copy.safetensors", "other.safetensors"))
    shutil.copy(pretrained, one)
    shutil.copy(pretrained, copy)
    save_file({name: tensor + 0.01 for name, tensor in load_file(pretrained).items()}, other)
    return one, copy, other


def carry_out(tmp_path, file, config=CLASSIFY):
    weights = {"theirs": file, "others": file}
    return run(config, Runtime(runs=tmp_path / "runs", cache=tmp_path, weights=weights, device="cpu", threads=1))


def test_other_bytes_under_the_name_are_refused_whatever_the_run_is_doing(tmp_path, files):
    one, copy, other = files
    assert carry_out(tmp_path, one) == "finished"
    folder = RunFolder.of(tmp_path / "runs", CLASSIFY.signature)
    assert ["weights official:theirs", sha256(one)] in folder.learnt_from["learnt"]
    assert carry_out(tmp_path, copy) == "finished"
    with pytest.raises(ConfigError, match=f"begun from other weights official:theirs: .* {sha256(one)} .*anoth"):
        carry_out(tmp_path, other)
    lines = folder.journal.path.read_text().splitlines(keepends=True)
    folder.journal.path.write_text("".join(line for line in lines if '"finished"' not in line))  # it goes on
    with pytest.raises(ConfigError, match="begun from other weights official:theirs"):
        carry_out(tmp_path, other)


def test_planning_compares_the_file_and_asks_for_one(tmp_path, files):
    one, copy, other = files
    study = Study("s", "t", lambda scale: [Row("a", {"classify": CLASSIFY})], (TABLE,))
    asked = wanted(study, study.build("smoke"), tmp_path / "runs")
    (entry,) = planning.plan(asked).entries.values()
    assert (entry.status.state, entry.action) == ("blocked", None)
    assert entry.status.reason == "needs the weights 'theirs'; give them with --weights theirs=FILE"
    (entry,) = planning.plan(replace(asked, files=["theirs"])).entries.values()
    assert (entry.status.state, entry.action) == ("missing", "run")
    carry_out(tmp_path, one)
    planned = planning.plan(wanted(study, study.build("smoke"), tmp_path / "runs"))
    study_data.other_weights(planned, {"theirs": copy})
    with pytest.raises(ConfigError, match="--weights: a classify .* another name"):
        study_data.other_weights(planned, {"theirs": other})


def test_a_table_does_not_mix_them(tmp_path, files):
    one, _, other = files
    again = CLASSIFY.edit({"drop_path": 0.2})
    carry_out(tmp_path, one)
    carry_out(tmp_path, other, again)
    rows = [Row("a", {"classify": CLASSIFY}), Row("b", {"classify": again})]
    with pytest.raises(tables.Incomparable, match="weights official:theirs is"):
        tables.build(TABLE, "smoke", tables.read(tmp_path / "runs", rows))
    said = tables.text(TABLE, tables.build(TABLE, "smoke", tables.read(tmp_path / "runs", rows[:1])))
    assert f"weights official:theirs {sha256(one)[:12]}" in said
