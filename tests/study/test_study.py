"""A study as rows of configs: edits, shared runs, errors that name the nearest valid word."""

import pytest
from plans import wanted
from synthetic_runs import SyntheticRun
from training import tiny_rows, tiny_study

from multimae.config import Classify, ConfigError, Pretrain
from multimae.study import planning
from multimae.study.study import Row, Study, only, runs_of, together


def test_an_edited_pre_training_moves_its_transfers():
    before, after = tiny_study.build("smoke"), tiny_study.build("smoke", {"pretrain": {"epochs": 20}})
    for old, new in zip(before, after, strict=True):
        assert new.stages["pretrain"].epochs == 20
        assert new.stages["pretrain"].signature != old.stages["pretrain"].signature
        for stage in ("classify", "segment"):
            assert new.stages[stage].needs == (new.stages["pretrain"].signature,)
            assert new.stages[stage].edit({"init": old.stages[stage].init}) == old.stages[stage]


def test_an_edited_transfer_leaves_the_rest():
    before, after = tiny_study.build("smoke"), tiny_study.build("smoke", {"classify": {"epochs": 20}})
    for old, new in zip(before, after, strict=True):
        changed = [stage for stage in old.stages if old.stages[stage] != new.stages[stage]]
        assert changed == ["classify"]


def test_an_edit_of_init_wins_over_the_move():
    study = Study("s", "t", lambda scale: list(tiny_rows(scale))[:1])
    (row,) = study.build("smoke", {"pretrain": {"epochs": 20}, "classify": {"init": "scratch"}})
    assert row.stages["classify"].needs == ()
    assert row.stages["segment"].needs == (row.stages["pretrain"].signature,)


def test_a_transfer_may_start_from_another_rows_pre_training():
    first, second = tiny_rows("smoke")
    borrowed = Row("borrowed", {"classify": first.stages["classify"].edit({"epochs": 3})})
    study = Study("s", "t", lambda scale: [first, second, borrowed])
    rows = study.build("smoke", {"pretrain": {"seed": 1}})
    assert rows[2].stages["classify"].needs == (rows[0].stages["pretrain"].signature,)


def test_a_run_that_rows_share_is_one_run():
    pretrain = Pretrain()
    init = f"run:{pretrain.signature}"
    rows = [Row(f"lr={lr}", {"pretrain": pretrain, "classify": Classify(init=init, epochs=lr)}) for lr in (1, 2)]
    runs = list(runs_of(rows).values())
    assert [run.cells for run in runs] == [
        (("lr=1", "pretrain"), ("lr=2", "pretrain")),
        (("lr=1", "classify"),),
        (("lr=2", "classify"),),
    ]
    assert [run.needs for run in runs] == [(), (pretrain.signature,), (pretrain.signature,)]


def test_pre_trainings_come_first():
    stages = [cell[1] for run in runs_of(tiny_study.build("smoke")).values() for cell in run.cells]
    assert stages == ["pretrain"] * 2 + ["classify", "segment"] * 2


def test_chosen_rows_keep_the_tables_order():
    rows = tiny_study.build("smoke")
    assert only(rows, ["alpha=0.5", "alpha=1"]) == rows
    assert only(rows, []) == rows
    assert [row.name for row in only(rows, ["alpha=0.5"])] == ["alpha=0.5"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: only(tiny_study.build("smoke"), ["alpha=.5"]), ["'alpha=.5'", "did you mean 'alpha=0.5'", "alpha=1"]),
        (lambda: tiny_study.build("smoke", {"pretrian": {"epochs": 1}}), ["'pretrian'", "did you mean 'pretrain'"]),
        (lambda: tiny_study.build("smoke", {"pretrain": {"epoch": 1}}), ["pretrain: ", "did you mean 'epochs'"]),
        (lambda: tiny_study.build("smoke", {"pretrain": {"epochs": -1}}), ["pretrain", "epochs", "-1"]),
    ],
)
def test_errors_name_the_nearest_valid_word(call, words):
    with pytest.raises(ConfigError) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    "edits, words",
    [
        ({"pretrain": {"masking.alpha": 1}}, ["masking.alpha is what the rows vary", "alpha=1: 1.0, alpha=0.5: 0.5"]),
        ({"pretrain": {"masking.alpha": 7}}, ["pretrain.masking.alpha is what the rows vary"]),
        ({"pretrain": {"masking": {"alpha": 1}}}, ["pretrain.masking.alpha is what the rows vary"]),
        ({"pretrain": {"masking.kind": "none"}}, ["pretrain", "alpha=1 and alpha=0.5 would be one run"]),
        ({"classify": {"init": "scratch"}}, ["classify.init is what the rows vary"]),
    ],
)  # fmt: skip
def test_an_edit_by_which_names_would_no_longer_be_true_is_refused(edits, words):
    with pytest.raises(ConfigError) as error:
        tiny_study.build("smoke", edits)
    assert all(word in str(error.value) for word in words), error.value


def test_rows_that_share_a_stage_may_be_edited_together():
    first, second = tiny_rows("smoke")
    shared = Row("shared", {**second.stages, "pretrain": first.stages["pretrain"]})
    study = Study("s", "t", lambda scale: [first, shared])
    a, b = study.build("smoke", {"pretrain": {"masking.alpha": 7}})
    assert a.stages["pretrain"] == b.stages["pretrain"]


def test_a_transfer_of_another_encoder_is_refused_before_anything_runs():
    rows = tiny_study.build("smoke", {"segment": {"model.heads": 6}})
    with pytest.raises(ConfigError, match="alpha=1 segment: model.heads is 6, but run .* was pre-trained with 12"):
        runs_of(rows)


@pytest.mark.parametrize(
    "row, stage", [("a\necho b", "pretrain"), (" ", "pretrain"), ("a", "pre train;$(id)"), ("a", "")]
)
def test_names_that_a_batch_script_cannot_hold_are_refused(row, stage):
    with pytest.raises(ConfigError, match="expected a name of"):
        Row(row, {stage: Pretrain()})


def test_a_run_is_timed_where_one_of_its_rows_says_so():
    first, second = tiny_rows("smoke")
    timed = Row("timed", {"pretrain": first.stages["pretrain"]}, alone=("pretrain",))
    study = Study("s", "t", lambda scale: [first, second, timed])
    for edits in ({}, {"pretrain": {"epochs": 20}}):
        rows = study.build("smoke", edits)
        assert [run.label for run in runs_of(rows).values() if run.alone] == ["alpha=1 pretrain"]
        assert [run.label for run in runs_of(rows[:1], rows).values() if run.alone] == ["alpha=1 pretrain"]
    with pytest.raises(ConfigError, match="row 'timed': alone: unknown stage 'pretran'; did you mean 'pretrain'"):
        Row("timed", timed.stages, alone=("pretran",))


# ---- several studies together


def two_studies() -> tuple[Study, Study, Study]:
    shared, other = tiny_rows("smoke")
    one = Study("one", "One", lambda scale: [Row("a", shared.stages)])
    two = Study("two", "Two", lambda scale: [Row("a", shared.stages), Row("b", other.stages)])
    return together("both", "Both", (one, two)), one, two


def test_studies_put_together_share_their_runs():
    both, one, two = two_studies()
    rows = both.build("smoke")
    assert [row.name for row in rows] == ["one:a", "two:a", "two:b"]
    runs = runs_of(rows)
    assert runs.keys() == runs_of(two.build("smoke")).keys() > runs_of(one.build("smoke")).keys()
    shared = runs[rows[0].stages["pretrain"].signature]
    assert shared.cells == (("one:a", "pretrain"), ("two:a", "pretrain"))
    assert both.place("two:b") == ("two", "b") and one.place("x:y") == ("one", "x:y")


def test_each_study_gets_its_own_rows_back():
    both, one, two = two_studies()
    parts = {part.name: rows for part, rows in both.of_parts(both.build("smoke"))}
    assert parts == {"one": one.build("smoke"), "two": two.build("smoke")}
    assert one.of_parts(one.build("smoke")) == [(one, one.build("smoke"))]


def test_what_another_study_made_of_a_run_is_not_left_behind(tmp_path):
    """Its transfers would stand beside those of other weights."""
    shared, _ = tiny_rows("smoke")
    pretrain, classify = shared.stages["pretrain"], shared.stages["classify"]
    one = Study("one", "One", lambda scale: [Row("a", {"pretrain": pretrain})])
    asked, redo = wanted(one, one.build("smoke"), tmp_path), frozenset([pretrain.signature])
    SyntheticRun(tmp_path, pretrain).whole()
    assert planning.plan(asked, redo=redo).entries[pretrain.signature].action == "redo"
    other = SyntheticRun(tmp_path, classify)
    other.submit("two", "b", "classify")
    other.whole()
    with pytest.raises(ConfigError, match=rf"--redo: two b classify \({classify.signature}\) started from .*all.py"):
        planning.plan(asked, redo=redo)
