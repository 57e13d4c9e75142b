"""What `--status` says and what MLflow says are the same, once either has looked."""

import pytest
from tracking_store import PRETRAIN, Seen, empty_store, runs, study_run  # noqa: F401 (fixtures)

from multimae import tracking
from multimae.record.state import Status, Traces
from multimae.study import Row, Study, planning
from sweeps.command import main

STUDY = Study("ablation", "An ablation", lambda scale: [Row("alpha=1", {"pretrain": PRETRAIN})])


def shown(runs) -> tuple[str, str]:
    run = Seen(runs).runs("ablation/smoke")["alpha=1 pretrain"]
    return run.info.status, run.data.tags["state"]


def test_status_mends_what_a_killed_process_left(runs, capsys):
    run = study_run(runs)
    run.start()
    run.beat("training")
    assert tracking.sync(runs).ok and shown(runs) == ("RUNNING", "running")
    run.beat("training", pid=2**22 - 3)  # of a process that is gone
    assert main(STUDY, ["--runs", str(runs), "--status"]) == 0
    said = capsys.readouterr().out
    assert "dead" in said and "MLflow had another state of 1 runs" in said
    assert shown(runs) == ("KILLED", "dead")
    assert main(STUDY, ["--runs", str(runs), "--status"]) == 0
    assert "MLflow" not in capsys.readouterr().out


def test_what_was_never_sent_is_not_sent_by_a_look(runs, capsys):
    study_run(runs).whole()
    assert main(STUDY, ["--runs", str(runs), "--status"]) == 0
    assert "MLflow" not in capsys.readouterr().out and not Seen(runs).all()


@pytest.mark.parametrize("state", ["failed", "dead", "interrupted"])
def test_what_only_a_scheduler_knows_is_written_down_once(runs, state):
    class Scheduler:
        def statuses(self, runs, needs):
            return {signature: Status(state, "OUT_OF_MEMORY", job="7") for signature in runs}

    run = study_run(runs)
    run.folder.jobs.write("submitted", job="slurm:7", host="n1", study="ablation", row="alpha=1", stage="pretrain")
    run.start()
    run.folder.jobs.write("began", job="slurm:7", nodes="n1")
    run.beat("training")
    wanted = planning.Wanted(STUDY, "smoke", STUDY.build("smoke"), runs, scheduler=Scheduler())
    assert Traces(run.folder).status.state == "running"
    run.beat("training", pid=2**22 - 3)
    for _ in range(2):
        planning.mend(planning.status(wanted))
    assert Traces(run.folder).status.state == state
    ends = run.folder.jobs.records("ended")
    assert len(ends) == (state != "dead"), "the files said so already, or are told once"
