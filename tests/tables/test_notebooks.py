"""The notebooks run from top to bottom, with nothing and with finished runs, and hold no code of their own."""

import base64
import math
from pathlib import Path

import nbformat
import pytest
from matplotlib.collections import QuadMesh
from nbclient import NotebookClient
from PIL import Image
from synthetic_runs import SyntheticRun

from analysis import figures as pictures
from sweeps.alpha_ablation import study

NOTEBOOKS = sorted((Path(__file__).parents[2] / "analysis").glob("*.ipynb"))
TABLE_10 = next(n for n in NOTEBOOKS if n.name == "table_10_alpha.ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_stored_notebooks_are_thin_and_have_no_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            code = [line for line in cell.source.splitlines() if not line.startswith(("import", "from", "%", "#"))]
            assert len([line for line in code if line]) <= 3, cell.source


def run(path: Path, runs: Path, monkeypatch, without: str | None = None) -> tuple[str, list[bytes]]:
    """(all HTML and text, all pictures) that the notebook shows; `without` leaves out the cells that have this word."""
    monkeypatch.setenv("MULTIMAE_RUNS", str(runs))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not without or without not in cell.source]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    text = "\n".join(data.get("text/html", data.get("text/plain", "")) for data in shown)
    return text, [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def test_table_10_of_an_empty_runs_folder_says_missing(tmp_path, monkeypatch):
    text, images = run(TABLE_10, tmp_path, monkeypatch)
    assert text.count(">missing<") == 8 and ">82.7<" in text
    assert len(images) == 3  # curves and predictions (that say there are none), masks


def test_table_10_of_finished_runs(tmp_path, monkeypatch):
    for index, row in enumerate(study.build("smoke")):
        for stage, config in row.stages.items():
            metrics = {"pretrain": {"loss": 0.3}, "classify": {"accuracy": 41.5 + index}, "segment": {"mIoU": 20.5}}
            made = SyntheticRun(tmp_path, config)
            made.folder.samples.mkdir()
            Image.new("RGB", (90, 60), "teal").save(made.folder.samples / "predictions.png")
            made.journal.write("sample", step=40, file="samples/predictions.png")
            made.whole(metrics=metrics[stage])
    text, images = run(TABLE_10, tmp_path, monkeypatch, without="mask_sampling")  # which imports torch
    assert "missing" not in text and all(f">{41.5 + index}<" in text for index in range(4))
    assert "500 samples" in text and "not comparable" in text
    assert len(images) == 2


def test_mask_sampling_draws_the_tokens_of_each_sample():
    figure = pictures.mask_sampling([0.2, 1, math.inf], samples=20, tokens=9)
    grids = [next(c for c in axis.collections if isinstance(c, QuadMesh)).get_array() for axis in figure.axes]
    assert [axis.get_title() for axis in figure.axes] == ["α = 0.2", "α = 1", "α = ∞"]
    assert all(grid.shape == (20, 9) for grid in grids)
    assert all(sorted(row) == [0, 0, 0, 1, 1, 1, 2, 2, 2] for row in grids[2].tolist())
    assert sum(len(set(row)) == 1 for row in grids[0].tolist()) > sum(len(set(row)) == 1 for row in grids[2].tolist())
