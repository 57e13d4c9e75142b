"""`multimae data show`: samples as they lie and as training sees them; and a photograph with its true depth, from the
check to a pre-training that has learnt to see depth."""

import json
import re
import subprocess
import sys

import motorcycle
import numpy as np
import pytest
import torch
from image_files import rooms
from PIL import Image

from multimae.config import load
from multimae.data import check, show
from multimae.data.transforms import PretrainTransform

ONE = "<figure>"


def page(capsys, out, *words: str) -> str:
    code = show.main([*words, "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 0 and printed.out.strip() == str(out), printed.err
    text = out.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # it needs no other file
    return text


def test_a_folder(tmp_path, capsys):
    root, pretrain = str(rooms(tmp_path / "rooms")), ["--for", "smoke/pretrain", "--samples", "2", "--draws", "3"]
    text = page(capsys, tmp_path / "a.html", root, "--samples", "1", "--draws", "1")
    assert "as paper/pretrain sees it" in text and "crop_scale 0.2 to 1" in text and "0 floor" in text
    text = page(capsys, tmp_path / "b.html", root, *pretrain, "--set", "model.semseg_classes=1")
    assert text.count(ONE) == 2 * 4 and text.count("training would refuse this sample: the semseg input holds") == 2
    text = page(capsys, tmp_path / "c.html", root, *pretrain, "--set", "model.semseg_unlabelled=true")
    assert text.count(ONE) == 2 * (3 * 4 + 1) and "255 unlabelled" in text  # no view is of the mask
    assert text.count("standardised") == 6 and re.search(r"median 2.\d+ m, 1.\d+ to 4.\d* m; grey: 1.0% unknown", text)
    text = page(capsys, tmp_path / "d.html", root, "--for", "smoke/depth", "--samples", "1", "--split", "val")
    assert text.count("the target") == 4 and re.search(r"<h3>(cat|dog)/\d \(class [01]\)", text)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("gone", "gone is not there"),
        (". --split test", "test is not there: give a split with --split; there is train, val"),
        (". --for smoke/evaluate", "evaluate trains nothing"),
        (". --for smoke/regress --set target=normals", "missing here: normals"),
        (". --set epochs=2", "give one with --for"),
        ("scenes --split holidays", "--split holidays: scenes have train, val, test"),
    ],
)
def test_what_cannot_be_shown(words, shown, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(rooms(tmp_path, each=1))
    assert show.main(words.split()) == 2
    assert re.search(shown, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe", "figures", "shown"),
    [
        ("scenes", "smoke/pretrain", 2 * 9, "0 floor"),
        ("scenes", "smoke/classify", 2 * (3 + 2), "rand_augment None"),
        ("scenes_nyuv2", "smoke/segment_nyuv2", 2 * (3 + 2 + 2), "the target"),
        ("scenes_nyuv2", "smoke/depth", 2 * (4 + 2 + 2), "% valid"),
        ("scenes_taskonomy", "smoke/regress", 2 * (4 + 1 + 1), "every epoch"),
    ],
)
def test_embedded_scenes(name, recipe, figures, shown, tmp_path, capsys):
    words = [name, "--for", recipe, "--samples", "2", "--draws", "2", "--cache", str(tmp_path)]
    text = page(capsys, tmp_path / "a.html", *words)
    assert text.count(ONE) == figures and shown in text


# ---- a photograph with its true depth


SETTINGS = {
    "data": "{name: motorcycle, depth_unit: 0.0001}", "inputs": "[rgb,depth]", "targets": "[rgb,depth]",
    "masking.visible_tokens": "10", "epochs": "60", "augmentation.crop_scale": "[0.7,1.0]",
}  # fmt: skip


@pytest.mark.slow
def test_a_photograph_and_its_depth_are_checked_shown_and_learnt(tmp_path, capsys):
    root = motorcycle.write(tmp_path / "motorcycle")
    _, depth = motorcycle.scene()
    assert 2 < depth[depth > 0].min() < depth.max() < 5.1 and 0.07 < (depth == 0).mean() < 0.08
    assert check.main([str(root), "--deep"]) == 0
    assert "0 problems, 0 notes" in capsys.readouterr().out
    (root / "dataset.yaml").rename(tmp_path / "dataset.yaml")
    assert check.main([str(root), "--depth-unit", "0.01"]) == 1  # the median would be at 250 m
    assert "hardly is what was seen" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "dataset.yaml").rename(root / "dataset.yaml")
    text = page(capsys, tmp_path / "page.html", str(root), "--samples", "2", "--draws", "2")
    assert text.count(ONE) == 2 * 2 * 3 and text.count("% unknown") == 2

    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    words = [
        sys.executable,
        "-m",
        "multimae",
        "run",
        "smoke/pretrain",
        "--no-track",
        "--runtime",
        "device=cpu",
        "--runtime",
        "threads=1",
    ]
    words += ["--runs", str(tmp_path / "runs"), "--data", f"motorcycle={root}", *settings]
    subprocess.run(words, check=True, capture_output=True)
    (journal,) = (tmp_path / "runs").glob("*/journal.jsonl")
    losses = [line["metrics"] for line in map(json.loads, journal.read_text().splitlines()) if line.get("metrics")]
    config = load("smoke/pretrain", [f"{key}={value}" for key, value in SETTINGS.items()])
    assert losses[-1]["loss_depth"] < 0.9 * constant_loss(root, config)  # 0.8 of it was seen


def constant_loss(root, config) -> float:
    """L1 of the best constant over the evaluation's standardised depth."""
    transform = PretrainTransform(config, train=False)
    depths = []
    for file in sorted((root / "val" / "depth").iterdir()):
        rgb = np.array(Image.open(root / "val" / "rgb" / file.name)).transpose(2, 0, 1)
        depth = np.array(Image.open(file)).astype(np.float32)[None] * motorcycle.UNIT
        depths.append(transform({"rgb": torch.from_numpy(rgb), "depth": torch.from_numpy(depth)})["depth"].numpy())
    values = np.stack(depths)
    return float(np.abs(values - np.median(values)).mean())
