"""What a person sees in MLflow's pages, in Debian's Chromium: each dashboard has its charts, and the mode is right."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tracking_store import CLASSIFY, PRETRAIN, empty_store, study_run  # noqa: F401 (a fixture)

from multimae.record.outline import Outline

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: python -m pip install -e '.[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium (.ci/run does)"),
]

ROWS = ("alpha=0.2", "alpha=1", "alpha=inf")
PATIENCE = 60_000  # milliseconds, on two cores


@contextlib.contextmanager
def ui(runs: Path) -> Iterator[dict[str, str]]:
    """`multimae ui` at work; {dashboard: address}, and the list's as `MLflow:`."""
    words = [sys.executable, "-m", "multimae", "ui", "--runs", str(runs), "--no-browser"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        found = re.findall(r"^ *([A-Z][\w:, ]*?) +(http://127\.0\.0\.1:\S+)$", "".join(said), re.MULTILINE)
        assert found, said
        yield dict(found)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def pages(tmp_path_factory, empty_store):
    """(the addresses, a browser's page) of a study of three rows and two seeds."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, home / "mlflow.db")
    runs = home / "runs"
    Outline("Mask sampling", ROWS, ("classify/accuracy", "pretrain/loss")).save(runs, "ablation", "smoke")
    for seed in (0, 1):
        for number, row in enumerate(ROWS):
            pretrain = PRETRAIN.edit({"seed": seed, "masking.alpha": (0.2, 1.0, 5.0)[number]})
            transfer = CLASSIFY.edit({"seed": seed, "init": f"run:{pretrain.signature}"})
            run = study_run(runs, pretrain, row)
            run.whole()
            run.folder.samples.mkdir()
            Image.new("RGB", (300, 80), "teal").save(run.folder.samples / "predictions.png")
            run.journal.write("sample", step=40, file="samples/predictions.png")
            study_run(runs, transfer, row, "classify").whole(metrics={"accuracy": 10.0 * number + seed})
    with ui(runs) as addresses, playwright.sync_playwright() as started:
        # Chromium's own sandbox refuses root, and CI is root; the page is our own server's.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1800, "height": 1400})
        page.set_default_timeout(PATIENCE)
        yield addresses, page
        browser.close()


def opened(pages, name: str):
    addresses, page = pages
    page.goto("about:blank")  # or only the part after # would change, and the page would stay
    page.goto(addresses[name])
    return page


def until(page, script: str) -> None:
    page.wait_for_function(script, timeout=PATIENCE)


def test_results_are_bars_of_each_row_and_measure(pages):
    page = opened(pages, "Results")
    until(page, "document.querySelectorAll('.barlayer .point').length >= 12")  # 2 measures of 3 rows and 2 seeds
    assert page.locator(".scatterlayer .trace").count() == 0, "a value is drawn as a curve"
    assert page.locator(".barlayer .point").count() == 12, "charts that nobody asked for"
    assert page.locator("text=MultiMAE: Results").first.is_visible()


def test_rows_stand_as_in_the_table(pages):
    page = opened(pages, "Results")
    until(page, "document.querySelectorAll('.barlayer .point').length >= 12")
    text = page.inner_text("body")
    places = [text.index(row) for row in ROWS]
    assert places == sorted(places)


def test_seeds_become_one_bar(pages):
    page = opened(pages, "Results, means over seeds")
    until(page, "document.querySelectorAll('.barlayer .point').length >= 6")
    assert page.locator(".barlayer .point").count() == 6
    assert page.locator("text=Group: alpha=0.2").first.is_visible()


def test_the_pretrainings_are_curves_on_one_chart(pages):
    page = opened(pages, "Training")
    until(page, "document.querySelectorAll('.scatterlayer .trace').length >= 6")
    chart = page.locator(".js-plotly-plot").first
    assert chart.locator(".scatterlayer .trace").count() in (6, 12)  # lines, and maybe points
    assert page.locator(".barlayer .point").count() == 0


def test_cost_is_bars(pages):
    page = opened(pages, "Cost, means over seeds")
    until(page, "document.querySelectorAll('.barlayer .point').length >= 12")
    assert page.locator(".scatterlayer .trace").count() == 0


def test_pictures_are_shown(pages):
    page = opened(pages, "Pictures")
    until(page, "[...document.images].filter(i => i.src.includes('predictions') && i.naturalWidth == 300).length == 6")


def test_the_list_of_experiments_is_that_of_training(pages):
    page = opened(pages, "MLflow:")
    page.locator("text=ablation/smoke").first.wait_for()
    assert "Prompts" not in page.inner_text("body"), "the mode of prompts and traces"


def test_a_dashboard_is_among_the_views_of_the_page(pages):
    page = opened(pages, "Results")
    page.locator("text=MultiMAE: Results").first.click()
    for name in ("Training", "Cost, means over seeds", "Pictures"):
        page.locator(f"text=MultiMAE: {name}").first.wait_for()
