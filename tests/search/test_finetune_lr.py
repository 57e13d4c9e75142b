"""The command `sweeps/finetune_lr.py`: what it says, and what it refuses before anything begins."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_runs import SyntheticRun, finish
from synthetic_search import carry_out, search

from multimae.files import locked
from multimae.search.report import report
from sweeps.alpha_ablation import study
from sweeps.finetune_lr import main

PRETRAIN = study.build("smoke")[2].stages["pretrain"]  # alpha=1


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """With a pre-training that is done."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    run = SyntheticRun(tmp_path / "runs", PRETRAIN)
    run.start()
    finish(run.folder)
    return tmp_path / "runs"


def command(runs: Path, *words: str, init: str = f"run:{PRETRAIN.signature}", transfer: str = "segment") -> int:
    given = ["--init", init] if init else []
    return main(["--transfer", transfer, *given, "--runs", str(runs), *words])


def test_a_dry_run_shows_what_would_be_searched_and_begins_nothing(runs, capsys):
    assert command(runs, "--dry-run", "--search", "lr,drop_path") == 0
    said = capsys.readouterr().out
    assert "lr 0.000133 to 0.12 (log), drop_path 0 to 0.4; mIoU on 'test' of scenes" in said
    assert "24 trials of each" in said and "the table's run" in said and "158.5 GFLOP" in said
    assert not (runs / "searches").exists()


def test_each_row_of_a_study_is_searched(runs, capsys):
    assert command(runs, "--dry-run", "--study", "alpha_ablation", "--only", "alpha=1", init="") == 0
    said = capsys.readouterr().out
    assert "alpha=1 segment, a trial" in said and "alpha=0.5" not in said
    assert command(runs, "--dry-run", "--study", "alpha_ablation", init="") == 2
    assert "alpha_ablation.py first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, options, message",
    [
        ([], {"transfer": "segmnt"}, "--transfer: no transfer 'segmnt'.*segment"),
        ([], {"init": "run:0123456789"}, "--init: needs 0123456789, which is not done"),
        ([], {"init": "run:short"}, "init"),
        ([], {"init": ""}, "--init: what does the transfer start from"),
        ([], {"init": "official:theirs"}, "needs the weights 'theirs'; give them with --weights theirs=FILE"),
        ([], {"init": "timm:vit_base_patch16_224.mae"}, "768 wide"),
        (["--set", "segment.model.heads=2"], {}, "model.heads is 2, but run .* was pre-trained with"),
        (["--set", "segment.epoch=2"], {}, "epoch"),
        (["--storage", "postgresql+psycopg://me:secret@127.0.0.1:1/x"], {}, r"--storage: postgresql\S*127.0.0.1:1/x"),
        (["--storage", "sqlite:////nowhere/x.db"], {}, "cannot be opened"),
        (["--trials", "0"], {}, "--trials: expected 1 or more, found 0"),
        (["--parallel", "-1"], {}, "--parallel: expected 1 or more, found -1"),
        (["--search", ","], {}, "--search: nothing to search"),
        (["--range", "lr=1e-2:1e-3"], {}, "nothing is in it"),
        (["--held-out", "2"], {}, "--held-out: expected a share between 0 and 1"),
        (["--validate", "val"], {}, "--validate val: that split is what the table's number comes from"),
        (["--study", "alpha"], {"init": ""}, "--study: no study 'alpha'"),
        (["--study", "alpha_ablation"], {}, "give one of them"),
        (["--study", "alpha_ablation"], {"init": "", "transfer": "depth"}, "no column of alpha_ablation is of 'depth'"),
        (["--study", "alpha_ablation", "--only", "no such"], {"init": ""}, "unknown row 'no such'"),
        (["--status"], {}, "no search has begun: .*optuna.db"),
        (["--report"], {}, "no search has begun"),
        (["--cancel"], {}, "no search has begun"),
        (["--status", "--storage", "sqlite:///no-such.db"], {}, "no search has begun: no-such.db"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(runs, capsys, words, options, message):
    assert command(runs, *words, **options) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.startswith("finetune_lr: ") and said.count("\n") == 1, said
    assert "secret" not in said and "Traceback" not in said
    assert not list(runs.rglob("optuna.db")), "a refusal leaves a storage behind"


def test_a_second_coordinator_is_told_of_the_first(runs, capsys):
    command(runs, "--dry-run")
    name = re.search(r"smoke-segment-[0-9a-f]{10}", capsys.readouterr().out)[0]
    (runs / "searches" / name).mkdir(parents=True)
    with locked(runs / "searches" / name / ".coordinator"):
        assert command(runs) == 2
    assert "coordinates this search; --status shows it" in capsys.readouterr().err


class Words(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for key, value in attributes if key in ("src", "href") and value]

    def handle_data(self, data):
        self.cells.append(data)


@pytest.mark.parametrize("searched", [["lr"], ["lr", "layer_decay"]])
def test_the_report_has_every_trial_and_needs_no_network(tmp_path, searched):
    (trials,) = carry_out(tmp_path, search(searched=searched, name="<b>mine</b>"), number=6).searches
    page = report(trials, ["what was <found>"])
    words = Words(page)
    assert not words.links and {"what was <found>", "study: <b>mine</b>"} <= set(words.cells)
    assert {trial.user_attrs["signature"] for trial in trials.all()} <= set(words.cells)
    plots = page.count('class="plotly-graph-div"')
    assert plots == 3 + (len(searched) > 1)


def test_help_is_a_page(capsys):
    done = subprocess.run(
        [sys.executable, "sweeps/finetune_lr.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "--transfer" in done.stdout and "examples:" in done.stdout
