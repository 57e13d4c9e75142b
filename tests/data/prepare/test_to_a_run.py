"""From archives as their makers publish them to a smoke-scale run, by the commands of the README alone."""

import json
import subprocess
import sys

import published
import pytest
import test_hypersim
import test_nyuv2
import test_taskonomy

TINY = ["epochs=1", "batch_size=2"]
WHOLE = ["epochs=1", "batch_size=64"]  # of the archive whose number of images is looked at
CASES = {
    "imagenet": (
        lambda source: published.imagenet(source, labels=True),
        "pretrain",
        ["data={name: imagenet}", "model.semseg_classes=133", "optimizer.warmup_epochs=0"],
        ["--partial"],
    ),
    "ade20k": (
        lambda source: published.ade20k(source, {"training": 4, "validation": 2}),
        "segment",
        ["data={name: ade20k}", "classes=150", "zero_is_unlabelled=true"],
        ["--partial"],
    ),
    "nyuv2": (
        test_nyuv2.write,
        "depth",
        ["data={name: nyuv2, eval_split: test, depth_unit: 0.000152587890625}"],
        [],
    ),
    "hypersim": (
        test_hypersim.write,
        "segment_hypersim",
        ["data={name: hypersim}", "classes=40", "zero_is_unlabelled=true"],
        ["--partial"],
    ),
    "taskonomy": (
        test_taskonomy.write,
        "regress",
        ["data={name: taskonomy, eval_split: test, train_samples: null}", "target=curvature", "selection.samples=5"],
        ["--partial"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_from_archives_to_a_run(name, tmp_path):
    write, recipe, settings, options = CASES[name]
    write(tmp_path / "source")

    def multimae(*words: object, codes: tuple[int, ...] = (0,)) -> str:
        command = [sys.executable, "-m", "multimae", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode in codes, done.stdout + done.stderr
        return done.stdout

    multimae("data", "prepare", name, "source", "made", *options)
    reads = [f"--set={setting}" for setting in [*settings, *(WHOLE if name == "nyuv2" else TINY)]]
    found = json.loads(multimae("data", "check", "made", "--for", f"smoke/{recipe}", *reads, "--json", codes=(0, 1)))
    assert not [finding["what"] for finding in found if finding["level"] == "STOPS"]
    multimae("data", "show", "made", "--for", f"smoke/{recipe}", *reads, "--out", "page.html")
    assert "finished: " in multimae("run", f"smoke/{recipe}", *reads, "--data", f"{name}=made", "--no-track")
    multimae("data", "pack", "made", "packed")
    # Done already: the pack is the folder that it learnt from.
    again = multimae("run", f"smoke/{recipe}", *reads, "--data", f"{name}=packed", "--no-track")
    assert "finished: " in again and "step" not in again
