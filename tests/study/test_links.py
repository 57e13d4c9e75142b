"""Run folders by names that a person can read."""

import os
from pathlib import Path

import pytest
from plans import wanted
from synthetic_runs import finish
from training import tiny_study

from multimae.record.folder import RunFolder
from multimae.study import planning
from multimae.study.links import link

ROWS = tiny_study.build("smoke")
PRETRAIN = ROWS[0].stages["pretrain"]


def test_a_submission_and_a_run_that_is_done_have_their_names(tmp_path):
    plan = planning.plan(wanted(tiny_study, ROWS, tmp_path))
    planning.submit(plan.todo[0], plan.wanted, "local:1")
    named = tmp_path / "studies/tiny/smoke" / ROWS[0].name / "pretrain"
    assert named.resolve() == tmp_path / PRETRAIN.signature and not Path(os.readlink(named)).is_absolute()
    named.unlink()
    finish(RunFolder.of(tmp_path, PRETRAIN.signature))
    planning.tidy(planning.plan(plan.wanted))
    assert named.is_symlink()


def test_edited_rows_stand_beside_the_studys(tmp_path):
    edited = wanted(tiny_study, ROWS, tmp_path, variant="--set pretrain.data.train_split=a/b")
    planning.submit(planning.plan(edited).todo[0], edited, "local:1")
    assert (tmp_path / "studies/tiny/smoke --set pretrain.data.train_split=a-b" / ROWS[0].name / "pretrain").exists()


def test_a_name_follows_its_run(tmp_path):
    for signature in ("a" * 10, "b" * 10, "b" * 10):
        (tmp_path / signature).mkdir(exist_ok=True)
        link(tmp_path / signature, "study", "row")
        assert (tmp_path / "studies/study/row").resolve().name == signature
    assert os.listdir(tmp_path / "studies/study") == ["row"]


def test_without_links_a_file_says_where(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for signature in ("a" * 10, "b" * 10):
        link(tmp_path / signature, "study", "row")
    assert (tmp_path / "studies/study/row").read_text() == f"../../{'b' * 10}\n"


@pytest.mark.parametrize("there", ["studies", "studies/study"])
def test_nothing_fails_by_it(tmp_path, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("something else")
    link(tmp_path / ("a" * 10), "study", "row")
