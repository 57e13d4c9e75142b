"""paper.yaml agrees with itself wherever the paper says a number twice, or a number follows from others."""

import pandas as pd
import pytest

from analysis.paper import paper_tables
from multimae.study import Evaluation, Rank

TASKS = [
    f"taskonomy_{task}"
    for task in ("curvature", "depth", "edges", "occlusion", "keypoints2d", "keypoints3d", "normals", "reshading")
]


def frame(number: str) -> pd.DataFrame:
    """Rows x columns of a table."""
    return pd.DataFrame(paper_tables()[number].rows).T


def test_every_result_table_is_there():
    sizes = {number: frame(number).size for number in paper_tables() if frame(number).size}
    assert list(sizes) == ["1", "2", "3", "4a", "4b", "7", "10", "11", "12", "13", "14", "15"]
    assert list(sizes.values()) == [25, 12, 30, 16, 16, 6, 8, 25, 40, 40, 15, 8]


def test_every_column_says_what_it_holds():
    for table in paper_tables().values():
        for column in table.columns.values():
            assert column.unit, (table.title, column)
            assert column.better in ("higher", "lower") or column.metric == "visible_tokens"
            assert column.dataset or column.metric == "visible_tokens"


@pytest.mark.parametrize("number, ranks", [("12", [3.75, 2.125, 2.625, 1.5]), ("13", [1.625, 4, 2.875, 1.5])])
def test_average_ranks_recompute_from_the_losses(number, ranks):
    """By the measure that ranks our own rows."""
    table, of = frame(number), [Evaluation(task, stage=task, metric="l1") for task in TASKS]
    assert Rank("taskonomy_rank", of=tuple(of)).values(table[TASKS].values.tolist()) == ranks
    assert table["taskonomy_rank"].tolist() == ranks


@pytest.mark.parametrize("number", ["12", "13"])
def test_average_losses_recompute_from_the_losses(number):
    columns = paper_tables()[number].columns
    hundredths = pd.Series({task: float(columns[task].unit) / 1e-2 for task in TASKS})
    recomputed = (frame(number)[TASKS] * hundredths).mean(axis=1)
    assert (recomputed - frame(number)["taskonomy_loss"]).abs().max() < 1.5e-3  # of printed, rounded values


def test_ranks_of_table_4_are_those_of_tables_12_and_13():
    for ablation, detailed in (("4a", "12"), ("4b", "13")):
        difference = frame(ablation)["taskonomy_rank"] - frame(detailed)["taskonomy_rank"]
        assert difference.abs().max() <= 0.05 and list(frame(ablation).index) == list(frame(detailed).index)


@pytest.mark.parametrize(
    "one, other, rows",
    [
        ("1", "2", {"MAE": "MAE", "MultiMAE": "MultiMAE"}),
        ("1", "3", {"MAE": "MAE", "MultiMAE": "MultiMAE"}),
        ("2", "3", {"MAE": "MAE", "MultiMAE": "MultiMAE"}),
        ("1", "7", {"MultiMAE": "ConvNeXt"}),
        ("1", "11", {name: name for name in ("Supervised", "DINO", "MoCo-v3", "MAE", "MultiMAE")}),
        ("1", "14", {"MAE": "MAE (D8, PyTorch)"}),
        ("4a", "4b", {"RGB-D-S": "MultiMAE"}),
        ("12", "13", {"RGB-D-S": "MultiMAE"}),
    ],
)
def test_rows_that_two_tables_share_agree(one, other, rows):
    """With one exception: NYUv2 (S) of MAE is 50.8 in Tables 1 and 2, and 50.1 in Tables 3 and 14."""
    left, right = frame(one), frame(other)
    shared = [column for column in left if column in right]
    differ = {
        (column, row)
        for column in shared
        for row, same in rows.items()
        if left.loc[row, column] != right.loc[same, column]
    }
    assert shared
    assert differ == ({("segment_nyuv2", "MAE")} if {one, other} in ({"1", "3"}, {"1", "14"}, {"2", "3"}) else set())


def test_units_and_directions_that_are_easily_confused():
    tables = paper_tables()
    assert tables["11"].columns["classify_imagenet-c"].better == "lower"
    assert tables["12"].columns["taskonomy_occlusion"].unit == "1e-4"
    assert tables["15"].rows["MultiMAE, w/ [M]"] == {"visible_tokens": 98, "epoch": 43.3}
    assert tables["10"].rows["alpha=inf"] == {"classify": 82.9, "segment_ade20k": 42.9}


def test_true_and_pseudo_depth_are_two_measurements():
    true, pseudo = (set(paper_tables()[number].columns) for number in ("2", "3"))
    assert true & pseudo == {"segment_hypersim", "segment_nyuv2"}  # of RGB alone, which Table 1 shows too


def test_a_key_is_one_metric_of_one_data_set_in_all_tables():
    seen: dict[str, tuple] = {}
    for table in paper_tables().values():
        for key, column in table.columns.items():
            measured = (column.metric, column.dataset, column.unit)
            assert seen.setdefault(key, measured) == measured
