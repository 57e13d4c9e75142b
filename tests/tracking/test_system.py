"""How busy each node was, from the run's folder to MLflow: each sample once, whatever happens on the way."""

import json

import pytest
from tracking_store import CLASSIFY, Seen, empty_store, runs, study_run  # noqa: F401 (fixtures)

from multimae import tracking
from multimae.record import journal
from multimae.record.folder import RunFolder
from multimae.record.journal import Journal
from multimae.tracking import syncer

CPU = "cpu_utilization_percentage"


@pytest.fixture
def at(monkeypatch):
    """Sets the time that is written down."""
    return lambda seconds: monkeypatch.setattr(journal.time, "time", lambda: seconds)


@pytest.fixture
def run(runs, at):
    """One that has started at second 1000."""
    run = study_run(runs)
    at(1000.0)
    run.start()
    return run


def sample(folder: RunFolder, name: str = "n1", node: int = 0, nodes: int = 1, cpu: float = 50.0, **more) -> None:
    Journal(folder.system / f"{name}.jsonl").write("system", node=node, nodes=nodes, metrics={CPU: cpu} | more)


def series(runs, key: str = f"system/{CPU}") -> list[tuple[int, int, float]]:
    """(step, milliseconds, value) of the one run."""
    seen = Seen(runs)
    shown = seen.runs("ablation/smoke")["alpha=1 pretrain"]
    return sorted((m.step, m.timestamp, m.value) for m in seen.client.get_metric_history(shown.info.run_id, key))


def test_samples_have_the_seconds_of_the_run_as_steps(run, runs, at):
    for seconds in (1003.0, 1013.5):
        at(seconds)
        sample(run.folder, cpu=seconds - 1000, gpu_0_utilization_percentage=99.0)
    assert tracking.sync(runs).ok
    assert series(runs) == [(3, 1003000, 3.0), (13, 1013500, 13.5)]
    assert [value for *_, value in series(runs, "system/gpu_0_utilization_percentage")] == [99.0, 99.0]
    assert tracking.sync(runs).metrics == 0
    at(1024.0)
    sample(run.folder)
    assert tracking.sync(runs).metrics == 1 and len(series(runs)) == 3


def test_nodes_are_told_apart_as_mlflow_does(run, runs, at):
    at(1003.0)
    for node, name in enumerate(("gpu-a.site", "gpu-b.site")):
        sample(run.folder, name, node, 2, 10.0 * (node + 1))
    tracking.sync(runs)
    assert [series(runs, f"system/node_{node}/{CPU}") for node in (0, 1)] == [
        [(3, 1003000, 10.0)],
        [(3, 1003000, 20.0)],
    ]
    tags = Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"].data.tags
    assert (tags["node_0"], tags["node_1"]) == ("gpu-a.site", "gpu-b.site")


def test_a_requeued_job_goes_on_wherever_it_runs(run, runs, at):
    at(1003.0)
    sample(run.folder, "n1")
    tracking.sync(runs)
    at(2000.0)
    run.start(step=10)
    at(2003.0)
    sample(run.folder, "n2")
    at(3003.0)
    sample(run.folder, "n1")
    tracking.sync(runs)
    assert [step for step, *_ in series(runs)] == [3, 1003, 2003]


def test_losing_what_was_noted_sends_the_same_again(run, runs, at):
    at(1003.0)
    sample(run.folder)
    sample(run.folder, "n2")
    tracking.sync(runs)
    before = series(runs)
    (run.folder.path / "mlflow.json").unlink()
    at(5000.0)
    assert tracking.sync(runs).metrics == 2 and series(runs) == before


def test_a_kill_between_sending_and_noting_it_sends_nothing_twice(run, runs, at, monkeypatch):
    for second in range(1003, 1023):
        at(float(second))
        sample(run.folder)
    monkeypatch.setattr(syncer, "METRICS_AT_ONCE", 7)
    save, saves = syncer.Cursor.save, []

    def dies(cursor, folder):
        saves.append(dict(cursor.system))
        if len(saves) == 2:
            raise KeyboardInterrupt
        save(cursor, folder)

    monkeypatch.setattr(syncer.Cursor, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        tracking.sync(runs)
    assert 0 < saves[0]["n1.jsonl"] < saves[1]["n1.jsonl"] < (run.folder.system / "n1.jsonl").stat().st_size
    assert tracking.sync(runs).ok
    assert [step for step, *_ in series(runs)] == list(range(3, 23))


def test_what_an_older_version_noted_is_still_good(run, runs, at):
    run.train(range(1, 5))
    tracking.sync(runs)
    noted = run.folder.path / "mlflow.json"
    values = json.loads(noted.read_text())
    del values["system"]
    noted.write_text(json.dumps(values))
    at(1003.0)
    sample(run.folder)
    assert tracking.sync(runs).metrics == 1 and len(series(runs)) == 1


def test_half_a_line_is_sent_once_it_is_whole(run, runs, at):
    at(1003.0)
    sample(run.folder)
    file = run.folder.system / "n1.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    tracking.sync(runs)
    assert series(runs) == []
    file.write_bytes(whole)
    tracking.sync(runs)
    assert len(series(runs)) == 1
    with open(file, "ab") as torn:
        torn.write(whole[:20])  # of a node that died; the next attempt goes on after it
    at(1100.0)
    sample(run.folder)
    tracking.sync(runs)
    assert [step for step, *_ in series(runs)] == [3, 100]


def test_a_file_that_became_shorter_is_sent_anew(run, runs, at):
    at(1003.0)
    sample(run.folder)
    sample(run.folder, cpu=51.0)
    tracking.sync(runs)
    (run.folder.system / "n1.jsonl").unlink()
    tracking.sync(runs)
    at(1050.0)
    sample(run.folder)
    tracking.sync(runs)
    assert series(runs)[-1] == (50, 1050000, 50.0) and len(series(runs)) == 3


@pytest.mark.parametrize("damage", ["", "3\n", '{"time": 1, "kind": "system"}\n', "\0\0\n", '{"kind": "system", "no'])
def test_damage_costs_only_itself(run, runs, at, damage):
    run.folder.system.mkdir()
    (run.folder.system / "n1.jsonl").write_text(damage)
    at(1003.0)
    sample(run.folder)
    assert tracking.sync(runs).ok and len(series(runs)) == 1


@pytest.mark.parametrize(("share", "verdict"), [(0.34, "data"), (0.01, "compute")])
def test_the_verdict_is_a_tag(run, runs, share, verdict):
    def tags():
        return Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"].data.tags

    run.epoch(1, data_share=0.9)
    tracking.sync(runs)
    assert "bound_by" not in tags()  # the first epoch tells nothing
    run.epoch(2, data_share=share)
    tracking.sync(runs)
    assert tags()["bound_by"] == verdict


def test_what_trains_nothing_has_no_verdict(runs):
    run = study_run(runs, CLASSIFY, stage="classify")
    run.start()
    sample(run.folder)
    run.finish()
    assert tracking.sync(runs).ok
    shown = Seen(runs).runs("ablation/smoke")["alpha=1 classify"].data
    assert "bound_by" not in shown.tags and shown.metrics[f"system/{CPU}"] == 50.0
