"""How a plan becomes job arrays, without a scheduler."""

from dataclasses import replace

import pytest
from plans import wanted
from training import tiny_study

from multimae.study import planning
from multimae.study.status import Status
from multimae.study.study import Row, Study
from slurm.profile import Profile
from slurm.submission.arrays import arrays


def wide_rows(scale: str):
    """100 rows; every second has two more transfers of one stage, which start from the same pre-training."""
    base = next(iter(tiny_study.rows(scale))).stages
    for i in range(100):
        pretrain = base["pretrain"].edit({"seed": i})
        init = {"init": f"run:{pretrain.signature}"}
        stages = {"pretrain": pretrain, "classify": base["classify"].edit(init)}
        yield Row(f"seed={i}", stages)
        if i % 2:
            for lr in (1e-4, 1e-3):
                yield Row(f"seed={i} lr={lr}", {"classify": base["classify"].edit(init | {"optimizer.base_lr": lr})})


SITE = Profile(name="site")
wide = Study("wide", "Wide", wide_rows)


def planned(study, runs, statuses: dict[str, Status] | None = None) -> planning.Plan:
    """A plan in which some runs (by label) have another status, and are left to whom they belong."""
    plan = planning.plan(wanted(study, study.build("smoke"), runs))
    statuses = statuses or {}
    entries = {
        s: replace(e, status=statuses[e.run.label], action=None) if e.run.label in statuses else e
        for s, e in plan.entries.items()
    }
    return replace(plan, entries=entries)


def seen(made) -> list[tuple]:
    return [(a.stage, a.indices if None not in a.tasks else "", a.dependency) for a in made]


def test_a_fresh_study_is_one_array_a_stage(tmp_path):
    made = arrays(planned(tiny_study, tmp_path), SITE)
    after = "aftercorr:<job of pretrain>"
    assert seen(made) == [("pretrain", "0-1", None), ("classify", "0-1", after), ("segment", "0-1", after)]
    assert [e.run.label for e in made[1].entries] == ["alpha=1 classify", "alpha=0.5 classify"]
    made[0].job = "12"
    assert made[1].dependency == "aftercorr:12" and made[1].job_of(1) == "_1"


def test_several_transfers_of_a_stage_have_the_task_number_of_their_pre_training(tmp_path):
    plan = planned(wide, tmp_path)
    made = arrays(plan, SITE)
    odd = ",".join(str(i) for i in range(1, 100, 2))
    assert [(a.stage, a.indices) for a in made] == [
        ("pretrain", "0-99"), ("classify", "0-99"), ("classify", odd), ("classify", odd)
    ]  # fmt: skip
    pretraining = {task: entry.run.signature for task, entry in made[0].tasks.items()}
    for array in made[1:]:
        assert all(entry.run.needs == (pretraining[task],) for task, entry in array.tasks.items())
    assert sum(len(array.tasks) for array in made) == len(plan.todo)


def test_no_array_is_larger_than_the_cluster_takes(tmp_path):
    made = arrays(planned(wide, tmp_path), SITE.model_copy(update={"max_array_size": 30}))
    assert [a.indices for a in made if a.stage == "pretrain"] == ["0-29", "0-29", "0-29", "0-9"]
    assert max(len(a.tasks) for a in made) == 30
    assert all(
        e.run.needs == (a.after[0].job.tasks[t].run.signature,) for a in made if a.after for t, e in a.tasks.items()
    )


def test_many_transfers_of_one_pre_training_are_no_larger_array_either(tmp_path):
    def rows(scale: str):
        base = next(iter(tiny_study.rows(scale))).stages
        for i in range(70):
            yield Row(f"lr={i}", base | {"classify": base["classify"].edit({"optimizer.base_lr": 1e-4 * (i + 1)})})

    plan = planned(Study("deep", "Deep", rows), tmp_path)
    after = "afterok:<job of pretrain>"
    made = [a for a in seen(arrays(plan, SITE.model_copy(update={"max_array_size": 30}))) if a[0] == "classify"]
    assert made == [("classify", indices, after) for indices in ("0-29", "0-29", "0-9")]


def test_a_transfer_waits_for_the_job_that_its_pre_training_has(tmp_path):
    statuses = {"alpha=1 pretrain": Status("running", job="7_4"), "alpha=0.5 pretrain": Status("pending", job="7_9")}
    made = arrays(planned(tiny_study, tmp_path, statuses), SITE)
    assert seen(made) == [("classify", "4,9", "aftercorr:7"), ("segment", "4,9", "aftercorr:7")]


def test_a_transfer_of_a_pre_training_that_is_done_waits_for_nothing(tmp_path):
    statuses = {"alpha=1 pretrain": Status("done"), "alpha=0.5 pretrain": Status("running", job="8_3")}
    made = arrays(planned(tiny_study, tmp_path, statuses), SITE)
    assert seen(made) == [
        ("classify", "", None), ("segment", "", None), ("classify", "", "afterok:8_3"), ("segment", "", "afterok:8_3")
    ]  # fmt: skip


def test_single_jobs_wait_for_single_jobs(tmp_path):
    statuses = {f"alpha=1 {s}": Status("done") for s in ("pretrain", "classify", "segment")}
    made = arrays(planned(tiny_study, tmp_path, statuses), SITE)
    after = "afterok:<job of pretrain>"
    assert seen(made) == [("pretrain", "", None), ("classify", "", after), ("segment", "", after)]


@pytest.mark.parametrize("job, found", [("", 0), ("5_1", 2)])
def test_no_job_can_wait_for_a_run_that_this_machine_trains(tmp_path, job, found):
    statuses = {"alpha=1 pretrain": Status("running", job=job)}
    made = arrays(planned(tiny_study, tmp_path, statuses), SITE)
    labels = [entry.run.label for array in made for entry in array.entries if "alpha=1 " in entry.run.label]
    assert len(labels) == found


def test_the_comment_tells_the_row_of_a_task(tmp_path):
    made = arrays(planned(wide, tmp_path), SITE)
    assert made[0].comment("wide", 60) == "wide pretrain: 0: seed=0; 1: seed=1; 2: seed=2; 3: seed= ..."
    assert len(made[0].comment("wide", 60)) <= 60
    assert made[2].comment("wide", 512).startswith("wide classify: 1: seed=1 lr=0.0001; 3: seed=3 lr=0.0001; ")
