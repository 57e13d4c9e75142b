"""The command of a search, begun as a process: over small real trainings, and what its storage says of them."""

import subprocess
import sys
from pathlib import Path

import optuna

from multimae.search import storage_at

ROOT = Path(__file__).parents[1]
TINY = ("epochs=8", "data.train_samples=64", "data.eval_samples=64", "optimizer.warmup_epochs=0")


def begin(runs: Path, trials: int, parallel: int, *options: str | Path) -> subprocess.Popen:
    words = ["--transfer", "segment", "--init", "scratch", "--trials", trials, "--parallel", parallel, "--runs", runs]
    words += options
    edits = [word for edit in TINY for word in ("--set", f"segment.{edit}")]
    return subprocess.Popen(
        [sys.executable, "sweeps/finetune_lr.py", *map(str, words), *edits],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def trials_in(runs: Path) -> list[optuna.trial.FrozenTrial]:
    (file,) = runs.glob("searches/*/optuna.db")
    storage = storage_at(f"sqlite:///{file}")
    studies = optuna.get_all_study_summaries(storage)  # none, where the search only begins
    return [t for s in studies for t in optuna.load_study(study_name=s.study_name, storage=storage).trials]


def told(runs: Path) -> list[tuple]:
    trials = trials_in(runs)
    return [(t.number, t.params, t.state.name, t.value, t.intermediate_values, t.user_attrs) for t in trials]
