"""The notebooks run from top to bottom, with nothing and with finished runs, and hold no code of their own."""

import argparse
import ast
import base64
import importlib
import math
import random
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image
from synthetic_runs import SyntheticRun

from analysis import figures as pictures
from analysis.page import Page
from analysis.sheet import Sheet
from analysis.verdicts import WORDS
from multimae.config import ConfigError
from multimae.study import Study
from multimae.study.arguments import all_rows
from sweeps import alpha_ablation, modality_ablation

NOTEBOOKS = sorted((Path(__file__).parents[2] / "analysis").glob("*.ipynb"))
METRICS = {"pretrain": "loss", "classify": "accuracy", "segment": "mIoU", "depth": "delta1", "regress": "l1"}


def cells(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def modules(path: Path) -> list[str]:
    """The studies that a notebook shows."""
    return re.findall(r"from sweeps(?:\.| import )(\w+)", "\n".join(cells(path)))


every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def finish(runs: Path, study: Study, seeds=(0, 1)) -> None:
    """All runs of a study, done, with values as they come."""
    chance = random.Random(0)
    for seed in seeds:
        for row in all_rows(study, argparse.Namespace(scale="smoke", data=[], set=[], weights=[], seed=seed)):
            for config in row.stages.values():
                run = SyntheticRun(runs, config)
                if not run.folder.journal.path.exists():
                    metric = METRICS[config.task]
                    metrics = {metric: chance.uniform(40, 50), f"{metric}_constant": 30.0}
                    run.start()
                    run.train([10, 40])
                    run.epoch(1)
                    run.epoch(2)
                    run.evaluate(metrics=metrics, split=config.data.eval_split)
                    run.finish()


def studies_of(path: Path) -> list[Study]:
    return [importlib.import_module(f"sweeps.{name}").study for name in modules(path)]


def shown(path: Path) -> list[Any]:
    """What the cells show, run in this process: a kernel takes seconds."""
    names: dict[str, Any] = {}
    found = []
    for source in cells(path):
        lines = [line for line in source.splitlines() if not line.startswith("%")]
        *before, last = ast.parse("\n".join(lines)).body
        exec(compile(ast.Module(before, []), str(path), "exec"), names)
        assert isinstance(last, ast.Expr), source
        if "mask_sampling" not in source:  # which imports torch
            found.append(eval(compile(ast.Expression(last.value), str(path), "eval"), names))
    return found


def parted(sheets: list[Sheet]) -> tuple[list[Sheet], list[Sheet]]:
    """Tables, and the claims that stand below them."""
    claims = [sheet for sheet in sheets if sheet.title.startswith("What the paper concludes")]
    return [sheet for sheet in sheets if sheet not in claims], claims


def texts(sheet: Sheet) -> list[str]:
    return [cell.text for line in sheet.lines for cell in line.cells]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("MULTIMAE_SCALE", "MULTIMAE_SEEDS", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MULTIMAE_RUNS", str(tmp_path))


# ---- what is stored


@every
def test_stored_notebooks_are_thin_and_have_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) <= 12
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            code = [line for line in cell.source.splitlines() if not line.startswith(("import", "from", "%", "#"))]
            assert len([line for line in code if line]) <= 3, cell.source


@every
def test_a_notebook_says_which_command_makes_its_rows(path):
    words = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for name in modules(path):
        assert f"sweeps/{name}.py`" in words
    assert all(name in words for name in ("MULTIMAE_RUNS", "MULTIMAE_SCALE", "MULTIMAE_SEEDS"))


# ---- what it shows


@every
def test_a_notebook_of_no_runs_says_missing(path):
    found = shown(path)
    sheets = [each for each in found if isinstance(each, Sheet)]
    tables, claims = parted(sheets)
    assert all("missing" in texts(table) for table in tables)
    assert all("not decidable" in texts(each) for each in claims) and len(tables) in (1, 2)
    for each in found:
        assert isinstance(each, Sheet | Figure)
        if isinstance(each, Figure):
            each.canvas.draw()


@every
def test_a_notebook_of_finished_runs_shows_and_judges_them(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIMAE_SEEDS", "0 1")
    for study in studies_of(path):
        finish(tmp_path, study)
    tables, others = parted([each for each in shown(path) if isinstance(each, Sheet)])
    for table in tables:
        words = texts(table)
        assert "missing" not in words and any("±" in word and "(2)" in word for word in words)
        assert "2 seeds a row" in table.title
        assert any("not comparable" in note or "are far" in note for note in table.notes)
    for claims in others:
        judged = {line.cells[0].text.partition(" (by chance")[0] for line in claims.lines}
        assert judged <= set(WORDS) and len(claims.lines) >= 2
        assert not any("missing" in line.cells[1].text for line in claims.lines)


def executed(path: Path) -> tuple[str, list[bytes]]:
    """(all HTML and text, all pictures) that the notebook shows in a kernel."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    data = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    text = "\n".join(each.get("text/html", each.get("text/plain", "")) for each in data)
    return text, [base64.b64decode(each["image/png"]) for each in data if "image/png" in each]


@every
@pytest.mark.slow
def test_a_notebook_runs_in_a_kernel(path):
    text, images = executed(path)
    assert ">missing<" in text and "<table>" in text and images


@pytest.mark.slow
def test_table_10_runs_in_a_kernel(tmp_path):
    """One by default; of the others the code is run, without a kernel."""
    finish(tmp_path, alpha_ablation.study, seeds=[0])
    for row in alpha_ablation.study.build("smoke"):
        if "pretrain" not in row.stages:  # from scratch
            continue
        run = SyntheticRun(tmp_path, row.stages["pretrain"])
        run.folder.samples.mkdir()
        Image.new("RGB", (90, 60), "teal").save(run.folder.samples / "predictions.png")
        run.journal.write("sample", step=40, file="samples/predictions.png")
        run.finish()
    text, images = executed(next(path for path in NOTEBOOKS if path.stem == "table_10_alpha"))
    assert "missing" not in text and "500 samples" in text and ">82.7<" in text
    assert "two are the least" in text and len(images) == 4  # bars, curves, predictions, masks


# ---- the page


def test_the_environment_chooses(tmp_path, monkeypatch):
    page = Page(modality_ablation.study)
    assert (page.runs, page.scale) == (tmp_path, "smoke") and len(page.trials) == 1
    monkeypatch.setenv("MULTIMAE_SCALE", "paper")
    monkeypatch.setenv("MULTIMAE_SEEDS", "3, 5")
    page = Page(modality_ablation.study)
    assert [rows[0].stages["classify"].seed for rows in page.trials] == [3, 5]
    assert page.trials[0][0].stages["pretrain"].epochs == 400
    assert page.sheet(modality_ablation.table_4a).title.endswith("(scale paper, 2 seeds a row)")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("MULTIMAE_SEEDS", "0 one", "MULTIMAE_SEEDS: expected different whole numbers, as in `0 1 2`, found 'one'"),
        ("MULTIMAE_SEEDS", "0 0", "MULTIMAE_SEEDS: expected different"),
        ("MULTIMAE_SCALE", "smoky", "unknown scale 'smoky'; did you mean 'smoke'"),
    ],
)
def test_an_environment_that_chooses_nothing_is_told(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        Page(alpha_ablation.study)


# ---- figures


def test_bars_show_seeds_and_only_at_paper_scale_the_papers(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIMAE_SEEDS", "0 1")
    finish(tmp_path, alpha_ablation.study)
    page = Page(alpha_ablation.study)
    frame = page.frame(alpha_ablation.table)
    for scale, marks in (("smoke", 0), ("paper", 4)):
        figure = pictures.bars(alpha_ablation.table, frame.assign(scale=scale))
        figure.canvas.draw()
        for axis, key in zip(figure.axes, ("classify", "segment_ade20k"), strict=True):
            means = frame[frame["key"] == key].groupby("row", sort=False)["value"].mean()
            assert drawn(axis)[1] == pytest.approx(means.to_list())
            assert sum(line.get_marker() == "D" for line in axis.lines) == marks
            assert sum(len(line.get_xdata()) == 2 and line.get_marker() == "." for line in axis.lines) == len(means)
        assert len(figure.legends) == (marks > 0)


def drawn(axis) -> tuple[str, list[float]]:
    if axis.patches:
        return "bars", [bar.get_width() for bar in axis.patches]
    return "points", [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]


def test_bars_begin_at_0_and_rows_that_are_close_are_points(tmp_path):
    finish(tmp_path, alpha_ablation.study, seeds=(0,))
    frame = Page(alpha_ablation.study, tmp_path, "smoke", (0,)).frame(alpha_ablation.table)
    rows = len(set(frame["row"]))
    for values, how in (
        ([10.0, 20, 30, 40, 50], "bars"),
        ([98.0, 98.5, 99, 99.5, 98.2], "points"),
        ([7.0] * 5, "bars"),
    ):
        axis = pictures.bars(alpha_ablation.table, frame.assign(value=[v for v in values for _ in range(2)])).axes[0]
        assert drawn(axis) == (how, values[:rows])
        low, high = axis.get_xlim()
        assert (low == 0) == (how == "bars") and low < min(values) and high > max(values)


def test_curves_of_several_seeds_are_a_mean_in_a_band(tmp_path):
    row = alpha_ablation.study.build("smoke")[0]
    trials = [[row], [type(row)(row.name, {"pretrain": row.stages["pretrain"].edit({"seed": 1})})]]
    for (each,), steps in zip(trials, (41, 21)):  # one is further
        SyntheticRun(tmp_path, each.stages["pretrain"]).train(range(1, steps))
    figure = pictures.loss_curves(trials, tmp_path)
    assert [axis.get_title() for axis in figure.axes] == ["sum of the losses", "rgb", "depth"]
    for axis in figure.axes:
        assert len(axis.lines) == 1 and len(axis.collections) == 1
        assert axis.lines[0].get_xdata()[-1] == 2.0
    alone = pictures.loss_curves(trials[:1], tmp_path)
    assert not alone.axes[0].collections and alone.axes[0].lines[0].get_xdata()[-1] == 4.0


def test_rows_without_the_stage_have_no_curve(tmp_path):
    row = alpha_ablation.study.build("smoke")[0]
    short = type(row)("short", {"classify": row.stages["classify"]})
    assert not pictures.loss_curves([[short]], tmp_path).axes[0].lines
    pictures.predictions([short], tmp_path)


def test_mask_sampling_draws_the_tokens_of_each_sample():
    figure = pictures.mask_sampling([0.2, 1, math.inf], samples=20, tokens=9)
    grids = [next(c for c in axis.collections if isinstance(c, QuadMesh)).get_array() for axis in figure.axes]
    assert [axis.get_title() for axis in figure.axes] == ["α = 0.2", "α = 1", "α = ∞"]
    assert all(grid.shape == (20, 9) for grid in grids)
    assert all(sorted(row) == [0, 0, 0, 1, 1, 1, 2, 2, 2] for row in grids[2].tolist())
    assert sum(len(set(row)) == 1 for row in grids[0].tolist()) > sum(len(set(row)) == 1 for row in grids[2].tolist())
