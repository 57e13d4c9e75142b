"""Real trainings under a coordinator that is killed, and whose workers are: the same trials, and the same best one."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from searching import begin, told, trials_in

pytestmark = pytest.mark.slow


def kill_a_worker(runs: Path) -> bool:
    for file in runs.glob("*/heartbeat.json"):
        beat = json.loads(file.read_text())
        if beat["state"] in ("training", "evaluating", "saving"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(beat["pid"], signal.SIGKILL)
                return True
    return False


def tried(runs: Path, chance: random.Random, trials: int, parallel: int, kills: int = 3) -> None:
    """The search, its coordinator killed three times at random moments, and a worker before two of these."""
    for kill in range(kills):
        process = begin(runs, trials, parallel)
        began, ends = time.monotonic(), chance.uniform(6, 14)
        workers = 0
        while time.monotonic() < began + ends and process.poll() is None:
            time.sleep(0.3)
            if kill and not workers and time.monotonic() > began + ends / 2:
                workers += kill_a_worker(runs)
        process.kill()
        process.wait()
    process = begin(runs, trials, parallel)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "recipe edit: --set segment.optimizer.base_lr=" in said


def test_one_after_the_other_they_are_the_same_trials(tmp_path):
    usual, killed = tmp_path / "usual", tmp_path / "killed"
    tried(usual, random.Random(0), trials=5, parallel=1, kills=0)
    tried(killed, random.Random(0), trials=5, parallel=1)
    assert told(killed) == told(usual) and len(told(usual)) == 5


def test_side_by_side_none_is_lost_and_none_doubled(tmp_path):
    tried(tmp_path, random.Random(1), trials=6, parallel=2)
    trials = trials_in(tmp_path)
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert len({trial.user_attrs["signature"] for trial in trials}) == 6
    runs = [file.parent.name for file in tmp_path.glob("*/journal.jsonl")]
    assert {trial.user_attrs["signature"] for trial in trials} <= set(runs) and len(runs) in (6, 7)
