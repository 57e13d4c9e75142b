"""What a column shows: evaluations, times and settings of runs, means and ranks of those, and what is refused."""

import math
import statistics
from dataclasses import dataclass, replace

import pytest
from synthetic_runs import SyntheticRun

from analysis import tables
from analysis.paper import check_tables
from analysis.sheet import sheet
from multimae.config import ConfigError, Pretrain, recipe
from multimae.study import (
    BusyCores,
    EpochTime,
    Evaluation,
    ImageFlops,
    Mean,
    PeakMemory,
    Rank,
    Row,
    Setting,
    Study,
    Table,
    Throughput,
    Utilization,
    Waiting,
)
from multimae.study.measures import OfRun

CLASSIFY = Evaluation("classify", stage="classify", metric="accuracy")
IMAGENET_A = Evaluation("classify_imagenet-a", stage="classify", metric="accuracy", dataset="imagenet-a")
SEGMENT = Evaluation("segment", stage="segment", metric="mIoU")
LOSS = Evaluation("pretraining", stage="pretrain", metric="loss")
EPOCH = EpochTime("epoch", stage="pretrain")
RATE = Throughput("images_per_second", stage="pretrain")
MEMORY = PeakMemory("memory", stage="pretrain")
CORES = BusyCores("cores", stage="pretrain")
FLOPS = ImageFlops("image_flops", stage="pretrain")
UTILIZATION = Utilization("utilization", stage="pretrain")
WAITING = Waiting("waiting", stage="pretrain")
TOKENS = Setting("visible_tokens", stage="pretrain", setting="masking.visible_tokens", metric="visible_tokens")
RANK = Rank("rank", of=(CLASSIFY, SEGMENT))


def row(name: str, tokens: int = 49, seed: int = 0) -> Row:
    pretrain = recipe("pretrain", "smoke").edit({"masking.visible_tokens": tokens, "seed": seed})
    init = {"init": f"run:{pretrain.signature}", "seed": seed}
    transfers = {stage: recipe(stage, "smoke").edit(init) for stage in ("classify", "segment")}
    return Row(name, {"pretrain": pretrain, **transfers})


ROWS = [row(f"row {tokens}", tokens) for tokens in (5, 6, 7)]


def measured(runs, row: Row, **metrics: float) -> None:
    """Those stages of a row, done, with the one metric that the tests look at."""
    of = {"pretrain": "loss", "classify": "accuracy", "segment": "mIoU"}
    for stage, value in metrics.items():
        SyntheticRun(runs, row.stages[stage]).whole(metrics={of[stage]: value})


def timed(runs, row: Row, *attempts: tuple[int, str, list[float]]) -> None:
    """A pre-training that is done: of each attempt the processes, the device, and seconds of its epochs."""
    run, epoch = SyntheticRun(runs, row.stages["pretrain"]), 0
    for processes, device, seconds in attempts:
        run.start(step=10 * epoch, processes=processes, device=device)
        for spent in seconds:
            epoch += 1
            run.epoch(epoch, spent)
    run.evaluate()
    run.finish()


def built(runs, *measures, rows=ROWS, name="ours", only=(), trials=None):
    table = Table(name, "A table", measures)
    check_tables(Study("s", "A study", lambda scale: rows, (table,)), rows)
    return table, tables.build(table, "smoke", tables.read(runs, *(trials or [rows])), only)


def printed(table, frame, line: int = 0) -> list[str]:
    """The words of a line of a table."""
    return [cell.text for cell in sheet(table, frame).lines[line].cells]


def cells(frame, key: str) -> list:
    return frame.loc[frame["key"] == key, "value"].to_list()


# ---- evaluations


def test_two_evaluations_of_one_run_are_two_columns(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    run.evaluate(step=20, metrics={"accuracy": 30.0})
    run.evaluate(metrics={"accuracy": 50.0})
    run.evaluate(metrics={"accuracy": 20.0}, dataset="imagenet-a", n=7500)
    run.finish()
    table, frame = built(tmp_path, CLASSIFY, IMAGENET_A, rows=ROWS[:1])
    assert frame.set_index("key")["value"].to_dict() == {"classify": 50.0, "classify_imagenet-a": 20.0}
    text = tables.text(table, frame)
    assert "classify_imagenet-a: ours on imagenet-a val, 7500 samples" in text
    assert "classify: ours on scenes val, 500 samples" in text  # that of an older record is the run's own


def test_an_evaluation_that_was_not_made_is_told_with_those_that_were(tmp_path):
    measured(tmp_path, ROWS[0], classify=50.0)
    with pytest.raises(
        ConfigError, match="with accuracy on imagenet-a val, found accuracy on scenes val in .*make them"
    ):
        built(tmp_path, IMAGENET_A)
    with pytest.raises(ConfigError, match="with accuracy on scenes test, found accuracy on scenes val"):
        built(tmp_path, replace(CLASSIFY, split="test"))


def test_a_split_of_its_own_is_found(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    run.evaluate(metrics={"accuracy": 60.0}, dataset="scenes", split="test")
    run.evaluate(metrics={"accuracy": 50.0}, dataset="scenes")
    run.finish()
    chosen = replace(CLASSIFY, key="tested", split="test")
    _, frame = built(tmp_path, CLASSIFY, chosen, rows=ROWS[:1])
    assert frame["value"].to_list() == [50.0, 60.0]


def test_a_run_that_only_evaluates_counts_no_steps(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["classify"])
    run.start()
    for dataset, accuracy in (("imagenet-a", 20.0), ("imagenet-r", 30.0), ("imagenet-a", 21.0)):
        run.evaluate(step=0, metrics={"accuracy": accuracy}, dataset=dataset)
    run.journal.write("finished", step=0, seconds=1.0)
    _, frame = built(tmp_path, IMAGENET_A, rows=ROWS[:1])
    assert frame["value"].to_list() == [21.0]  # the last, of a restart


def test_what_is_not_finite_is_shown_as_failed(tmp_path):
    measured(tmp_path, ROWS[0], classify=math.nan)
    table, frame = built(tmp_path, CLASSIFY)
    assert frame["state"].to_list() == ["failed", "missing", "missing"] and frame["value"].isna().all()
    assert "row 5 classify failed: diverged: accuracy is nan" in tables.text(table, frame)


# ---- times and settings


def test_an_epoch_takes_the_median_of_its_minutes(tmp_path):
    """Of those in which nothing starts."""
    timed(tmp_path, ROWS[0], (8, "A100", [500.0, 162.0, 168.0]), (8, "A100", [400.0, 300.0]))
    table, frame = built(tmp_path, EPOCH, rows=ROWS[:1])
    assert frame["value"].to_list() == [pytest.approx(2.8)]
    under = "epoch: ours on 8 x A100, 1 thread each, fp32, epochs after the first of an attempt."
    assert "2.8" in tables.text(table, frame) and under in tables.text(table, frame)


def test_an_epoch_with_the_start_up_stands_in_no_column_with_one_without(tmp_path):
    timed(tmp_path, ROWS[0], (1, "CPU", [60.0]), (1, "CPU", [66.0]))
    table, frame = built(tmp_path, EPOCH, rows=ROWS[:1])
    assert cells(frame, "epoch") == [pytest.approx(1.05)]
    assert "fp32, epochs with the start-up." in tables.text(table, frame)
    timed(tmp_path, ROWS[1], (1, "CPU", [60.0, 60.0]))
    with pytest.raises(tables.Incomparable, match="warm False"):
        built(tmp_path, EPOCH)


def test_what_a_training_costs(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["pretrain"])
    run.start(processes=2, alone=True)
    rates = (50.0, 90.0, 110.0, 100.0)
    for epoch, rate in enumerate(rates, 1):
        run.epoch(epoch, images_per_second=rate, memory_gib=min(3.0, epoch), data_share=rate / 500)
    run.evaluate()
    run.finish()
    table, frame = built(tmp_path, RATE, MEMORY, CORES, FLOPS, UTILIZATION, WAITING, rows=ROWS[:1])
    gflops = run.config.flops().training / 1e9
    expected = {"images_per_second": statistics.median(rates[1:]), "memory": 3.0, "cores": 0.9, "image_flops": gflops}
    expected |= {"waiting": 20.0, "utilization": 100 * gflops * 100.0 / (2 * 50.0)}
    assert frame.set_index("key")["value"].to_dict() == pytest.approx(expected)
    text = tables.text(table, frame)
    where = "ours on 2 x cpu, 1 thread each, alone, fp32, epochs after the first of an attempt"
    assert f"memory, waiting: {where}." in text and f"utilization: {where}; of the rate that matrix products" in text


def test_runs_that_waited_for_data_are_named_below_a_table(tmp_path):
    for row, waited in zip(ROWS, (0.34, 0.02, None)):
        measured(tmp_path, row, classify=50.0, pretrain=1.0)
        SyntheticRun(tmp_path, row.stages["pretrain"]).beat("finished", waited=waited)
    pretrain = ROWS[0].stages["pretrain"].signature
    told = f"Bound by data, for which they waited: row 5 (run {pretrain}, 34% of its time)."
    text = tables.text(*built(tmp_path, CLASSIFY, EPOCH, LOSS))
    assert text.count("Bound by data") == 1 and told in text


def test_the_flops_of_an_image_need_no_run(tmp_path):
    """At paper scale those that were counted of the model itself."""
    rows = [Row("MultiMAE", {"pretrain": Pretrain()})]
    _, frame = built(tmp_path, FLOPS, RATE, rows=rows)
    assert cells(frame, "image_flops") == [pytest.approx(65.2, abs=0.1)] and frame["state"].iloc[1] == "missing"


@pytest.mark.parametrize("how", [{"alone": True}, {"compile": True}])
def test_runs_that_were_computed_otherwise_make_no_column(how, tmp_path):
    for row, its in zip(ROWS, ({}, how)):
        run = SyntheticRun(tmp_path, row.stages["pretrain"])
        run.start(**its)
        run.epoch(1)
        run.finish()
    with pytest.raises(tables.Incomparable, match=f"{next(iter(how))} True"):
        built(tmp_path, RATE)


def test_what_an_older_version_did_not_record_is_told(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["pretrain"])
    run.journal.write("start", step=0, processes=1, device="cpu")
    run.epoch(1)
    run.finish()
    table, frame = built(tmp_path, EPOCH, RATE, rows=ROWS[:1])
    assert frame["state"].to_list() == ["done", "done"] and "ours on 1 x cpu, fp32" in tables.text(table, frame)
    with pytest.raises(ConfigError, match="expected utilization of each epoch, found none .* older version"):
        built(tmp_path, UTILIZATION, rows=ROWS[:1])


def test_an_epoch_that_is_done_again_counts_once(tmp_path):
    run = SyntheticRun(tmp_path, ROWS[0].stages["pretrain"])
    run.start()
    run.epoch(1, 60.0)
    run.epoch(2, 600.0)
    run.start(step=10)
    run.epoch(2, 60.0)
    run.evaluate()
    run.finish()
    assert cells(built(tmp_path, EPOCH, rows=ROWS[:1])[1], "epoch") == [1.0]


@pytest.mark.parametrize("other", [(4, "A100"), (8, "H100")])
def test_times_of_other_machines_make_no_column(tmp_path, other):
    timed(tmp_path, ROWS[0], (8, "A100", [60.0]))
    timed(tmp_path, ROWS[1], (*other, [60.0]))
    with pytest.raises(tables.Incomparable) as error:
        built(tmp_path, EPOCH)
    message = str(error.value)
    assert "Table ours, epoch" in message and f"processes {other[0]}, device {other[1]}" in message
    assert "row 5" in message and "row 6" in message and "row 7" not in message


def test_a_run_that_moved_to_another_machine_has_no_time(tmp_path):
    timed(tmp_path, ROWS[0], (8, "A100", [60.0]), (8, "H100", [30.0]))
    table, frame = built(tmp_path, EPOCH, LOSS)
    assert frame["state"].to_list()[:2] == ["refused", "done"]  # which is no reason to hide the rest
    places = "8 x A100, 1 thread each, and on 8 x H100, 1 thread each"
    assert f"its epochs were timed on {places}" in tables.text(table, frame)


def test_a_run_of_less_than_an_epoch_has_no_time(tmp_path):
    timed(tmp_path, ROWS[0], (8, "A100", []))
    with pytest.raises(ConfigError, match="expected the time of an epoch, found none"):
        built(tmp_path, EPOCH)


def test_a_setting_is_shown_before_anything_has_begun(tmp_path):
    table, frame = built(tmp_path, TOKENS, CLASSIFY)
    assert cells(frame, "visible_tokens") == [5, 6, 7]
    assert printed(table, frame, 1) == ["6", "missing"]
    assert sheet(table, frame).headings[0].text == "visible_tokens (tokens)"


def test_any_number_of_the_config_is_a_setting(tmp_path):
    depth = Setting("blocks", stage="pretrain", setting="decoder.depth")
    decay = Setting("decay", stage="pretrain", setting="optimizer.weight_decay")
    table, frame = built(tmp_path, depth, decay, rows=ROWS[:1])
    assert printed(table, frame) == [
        f"{ROWS[0].stages['pretrain'].decoder.depth}",
        f"{ROWS[0].stages['pretrain'].optimizer.weight_decay:g}",
    ]
    assert sheet(table, frame).headings[0].text == "blocks"


def test_the_paper_s_times_stand_beside_ours(tmp_path):
    rows = [Row("MAE (D2)", {"pretrain": Pretrain()})]
    table, frame = built(tmp_path, TOKENS, EPOCH, rows=rows, name="15")
    assert printed(table, frame) == ["98", "49", "+49", "missing", "2.7", "-"]


def test_losses_are_in_the_units_of_the_papers_columns(tmp_path):
    curvature = Evaluation("taskonomy_curvature", stage="classify", metric="l1")
    occlusion = Evaluation("taskonomy_occlusion", stage="segment", metric="l1")
    rows = [Row("RGB-D", ROWS[0].stages)]
    for stage, value in (("classify", 0.04455), ("segment", 0.000591)):
        SyntheticRun(tmp_path, rows[0].stages[stage]).whole(metrics={"l1": value})
    measures = (curvature, occlusion, Mean("taskonomy_loss", metric="l1", of=(curvature, occlusion)))
    table, frame = built(tmp_path, *measures, rows=rows, name="12")
    losses = ["4.455", "4.249", "+0.206", "5.910", "6.608", "-0.698", "2.257", "3.646", "-1.389"]
    assert printed(table, frame) == losses
    assert frame["unit"].to_list() == ["1e-2", "1e-4", "1e-2"]


# ---- of other measures


def test_the_mean_of_measures(tmp_path):
    other = Evaluation("classes", stage="classify", metric="mIoU")
    SyntheticRun(tmp_path, ROWS[0].stages["classify"]).whole(metrics={"mIoU": 30.0})
    measured(tmp_path, ROWS[0], segment=20.0)
    measured(tmp_path, ROWS[1], segment=21.0)
    table, frame = built(tmp_path, Mean("mean", metric="mIoU", of=(other, SEGMENT)))
    assert frame["state"].to_list() == ["done", "incomplete", "incomplete"] and frame["value"].iloc[0] == 25.0
    text = tables.text(table, frame)
    assert "row 6 mean incomplete: lacks classes of row 6 (missing)\n" in text
    assert "mean: of classes, segment; ours on scenes val, 500 samples (fingerprint f00d)." in text


def test_the_mean_rank_among_the_rows_of_a_table(tmp_path):
    for row, accuracy, miou in zip(ROWS, (50.0, 40.0, 50.0), (20.0, 22.0, 21.0)):
        measured(tmp_path, row, classify=accuracy, segment=miou)
    table, frame = built(tmp_path, RANK)
    assert cells(frame, "rank") == [2.25, 2.0, 1.75]  # 1.5 and 3; 3 and 1; 1.5 and 2
    assert [printed(table, frame, line)[0] for line in range(3)] == ["2.2", "2.0", "1.8"]
    _, frame = built(tmp_path, RANK, only=["row 7"])
    assert cells(frame, "rank") == [1.75]  # still among all


def test_lower_is_better_where_the_metric_says_so(tmp_path):
    for row, loss in zip(ROWS, (0.1, 0.3, 0.2)):
        measured(tmp_path, row, pretrain=loss)
    assert cells(built(tmp_path, Rank("rank", of=(LOSS,)))[1], "rank") == [1, 3, 2]


def test_no_rank_is_known_before_all_rows_are(tmp_path):
    for row in ROWS[:2]:
        measured(tmp_path, row, classify=50.0, segment=20.0)
    measured(tmp_path, ROWS[2], classify=50.0)
    table, frame = built(tmp_path, CLASSIFY, RANK)
    assert frame.loc[frame["key"] == "rank", "state"].to_list() == ["incomplete"] * 3
    assert "row 5, row 6, row 7 rank incomplete: lacks segment of row 7 (missing)\n" in tables.text(table, frame)
    assert cells(frame, "classify") == [50.0] * 3


def test_one_measurement_is_the_same_in_two_tables(tmp_path):
    measured(tmp_path, ROWS[0], classify=50.0, segment=20.0)
    two = (Table("one", "One", (CLASSIFY,)), Table("two", "Two", (SEGMENT, CLASSIFY)))
    check_tables(Study("s", "A study", lambda scale: ROWS, two), ROWS)
    results = tables.read(tmp_path, ROWS)
    frames = [tables.build(table, "smoke", results) for table in two]
    ones = [frame[frame["key"] == "classify"].reset_index(drop=True) for frame in frames]
    assert ones[0].equals(ones[1]) and ones[0]["value"].iloc[0] == 50.0


@pytest.mark.parametrize("conditions", [{"n": 499}, {"fingerprint": "beef"}])
def test_what_follows_from_incomparable_values_is_refused(tmp_path, conditions):
    for row in ROWS:
        measured(tmp_path, row, classify=50.0)
    for row in ROWS[:2]:
        measured(tmp_path, row, segment=20.0)
    SyntheticRun(tmp_path, ROWS[2].stages["segment"]).whole(**conditions)
    table, frame = built(tmp_path, CLASSIFY, RANK)
    assert frame.loc[frame["key"] == "rank", "state"].to_list() == ["refused"] * 3
    assert "rank: segment: the rows were not measured under the same conditions" in tables.text(table, frame)
    mean = Mean("mean", metric="mIoU", of=(SEGMENT,))
    with pytest.raises(tables.Incomparable, match="Table ours, mean: segment: the rows were not measured"):
        built(tmp_path, mean)
    assert cells(built(tmp_path, mean, only=["row 5"])[1], "mean") == [20.0]


def test_ranks_are_taken_among_the_rows_of_a_seed(tmp_path):
    trials = [[row(f"row {tokens}", tokens, seed) for tokens in (5, 6)] for seed in (0, 1)]
    for rows, accuracies in zip(trials, ((40.0, 50.0), (42.0, 41.0))):
        for each, accuracy in zip(rows, accuracies):
            measured(tmp_path, each, classify=accuracy)
    rank = Rank("rank", of=(CLASSIFY,))
    table, frame = built(tmp_path, TOKENS, CLASSIFY, rank, rows=trials[0], trials=trials)
    assert frame[frame["key"] == "rank"].set_index(["row", "seed"])["value"].to_dict() == {
        ("row 5", 0): 2.0,
        ("row 5", 1): 1.0,
        ("row 6", 0): 1.0,
        ("row 6", 1): 2.0,
    }
    assert printed(table, frame) == ["5", "41.0 ± 1.4 (2)", "1.5 ± 0.7 (2)"]
    assert "2 seeds a row" in sheet(table, frame).title


# ---- what a study is told before anything is trained


@pytest.mark.parametrize(
    "measures, message",
    [
        ([replace(TOKENS, setting="masking.visible_token")], "did you mean 'masking.visible_tokens'"),
        ([replace(TOKENS, setting="masking.kind")], "a column shows numbers, found 'dirichlet'"),
        ([replace(EPOCH, stage="pretran")], "unknown stage 'pretran'; did you mean 'pretrain'"),
        ([Rank("rank", of=(replace(CLASSIFY, stage="clasify"),))], "rank: unknown stage 'clasify'"),
        ([Rank("rank", of=(TOKENS,))], "of visible_tokens neither higher nor lower is better"),
        ([Rank("rank", of=())], "rank: `of` names no measures"),
        ([replace(RATE, stage="robust")], "robust trains nothing \\(evaluate\\): it has no epochs"),
        ([replace(FLOPS, stage="robust")], "robust trains nothing"),
        ([Mean("mean", metric="mIoU", of=(SEGMENT, CLASSIFY))], "a mean of mIoU cannot be taken over classify"),
        ([CLASSIFY, replace(SEGMENT, key="classify", label="other")], "the key classify stands for two measurements"),
        ([CLASSIFY, replace(CLASSIFY, key="again")], "classify and again are one measurement"),
        ([CLASSIFY, replace(IMAGENET_A, label="classify")], "two columns are called classify"),
    ],
)
def test_what_can_be_no_table_is_told(measures, message, tmp_path):
    robust = recipe("evaluate", "smoke").edit({"init": f"run:{ROWS[0].stages['classify'].signature}"})
    with pytest.raises(ConfigError, match=message):
        built(tmp_path, *measures, rows=[Row("a", ROWS[0].stages | {"robust": robust})])


def test_a_measure_of_ones_own_is_a_few_lines(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Speed(OfRun):
        metric: str = "setting"

        def measured(self, config, folder):
            return max(record["images_per_second"] for record in folder.journal.curve("epoch")), {}

    measured(tmp_path, ROWS[0], pretrain=0.3)
    table, frame = built(tmp_path, Speed("speed", stage="pretrain", label="images/s"))
    assert [printed(table, frame, line) for line in range(3)] == [["90"], ["missing"], ["missing"]]


def test_the_split_that_selects_the_weights_shows_those_that_were_selected(tmp_path):
    settings = {"selection.kind": "best", "eval_every_epochs": 1, "data.eval_split": "test"}
    config = recipe("classify", "smoke").edit(settings)
    run = SyntheticRun(tmp_path, config)
    run.start()
    for step, value in ((20, 70.0), (40, 60.0)):
        run.evaluate(step=step, metrics={"accuracy": value}, split="val", selects=True)
    run.evaluate(step=40, metrics={"accuracy": 65.0}, split="test", selected_step=20)
    run.journal.write("finished", step=40, seconds=1.0, selected_step=20)
    columns = (
        Evaluation("chosen_by", stage="classify", metric="accuracy", split="val"),
        Evaluation("tested", stage="classify", metric="accuracy"),
    )
    table = Table("mine", "Mine", columns)
    frame = tables.build(table, "smoke", tables.read(tmp_path, [Row("a", {"classify": config})]))
    assert cells(frame, "chosen_by") == [70.0] and cells(frame, "tested") == [65.0]
