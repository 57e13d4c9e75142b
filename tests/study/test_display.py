"""What a person sees of a study: lines of events, a live table, the reasons of what went wrong."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from plans import wanted
from rich.console import Console
from training import ScriptedJob, tiny_study

from multimae.config import Classify, Pretrain, Runtime
from multimae.study import planning
from multimae.study.display import Grid, GridColumn, Progress, print_plan, print_status, watching
from multimae.study.local import Local
from multimae.study.planning import Event, Extra, Plan
from multimae.study.status import Status
from multimae.study.study import Row, Study
from multimae.units import duration, operations
from slurm import scheduler

ROWS = tiny_study.build("smoke")


def shown(terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120, height=40, force_terminal=terminal), out


def apply(runs: Path, console: Console) -> int:
    plan = planning.plan(wanted(tiny_study, ROWS, runs))
    progress = Progress(console, plan, 2)
    with progress:
        for event in Local(Runtime(runs=runs), 2, ScriptedJob, preload=()).work(plan):
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
    with Progress(console, planning.plan(wanted(tiny_study, ROWS, tmp_path)), 2):
        pass
    assert "failed" in out.getvalue()


def test_status_and_plan_say_the_same_states(tmp_path):
    fail(tmp_path)
    apply(tmp_path, shown()[0])
    status, plan = shown(), shown()
    print_status(status[0], planning.status(wanted(tiny_study, ROWS, tmp_path)), [])
    print_plan(plan[0], planning.plan(wanted(tiny_study, ROWS, tmp_path), retry_failed=True), "2 minutes on 2 cores")
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


# ---- a cluster's runs


def of_cluster(states: dict[str, Status], rows: int = 2) -> Plan:
    """A plan of `rows` rows, whose stages do what `states` says."""
    plan = planning.plan(wanted(big_study(rows), big_study(rows).build("smoke"), Path("/nowhere")))
    entries = {s: replace(e, status=states[e.run.cells[0][1]]) for s, e in plan.entries.items()}
    return replace(plan, entries=entries)


def big_study(rows: int) -> Study:
    def build(scale: str):
        for row in range(rows):
            pretrain = Pretrain().edit({"masking.alpha": 0.01 * (row + 1)})
            classify = Classify().edit({"init": f"run:{pretrain.signature}"})
            yield Row(f"row {row}", {"pretrain": pretrain, "classify": classify})

    return Study("big", "A big study", build)


RUNNING = Status("running", "no sign of life for 12 min", {"step": 1, "total_steps": 2}, job="7_1", node="n[1-2]")
PENDING = Status("pending", "Priority", job="8_1")
FAILED = Status("failed", "OSError: no such file [17.jpg]", job="7_1")


def status_of(plan: Plan, terminal: bool = False, extra: tuple[Extra, ...] = ()) -> list[str]:
    console, out = shown(terminal)
    print_status(console, plan, list(extra))
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def test_jobs_and_nodes_are_shown_where_there_are_some():
    lines = status_of(of_cluster({"pretrain": RUNNING, "classify": PENDING}))
    assert lines[1].split()[-2:] == ["job", "node"]
    assert "● no sign of life for 12 min" in lines[2] and lines[2].split()[-2:] == ["7_1", "n[1-2]"]
    assert "· pending" in lines[3] and lines[3].split()[-1] == "8_1"
    assert "job" not in status_of(of_cluster({"pretrain": Status("pending"), "classify": Status("waiting")}))[1]


def test_each_reason_is_told_once_and_what_went_wrong_first():
    text = status_of(of_cluster({"pretrain": PENDING, "classify": FAILED}, rows=5))
    told = [line for line in text if ": " in line]
    assert told == [
        "  row 0 classify, row 1 classify, row 2 classify and 2 more failed: OSError: no such file [17.jpg]",
        "  row 0 pretrain, row 1 pretrain, row 2 pretrain and 2 more pending: Priority",
    ]
    assert text[-1] == "0 of 10 runs done · 5 pending, 5 failed"


def test_a_big_study_fits_the_terminal_and_a_pipe_gets_all():
    plan = of_cluster({"pretrain": PENDING, "classify": FAILED}, rows=50)
    lines = status_of(plan, terminal=True)
    assert len(lines) <= 40
    shown_rows = sum("✗ failed" in line for line in lines)
    assert 25 < shown_rows < 34 and f"... and {100 - shown_rows} more: 50 pending, {50 - shown_rows} failed" in lines
    assert sum("✗ failed" in line for line in status_of(plan)) == 50


def test_runs_that_left_the_study_are_listed():
    extra = tuple(Extra(f"{n:010}", f"old {n}", "pretrain", PENDING) for n in range(60))
    plan = of_cluster({"pretrain": PENDING, "classify": PENDING})
    assert "  0000000059  old 59 pretrain: pending" in status_of(plan, extra=extra)
    lines = status_of(plan, terminal=True, extra=extra)
    assert len(lines) <= 40 and "--cancel-removed" in "".join(lines) and "  ... and 52 more" in lines


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_leaves_the_last_status(terminal):
    console, out = shown(terminal)
    with watching(console) as show:
        show(of_cluster({"pretrain": RUNNING, "classify": PENDING}), [])
        show(of_cluster({"pretrain": FAILED, "classify": PENDING}), [])
    left = out.getvalue().split("\x1b[?1049l")[-1]  # where a terminal leaves its second screen
    assert "✗ failed" in left and ("no sign of life" in left) is not terminal


def test_progress_here_asks_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "query", lambda ids: pytest.fail("asked"))
    plan = of_cluster({"pretrain": PENDING, "classify": PENDING})
    console, out = shown()
    with Progress(console, plan, 2) as progress:
        progress.update(None)
        progress.update(Event(next(iter(plan.entries.values())), "elsewhere", PENDING))
    assert "pending as job 8_1 of a cluster" in out.getvalue()


@pytest.mark.parametrize("width, dropped", [(60, False), (24, True)])
def test_a_narrow_terminal_shows_fewer_columns_and_those_whole(width, dropped):
    grid = Grid(
        [GridColumn("name"), GridColumn("spare", dropped=1), GridColumn("kept")], [("a" * 10, "b" * 10, "c" * 10)]
    )
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=width, color_system=None).print(grid)
    assert "a" * 10 in out.getvalue() and "c" * 10 in out.getvalue()
    assert ("b" not in out.getvalue()) == dropped


def test_only_a_run_that_data_bound_says_that_it_waits(tmp_path):
    plan = planning.plan(wanted(tiny_study, ROWS, tmp_path / "runs"))
    states = [("running", 0.34), ("done", 0.12), ("running", 0.09), ("running", None), ("dead", 0.5)]
    for (signature, entry), (state, share) in zip(list(plan.entries.items()), states):
        plan.entries[signature] = replace(entry, status=Status(state, "", {"waited": share} if share else {}, 1.0))
    console, out = shown()
    print_status(console, plan, [])
    assert "waits for data" in out.getvalue()
    assert re.findall(r"\d+%", out.getvalue()) == ["34%", "12%"]
    for signature, entry in list(plan.entries.items())[:2]:
        plan.entries[signature] = replace(entry, status=Status("pending"))
    console, out = shown()
    print_status(console, plan, [])
    assert "waits" not in out.getvalue()
