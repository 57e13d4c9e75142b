"""What the SLURM back end submits: scripts as text, on any machine; then for real, on the dev cluster.

After a change that is meant, `UPDATE_GOLDEN=1 python -m pytest -n 0 tests/cluster/test_cluster.py -k golden` rewrites
tests/golden/*.sbatch.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)
from plans import wanted
from submitit.core.utils import DelayedSubmission
from training import tiny_study

from multimae import files
from multimae.config import ConfigError, recipe
from multimae.record.folder import RunFolder
from multimae.study import planning
from multimae.study.study import Row, Study
from slurm import scheduler
from slurm.cost import job_seconds
from slurm.profile import Profile, load_profile
from slurm.submission import cluster as cluster_module
from slurm.submission.arrays import After, Array, arrays
from slurm.submission.cluster import Cluster
from slurm.submission.script import RESTARTS, UNCOUNTED, BatchScript

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = tiny_study.build("smoke")
PRETRAIN, CLASSIFY = ROWS[0].stages["pretrain"], ROWS[0].stages["classify"]


def profile(**changes) -> Profile:
    return Profile(**{"name": "test", "partition": "main", "signal_seconds": 30, "time_limit": "30"} | changes)


def plan_of(runs: Path, **options) -> planning.Plan:
    return planning.plan(wanted(tiny_study, ROWS, runs), **options)


# ---- scripts


@pytest.mark.parametrize("name", ["site", "devcluster"])
def test_golden_scripts(name, tmp_path, monkeypatch):
    """Of the profiles that come with the project."""
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM is needed, and no git
    monkeypatch.setenv("USER", "somebody")
    cluster = Cluster(load_profile(name), tmp_path)
    scripts = "\n".join(f"# {title}\n{text}\n" for title, text in cluster.scripts(plan_of(tmp_path), hide=False))
    assert list(tmp_path.iterdir()) == []  # it was only shown
    scripts = re.sub(r"\.code/installed-\w+", ".code/SNAPSHOT", scripts).replace(str(tmp_path), "RUNS")
    scripts = scripts.replace(sys.executable, "PYTHON")
    golden = GOLDEN / f"{name}.sbatch"
    if "UPDATE_GOLDEN" in os.environ:
        golden.write_text(scripts)
    assert scripts == golden.read_text()


def test_what_is_timed_asks_for_whole_nodes(tmp_path):
    """In an array of its own, whatever the profile says of other jobs; nothing else in the scripts differs."""
    study = Study("tiny", "Tiny", lambda scale: [ROWS[0], replace(ROWS[1], alone=("pretrain",))])
    plan = planning.plan(wanted(study, study.build("smoke"), tmp_path))
    site = profile(sbatch={"exclusive": "user"})
    made = arrays(plan, site)
    assert [(a.stage, a.alone, a.indices if None not in a.tasks else "") for a in made if a.stage == "pretrain"] == [
        ("pretrain", False, ""), ("pretrain", True, "")
    ]  # fmt: skip
    cluster = Cluster(site, tmp_path)
    shared, timed, *_ = [text for _, text in cluster.scripts(plan)]
    assert [new for old, new in zip(shared.splitlines(), timed.splitlines()) if old != new] == [
        "#SBATCH --comment='tiny pretrain: alpha=0.5'", "#SBATCH --exclusive"
    ]  # fmt: skip
    assert "1 job, each 1 whole node with 1 core" in cluster.estimate(plan)
    told = [cluster._job(array, array.entries[0]).runtime.alone for array in made]
    assert told == [array.alone for array in made]


def test_scripts_are_what_is_submitted_but_for_the_ids(tmp_path, monkeypatch):
    sent = fake_sbatch(monkeypatch)
    cluster = Cluster(profile(), tmp_path)
    shown = [text for _, text in cluster.scripts(plan_of(tmp_path))]
    list(cluster.work(plan_of(tmp_path)))
    assert [text.replace("aftercorr:100", "aftercorr:<job of pretrain>") for text in sent] == [
        text.replace("'aftercorr:<job of pretrain>'", "aftercorr:<job of pretrain>") for text in shown
    ]
    assert dict(cluster.calls) == {"sbatch": 3, "scontrol": 2}


def test_a_long_pre_training_may_start_again_often_enough(tmp_path):
    site = profile(time_limit="24:00:00", gpus_per_node=8)

    def first(plan: planning.Plan) -> BatchScript:
        return BatchScript(arrays(plan, site)[0], site, tmp_path, None, "tiny")

    def alone(config) -> BatchScript:
        study = Study("long", "Long", lambda scale: [Row("a", {"pretrain": config})])
        return first(planning.plan(wanted(study, study.build("smoke"), tmp_path)))

    assert first(plan_of(tmp_path)).restarts == RESTARTS  # minutes of work
    long = alone(PRETRAIN.edit({"epochs": 1e6}))
    days = job_seconds(long.array.entries[0].run, long.array.resources) / 86400
    assert days > 7 and long.restarts >= 10 * days
    assert alone(PRETRAIN.edit({"data.train_samples": None})).restarts == UNCOUNTED


def test_the_estimate_counts_jobs_calls_and_time_limits(tmp_path):
    text = Cluster(profile(gpus_per_node=8, nodes=2, time_limit="24:00:00"), tmp_path).estimate(plan_of(tmp_path))
    assert "6 jobs (3 arrays) by 3 sbatch calls" in text
    assert "2 jobs, each 2 nodes with 8 GPUs" in text and "within 1 time limit of 24 h" in text and "GPU-hours" in text


# ---- submission, with an sbatch that only says yes or no


def fake_sbatch(monkeypatch, refuse: str = "", after: int = 99) -> list[str]:
    """SLURM's commands, without SLURM; returns the scripts that sbatch got. It refuses those after the first few."""
    sent: list[str] = []

    def run(command, **options):
        if command[0] == "sbatch":
            if refuse and len(sent) >= after:
                return subprocess.CompletedProcess(command, 1, "", f"sbatch: error: {refuse}\n")
            sent.append(options["input"])
            return subprocess.CompletedProcess(command, 0, f"{99 + len(sent)}\n", "")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(cluster_module.subprocess, "run", run)
    monkeypatch.setattr(cluster_module.scheduler, "cluster_name", lambda: "fake")
    monkeypatch.setattr(cluster_module.snapshot, "checkout", lambda *_: {"commit": None, "dirty": None})  # git neither
    return sent


def test_every_run_is_recorded_with_its_job_and_has_its_pickle(tmp_path, monkeypatch):
    fake_sbatch(monkeypatch)
    made = list(Cluster(profile(), tmp_path).work(plan_of(tmp_path)))
    assert [(array.job, array.indices) for array in made] == [("100", "0-1"), ("101", "0-1"), ("102", "0-1")]
    record = RunFolder.of(tmp_path, CLASSIFY.signature).jobs.last("submitted")
    assert (record["job"], record["cluster"], record["stage"]) == ("slurm:101_0", "fake", "classify")
    assert (tmp_path / ".slurm/101_0/101_0_submitted.pkl").exists()
    assert not list((tmp_path / ".slurm").glob(".*.pkl"))


def test_what_sbatch_refuses_is_told_with_its_words_and_the_key(tmp_path, monkeypatch):
    fake_sbatch(monkeypatch, "Batch job submission failed: Invalid partition name specified", after=1)
    with pytest.raises(ConfigError, match="classify.*Invalid partition name specified.*partition.*profile test"):
        list(Cluster(profile(), tmp_path).work(plan_of(tmp_path)))
    assert RunFolder.of(tmp_path, PRETRAIN.signature).jobs.last("submitted")["job"] == "slurm:100_0"
    assert RunFolder.of(tmp_path, CLASSIFY.signature).jobs.last("submitted") is None
    assert not list((tmp_path / ".slurm").glob(".*.pkl"))


def pickled(runs: Path, job: str):
    return DelayedSubmission.load(runs / f".slurm/{job}/{job}_submitted.pkl").function


@pytest.mark.parametrize(
    "gpus, settings, device", [(2, {}, "cuda"), (0, {}, "auto"), (2, {"device": "cpu"}, "cpu")], ids=str
)
def test_a_job_that_asks_for_gpus_does_not_train_without(tmp_path, monkeypatch, gpus, settings, device):
    fake_sbatch(monkeypatch)
    list(Cluster(profile(gpus_per_node=gpus, runtime=settings), tmp_path).work(plan_of(tmp_path)))
    assert pickled(tmp_path, "100_0").runtime.device == device


def test_what_a_job_inherits_is_not_handed_on_to_another(monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert scheduler.submitting() == dict(os.environ)
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # given in an interactive job
    names = scheduler.submitting().keys()
    assert {"SLURM_CONF", "PATH"} <= names and not {"SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID"} & names


def test_a_folder_that_a_colleague_does_not_share_is_told_before_anything_is_submitted(tmp_path, monkeypatch):
    sent = fake_sbatch(monkeypatch)
    theirs = RunFolder.of(tmp_path, CLASSIFY.signature)
    theirs.create(CLASSIFY)
    theirs.jobs.write("ended", state="missing", reason="")
    monkeypatch.setattr(cluster_module.os, "access", lambda path, mode: path != theirs.jobs.path)
    with pytest.raises(ConfigError, match=rf"{theirs.jobs.path} belongs to \w+.*chmod -R g\+rwX"):
        list(Cluster(profile(), tmp_path).work(plan_of(tmp_path)))
    assert sent == []


def test_jobs_of_a_colleague_that_wait_in_vain_do_not_stop_a_retry(tmp_path, monkeypatch, capfd):
    sent = fake_sbatch(monkeypatch)
    list(Cluster(profile(), tmp_path).work(plan_of(tmp_path)))

    says = {"100_0": ("FAILED", ""), "101_0": ("PENDING", "DependencyNeverSatisfied")}
    known = {id: scheduler.SchedulerJob(id, "fake", *said) for id, said in says.items()}
    running = scheduler.SchedulerJob("", "fake", "RUNNING")
    monkeypatch.setattr(scheduler, "query", lambda ids: {id: known.get(id, running) for id in ids})
    monkeypatch.setattr(scheduler, "cancel", set)
    list(Cluster(profile(), tmp_path).work(plan_of(tmp_path, retry_failed=True)))
    assert len(sent) == 5 and "only who submitted them may cancel 101_0" in capfd.readouterr().err


def test_lines_of_the_profile_do_not_decide_what_becomes_of_a_job_that_fails(tmp_path):
    cluster = Cluster(profile(setup=["set -e", "module load cuda"]), tmp_path)
    lines = cluster.scripts(plan_of(tmp_path))[0][1].splitlines()
    assert lines.index("set -e") < lines.index("module load cuda") < lines.index("set +e") < lines.index("code=$?")


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(scheduler.Unreachable, match="login node"):
        list(Cluster(profile(), tmp_path).work(plan_of(tmp_path)))


def test_a_launcher_waits_for_another_and_says_for_whom(tmp_path, monkeypatch, capfd):
    sent = fake_sbatch(monkeypatch)
    code = "from pathlib import Path; import time\n"
    code += "from slurm.submission.cluster import Cluster; from slurm.profile import Profile\n"
    code += f"cluster = Cluster(Profile(name='x'), Path({str(tmp_path)!r}))\n"
    code += "with cluster._alone():\n    print('held', flush=True)\n    time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        list(Cluster(profile(), tmp_path).work(plan_of(tmp_path)))
    assert f"process {other.pid} of {files.user()} on" in capfd.readouterr().err
    assert len(sent) == 3


# ---- the dev cluster


def small_rows(scale: str):
    """Two rows of runs that take seconds."""
    small = {"epochs": 1, "batch_size": 4, "data.train_samples": 8, "data.eval_samples": 4, "data.render_size": 32}
    small |= {"optimizer.warmup_epochs": 0}
    for seed in (0, 1):
        pretrain = recipe("pretrain", "smoke").edit(small | {"seed": seed})
        classify = recipe("classify", "smoke").edit(small | {"init": f"run:{pretrain.signature}"})
        yield Row(f"seed={seed}", {"pretrain": pretrain, "classify": classify})


small_study = Study("small", "Small", small_rows)
SMALL = small_study.build("smoke")
FIRST, SECOND = (row.stages for row in SMALL)


class Site:
    """The small study on the dev cluster."""

    def __init__(self, cluster, runs: Path):
        self.cluster, self.runs = cluster, runs
        runtime = {"device": "cpu", "threads": 1}
        self.profile = profile(runtime=runtime, environment={"OMP_NUM_THREADS": "1"})

    def plan(self, **options) -> planning.Plan:
        return planning.plan(wanted(small_study, SMALL, self.runs), **options)

    def states(self) -> dict[str, str]:
        seen = planning.status(wanted(small_study, SMALL, self.runs))
        return {entry.run.label: entry.status.state for entry in seen.entries.values()}

    def submit(self, **options) -> Cluster:
        cluster = Cluster(self.profile, self.runs)
        self.submitted = list(cluster.work(self.plan(**options)))
        return cluster

    def wait(self, **states: str) -> None:
        wanted = {label.replace("_", " "): state for label, state in states.items()}
        wanted = {f"seed={label[-1]} {label[:-2]}": state for label, state in wanted.items()}
        self.cluster.wait(lambda: wanted.items() <= self.states().items(), f"{wanted}, not {self.states()}", 300)

    def submissions(self) -> list[str]:
        folders = (RunFolder.of(self.runs, e.run.signature) for e in self.plan().entries.values())
        return [record["job"] for folder in folders for record in folder.jobs.records("submitted")]

    @contextlib.contextmanager
    def closed(self):
        """While nothing starts."""
        self.cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            yield
        finally:
            self.cluster.run("scontrol", "update", "PartitionName=main", "State=UP")


@pytest.fixture
def site(dev_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", dev_cluster.environment["SLURM_CONF"])
    yield Site(dev_cluster, tmp_path / "runs")
    dev_cluster.run("scancel", "--user=root")
    dev_cluster.wait_idle()


@pytest.mark.slurm
@pytest.mark.slow
def test_a_study_from_nothing_to_done(site):
    with site.closed():
        made = site.submit()
        assert dict(made.calls) == {"sbatch": 2, "scontrol": 1}
        assert set(site.states().values()) <= {"pending", "waiting"}
        job = site.cluster.job(f"{site.submitted[1].job}_1")
        assert job["JobName"] == "small-classify" and f"aftercorr:{site.submitted[0].job}" in job["Dependency"]
        assert dict(site.submit().calls) == {}  # it is all in the queue
    site.wait(pretrain_0="done", pretrain_1="done", classify_0="done", classify_1="done")
    assert dict(site.submit().calls) == {}
    environment = json.loads(RunFolder.of(site.runs, FIRST["pretrain"].signature).environment.read_text())
    (snapshot,) = (site.runs / ".code").iterdir()
    assert environment["commit"] == json.loads((snapshot / "snapshot.json").read_text())["commit"]


@pytest.mark.slurm
def test_two_launchers_at_once_submit_each_run_once(site):
    with site.closed():
        code = "import sys; sys.path[:0] = {!r}; from pathlib import Path; from test_cluster import *\n"
        code += "site = Site(None, Path({!r})); plan = site.plan(); print('planned', flush=True); input()\n"
        code += "list(Cluster(site.profile, site.runs).work(plan))"  # of a plan in which all is missing
        here = Path(__file__).parent
        words = [sys.executable, "-c", code.format([str(here), str(here.parent)], str(site.runs))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        launchers = [subprocess.Popen(words, **pipes) for _ in range(2)]
        assert [launcher.stdout.readline() for launcher in launchers] == ["planned\n", "planned\n"]
        for launcher in launchers:
            launcher.stdin.write("\n")
            launcher.stdin.close()
        assert [launcher.wait(60) for launcher in launchers] == [0, 0]
        assert len(site.submissions()) == len(set(site.submissions())) == 4


@pytest.mark.slurm
@pytest.mark.slow
def test_a_failure_leaves_the_others_alone_and_is_retried(site):
    folder = RunFolder.of(site.runs, FIRST["pretrain"].signature)
    folder.create(FIRST["pretrain"])
    in_the_way = folder.samples / "predictions.png"
    in_the_way.mkdir(parents=True)
    site.profile = site.profile.model_copy(update={"restarts_without_progress": 1})
    site.submit()
    site.wait(pretrain_0="failed", classify_0="blocked", classify_1="done")
    assert dict(site.submit().calls) == {}  # nothing, unless it is asked for
    in_the_way.rmdir()
    calls = site.submit(retry_failed=True).calls
    assert calls["sbatch"] == 2 and calls["scancel"] == 1
    site.wait(pretrain_0="done", classify_0="done")


@pytest.mark.slurm
def test_a_cancelled_study_is_submitted_again(site):
    with site.closed():
        site.submit()
        first = site.submitted
        assert len(planning.cancel(site.plan()).asked) == 4
        site.cluster.wait(lambda: set(site.states().values()) == {"missing"}, "cancelled")
        assert site.cluster.run("squeue", "--noheader") == ""
        site.submit()
        assert [a.indices for a in first] == [a.indices for a in site.submitted]


@pytest.mark.slurm
def test_what_sbatch_really_says(site):
    site.profile = site.profile.model_copy(update={"partition": "nowhere"})
    with pytest.raises(ConfigError, match="(?i)invalid partition.*see partition of the profile"):
        site.submit()
    assert set(site.states().values()) == {"missing"}


@pytest.mark.slurm
def test_a_dependency_outlives_the_memory_of_the_job_that_it_names(site):
    """SLURM tests ten waiting tasks of an array, unless they are split, and forgets what ended well after a while."""
    conf = Path(site.cluster.environment["SLURM_CONF"])
    before = conf.read_text()
    try:
        conf.write_text(before.replace("MinJobAge=300", "MinJobAge=5"))
        site.cluster.run("scontrol", "reconfigure")
        first = site.cluster.sbatch("true", "--array=0-15")
        second = site.cluster.sbatch("sleep 2", "--array=0-15%1", f"--dependency=aftercorr:{first}", "--nodes=1")
        tasks = dict.fromkeys(range(16), plan_of(site.runs).todo[0])
        waiting = Array("classify", "classify", site.profile.resources("classify"), tasks, after=(After(first, 0),))
        waiting.job = second
        Cluster(site.profile, site.runs)._split(waiting, "tiny")
        site.cluster.wait(lambda: not _queue(site, first), "all of the first ended", 60)
        time.sleep(12)  # and are forgotten
        assert "Dependency" not in _queue(site, second)
    finally:
        conf.write_text(before)
        site.cluster.run("scontrol", "reconfigure")


def _queue(site: Site, id: str) -> str:
    with contextlib.suppress(RuntimeError):  # an id that is forgotten
        return site.cluster.run("squeue", "--noheader", "--array", f"--jobs={id}", "--format=%i %T %r")
    return ""
