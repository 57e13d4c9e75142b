"""MLflow is filled from journals: everything, once, whatever dies on the way."""

import json
import shutil
import socket
import subprocess
import sys
import threading

import pytest
from synthetic_runs import SyntheticRun
from tracking_store import CLASSIFY, PRETRAIN, Seen, empty_store, runs, study_run  # noqa: F401 (fixtures)

from multimae import tracking
from multimae.files import write_atomic
from multimae.record import state
from multimae.record.folder import RunFolder
from multimae.tracking import records, store, syncer
from multimae.tracking.records import Cursor


def test_a_study_opens_as_rows_with_their_stages(runs):
    alpha = PRETRAIN.edit({"masking.alpha": 0.2})
    for row, pretrain in (("alpha=1", PRETRAIN), ("alpha=0.2", alpha)):
        study_run(runs, pretrain, row).whole()
        study_run(runs, CLASSIFY.edit({"init": f"run:{pretrain.signature}"}), row, "classify").whole()
    report = tracking.sync(runs)
    assert report.ok and report.runs == 4

    found = Seen(runs).runs("ablation/smoke")
    assert set(found) == {
        f"{row}{stage}" for row in ("alpha=1", "alpha=0.2") for stage in ("", " pretrain", " classify")
    }
    row, pretrain, classify = found["alpha=0.2"], found["alpha=0.2 pretrain"], found["alpha=0.2 classify"]
    for child in (pretrain, classify):
        assert child.data.tags["mlflow.parentRunId"] == row.info.run_id
    assert row.data.metrics == {"pretrain/loss": 0.3, "pretrain/loss_rgb": 0.1, "classify/accuracy": 40.0}
    assert row.data.params["masking.alpha"] == "0.2" and found["alpha=1"].data.params["masking.alpha"] == "1.0"
    assert row.data.tags["classify/n"] == "500" and row.data.tags["classify/split"] == "val"
    assert {r.info.status for r in found.values()} == {"FINISHED"}


def test_what_belongs_to_no_run_is_one_run_of_its_own(runs, tmp_path):
    """A search gives its report again and again."""
    file, tag = tmp_path / "report.html", ("multimae.search", "mine")
    for best in (1e-3, 2e-3):
        file.write_text(f"the best is {best}")
        told = {"metrics": {"lr": best}, "tags": {"stage": "search"}, "files": [file]}
        assert tracking.tell(runs, "mine/smoke", tag, "search", **told) == ""
    seen = Seen(runs)
    ((name, run),) = seen.runs("mine/smoke").items()
    assert (name, run.data.metrics, run.data.tags["stage"]) == ("search", {"lr": 2e-3}, "search")
    assert [artifact.path for artifact in seen.client.list_artifacts(run.info.run_id)] == ["report.html"]
    assert "in memory" in tracking.tell(runs, "mine/smoke", tag, "search", **told, uri="sqlite://")


def test_everything_in_the_journal_arrives(runs):
    run = study_run(runs)
    run.start()
    run.train(range(1, 41))
    run.epoch(4)
    run.folder.samples.mkdir()
    (run.folder.samples / "40.png").write_bytes(b"a picture")
    run.journal.write("sample", step=40, file="samples/40.png")
    run.evaluate()
    run.journal.write("nonfinite", step=7, rank=0, loss="nan", samples=[1])
    run.finish()
    tracking.sync(runs)

    seen = Seen(runs)
    shown = seen.runs("ablation/smoke")["alpha=1 pretrain"]
    history = seen.client.get_metric_history(shown.info.run_id, "train/loss")
    records = run.journal.curve("train")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (r["step"], r["loss"], round(r["time"] * 1000)) for r in records
    ]
    metrics, tags = shown.data.metrics, shown.data.tags
    assert metrics["epoch/seconds"] == 3.5 and metrics["epoch/data_share"] == 0.1 and metrics["epoch/memory_gib"] == 1
    assert metrics["train/loss_depth"] == 0.5 / 40 and metrics["train/lr"] == 1e-4 and metrics["train/grad_norm"] == 1
    assert metrics["val/loss"] == 0.3 and tags["val/n"] == "500" and tags["val/fingerprint"] == "f00d"
    assert shown.data.params["model.dim"] == str(PRETRAIN.model.dim)
    assert tags["multimae.signature"] == PRETRAIN.signature
    expected = {"study": "ablation", "row": "alpha=1", "stage": "pretrain", "scale": "smoke", "task": "pretrain"}
    expected |= {"commit": "0123abc", "dirty": "True", "state": "done", "nonfinite": "step 7, rank 0"}
    assert expected.items() <= tags.items()
    assert seen.artifacts(shown) == ["config.yaml", "environment.json", "samples"]
    assert seen.artifacts(shown, "samples") == ["samples/40.png"]


def test_evaluations_on_other_data_sets_have_names_of_their_own(runs):
    study_run(runs).whole()
    run = study_run(runs, CLASSIFY.edit({"init": f"run:{PRETRAIN.signature}"}), stage="classify")
    run.start()
    run.evaluate(metrics={"accuracy": 50.0}, dataset=CLASSIFY.data.name)
    tracking.sync(runs)
    run.evaluate(metrics={"accuracy": 20.0}, dataset="imagenet-a", n=7500)
    run.finish()
    tracking.sync(runs)
    found = Seen(runs).runs("ablation/smoke")
    own, row = found["alpha=1 classify"].data, found["alpha=1"].data
    assert own.metrics == {"val/accuracy": 50.0, "imagenet-a/val/accuracy": 20.0}
    assert own.tags["val/n"] == "500" and own.tags["imagenet-a/val/n"] == "7500"
    assert (row.metrics["classify/accuracy"], row.metrics["classify/imagenet-a/accuracy"]) == (50.0, 20.0)
    assert row.tags["classify/n"] == "500" and row.tags["classify/imagenet-a/n"] == "7500"


@pytest.mark.parametrize("lost", [False, True], ids=["cursor kept", "cursor lost"])
def test_syncing_again_adds_nothing(runs, lost):
    run = study_run(runs).whole()
    tracking.sync(runs)
    if lost:
        (run.folder.path / "mlflow.json").unlink()
    report = tracking.sync(runs)
    seen = Seen(runs)
    assert report.ok and (lost or report.metrics == 0)
    assert len(seen.all()) == 2
    assert seen.steps(seen.runs("ablation/smoke")["alpha=1 pretrain"], "train/loss") == list(range(1, 41))


def test_a_kill_between_sending_and_noting_it_sends_nothing_twice(runs, monkeypatch):
    study_run(runs).whole()
    monkeypatch.setattr(syncer, "METRICS_AT_ONCE", 100)
    save, saves = Cursor.save, []

    def dies_at_the_second(cursor, folder):
        saves.append(cursor.offset)
        if len(saves) == 2:
            raise KeyboardInterrupt  # as little of the code runs as after a kill
        save(cursor, folder)

    monkeypatch.setattr(Cursor, "save", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        tracking.sync(runs)
    monkeypatch.setattr(Cursor, "save", save)
    assert tracking.sync(runs).ok
    seen = Seen(runs)
    assert len(seen.all()) == 2
    shown = seen.runs("ablation/smoke")
    for key in ("train/loss", "train/lr", "epoch/seconds"):
        steps = seen.steps(shown["alpha=1 pretrain"], key)
        assert steps == sorted(set(steps)) and steps[-1] == 40
    assert seen.steps(shown["alpha=1"], "pretrain/loss") == [40]


def test_a_resumed_run_is_one_run_and_each_step_is_sent_once(runs):
    run = study_run(runs)
    run.start()
    run.train(range(1, 21))
    tracking.sync(runs)
    run.train(range(21, 26))  # killed at 25, continues from the checkpoint of step 10
    run.start(step=10)
    run.train(range(11, 31))
    tracking.sync(runs)
    run.train(range(31, 41))
    run.evaluate()
    run.finish()
    tracking.sync(runs)
    seen = Seen(runs)
    shown = seen.runs("ablation/smoke")["alpha=1 pretrain"]
    assert seen.steps(shown, "train/loss") == list(range(1, 41))
    assert shown.data.tags["attempt"] == "2" and shown.info.status == "FINISHED"
    assert len(seen.all()) == 2


def test_the_job_is_found_from_mlflow_and_a_requeue_stays_one_run(runs):
    run = study_run(runs)
    status = []
    for restart in (0, 1):
        began = {"job": "slurm:12_3", "cluster": "c1", "restart": restart, "nodes": f"n[{restart}]", "step": -1}
        run.folder.jobs.write("began", **began)
        run.start()
        run.beat("training")
        write_atomic(run.folder.environment, json.dumps({"dirty": False, "variables": {"SLURM_JOB_ID": "15"}}))
        tracking.sync(runs)
        run.end("interrupted", restart, "SIGUSR2")
        status.append(Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"].info.status)
        tracking.sync(runs)
        status.append(Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"].info.status)
    assert status == ["RUNNING", "KILLED"] * 2
    tags = Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"].data.tags
    assert (tags["slurm_job"], tags["slurm_cluster"], tags["slurm_restart"]) == ("12_3", "c1", "1")
    assert tags["slurm_nodes"] == "n[1]"


def test_a_torn_line_costs_that_line_only(runs):
    run = study_run(runs)
    run.start()
    run.train(range(1, 6))
    with open(run.journal.path, "a") as file:
        file.write('{"time": 1, "kind": "train", "st')
    tracking.sync(runs)
    run.train(range(6, 11))
    report = tracking.sync(runs)
    seen = Seen(runs)
    assert report.ok
    assert seen.steps(seen.runs("ablation/smoke")["alpha=1 pretrain"], "train/loss") == list(range(1, 11))


def test_the_status_follows_the_run_and_is_never_left_running(runs, monkeypatch):
    run = study_run(runs)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    def shown() -> tuple[str, str, str]:
        tracking.sync(runs)
        found = Seen(runs).runs("ablation/smoke")
        return tuple(found[n].info.status for n in ("alpha=1 pretrain", "alpha=1")) + (
            found["alpha=1 pretrain"].data.tags["state"],
        )

    run.start()
    run.beat("training")
    assert shown() == ("RUNNING", "RUNNING", "running")
    run.end("interrupted", step=5, reason="SIGTERM")
    assert shown() == ("KILLED", "KILLED", "interrupted")
    run.start(step=5)
    run.beat("training")
    assert shown() == ("RUNNING", "RUNNING", "running")
    run.start(step=5, pid=dead.pid)
    run.beat("training", dead.pid)
    assert shown() == ("KILLED", "KILLED", "dead")
    run.start(step=5)
    run.end("failed", step=6, reason="the loss was not finite")
    assert shown() == ("FAILED", "FAILED", "failed")
    run.start(step=5)
    run.finish()
    assert shown() == ("FINISHED", "FINISHED", "done")

    rebooted = SyntheticRun(runs, PRETRAIN.edit({"seed": 1}))
    rebooted.start()
    rebooted.beat("training", time=1e9)  # before this process
    assert records.state_of(rebooted.folder)[0].state == "dead"

    other = study_run(runs, CLASSIFY, stage="classify")  # on a machine that cannot be asked
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    other.start()
    other.beat("training")
    monkeypatch.undo()
    assert records.state_of(other.folder)[0].state == "running"
    monkeypatch.setattr(state, "STALE", 0.0)
    assert records.state_of(other.folder)[0].state == "dead"


def test_a_run_that_is_done_again_is_another_run_there(runs):
    first = study_run(runs).whole()
    tracking.sync(runs)
    first.folder.path.rename(first.folder.path.with_name(f"{PRETRAIN.signature}.1"))
    RunFolder.of(runs, PRETRAIN.signature).jobs.write("redone", number=1)
    study_run(runs).whole()
    for _ in range(2):
        tracking.sync(runs)
    seen = Seen(runs)
    made = seen.client.search_runs([e.experiment_id for e in seen.client.search_experiments()])
    told = [run.data.tags.get("multimae.signature") for run in made]
    assert sorted(filter(None, told)) == [PRETRAIN.signature, f"{PRETRAIN.signature}, again 1"]


def test_a_run_of_two_studies_is_one_run_in_the_rows_of_both(runs):
    run = study_run(runs).whole()
    tracking.sync(runs)
    run.submit("other", "baseline", "upstream", scale="mini")  # found done, and used
    assert tracking.sync(runs).ok
    seen = Seen(runs)
    assert len(seen.all()) == 3
    first, second = seen.runs("ablation/smoke"), seen.runs("other/mini")
    tags = first["alpha=1 pretrain"].data.tags
    assert tags["study"] == "ablation, other" and tags["row"] == "alpha=1, baseline"
    assert tags["mlflow.parentRunId"] == first["alpha=1"].info.run_id
    assert second["baseline"].data.metrics["upstream/loss"] == 0.3 and second["baseline"].info.status == "FINISHED"


def test_a_run_of_no_study_that_a_study_adopts_stays_one_run(runs):
    run = SyntheticRun(runs, PRETRAIN).whole()
    tracking.sync(runs)
    assert set(Seen(runs).runs("runs")) == {f"pretrain {PRETRAIN.signature}"}
    run.submit("ablation", "alpha=1", "pretrain")
    (run.folder.path / "mlflow.json").unlink()
    tracking.sync(runs)
    seen = Seen(runs)
    assert len(seen.runs("runs")) == 1 and seen.runs("ablation/smoke")["alpha=1"].data.metrics["pretrain/loss"] == 0.3
    assert len(seen.all()) == 2


def test_a_store_that_was_thrown_away_is_filled_again(runs, empty_store):
    study_run(runs).whole()
    tracking.sync(runs)
    shutil.copy(empty_store, runs.parent / "mlflow.db")
    assert tracking.sync(runs).metrics > 0
    assert Seen(runs).runs("ablation/smoke")["alpha=1"].data.metrics["pretrain/loss"] == 0.3


def test_a_run_deleted_in_mlflow_is_left_alone(runs):
    run = study_run(runs).whole()
    tracking.sync(runs)
    seen = Seen(runs)
    seen.client.delete_run(seen.runs("ablation/smoke")["alpha=1 pretrain"].info.run_id)
    run.journal.write("checkpoint", step=40, seconds=1.0, bytes=10)
    assert tracking.sync(runs).ok
    assert set(seen.runs("ablation/smoke")) == {"alpha=1"}


def test_two_syncers_at_once(runs, tmp_path, empty_store):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(empty_store, alone / "mlflow.db")
    study_run(alone / "runs").whole()
    each = tracking.sync(alone / "runs").metrics
    for alpha in (0.2, 0.5, 1.0):
        study_run(runs, PRETRAIN.edit({"masking.alpha": alpha}), f"alpha={alpha}").whole()
    reports = []
    both = [threading.Thread(target=lambda: reports.append(tracking.sync(runs))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    seen = Seen(runs)
    assert all(report.ok for report in reports) and len(seen.all()) == 6
    assert sum(report.metrics for report in reports) == 3 * each


def test_a_syncer_that_waits_sees_what_another_has_made_meanwhile(runs):
    study_run(runs).whole()
    waiting = syncer.Syncer(runs)
    assert waiting.once().ok
    for alpha in (1.0, 0.2):
        pretrain = PRETRAIN.edit({"masking.alpha": alpha})
        init = {"init": f"run:{pretrain.signature}"}
        study_run(runs, CLASSIFY.edit(init), f"alpha={alpha:g}", "classify").whole()
    assert tracking.sync(runs).metrics > 0
    assert waiting.once().metrics == 0
    assert len(Seen(runs).all()) == 5


def test_large_values_and_many_metrics(runs):
    run = SyntheticRun(runs, PRETRAIN)
    run.start()
    run.train(range(1, 301))  # 2700 metrics
    run.journal.write("train", step=301, epoch=30.1, loss=float("nan"), losses={}, lr=float("inf"), grad_norm=0.0)
    run.journal.write("failed", step=301, reason="x" * 9000)
    report = tracking.sync(runs)
    seen = Seen(runs)
    (shown,) = seen.all()
    assert report.ok and seen.steps(shown, "train/loss") == list(range(1, 302))
    assert len(shown.data.tags["reason"]) == store.TAG_LENGTH


def test_one_damaged_folder_does_not_stop_the_others(runs):
    study_run(runs).whole()
    damaged = study_run(runs, CLASSIFY, stage="classify").whole()
    damaged.folder.config_file.write_text("epochs: [")
    report = tracking.sync(runs)
    assert [problem.split(":")[0] for problem in report.problems] == [CLASSIFY.signature]
    assert Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"].info.status == "FINISHED"


DAMAGED = {
    "mlflow.json": [
        *("", "[1]", "3", "{}", '{"uri": 3}', '{"offset": 999999999}', '{"steps": {"train": "x"}}', '{"cells": [3]}')
    ],
    "environment.json": ["", "3", '{"dirty": ', '{"variables": 7}'],
    "heartbeat.json": ["", "null", '{"pid": "x"}', '{"pid": -1, "host": "h", "time": 1, "state": "training"}'],
    "jobs.jsonl": ["{}\n", '{"time": 1, "kind": "submitted", "job": "local:1"}\n', "\0\0\0"],
}


def test_files_that_are_damaged_cost_only_themselves(runs):
    run = study_run(runs).whole()
    tracking.sync(runs)
    whole = {name: (run.folder.path / name).read_text() for name in ("mlflow.json", "environment.json", "jobs.jsonl")}
    for name, damages in DAMAGED.items():
        for damage in damages:
            if name == "mlflow.json" and damage.startswith('{"') and "3}" not in damage[:10]:
                damage = json.dumps(json.loads(whole[name]) | json.loads(damage))
            (run.folder.path / name).write_text(damage)
            assert tracking.sync(runs).problems == [], (name, damage)
        (run.folder.path / name).write_text(whole.get(name, "{}"))
    seen = Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"]
    assert seen.info.status == "FINISHED" and Seen(runs).steps(seen, "train/loss") == list(range(1, 41))


def test_a_journal_that_is_shorter_than_what_was_sent_is_sent_again(runs):
    run = study_run(runs).whole()
    tracking.sync(runs)
    run.journal.path.unlink()  # and the run begun anew
    run.start()
    run.train([7])
    assert tracking.sync(runs).metrics > 0
    run.folder.config_file.unlink()  # the journal tells what it said
    run.train([8])
    assert tracking.sync(runs).metrics > 0
