"""What runs start from is a graph: planned, carried out, blocked, cancelled, chosen and redone to any depth."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from plans import wanted
from pydantic import Field
from synthetic_runs import SyntheticRun
from training import ScriptedJob, chain_rows, chain_study

from multimae.config import ConfigError, RunConfig, Runtime
from multimae.record.folder import RunFolder, RunLocked
from multimae.record.state import Status
from multimae.study import Row, Study, named, only, planning, runs_of, twins
from multimae.study.local import Local
from slurm.profile import Profile
from slurm.submission.arrays import arrays

ROWS = chain_study.build("smoke")
FIRST, SECOND, BORROWED = ROWS
BACKWARDS = tuple(Row(row.name, dict(reversed(row.stages.items()))) for row in reversed(ROWS))
LINKS = ("pretrain", "classify", "robust")


def plan_of(rows, runs: Path, among=ROWS, **options) -> planning.Plan:
    return planning.plan(replace(wanted(chain_study, rows, runs), among=tuple(among)), **options)


def carry_out(rows, runs: Path, **options) -> dict[str, Status]:
    """{label: how it ended}"""
    backend = Local(Runtime(runs=runs), 2, ScriptedJob, preload=())
    events = [event for event in backend.work(plan_of(rows, runs, **options)) if event]
    return {event.entry.run.label: event.status for event in events if event.kind != "started"}


def script(runs: Path, **acts: str) -> None:
    runs.mkdir(exist_ok=True)
    (runs / "script.json").write_text(json.dumps({FIRST.stages[stage].signature: act for stage, act in acts.items()}))


def states(rows, runs: Path) -> dict[str, str]:
    seen = planning.status(replace(wanted(chain_study, rows, runs), among=ROWS))
    return {entry.run.label: entry.status.state for entry in seen.entries.values()}


# ---- order


@pytest.mark.parametrize("rows", [ROWS, BACKWARDS], ids=["in order", "backwards"])
def test_a_run_comes_after_all_that_it_starts_from(rows, tmp_path):
    runs = runs_of(rows)
    order = list(runs)
    assert len(order) == 7 and all(order.index(need) < order.index(s) for s, run in runs.items() for need in run.needs)
    plan = plan_of(rows, tmp_path, rows)
    assert {entry.action for entry in plan.entries.values()} == {"run"} and not plan.count("blocked")
    assert {status.state for status in carry_out(rows, tmp_path).values()} == {"done"}
    for row in ROWS[:2]:
        journals = [RunFolder.of(tmp_path, row.stages[link].signature).journal for link in LINKS]
        for before, after in pairwise(journals):
            assert before.last("finished")["time"] < after.records("start")[0]["time"]


@pytest.mark.parametrize("edits", [{"pretrain": {"epochs": 20}}, {"classify": {"drop_path": 0.2}}])
@pytest.mark.parametrize("table", [ROWS, BACKWARDS], ids=["in order", "backwards"])
def test_an_edit_moves_all_that_starts_from_the_run_to_any_depth(table, edits):
    study = Study("s", "t", lambda scale: table)
    before = {row.name: row.stages for row in table}
    edited = {row.name: row.stages for row in study.build("smoke", edits)}
    runs = runs_of(study.build("smoke", edits))
    assert len(runs) == 7 and all(need in runs for run in runs.values() for need in run.needs)
    for name in ("alpha=1", "alpha=0.5"):
        moved = [link for link in LINKS if edited[name][link].signature != before[name][link].signature]
        assert moved == list(LINKS[LINKS.index(next(iter(edits))) :])
    assert edited["borrowed"]["robust"].needs == (edited["alpha=0.5"]["classify"].signature,)


def test_edits_that_split_a_run_which_others_start_from_are_refused():
    shared = Row("shared", {"pretrain": FIRST.stages["pretrain"], "again": FIRST.stages["pretrain"]})
    study = Study("s", "t", lambda scale: [shared, Row("on", {"classify": FIRST.stages["classify"]})])
    with pytest.raises(ConfigError, match="classify of on starts from a run .* stages pretrain and again share"):
        study.build("smoke", {"again": {"epochs": 3}})
    both = study.build("smoke", {"again": {"epochs": 3}, "pretrain": {"epochs": 3}})
    assert both[1].stages["classify"].needs == (both[0].stages["again"].signature,)


# ---- what ends badly


@pytest.mark.parametrize("link, act", [("pretrain", "raise"), ("classify", "kill"), ("robust", "raise")])
def test_what_follows_a_link_that_broke_is_blocked_and_goes_on_when_that_does(tmp_path, link, act):
    script(tmp_path, **{link: act})
    ended = carry_out(ROWS, tmp_path)
    at = LINKS.index(link)
    assert [ended[f"alpha=1 {name}"].state for name in LINKS[:at]] == ["done"] * at
    assert ended[f"alpha=1 {link}"].state == ("dead" if act == "kill" else "failed")
    assert [ended[f"alpha=1 {name}"].state for name in LINKS[at + 1 :]] == ["blocked"] * (2 - at)
    assert [ended[f"alpha=0.5 {name}"].state for name in LINKS] == ["done"] * 3
    if at == 0:
        assert ended["alpha=1 robust"].reason == "alpha=1 classify blocked"
    (tmp_path / "script.json").unlink()
    if act == "raise":
        seen = plan_of(ROWS, tmp_path)
        assert not seen.todo and seen.count("blocked") == 2 - at
        assert [e.action for e in plan_of(ROWS, tmp_path, retry_failed=True).todo] == ["retry"] + ["run"] * (2 - at)
    assert {status.state for status in carry_out(ROWS, tmp_path, retry_failed=True).values()} == {"done"}
    assert set(states(ROWS, tmp_path).values()) == {"done"}


def test_a_job_that_waits_at_the_end_of_a_chain_that_broke_is_blocked(tmp_path):
    """SLURM says of the last link only that it waits."""
    statuses = {FIRST.stages["pretrain"].signature: Status("failed", "as it was")}
    statuses |= {FIRST.stages[link].signature: Status("waiting", job=f"{i}_0") for i, link in enumerate(LINKS[1:], 7)}

    class Scheduler:
        def statuses(self, runs, needs):
            return {s: statuses[s] for s in runs}

        def cancel(self, jobs):
            return set()

    for signature in statuses:
        folder = RunFolder.of(tmp_path, signature)
        folder.create(runs_of(ROWS)[signature].config)
        folder.jobs.write("submitted", job="slurm:7_0", cluster="c")
    rows = replace(wanted(chain_study, (FIRST,), tmp_path), scheduler=Scheduler())
    seen = [entry.status for entry in planning.plan(rows).entries.values()]
    assert [status.state for status in seen] == ["failed", "blocked", "blocked"]
    assert [status.reason for status in seen[1:]] == ["alpha=1 pretrain failed", "alpha=1 classify blocked"]
    assert [entry.action for entry in planning.plan(rows, retry_failed=True).todo] == ["retry", "run", "run"]


# ---- a part of it


def test_a_row_that_is_chosen_brings_what_it_starts_from(tmp_path):
    chosen = only(ROWS, ["borrowed"])
    assert [entry.run.label for entry in plan_of(chosen, tmp_path).todo] == [
        "alpha=0.5 pretrain", "alpha=0.5 classify", "borrowed robust"
    ]  # fmt: skip
    assert {status.state for status in carry_out(chosen, tmp_path).values()} == {"done"}
    assert states(ROWS, tmp_path)["alpha=1 pretrain"] == "missing"


def test_what_another_row_starts_from_is_not_only_one_rows():
    others = runs_of([FIRST, BORROWED], ROWS)
    assert SECOND.stages["pretrain"].signature in others and SECOND.stages["robust"].signature not in others


# ---- again, on purpose


def test_a_row_is_done_again_with_all_that_starts_from_it_and_the_old_folders_are_kept(tmp_path):
    carry_out(ROWS, tmp_path)
    before = {path.name: (path / "journal.jsonl").read_text() for path in tmp_path.glob("*/") if len(path.name) == 10}
    redo = frozenset(named(ROWS, ["alpha=0.5 classify"]))
    assert [e.run.label for e in plan_of(ROWS, tmp_path, redo=redo).todo if e.action == "redo"] == [
        "alpha=0.5 classify", "alpha=0.5 robust", "borrowed robust"
    ]  # fmt: skip
    ended = carry_out(ROWS, tmp_path, redo=redo)
    assert {label: status.state for label, status in ended.items()} == dict.fromkeys(
        ["alpha=0.5 classify", "alpha=0.5 robust", "borrowed robust"], "done"
    )
    aside = sorted(path.name for path in tmp_path.glob("*.1"))
    redone = [SECOND.stages["classify"], SECOND.stages["robust"], BORROWED.stages["robust"]]
    assert aside == sorted(f"{config.signature}.1" for config in redone)
    assert all((tmp_path / name / "journal.jsonl").read_text() == before[name[:10]] for name in aside)
    carry_out(ROWS, tmp_path, redo=frozenset([BORROWED.stages["robust"].signature]))
    assert (tmp_path / f"{BORROWED.stages['robust'].signature}.2").exists()
    assert not plan_of(ROWS, tmp_path).todo


def test_a_run_that_is_under_way_is_not_redone(tmp_path):
    run = SyntheticRun(tmp_path, FIRST.stages["pretrain"])
    run.start()
    run.beat("training")
    with pytest.raises(ConfigError, match="--redo: alpha=1 pretrain is running; --cancel stops it first"):
        plan_of(ROWS, tmp_path, redo=frozenset(named(ROWS, ["alpha=1"])))
    with pytest.raises(ConfigError, match="unknown row 'alpha=2'"):
        named(ROWS, ["alpha=2"])


def test_what_other_rows_made_from_it_is_not_left_behind(tmp_path):
    carry_out(ROWS, tmp_path)
    redo = frozenset(named(ROWS, ["alpha=0.5 pretrain"]))
    with pytest.raises(
        ConfigError, match="--redo: borrowed robust started from what is done again, and these rows leave"
    ):
        plan_of(only(ROWS, ["alpha=0.5"]), tmp_path, redo=redo)
    plan = plan_of(ROWS, tmp_path, redo=redo)
    aside = [path.name[:10] for path in planning.set_aside(plan)]
    order = list(plan.entries)
    assert aside == sorted(aside, key=order.index, reverse=True) and len(aside) == 4  # a kill leaves nothing of nothing


def test_a_run_that_somebody_writes_is_not_moved(tmp_path):
    carry_out((FIRST,), tmp_path)
    plan = plan_of((FIRST,), tmp_path, redo=frozenset(named(ROWS, ["alpha=1"])))
    code = "import sys, time; from pathlib import Path; from multimae.record.folder import RunFolder\n"
    code += (
        f"with RunFolder(Path({str(plan.todo[0].folder.path)!r})).claim(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match="is being written by"):
            planning.set_aside(plan)
        other.kill()
    assert not list(tmp_path.glob("*.1"))


def test_two_rows_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two rows are called 'alpha=1'"):
        Study("s", "t", lambda scale: [FIRST, Row("alpha=1", dict(SECOND.stages))]).build("smoke")


def test_rows_that_are_one_experiment_are_told():
    assert twins(ROWS) == []
    (told,) = twins([*ROWS, Row("alpha=one", dict(FIRST.stages))])
    assert told.startswith(
        "the rows alpha=1 and alpha=one are one experiment: every setting of every stage is the same"
    )


# ---- as jobs


class Ensemble(RunConfig):
    """A kind of run that starts from several."""

    task: Literal["ensemble"] = "ensemble"
    members: tuple[Annotated[str, Field(pattern="^run:[0-9a-f]{10}$")], ...] = ()

    def images(self):
        return None

    def operations(self, needed):
        return None


@pytest.fixture
def ensembles(monkeypatch):
    monkeypatch.setitem(RunConfig.tasks, "ensemble", Ensemble)


def seen(plan: planning.Plan, size: int = 1000) -> list[tuple]:
    made = arrays(plan, Profile(name="site", max_array_size=size))
    return [(a.stage, a.indices if None not in a.tasks else "", a.dependency, a.level) for a in made]


@pytest.mark.parametrize("rows", [ROWS, BACKWARDS], ids=["in order", "backwards"])
def test_each_link_of_a_chain_is_an_array_that_waits_for_the_one_before(rows, tmp_path):
    on = {stage: f"aftercorr:<job of {stage}>" for stage in LINKS}
    first, second, *third = seen(plan_of(rows, tmp_path, rows))
    assert (first, second) == (("pretrain", "0-1", None, 0), ("classify", "0-1", on["pretrain"], 1))
    one, other = third
    assert one == ("robust", "0-1", on["classify"], 2)
    assert other[0] == "robust" and other[2].startswith("afterok:<job of classify>_")  # of the borrowed row
    labels = [e.run.label for a in arrays(plan_of(rows, tmp_path, rows), Profile(name="site")) for e in a.entries]
    assert len(labels) == len(set(labels)) == 7


def test_a_run_that_starts_from_several_waits_for_all_of_them(tmp_path, ensembles):
    def rows(scale):
        table = list(chain_rows(scale))[:2]
        yield from table
        both = [f"run:{row.stages['classify'].signature}" for row in table]
        yield Row("both", {"ensemble": Ensemble(members=both)})
        yield Row("mixed", {"ensemble": Ensemble(members=[both[0], f"run:{table[0].stages['pretrain'].signature}"])})

    study = Study("several", "Several", rows)
    table = study.build("smoke")
    ensembles_ = [(a, b, c) for a, b, c, _ in seen(plan_of(table, tmp_path, table)) if a == "ensemble"]
    assert ensembles_ == [
        ("ensemble", "", "afterok:<job of classify>_0,afterok:<job of classify>_1"),
        ("ensemble", "", "afterok:<job of classify>_0,afterok:<job of pretrain>_0"),
    ]
    edited = study.build("smoke", {"pretrain": {"epochs": 20}})
    assert edited[2].stages["ensemble"].needs == tuple(row.stages["classify"].signature for row in edited[:2])
    statuses = {s: e.status for s, e in plan_of(table, tmp_path, table).entries.items()}
    assert len(statuses) == 8


def test_a_run_that_is_redone_is_waited_for_though_it_is_done(tmp_path):
    carry_out((FIRST,), tmp_path)
    made = seen(plan_of((FIRST,), tmp_path, (FIRST,), redo=frozenset(named(ROWS, ["alpha=1"]))))
    assert [(stage, after) for stage, _, after, _ in made] == [
        ("pretrain", None), ("classify", "afterok:<job of pretrain>"), ("robust", "afterok:<job of classify>")
    ]  # fmt: skip
