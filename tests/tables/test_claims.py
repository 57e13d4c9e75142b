"""What the paper concludes: that its own numbers say so, and how our runs are judged."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import verdicts
from analysis.claims import Claim, claims, parsed
from analysis.formats import text
from analysis.paper import paper_tables
from analysis.verdicts import judge
from multimae.config import ConfigError

GOOD = {
    "table": "4a",
    "section": "4.4",
    "says": "So it is.",
    "row": "RGB-S",
    "is": "better",
    "than": ["RGB-D", "RGB-D-S"],
    "keys": ["classify"],
}
CLAIM = parsed(GOOD, "here")


def frame(
    cells: dict[tuple[str, str], list[float | None]],
    scale: str = "smoke",
    constant: float = math.nan,
    conditions: dict | None = None,
) -> pd.DataFrame:
    """As `tables.build` makes it; of each cell the values of seeds 0, 1, ..., None where one is missing."""
    return pd.DataFrame(
        {"row": row, "key": key, "seed": seed, "state": "missing" if v is None else "done", "value": v}
        | {"scale": scale, "constant": constant, "conditions": conditions or {}}
        for (row, key), values in cells.items()
        for seed, v in enumerate(values)
    )


def judged(claim: Claim, *values: list[float | None], rows=("RGB-S", "RGB-D", "RGB-D-S"), constant: float = math.nan):
    cells = {(row, claim.keys[0]): of for row, of in zip(rows, values)}
    return judge(claim, {claim.table: frame(cells, constant=constant)})


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: f"{claim.table} {claim.row} {claim.keys[0]}")
def test_the_papers_numbers_fulfil_each_claim_or_it_is_marked(claim):
    assert claim.of_paper == (not claim.disagrees)


def test_each_table_of_these_sections_has_claims():
    assert list(dict.fromkeys(claim.table for claim in claims())) == ["4a", "4b", "10", "12", "13", "14", "15"]
    assert sum(bool(claim.disagrees) for claim in claims()) == 2


def test_what_disagrees_is_told_with_the_papers_numbers():
    for claim in filter(lambda claim: claim.disagrees, claims()):
        rows = paper_tables()[claim.table].rows
        for row in (claim.row, *claim.than):
            assert f"{rows[row][claim.keys[0]]:g} for {row}" in claim.disagrees


# ---- verdicts


@pytest.mark.parametrize(
    "values, verdict, why",
    [
        (([60.0, 61.0], [50.0, 51.0], [55.0, 56.0]), "reproduced", "RGB-S 60.5, RGB-D-S 55.5, pooled deviation 0.7"),
        (([50.0, 51.0], [60.0, 61.0], [40.0, 41.0]), "contradicted", "RGB-S 50.5, RGB-D 60.5, pooled deviation 0.7"),
        (([60.0, 61.0], [50.0, 51.0], [60.2, 60.7]), "not decidable", "RGB-D-S 60.5, pooled deviation 0.6 (1 of 2"),
        (([60.0, 64.0], [50.0, 51.0], [59.0, 63.0]), "not decidable", "RGB-D-S 61.0, pooled deviation 2.8 (within"),
        (([60.0], [50.0], [55.0]), "not decidable", "1 seed of classify, two are the least"),
        (([60.0, 61.0], [50.0, None], [55.0, 56.0]), "not decidable", "RGB-D classify of seed 1 missing"),
        (([60.0, 61.0], [50.0, 51.0]), "not decidable", "RGB-D-S classify is not in our table"),
        (([50.0, 51.0], [60.0, 61.0], [None, None]), "contradicted", "RGB-D 60.5"),  # one speaks against it
        (([60.0, 60.0], [50.0, 50.0], [55.0, 55.0]), "reproduced", "pooled deviation 0.0"),
    ],
)
def test_seeds_decide(values, verdict, why):
    found = judged(CLAIM, *values)
    assert found.verdict == verdict and why in found.why


@pytest.mark.parametrize(
    "key, values, beaten, unbeaten",
    [("classify", (60.0, 50.0), (40.0, 55.0), 80.0), ("taskonomy_rank", (1.0, 2.0), (3.0, 1.5), 0.5)],
)
def test_cells_that_have_learnt_nothing_decide_nothing(key, values, beaten, unbeaten):
    """One of them must be better than the best constant prediction, where that is known."""
    claim = parsed(GOOD | {"keys": [key], "than": ["RGB-D"]}, "here")
    pairs = [[value, value] for value in values]
    for constant in (math.nan, *beaten):
        assert judged(claim, *pairs, constant=constant).verdict == "reproduced"
    found = judged(claim, *pairs, constant=unbeaten)
    assert found.verdict == "not decidable"
    assert found.why == f"{key}: neither RGB-S nor RGB-D is better than the best constant prediction"


def test_lower_is_better_where_the_metric_says_so():
    claim = parsed(GOOD | {"keys": ["taskonomy_rank"]}, "here")
    assert judged(claim, [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]).verdict == "reproduced"
    worse = parsed(GOOD | {"keys": ["taskonomy_rank"], "is": "worse"}, "here")
    assert judged(worse, [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]).verdict == "contradicted"


@pytest.mark.parametrize(
    "relation, ours, verdict",
    [
        ("similar", [100.5, 101.5], "reproduced"),
        ("similar", [97.0, 98.0], "reproduced"),
        ("similar", [90.0, 91.0], "contradicted"),
        ("similar", [110.0, 111.0], "contradicted"),
        ("similar", [94.6, 95.6], "not decidable"),
        ("similar", [90.0, 110.0], "not decidable"),  # seeds that differ to both sides
        ("not worse", [110.0, 111.0], "reproduced"),
        ("not worse", [97.0, 98.0], "reproduced"),
        ("not worse", [90.0, 91.0], "contradicted"),
    ],
)
def test_a_margin_is_a_share_of_the_others_value(relation, ours, verdict):
    claim = parsed(GOOD | {"is": relation, "margin": 0.05, "than": ["RGB-D"]}, "here")
    assert judged(claim, ours, [100.0, 100.0]).verdict == verdict


def test_a_margin_that_is_less_than_the_deviation_decides_little():
    """Means that are equal are not `similar` by so few seeds, and not the opposite either."""
    claim = parsed(GOOD | {"is": "similar", "margin": 0.005, "than": ["RGB-D"]}, "here")
    assert judged(claim, [30.0, 40.0], [40.0, 30.0]).verdict == "not decidable"
    assert judged(claim, [34.0, 36.0, 35.5], [36.0, 34.0, 34.2]).verdict == "not decidable"
    assert judged(claim, [30.0, 30.1], [35.0, 35.2]).verdict == "contradicted"
    assert judged(claim, [35.2, 35.0], [30.0, 30.1]).verdict == "contradicted"


def test_a_verdict_says_how_often_it_comes_about_by_chance():
    """Drawn by another way: of cells that are the same, by seeds."""
    pairs = np.random.default_rng(1).normal(0, 1, (20_000, 2, 3))
    differences = pairs[:, 0] - pairs[:, 1]
    pooled = np.sqrt(pairs.var(axis=-1, ddof=1).mean(axis=-1))
    expected = ((differences.min(-1) > 0) & (differences.mean(-1) > pooled)).mean()
    one = parsed(GOOD | {"than": ["RGB-D"]}, "here")
    for values, verdict in (([60.0, 61.0, 62.0], "reproduced"), ([40.0, 41.0, 42.0], "contradicted")):
        found = judged(one, values, [50.0, 51.0, 52.0])
        assert found.verdict == verdict and found.chance == pytest.approx(expected, abs=0.01)
    assert judged(CLAIM, [60.0, 61.0, 62.0], [50.0, 51.0, 52.0], [50.0, 51.0, 52.0]).chance < expected  # two of two
    one_of_two = judged(CLAIM, [40.0, 41.0, 42.0], [50.0, 51.0, 52.0], [40.0, 41.0, 42.0])
    against = judged(CLAIM, [40.0, 41.0, 42.0], [50.0, 51.0, 52.0], [50.0, 51.0, 52.0])
    assert (
        against.chance < expected < one_of_two.chance
        and against.printed.text == f"contradicted (by chance: {against.chance:.0%})"
    )
    assert judged(CLAIM, [60.0, 61.0]).chance is None
    assert replace(against, chance=0.0).printed.text == "contradicted (by chance: < 1%)"


def test_cells_that_were_measured_under_other_conditions_decide_nothing():
    (claim,) = (claim for claim in claims() if claim.than_table)
    ours = frame({(claim.row, key): [0.5, 0.5] for key in claim.keys}, conditions={"n": 512})
    theirs = frame({("RGB-S", key): [0.4, 0.4] for key in claim.keys}, conditions={"n": 64})
    found = judge(claim, {"13": ours, "12": theirs})
    assert found.verdict == "not decidable" and "was measured under other conditions" in found.why


def test_a_claim_may_be_about_two_tables():
    (claim,) = (claim for claim in claims() if claim.than_table)
    assert (claim.table, claim.row, claim.than_table, claim.than) == ("13", "RGB->S", "12", ("RGB-S",))
    ours = frame({(claim.row, key): [0.5, 0.5] for key in claim.keys})
    theirs = frame({("RGB-S", key): [0.4, 0.4] for key in claim.keys})
    assert judge(claim, {"13": ours, "12": theirs}).verdict == "reproduced"
    assert judge(claim, {"13": ours}).why == "Table 12 is not at hand (8 open)"


def test_reasons_are_cut_and_inequalities_are_counted():
    (claim,) = (claim for claim in claims() if claim.says.startswith("It is worse in every task"))
    nothing = frame({("a", "b"): [1.0]})
    why = judge(claim, {"13": nothing, "12": nothing}).why
    assert why.count("is not in our table") == 6 and why.endswith("(8 open)")
    assert judged(CLAIM, [50.0, 51.0], [60.0, 61.0], [40.0, 41.0]).why.endswith("(1 for, 1 against)")


def test_the_verdicts_are_a_table_of_their_own():
    sheet = verdicts.sheet("4a", {"4a": frame({("RGB-S", "depth_nyuv2"): [85.0]})})
    assert len(sheet.lines) == sum(claim.table == "4a" for claim in claims())
    said = text(sheet)
    assert "our runs" in said and "not decidable" in said and "are of the smoke scale" in said
    assert "paper's own table disagrees: NYUv2 (D) is 83.3 for RGB-D and 85.5 for RGB-S." in said
    assert "smoke" not in text(verdicts.sheet("10", {"10": frame({("a", "b"): [math.nan]}, "paper")}))


# ---- the file


@pytest.mark.parametrize(
    "change, message",
    [
        ({"row": "RGB-DS"}, "Table 4a has no row 'RGB-DS'; did you mean 'RGB-D"),
        ({"than": ["RGBS"]}, "Table 4a has no row 'RGBS'; did you mean 'RGB-S'"),
        ({"keys": ["clasify"]}, "Table 4a has no column 'clasify'; did you mean 'classify'"),
        ({"table": "4"}, "no table '4'"),
        ({"than_table": "10"}, "Table 10 has no row 'RGB-D'"),
        ({"is": "beter"}, "is: no relation 'beter'; did you mean 'better'"),
        ({"margn": 1}, "no field 'margn'; did you mean 'margin'"),
        ({"margin": 0.1}, "better and worse have no margin"),
        ({"is": "similar"}, "better and worse have no margin, the others have one; found 0.0"),
        ({"keys": "classify"}, "keys: expected a list of names, found 'classify'"),
        (
            {"table": "15", "row": "MultiMAE", "than": ["MAE (D8)"], "keys": ["visible_tokens"]},
            "of visible_tokens, nei",
        ),
    ],
)
def test_a_claim_that_does_not_fit_the_paper_is_told(change, message):
    with pytest.raises(ConfigError, match=r"^here") as error:
        parsed(GOOD | change, "here")
    assert message in str(error.value)


def test_a_claim_that_lacks_something_is_told():
    with pytest.raises(ConfigError, match="here: lacks row, is"):
        parsed({key: value for key, value in GOOD.items() if key not in ("row", "is")}, "here")
