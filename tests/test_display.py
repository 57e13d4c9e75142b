"""What a person sees of a study: lines of events, a live table, the reasons of what went wrong."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from training import ScriptedJob, tiny_study

from multimae.config import Runtime
from slurm import launch
from slurm.display import Progress, print_plan, print_status
from slurm.estimate import duration, operations
from slurm.local import Local

ROWS = tiny_study.build("smoke")


def shown(terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120, height=40, force_terminal=terminal), out


def apply(runs: Path, console: Console) -> int:
    plan = launch.plan(tiny_study, "smoke", ROWS, runs)
    progress = Progress(console, plan, 2)
    with progress:
        for event in launch.apply(plan, Local(Runtime(runs=runs), 2, ScriptedJob, preload=())):
            progress.update(event)
    return progress.report()


def fail(runs: Path) -> None:
    (runs / "script.json").write_text(json.dumps({ROWS[0].stages["pretrain"].signature: "raise"}))


def test_without_a_terminal_one_line_an_event(tmp_path):
    console, out = shown()
    assert apply(tmp_path, console) == 0
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert [sum("started" in line for line in lines), sum("done in" in line for line in lines)] == [6, 6]
    assert lines[-1].endswith("(6 of 6 runs)")


def test_on_a_terminal_a_table_that_stays(tmp_path):
    console, out = shown(terminal=True)
    assert apply(tmp_path, console) == 0
    last = out.getvalue().split("alpha=1")[-1]
    assert last.count("✓") == 6 and "6 of 6 runs done" in last and "Ctrl-C" not in last


def test_what_went_wrong_is_told_at_the_end(tmp_path):
    fail(tmp_path)
    console, out = shown()
    assert apply(tmp_path, console) == 1
    text = out.getvalue()
    pretrain = f"alpha=1 pretrain ({ROWS[0].stages['pretrain'].signature})"
    assert f"{pretrain} failed: RuntimeError: the data is on fire" in text
    assert "blocked: alpha=1 pretrain failed" in text and "--retry-failed" in text


@pytest.mark.parametrize("lines", [6, 3])
def test_a_small_terminal_shows_what_moves(tmp_path, lines):
    fail(tmp_path)
    apply(tmp_path, shown()[0])
    console, out = shown(terminal=True)
    console.height = lines
    with Progress(console, launch.plan(tiny_study, "smoke", ROWS, tmp_path), 2):
        pass
    assert "failed" in out.getvalue()


def test_status_and_plan_say_the_same_states(tmp_path):
    fail(tmp_path)
    apply(tmp_path, shown()[0])
    status, plan = shown(), shown()
    print_status(status[0], launch.status(tiny_study, "smoke", ROWS, tmp_path), [])
    print_plan(plan[0], launch.plan(tiny_study, "smoke", ROWS, tmp_path, retry_failed=True), "2 minutes on 2 cores")
    assert [status[1].getvalue().count(f"{mark} {word}") for mark, word in (("✓", "done"), ("✗", "failed"))] == [3, 1]
    assert status[1].getvalue().count("– blocked") == 2
    assert "retry" in plan[1].getvalue() and "2 minutes on 2 cores" in plan[1].getvalue()


@pytest.mark.parametrize(
    "seconds, text",
    [(42, "42 s"), (200, "3 min 20 s"), (18720, "5 h 12 min"), (12 * 86400, "12 days"), (3 * 365 * 86400, "3 years")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("count, text", [(5e9, "5.0 GFLOP"), (1.7e12, "1.7 TFLOP"), (186.6e18, "186.6 EFLOP")])
def test_operations(count, text):
    assert operations(count) == text
