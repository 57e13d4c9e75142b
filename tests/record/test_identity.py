"""A run's folder is what its name says, or it is refused; what its refusal advises is done here, and helps."""

import os
import re
import shutil
import subprocess

import pytest
import yaml
from plans import read, wanted
from synthetic_runs import SyntheticRun
from training import tiny_study, tiny_table

from analysis import tables
from multimae import tracking
from multimae.config import Pretrain
from multimae.record.folder import RunFolder
from multimae.record.reading import FolderError
from multimae.study import planning

ROWS = tiny_study.build("smoke")
PRETRAIN, CLASSIFY = ROWS[0].stages["pretrain"], ROWS[0].stages["classify"]
OTHER = PRETRAIN.edit({"epochs": 3, "optimizer.clip_grad": 1.0})


def edit(folder: RunFolder, **changes) -> None:
    """The file, by hand; `None` deletes the line."""
    values = yaml.safe_load(folder.config_file.read_text()) | changes
    folder.config_file.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))


def follow(advice: str) -> None:
    """Do what a message says, as far as it is a command."""
    command = re.search(r"(rm|rm -r|mv) (/[^\s;,]+)( /[^\s;,]+)?", advice)[0]
    subprocess.run(command, shell=True, check=True)


def two_lines(run: SyntheticRun) -> None:
    edit(run.folder, epochs=3, batch_size=64)


def deleted_lines(run: SyntheticRun) -> None:
    edit(run.folder, masking=None)


def other_file(run: SyntheticRun) -> None:
    run.folder.config_file.write_text(OTHER.to_yaml())


def said_twice(run: SyntheticRun) -> None:
    run.folder.config_file.write_text(PRETRAIN.to_yaml() + "epochs: 3\n")


def said_twice_deep(run: SyntheticRun) -> None:
    text = PRETRAIN.to_yaml().replace("masking:\n", "masking:\n  alpha: 1.0\n", 1)
    run.folder.config_file.write_text(text)


def unknown_setting(run: SyntheticRun) -> None:
    edit(run.folder, epocs=3)


def a_list(run: SyntheticRun) -> None:
    run.folder.config_file.write_text("- task: pretrain\n")


def no_task(run: SyntheticRun) -> None:
    edit(run.folder, task=None)


def a_task_that_is_none(run: SyntheticRun) -> None:
    edit(run.folder, task=["pretrain"])


def no_yaml(run: SyntheticRun) -> None:
    run.folder.config_file.write_text("epochs: [1\n")


def a_date(run: SyntheticRun) -> None:
    run.folder.config_file.write_text("version: 2\ntask: 2020-99-99\n")


def brackets(run: SyntheticRun) -> None:
    run.folder.config_file.write_text("[" * 100_000)


def noise(run: SyntheticRun) -> None:
    run.folder.config_file.write_bytes(bytes(range(256)))


EDITED = {
    two_lines: "config.yaml is of run .*epochs: found 3.*batch_size: found 64, expected",
    deleted_lines: r"config.yaml is of run .*masking.alpha: found 1.0, expected 0.5",
    other_file: "config.yaml is of run .*epochs: found 3.*optimizer.clip_grad: found 1.0, expected None",
    said_twice: "'epochs' stands twice",
    said_twice_deep: "'alpha' stands twice",
    unknown_setting: "unknown key 'epocs'; did you mean 'epochs'",
    a_list: "expected the settings of a run",
    no_task: "expected the settings of a run",
    a_task_that_is_none: "expected the settings of a run",
    no_yaml: "line 2: ",
    a_date: "config.yaml: ",
    brackets: "config.yaml.*: ",
    noise: "config.yaml.*: ",
}
ALPHA = PRETRAIN.edit({"masking.alpha": 0.5})


def synthetic(runs, config=ALPHA, begun=True) -> SyntheticRun:
    run = SyntheticRun(runs, config)
    return run.whole() if begun else run


@pytest.mark.parametrize("damage", EDITED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
@pytest.mark.parametrize("expected", [ALPHA, None], ids=["config at hand", "folder alone"])
def test_an_edited_file_is_refused_with_the_difference_and_a_mend_that_helps(tmp_path, damage, begun, expected):
    run = synthetic(tmp_path, begun=begun)
    damage(run)
    shown = EDITED[damage] if expected or begun else "(edited|twice|unknown|config.yaml)"
    with pytest.raises(FolderError, match=shown) as refused:
        run.folder.check(expected)
    with pytest.raises(FolderError):
        run.folder.create(ALPHA)
    with pytest.raises(FolderError):
        run.folder.config()
    follow(str(refused.value))
    run.folder.create(ALPHA)
    run.folder.check(expected)
    assert run.folder.config() == ALPHA and run.folder.config_file.read_text() == ALPHA.to_yaml()
    assert run.folder.done == begun


def test_settings_that_change_nothing_may_differ(tmp_path):
    """The file was written by one command, and another, which says more of what is not used, began the run."""
    plain = Pretrain().edit({"inputs": ["rgb", "depth"], "targets": ["rgb"]})
    other = plain.edit({"model.semseg_classes": 9})
    assert plain != other and plain.signature == other.signature
    run = synthetic(tmp_path, other)
    run.folder.config_file.write_text(plain.to_yaml())
    for expected in (plain, other, None):
        run.folder.check(expected)
    assert run.folder.config() == plain


def test_settings_that_a_file_lacks_have_todays_defaults(tmp_path):
    run = synthetic(tmp_path)
    edit(run.folder, seed=None, precision=None, decoder=None)
    run.folder.check(ALPHA)
    assert run.folder.config() == ALPHA


def test_a_default_that_changed_since_is_named(tmp_path):
    """As if Table 5 had been at 800 epochs: the file and the journal say so, and the name is of the default."""
    run = synthetic(tmp_path, Pretrain(epochs=800))
    folder = RunFolder(run.folder.path.rename(tmp_path / Pretrain().signature))
    with pytest.raises(FolderError, match="epochs: found 800.0, expected 1600.0.*a default changed since") as refused:
        folder.check(Pretrain())
    with pytest.raises(FolderError, match=f"is of run {run.folder.signature}.*a default changed since"):
        folder.config()
    keep = str(refused.value).partition("to keep what was computed: ")[2]
    follow(keep)
    assert run.folder.config() == Pretrain(epochs=800) and run.folder.done and not folder.path.exists()


def test_a_run_of_another_version_is_refused_by_name_and_kept(tmp_path):
    run = synthetic(tmp_path)
    edit(run.folder, version=None)  # as the first version wrote it
    for look in (lambda: run.folder.check(ALPHA), run.folder.config, lambda: run.folder.create(ALPHA)):
        with pytest.raises(
            FolderError, match=f"{ALPHA.signature} is refused: .* version 1, and today's .* 2"
        ) as refused:
            look()
    follow(str(refused.value))
    assert (tmp_path / f"{ALPHA.signature}.old" / "journal.jsonl").exists() and not run.folder.path.exists()


def test_a_renamed_folder_and_a_copy_are_refused(tmp_path):
    run = synthetic(tmp_path)
    copy = RunFolder.of(tmp_path, OTHER.signature)
    shutil.copytree(run.folder.path, copy.path)
    with pytest.raises(FolderError, match="renamed or copied. To compute .* anew: rm -r .*"):
        copy.check(OTHER)
    with pytest.raises(FolderError, match=f"config.yaml is of run {ALPHA.signature}"):
        copy.config()
    copy.config_file.write_text(OTHER.to_yaml())  # what was computed is still another run's
    with pytest.raises(FolderError, match=f"its journal is of run {ALPHA.signature}.*epochs: found") as refused:
        copy.check(OTHER)
    copy.config_file.unlink()
    with pytest.raises(FolderError, match=f"its journal is of run {ALPHA.signature}"):
        copy.create(OTHER)
    follow(str(refused.value))
    copy.create(OTHER)
    assert copy.config() == OTHER


@pytest.mark.parametrize("length", [0, 1, 40, 400, -1])
@pytest.mark.parametrize("zeros", [0, 100])
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
def test_a_file_that_a_power_cut_has_torn_is_written_again(tmp_path, length, zeros, begun):
    run = synthetic(tmp_path, begun=begun)
    whole = run.folder.config_file.read_bytes()
    run.folder.config_file.write_bytes(whole[:length] + bytes(zeros))
    try:
        run.folder.create(ALPHA)
    except FolderError as error:  # lines are missing, but those that are there are settings: it may have been edited
        assert re.search("alpha: found|said|edited|is a section|written again", str(error))
        follow(str(error))
        run.folder.create(ALPHA)
    assert run.folder.config() == ALPHA


def test_a_file_that_is_gone_is_made_again_from_the_journal(tmp_path):
    infinite = PRETRAIN.edit({"masking.alpha": float("inf")})
    run = synthetic(tmp_path, infinite)
    run.folder.config_file.unlink()
    assert run.folder.config() == infinite  # which JSON cannot say
    run.folder.check(infinite)
    run.folder.create(infinite)
    assert run.folder.config_file.read_text() == infinite.to_yaml()


def test_without_file_and_journal_the_config_at_hand_decides(tmp_path):
    folder = RunFolder.of(tmp_path, ALPHA.signature)
    folder.check()
    with pytest.raises(FolderError, match="config.yaml is not there, and no journal tells"):
        folder.config()
    folder.create(ALPHA)
    assert folder.config() == ALPHA


def test_a_journal_with_settings_that_are_no_more(tmp_path):
    run = SyntheticRun(tmp_path, ALPHA)
    run.journal.write("start", step=0, params={"task": "pretrain", "masking.older": 1})
    run.folder.check(ALPHA)  # the file tells
    run.folder.config_file.unlink()
    with pytest.raises(FolderError, match="none of today's code: unknown key 'masking.older'") as refused:
        run.folder.check(ALPHA)
    follow(str(refused.value))
    run.folder.check(ALPHA)


@pytest.mark.parametrize("params", [[], 3, {"task": 3}, {"task": "pretrain", "masking": 1}])
def test_a_journal_with_settings_that_are_none(tmp_path, params):
    run = SyntheticRun(tmp_path, ALPHA)
    run.journal.write("start", step=0, params=params)
    run.folder.check(ALPHA)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / ALPHA.signature).write_text("")
    with pytest.raises(FolderError, match="expected a folder, found a file. Move it away"):
        RunFolder.of(tmp_path, ALPHA.signature).check(ALPHA)


# ---- who asks


@pytest.fixture
def edited(tmp_path) -> RunFolder:
    """A study of which all is done, and somebody edited the settings of a pre-training since."""
    for row in ROWS:
        for config in row.stages.values():
            SyntheticRun(tmp_path, config).whole()
    folder = RunFolder.of(tmp_path, PRETRAIN.signature)
    edit(folder, epochs=3)
    return folder


def test_a_plan_shows_and_does_not_run_it(edited, tmp_path):
    for retry in (False, True):
        entries = planning.plan(wanted(tiny_study, ROWS, tmp_path), retry).entries
        entry = entries[PRETRAIN.signature]
        assert (entry.status.state, entry.action) == ("refused", None)
        assert "epochs: found 3.0, expected 1600.0" in entry.status.reason
    (RunFolder.of(tmp_path, CLASSIFY.signature).journal.path).unlink()
    entry = planning.plan(wanted(tiny_study, ROWS, tmp_path)).entries[CLASSIFY.signature]
    assert (entry.status.state, entry.status.reason) == ("blocked", "alpha=1 pretrain refused")
    study = type(tiny_study)("t", "t", lambda scale: [type(ROWS[0])("alpha=1", {"classify": CLASSIFY})])
    entry = planning.plan(wanted(study, study.build("smoke"), tmp_path)).entries[CLASSIFY.signature]
    assert entry.status.state == "blocked" and "epochs: found 3.0, expected 1600.0" in entry.status.reason


def test_what_runs_is_shown_as_such_and_can_be_stopped(edited):
    edited.jobs.write("submitted", job="slurm:7", cluster="c", study="tiny", row="r", stage="s", scale="smoke")
    assert read(edited).state == "refused"  # it is done, whatever the job
    edited.journal.write("start", step=0)
    assert read(edited).state == "unknown"  # SLURM is not asked here


def test_a_table_has_no_number_of_it(edited, tmp_path):
    frame = tables.build(tiny_table, "smoke", tables.read(tmp_path, ROWS))
    assert set(frame["state"]) == {"done"}  # pre-trainings are no column of Table 10
    edit(RunFolder.of(tmp_path, CLASSIFY.signature), epochs=3)
    frame = tables.build(tiny_table, "smoke", tables.read(tmp_path, ROWS)).set_index(["row", "key"])
    cell = frame.loc[("alpha=1", "classify")]
    assert cell["state"] == "refused" and cell["value"] != cell["value"]
    assert frame.loc[("alpha=0.5", "classify")]["value"] == 40


def test_sync_does_not_send_it_and_sends_the_others(edited, tmp_path):
    report = tracking.sync(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    told = [problem for problem in report.problems if problem.startswith(PRETRAIN.signature)]
    assert len(told) == 1 and told[0].endswith(f"rm {edited.config_file}")
    assert report.metrics > 0


@pytest.mark.parametrize("name", ["log", "samples", "checkpoints"])
def test_a_file_in_the_place_of_a_folder_is_seen_before_anything_runs(tmp_path, name):
    run = synthetic(tmp_path, PRETRAIN, begun=False)
    (run.folder.path / name).write_text("")
    entry = planning.plan(wanted(tiny_study, ROWS, tmp_path)).entries[PRETRAIN.signature]
    assert entry.status.state == "refused" and f"{name}: expected a folder, found a file" in entry.status.reason


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    run = synthetic(tmp_path, PRETRAIN, begun=False)
    for name in ("heartbeat.json", "journal.jsonl", "jobs.jsonl", "config.yaml", "weights.safetensors"):
        (run.folder.path / name).unlink(missing_ok=True)
        os.mkfifo(run.folder.path / name)
        entry = planning.plan(wanted(tiny_study, ROWS, tmp_path)).entries[PRETRAIN.signature]
        assert entry.status.state == "refused" and f"{name}: expected a file" in entry.status.reason
        (run.folder.path / name).unlink()


def test_names_that_are_no_signatures_are_no_runs(tmp_path):
    run = synthetic(tmp_path)
    for name in (f"{ALPHA.signature}.bak", "notes", "ABCDEF0123", f"{ALPHA.signature} (copy)"):
        shutil.copytree(run.folder.path, tmp_path / name)
    (tmp_path / "0123456789").write_text("a file")
    assert [folder.path for folder in RunFolder.all(tmp_path)] == [run.folder.path]
