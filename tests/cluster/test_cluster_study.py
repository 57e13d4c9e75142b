"""On a real SLURM: a study is the same as on one machine; four nodes save together, and two of them go on."""

import os
import signal
from itertools import pairwise
from types import SimpleNamespace

import pytest
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)
from plans import wanted
from trial import Trial, tiny

from analysis import tables
from multimae.config import Runtime, recipe
from multimae.record.folder import RunFolder
from multimae.record.heartbeat import AT_WORK
from multimae.record.state import Status
from multimae.study import Row, Study, planning
from multimae.study.local import Local
from slurm.submission.cluster import Cluster
from sweeps.alpha_ablation import study

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

NO_SERVER = SimpleNamespace(uri=None)  # what MLflow gets is tests/cluster/test_faults.py's
FEW = {"epochs": 1, "data.train_samples": 256, "data.eval_samples": 64}


@pytest.fixture
def trial(dev_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", dev_cluster.environment["SLURM_CONF"])

    def make(name: str, **resources) -> Trial:
        trial = Trial(dev_cluster, NO_SERVER, tmp_path / name, tiny(3))
        trial.profile = trial.profile.model_copy(update=resources)
        return trial

    return make


def losses(trial: Trial) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in trial.run.journal.curve("train")}


def test_four_nodes_save_together_and_half_of_them_continue(trial):
    alone, signalled, halved = (trial(name, nodes=4, tasks_per_node=1) for name in ("alone", "signalled", "halved"))
    alone.submit()
    assert not alone.finish()

    signalled.submit()
    signalled.reach(30)
    signalled.cluster.run("scancel", "--signal=USR2", signalled.job)
    assert not signalled.finish()
    assert signalled.run.jobs.last("released")["reason"] == "SIGUSR2"
    outcome = signalled.outcome(alone)
    assert outcome.identical and (outcome.restarts, outcome.lost, outcome.repeated) == (1, 0, 0), outcome

    halved.submit()
    halved.reach(30)
    planning.cancel(planning.plan(wanted(halved.study, halved.study.build("smoke"), halved.runs)))
    halved.until(lambda: halved.status == "interrupted", "the job cancelled", 60)
    saved = halved.run.saved_step
    halved.profile = halved.profile.model_copy(update={"nodes": 2})
    halved.submit()
    assert not halved.finish()
    starts = halved.run.journal.records("start")
    assert [(start["step"], start["processes"]) for start in starts] == [(0, 4), (saved, 2)] and saved >= 30
    before, after = losses(alone), losses(halved)
    assert before.keys() == after.keys()
    assert [after[step] for step in after if step <= saved] == [before[step] for step in before if step <= saved]
    # Other sums, of the same numbers in another order; training makes the difference grow.
    assert after[saved + 1] == pytest.approx(before[saved + 1], rel=1e-5)
    assert after[max(after)] == pytest.approx(before[max(before)], rel=1e-2)


def test_a_study_is_the_same_on_two_nodes_and_on_one_machine(dev_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", dev_cluster.environment["SLURM_CONF"])
    edits = {"pretrain": FEW, "classify": FEW, "segment": FEW | {"data.train_samples": 64}}
    rows = study.build("smoke", edits)[2:4]  # two pre-trainings, and what starts from them: an array a stage
    profile = Trial(dev_cluster, NO_SERVER, tmp_path / "there", tiny()).profile
    there, here = profile.runs, tmp_path / "here"
    here.mkdir()

    def seen() -> planning.Plan:
        return planning.status(wanted(study, rows, there))

    cluster = Cluster(profile, there)
    assert len(list(cluster.work(planning.plan(wanted(study, rows, there))))) == cluster.calls["sbatch"] == 3
    assert len(seen().entries) == 6
    dev_cluster.wait(lambda: not seen().count("pending", "waiting", "running"), "the end of the study", 600)
    assert seen().count("done") == 6, {entry.run.label: entry.status for entry in seen().entries.values()}

    again = Cluster(profile, there)
    assert not list(again.work(seen())) and not again.calls  # nothing to submit, and nobody is asked to

    local = Local(Runtime(runs=here, cache=profile.cache, log_every_steps=1), 2)
    assert list(local.work(planning.plan(wanted(study, rows, here))))
    for signature in seen().entries:
        one, four = (RunFolder.of(runs, signature).journal.curve("train") for runs in (here, there))
        assert [record["loss"] for record in four] == pytest.approx([record["loss"] for record in one], rel=1e-3)
    ours = [tables.build(study.tables[0], "smoke", tables.read(runs, rows)) for runs in (here, there)]
    assert (ours[0]["state"] == "done").all() and (ours[1]["state"] == "done").all()
    # A prediction may tip over where two classes are level: a few of 64 images, or pixels.
    assert ours[1]["value"].to_list() == pytest.approx(ours[0]["value"].to_list(), abs=5)
    same = ["row", "key", "signature", "conditions"]
    assert ours[0][same].equals(ours[1][same])


def chain_rows(scale: str):
    """Pre-train, transfer, evaluate on a third split; each stage stands before the one that it starts from."""
    few = {"epochs": 4, "data.train_samples": 512, "data.eval_samples": 64}
    pretrain = recipe("pretrain", scale).edit(few)
    classify = recipe("classify", scale).edit(few | {"init": f"run:{pretrain.signature}"})
    robust = recipe("evaluate", scale).edit({"init": f"run:{classify.signature}", "data.eval_samples": 4096})
    yield Row("row", {"robust": robust, "classify": classify, "pretrain": pretrain})


CHAIN = Study("chain", "A chain", chain_rows)


def test_a_chain_of_three_comes_back_from_a_kill_in_each_link(dev_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", dev_cluster.environment["SLURM_CONF"])
    profile = Trial(dev_cluster, NO_SERVER, tmp_path / "there", tiny()).profile.model_copy(update={"nodes": 1})
    rows = CHAIN.build("smoke")
    folders = {stage: RunFolder.of(profile.runs, config.signature) for stage, config in rows[0].stages.items()}

    def seen(stage: str) -> Status:
        return planning.status(wanted(CHAIN, rows, profile.runs)).entries[folders[stage].signature].status

    cluster = Cluster(profile, profile.runs)
    made = list(cluster.work(planning.plan(wanted(CHAIN, rows, profile.runs))))
    after = [(array.stage, array.dependency) for array in made]
    assert after == [("pretrain", None), *((b.stage, f"afterok:{a.job}") for a, b in pairwise(made))]
    for stage in ("pretrain", "classify", "robust"):
        dev_cluster.wait(lambda stage=stage: seen(stage).heartbeat.get("state") in AT_WORK[1:], f"{stage} at work", 300)
        os.kill(seen(stage).heartbeat["pid"], signal.SIGKILL)
        dev_cluster.wait(lambda stage=stage: seen(stage).state == "done", f"{stage} done", 300)
        assert len(folders[stage].jobs.records("began")) == 2
        (end,) = folders[stage].journal.records("finished")
        assert not folders[stage].journal.records("failed"), end
    (evaluated,) = folders["robust"].journal.records("eval")
    assert (evaluated["dataset"], evaluated["split"], evaluated["n"]) == ("scenes", "test", 4096)
    again = Cluster(profile, profile.runs)
    assert not list(again.work(planning.plan(wanted(CHAIN, rows, profile.runs)))) and not again.calls
