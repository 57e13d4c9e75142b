"""Whether cores feed GPUs is told before a plan runs, with what mends it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from plans import wanted
from training import tiny_study

from multimae.config import Evaluate, Runtime, recipe
from multimae.data.packs import FACTS, VERSION
from multimae.study import planning
from multimae.study.feeding import CORE_SECONDS, LEAST_STEP, Feed, feeding
from slurm.profile import Profile
from slurm.submission.cluster import Cluster
from sweeps import command
from sweeps.alpha_ablation import study as alphas

PAPER = recipe("pretrain", "paper")
MEND = "{} cores feed it"


def feed(config=PAPER, cores=1, root=None, processes=8, **runtime) -> Feed:
    return Feed.of("stage pretrain", config, root, cores, processes, Runtime(**runtime))


def test_what_a_gpu_takes_and_cores_give():
    one = feed()
    assert one.takes == pytest.approx(30e12 / PAPER.flops().training) and one.readers == 1
    photograph, other = CORE_SECONDS["folder"]
    assert one.each == pytest.approx(1 / (photograph + 2 * other))
    few = PAPER.edit({"inputs": ["rgb"], "targets": ["rgb"], "masking.visible_tokens": 49})
    assert feed(few).each == pytest.approx(1 / photograph)
    tiny = recipe("pretrain", "smoke")
    assert feed(tiny, processes=1).takes == tiny.batch_size / LEAST_STEP and feed(tiny).kind == "scenes"
    assert feed(Evaluate()) is None


@pytest.mark.parametrize("cores, workers, readers", [(1, None, 1), (8, None, 7), (64, None, 16), (8, 3, 3), (4, 9, 3)])
def test_as_many_read_as_workers_have_cores(cores, workers, readers):
    assert feed(cores=cores, workers=workers).readers == readers


def test_a_line_says_what_mends_it(tmp_path):
    slow = replace(feed(), takes=2000.0)  # an H100's
    (note,) = feeding([feed(cores=16), slow, replace(slow, where="stage other", takes=1500.0)], MEND)
    assert "a GPU takes 2,000 images/s" in note and f"its 1 core gives {slow.gives:,.0f}" in note
    assert note.endswith("(`multimae data pack`). So in stage other")
    cores = int(re.search(r"(\d+) cores feed it", note)[1])
    enough, less = (replace(feed(cores=n, workers=n), takes=slow.takes) for n in (cores, cores - 1))
    assert feeding([enough], MEND) == [] != feeding([less], MEND)
    (few,) = feeding([replace(feed(cores=16, workers=2), takes=slow.takes)], MEND)
    assert "16 cores with 2 data workers give" in few and f"16 cores feed it with runtime.workers {cores - 1}" in few
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / FACTS).write_text(json.dumps({"version": VERSION}))
    packed = feed(root=tmp_path)
    assert packed.kind == "pack" and slow.each < packed.each == slow.packed
    packed = replace(packed, takes=slow.takes)
    assert "pack`" not in feeding([packed], MEND)[0]


def test_a_plan_for_a_cluster_tells_of_its_profile(tmp_path):
    plan = planning.plan(wanted(tiny_study, tiny_study.build("smoke"), tmp_path))

    def notes(**changes) -> list[str]:
        profile = Profile(**{"name": "test", "gpus_per_node": 4} | changes)
        return [note for note in Cluster(profile, tmp_path).check(plan) if "wait for data" in note]

    (note,) = notes(cpus_per_task=1)
    assert note.startswith("profile test, stage ") and re.search(r"cpus_per_task: \d+ feeds it", note)
    assert notes(cpus_per_task=16) == notes(cpus_per_task=1, runtime={"device": "cpu"}) == []


def test_a_plan_for_this_machine_tells_of_its_cores(tmp_path, monkeypatch, capsys):
    dry = lambda: command.main(alphas, ["--dry-run", "--scale", "mini", "--runs", str(Path(tmp_path) / "runs")])
    monkeypatch.setattr(command, "cpus", lambda: 4)
    monkeypatch.setattr(command, "gpus", lambda: ["0", "1"])
    assert dry() == 0
    (note,) = re.findall("note: .*wait for data.*", capsys.readouterr().err)
    assert note.startswith("note: stage ") and "from a scene)" in note and "here 2 runs (--jobs) share 4" in note
    monkeypatch.setattr(command, "gpus", list)
    assert dry() == 0 and "wait for data" not in capsys.readouterr().err
