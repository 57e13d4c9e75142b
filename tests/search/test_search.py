"""A search keeps trials and runs together, whatever ends in between."""

import itertools
import math
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from sqlalchemy.exc import OperationalError
from synthetic_runs import SyntheticRun, finish
from synthetic_search import BEST, MEASURE, Scripted, carry_out, coordinator, evaluate, mean_iou, search, trials_of

from multimae.config import Classify, ConfigError, Regress, Segment, recipe
from multimae.record.folder import RunFolder
from multimae.search import StorageLost, Trials, dimensions, make_search, storage_at
from multimae.search.coordinator import failures
from multimae.study import Row, planning

WRITES = ("create_new_trial", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_state_values")


def status_of(made, trial) -> str:
    (seen,) = made.seen(made.searches[0].search, [trial])
    return seen.entry.status.state


# ---- what it finds


def test_the_recipe_is_tried_first_and_something_better_is_found(tmp_path):
    made = carry_out(tmp_path, search(), number=24)
    (trials,) = made.searches
    first = trials.all()[0]
    assert first.params == {"lr": recipe("segment", "smoke").optimizer.base_lr} and first.value == pytest.approx(
        43.98, abs=0.01
    )
    assert trials.best.value > 49 and trials.best.params["lr"] == pytest.approx(BEST, rel=0.3)
    assert len(trials.all()) == 24 and {t.state.name for t in trials.all()} <= {"COMPLETE", "PRUNED"}


def test_the_tables_run_is_made_once_with_what_was_found_and_on_other_samples(tmp_path):
    launcher = Scripted()
    made = carry_out(tmp_path, search(), launcher=launcher)
    (trials,) = made.searches
    final = made.final(trials)
    assert final.optimizer.base_lr == trials.best.params["lr"] and launcher.starts.count(final.signature) == 1
    assert final.edit({"optimizer.base_lr": 4e-3}) == recipe("segment", "smoke")
    assert (final.data.eval_split, trials.search.base.data.eval_split) == ("val", "test")
    assert made.result(trials, final) == f"mIoU {mean_iou(final):.4g} on 'val' of scenes"
    carry_out(tmp_path, search(), launcher=(again := Scripted()))
    assert not again.starts


def test_more_trials_go_on_with_the_same_search(tmp_path):
    few = trials_of(carry_out(tmp_path / "a", search(), number=4))
    assert len(few) == 4
    more = carry_out(tmp_path / "a", search(), number=9)
    assert trials_of(more) == trials_of(carry_out(tmp_path / "b", search(), number=9))


def test_what_is_trained_is_what_a_recipe_can_say(tmp_path):
    made = carry_out(tmp_path, search(searched=["lr", "layer_decay", "drop_path"]), number=10)
    (trials,) = made.searches
    for trial in trials.all():
        config = trials.search.trial(trial.params)
        assert trial.user_attrs["signature"] == config.signature
        said = [config.optimizer.base_lr, config.optimizer.layer_decay, config.drop_path]
        assert said == list(trial.params.values()) == [float(f"{value:.3g}") for value in said]


def test_several_searches_share_the_places(tmp_path):
    two = [search(), search(edits={"seed": 1})]
    made = carry_out(tmp_path, *two, number=3, parallel=2, launcher=(launcher := Scripted()))
    assert [len(trials.all()) for trials in made.searches] == [3, 3] and len(launcher.starts) >= 6
    assert {trials.search.name for trials in made.searches} == {each.name for each in two}


# ---- a trial that ends early


def test_what_is_not_in_the_better_half_ends_and_can_go_on_by_itself(tmp_path):
    launcher = Scripted()
    made = carry_out(tmp_path, search(), launcher=launcher, number=12)
    (trials,) = made.searches
    pruned = trials.of("PRUNED")
    assert pruned and sorted(launcher.stopped) == sorted(t.user_attrs["signature"] for t in pruned)
    for trial in pruned:
        folder = RunFolder.of(tmp_path, trial.user_attrs["signature"])
        assert status_of(made, trial) == "interrupted"
        assert folder.jobs.last("ended")["reason"].startswith("pruned after")
        config = trials.search.trial(trial.params)
        plan = planning.plan(made._wanted(trials.search, [Row("row", {"segment": config})]))
        assert [entry.action for entry in plan.todo] == ["resume"]


def test_nothing_ends_early_where_that_is_not_wanted(tmp_path):
    made = carry_out(tmp_path, search(pruning=False), launcher=(launcher := Scripted()), number=6)
    assert not launcher.stopped and {t.state.name for t in made.searches[0].all()} == {"COMPLETE"}
    assert made.searches[0].search.base.eval_every_epochs is None


def test_a_run_that_finished_while_nobody_looked_is_judged_as_if_somebody_had(tmp_path):
    """Or a search that was down for a night would be another than one that was not."""
    seen = carry_out(tmp_path / "seen", search(), number=8)

    class Unseen(Scripted):
        def wait(self) -> bool:
            while self.at_work:
                super().wait()
            return True

    unseen = carry_out(tmp_path / "unseen", search(), number=8, launcher=Unseen())
    assert trials_of(seen) == trials_of(unseen)


# ---- what goes wrong


def test_what_diverges_is_the_worst_result_and_is_not_tried_again(tmp_path):
    made = carry_out(tmp_path, search(), launcher=(launcher := Scripted({1: "diverge"})), number=4)
    trial = made.searches[0].all()[1]
    assert (trial.state.name, trial.value, trial.user_attrs["reason"]) == ("COMPLETE", 0.0, "diverge")
    assert launcher.starts.count(trial.user_attrs["signature"]) == 1


def test_no_divergence_is_the_best(tmp_path):
    made = carry_out(tmp_path, search(), launcher=Scripted(dict.fromkeys(range(4), "diverge")), number=3)
    assert made.searches[0].best is None and made.final(made.searches[0]) is None


@pytest.mark.parametrize("act", ["fail", "die"])
def test_a_fault_of_the_machine_is_tried_again_with_the_same_parameters(tmp_path, act):
    usual = carry_out(tmp_path / "usual", search(), number=5)
    launcher = Scripted({1: act, 2: act})
    made = carry_out(tmp_path / "faults", search(), number=5, launcher=launcher)
    assert trials_of(made) == trials_of(usual)
    assert launcher.starts.count(made.searches[0].all()[1].user_attrs["signature"]) == 3


@pytest.mark.parametrize("act", ["fail", "die"])
def test_but_not_for_ever(tmp_path, act):
    launcher = Scripted(dict.fromkeys(range(1, 4), act))
    made = carry_out(tmp_path, search(), number=4, launcher=launcher)
    trial = made.searches[0].all()[1]
    assert trial.state.name == "FAIL" and "3 times without a checkpoint" in trial.user_attrs["reason"]
    assert len(made.searches[0].of("COMPLETE", "PRUNED")) == 3 and not made.searches[0].of("RUNNING")


def test_failures_count_from_the_last_checkpoint(tmp_path):
    run = SyntheticRun(tmp_path, recipe("segment", "smoke"))
    for _ in range(2):
        run.journal.write("failed", step=1, reason="a disk")
    run.folder.jobs.write("ended", state="dead", reason="killed")
    run.folder.jobs.write("ended", state="interrupted", reason="stopped")
    assert failures(run.folder) == 3
    run.journal.write("checkpoint", step=2, seconds=1.0)
    assert failures(run.folder) == 0
    run.journal.write("failed", step=3, reason="a disk")
    assert failures(run.folder) == 1


def test_what_cannot_start_is_told_as_failed(tmp_path):
    made = carry_out(tmp_path, search(edits={"init": "run:0123456789"}), number=2)
    assert [t.state.name for t in made.searches[0].all()] == ["FAIL", "FAIL"]
    assert "needs 0123456789" in made.searches[0].all()[0].user_attrs["reason"]


# ---- a coordinator that is killed


class Killed(BaseException):
    pass


def killed_at(monkeypatch, moment: int) -> None:
    """Die before the write of this number, which is after the one before."""
    count = itertools.count()

    def dying(write):
        def method(self, *args, **kwargs):
            if next(count) == moment:
                raise Killed
            return write(self, *args, **kwargs)

        return method

    for name in WRITES:
        write = getattr(optuna.storages.RDBStorage, name)
        monkeypatch.setattr(optuna.storages.RDBStorage, name, dying(write))


@pytest.mark.slow
def test_a_coordinator_killed_at_any_write_goes_on_with_the_same_trials(tmp_path):
    usual = trials_of(carry_out(tmp_path / "usual", search(), number=4))
    assert {state for _, _, state, *_ in usual} == {"COMPLETE", "PRUNED"}
    for moment in itertools.count():
        runs, launcher = tmp_path / f"{moment}", Scripted()
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, moment)
            try:
                made = carry_out(runs, search(), number=4, launcher=launcher)
                break
            except Killed:
                pass
        made = carry_out(runs, search(), number=4, launcher=launcher)
        assert trials_of(made) == usual, moment
        assert len(launcher.starts) == len(set(launcher.starts)), moment
        assert all(status_of(made, t) == "interrupted" for t in made.searches[0].of("PRUNED")), moment
    assert moment > 15 and trials_of(made) == usual


def test_a_storage_that_is_away_for_a_while_is_asked_again(tmp_path, monkeypatch):
    usual = carry_out(tmp_path / "usual", search(), number=5)
    moments = itertools.count()

    def away(write):
        def asked(*values, **named):
            if next(moments) % 3 == 1:
                raise OperationalError("UPDATE trials", {}, Exception("the server has gone"))
            return write(*values, **named)

        return asked

    made = coordinator(tmp_path / "away", [search()], launcher := Scripted(), number=5)
    for name in WRITES:
        monkeypatch.setattr(optuna.storages.RDBStorage, name, away(getattr(optuna.storages.RDBStorage, name)))
    lost, goes_on = 0, True
    while goes_on:
        try:
            goes_on = made.look()
        except StorageLost as error:
            assert "the server has gone" in str(error)
            lost += 1
        launcher.wait()
    assert lost > 5 and trials_of(made) == trials_of(usual)


def test_none_is_lost_and_none_doubled_in_parallel(tmp_path):
    launcher, killed = Scripted(), 0
    for moment in range(0, 60, 4):
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, moment)
            try:
                made = carry_out(tmp_path, search(), number=12, parallel=4, launcher=launcher)
            except Killed:
                killed += 1
    made = carry_out(tmp_path, search(), number=12, parallel=4, launcher=launcher)
    trials = made.searches[0].all()
    assert killed >= 5 and [t.number for t in trials] == list(range(12))
    assert {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"}
    signatures = [t.user_attrs["signature"] for t in trials]
    assert len(set(signatures)) == 12 and sorted(launcher.starts) == sorted({*signatures, launcher.starts[-1]})


# ---- one search, and another


def test_another_search_of_the_same_name_is_refused(tmp_path):
    storage = storage_at(f"sqlite:///{tmp_path}/optuna.db")
    Trials(search(name="mine"), storage)
    Trials(search(name="mine"), storage)
    for other, key in (
        (search(name="mine", ranges={"lr": "1e-4:1e-1"}), "space is"),
        (search(name="mine", edits={"epochs": 3}), "transfer is"),
        (search(name="mine", pruning=False), "transfer is .*rungs is"),
    ):
        with pytest.raises(ConfigError, match=f"another study called mine: {key}.*--name"):
            Trials(other, storage)
    optuna.create_study(storage=storage, study_name="theirs").add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(ConfigError, match="theirs: it is none of these searches"):
        Trials(search(name="theirs"), storage)
    with pytest.raises(ConfigError, match="no search other is in this storage; there are mine, theirs"):
        Trials(search(name="other"), storage, make=False)


def test_a_colleagues_search_in_the_same_storage_is_left_alone(tmp_path):
    """Two who search for the same have searches of one name and definition, and runs that do not know each other."""
    carry_out(tmp_path, search(), number=2)
    storage = storage_at(f"sqlite:///{tmp_path}/optuna.db")
    with pytest.raises(ConfigError, match="is that of the runs in here; give these as --runs, or .* --name"):
        Trials(search(), storage, owner=("another id", "there"))


def test_two_searches_have_two_names():
    names = [search().name, search(edits={"epochs": 3}).name, search(edits={"seed": 1}).name]
    assert len(set(names)) == 3 and all(name.startswith("segment-") for name in names)


# ---- what decides


@pytest.mark.parametrize(
    "config, expected",
    [
        (recipe("segment", "smoke"), ("val", "test")),
        (recipe("segment_nyuv2", "smoke"), ("test", "val")),
        (recipe("depth", "smoke"), ("test", "val")),
    ],
)
def test_scenes_decide_on_the_split_that_is_left(config, expected):
    found = make_search(config.task, config, MEASURE, (), title="")
    assert (found.table.data.eval_split, found.base.data.eval_split) == expected
    assert found.measure.split == expected[1] and expected[1] in found.judged


def test_a_folder_of_two_splits_holds_samples_out():
    found = make_search("segment", recipe("segment", "paper"), MEASURE, (), title="", held_out=0.2)
    data = found.base.data
    assert (data.held_out, data.train_split, data.eval_split, data.eval_samples) == (0.2, "train", "train", None)
    assert (data.train_samples, data.trained, found.table.data.eval_split) == (20210, 16168, "val")
    assert "0.2 of 'train' of ade20k, which is held out" in found.judged
    assert found.base.images() == 64 * (16168 // 16) * 16


def test_a_split_of_ones_own_may_decide():
    found = make_search("segment", recipe("segment", "paper"), MEASURE, (), title="", split="mine")
    assert (found.base.data.eval_split, found.base.data.held_out) == ("mine", 0.0)
    for split in ("train", "val"):
        with pytest.raises(ConfigError, match=f"--validate {split}: that split is"):
            make_search("segment", recipe("segment", "paper"), MEASURE, (), title="", split=split)


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_where_a_split_chooses_the_checkpoint_it_decides(scale):
    config = recipe("regress", scale)
    found = make_search("regress", config, MEASURE, dimensions(config, ["lr"], {}), title="")
    assert found.base == found.table == config and found.measure.split == "val"
    assert (found.better, found.worst) == ("higher", 0.0)
    with pytest.raises(ConfigError, match="the checkpoint is chosen on 'val'"):
        make_search("regress", config, MEASURE, (), title="", split="test")


@pytest.mark.parametrize("kind", [Classify, Segment, Regress])
def test_a_rate_is_searched_around_the_recipes(kind):
    (rate,) = dimensions(kind(), ["lr"], {})
    usual = kind().optimizer.base_lr
    assert (rate.low, rate.high) == pytest.approx((usual / 30, usual * 30)) and rate.log


@pytest.mark.parametrize(
    "names, ranges, message",
    [
        ([], {}, "nothing to search; there are lr, layer_decay, drop_path"),
        (["lrr"], {}, "'lrr' cannot be searched.*lr"),
        (["lr", "lr"], {}, "lr stands more than once"),
        (["lr"], {"drop_path": "0:1"}, "drop_path is not searched; give --search lr,drop_path"),
        (["lr"], {"lr": "fast"}, "expected LOW:HIGH"),
        (["lr"], {"lr": "1e-2:1e-3"}, "nothing is in it"),
        (["lr"], {"lr": "0:1"}, "more than 0"),
        (["lr"], {"lr": "1e-3:1e-2"}, "0.0001, the recipe's own, is not within"),
        (["layer_decay"], {"layer_decay": "0.5:2"}, "layer_decay"),
        (["lr"], {"lr": "1e-5:nan"}, "LOW below HIGH, found 1e-05:nan"),
    ],
)
def test_a_space_that_means_nothing_is_refused(names, ranges, message):
    with pytest.raises(ConfigError, match=message):
        dimensions(Segment(), names, ranges)


@pytest.mark.parametrize("address", ["nonsense", "sqlite:////nowhere/at/all/x.db", "mysql+nodriver://me:secret@host/x"])
def test_a_storage_that_cannot_be_opened_is_told_without_secrets(address):
    with pytest.raises(ConfigError, match="--storage.*cannot be opened") as error:
        storage_at(address)
    assert "secret" not in str(error.value)


def test_a_run_that_is_there_already_is_not_trained_again(tmp_path):
    wanted = search()
    run = SyntheticRun(tmp_path, wanted.trial(wanted.usual))
    run.start()
    for quarter in range(1, 5):
        evaluate(run, quarter / 4)
    finish(run.folder, step=4)
    made = carry_out(tmp_path, wanted, number=1, launcher=(launcher := Scripted()))
    assert made.searches[0].all()[0].value == mean_iou(run.config)
    assert launcher.starts == [made.final(made.searches[0]).signature]


def test_losses_are_minimised_and_have_no_worst(tmp_path):
    config = recipe("regress", "smoke")
    measure = type(MEASURE)("l1", stage="regress", metric="l1")
    found = make_search("regress", config, measure, dimensions(config, ["lr"], {}), title="")
    trials = Trials(found, storage_at(f"sqlite:///{Path(tmp_path)}/optuna.db"))
    for value in (0.3, math.inf, 0.1):
        trials.tell(trials.ask(), value)
    assert trials.best.number == 2 and trials.study.direction.name == "MINIMIZE"
    assert math.isfinite(trials.ask().params["lr"])


def test_several_processes_may_make_the_tables_at_the_same_time(tmp_path):
    """A search begins while somebody asks for its status."""
    code = "import sys, time, optuna; from multimae.search import storage_at; "
    code += "time.sleep(max(0, float(sys.argv[2]) - time.time())); storage_at(sys.argv[1])"
    words = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/optuna.db", str(time.time() + 6)]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[1] for process in processes] == [""] * 4
