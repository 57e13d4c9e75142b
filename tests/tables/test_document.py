"""analysis/RESULTS.md, its figures, and the results that they are made of."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from analysis import claims, kept, report
from sweeps import results

RESULTS = results.FOLDER / results.RESULTS


@pytest.fixture(scope="module")
def document() -> tuple[str, report.Figures]:
    return results.made(RESULTS)


def test_the_document_is_what_is_made_of_the_results(document):
    """To mend: python sweeps/results.py"""
    assert (results.FOLDER / results.DOCUMENT).read_text() == document[0]


def test_each_figure_shows_these_results(document):
    """To mend: python sweeps/results.py"""
    text, figures = document
    assert not figures.stale()
    shown = re.findall(r"\]\((results/\S+\.png)\)", text)
    assert {Path(file).stem for file in shown} == set(figures.drawn)
    assert {str(file.relative_to(results.FOLDER)) for file in RESULTS.glob("*.png")} == set(shown)


def test_the_claims_are_older_than_the_results():
    """These are those of commit 1700d02, of 28 November 2026, 23:04:50 UTC; and every run began later."""
    digest = hashlib.sha256(claims.FILE.read_bytes()).hexdigest()
    assert digest == "54705666c491b279b2490c924db0a174341fdbf0dbfbb56b6610abe7901fcd92", "claims changed after results"
    committed = datetime(2026, 11, 28, 23, 4, 50, tzinfo=UTC).timestamp()
    assert all(committed < run.began for file in results.files(RESULTS) for run in kept.read(file))


def test_each_line_says_what_it_was_made_with_and_on():
    for file in results.files(RESULTS):
        for run in kept.read(file):
            assert not run.environment["dirty"], f"{run.row} {run.stage} was made with uncommitted changes"
            assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in run.commits), run.run
            assert {"torch", "numpy"} <= set(run.environment["packages"])
            assert run.finished and all(r["n"] > 0 and r["fingerprint"] for r in run.of("eval"))
            assert run.of("data")[0]["train"]["fingerprint"] and run.core_seconds > 0


@pytest.mark.slow
def test_the_command_makes_the_same_from_unpacked_runs(tmp_path, capsys):
    runs, fresh = tmp_path / "runs", tmp_path / "fresh"
    assert results.main(["--unpack", str(runs)]) == 0
    assert results.main(["--folder", str(fresh), "--keep", str(runs)]) == 0
    for file in results.files(RESULTS):
        assert {run.run: run for run in kept.read(file)} == {
            run.run: run for run in kept.read(fresh / results.RESULTS / file.name)
        }
    capsys.readouterr()
