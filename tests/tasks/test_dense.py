"""Depth estimation and dense regression: what they minimise, what they leave out, and that processes change nothing."""

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimae.config import ConfigError, Depth, Regress, Runtime
from multimae.data.datasets import open_dataset
from multimae.data.images import Unusable, read
from multimae.data.subsets import contents, folder_reads
from multimae.data.transforms import DepthTransform, RegressTransform
from multimae.losses import reverse_huber
from multimae.modalities import DENSE, FIELDS
from multimae.record.folder import RunFolder
from multimae.tasks.depth import DepthTask
from multimae.tasks.regress import RegressTask

CPU = torch.device("cpu")
SMALL = {
    "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 4, "heads": 2},
    "head": {"layers": [1, 2, 3, 4], "widths": [4, 4, 4, 4], "dim": 4},
}


def depth(**changes) -> Depth:
    return Depth().edit(SMALL | changes)


def regress(target: str, **changes) -> Regress:
    return Regress().edit(SMALL | {"target": target} | changes)


def task_of(kind, config):
    return kind(config, Runtime(), trains=False)


# ---- losses


def test_reverse_huber_by_hand():
    """Laina et al., equation 2, with c a fifth of the largest error of the batch."""
    errors = torch.tensor([0.0, 0.1, 0.2, 0.5, 1.0])
    found = reverse_huber(errors, 0.2)
    expected = [x if x <= 0.2 else (x * x + 0.04) / 0.4 for x in errors.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_threshold_is_a_share_of_the_largest_valid_error():
    task = task_of(DepthTask, depth(mean=2.0, deviation=0.5))
    truth = torch.tensor([[[[1.0, 3.0, math.nan, 2.0]]]])  # standardised: -2, 2, -, 0
    predicted = torch.tensor([[[[-1.9, 1.0, 50.0, 0.3]]]])
    errors = [0.1, 1.0, 0.3]  # c = 0.2
    expected = (0.1 + (1.0 + 0.04) / 0.4 + (0.09 + 0.04) / 0.4) / len(errors)
    (loss,) = task.loss(predicted, truth).values()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_without_valid_pixels_counts_zero_and_has_a_gradient():
    for task in (task_of(DepthTask, depth()), task_of(RegressTask, regress("edges"))):
        predicted = torch.ones(1, 1, 4, 4, requires_grad=True)
        (loss,) = task.loss(predicted, torch.full((1, 1, 4, 4), math.nan)).values()
        loss.backward()
        assert loss == 0 and (predicted.grad == 0).all()


def test_l1_is_over_valid_values_of_all_channels():
    task = task_of(RegressTask, regress("normals"))
    predicted, truth = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    truth[0] = math.nan
    (loss,) = task.loss(predicted, truth).values()
    torch.testing.assert_close(loss, (predicted[1] - truth[1]).abs().mean())


@pytest.mark.slow
def test_two_processes_have_one_threshold(tmp_path):
    """With a value at every pixel, they differ from one by rounding alone."""
    words = "run smoke/depth --no-track --set data.name=scenes --set masked=false --set data.train_samples=32"
    words += " --set data.eval_samples=8 --set epochs=4 --runtime threads=1 --runtime log_every_steps=1 --runs"
    curves = {}
    for processes in (1, 2):
        runs = tmp_path / str(processes)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "multimae"]
        done = subprocess.run([sys.executable, *launch, *words.split(), str(runs)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (folder,) = RunFolder.all(runs)
        curves[processes] = [record["loss"] for record in folder.journal.curve("train")]
    assert len(curves[1]) == 8 and curves[1] == pytest.approx(curves[2], rel=1e-3)


# ---- what a transform makes


def room(height: int = 48, width: int = 64) -> dict[str, torch.Tensor]:
    """rgb, depth and targets that say the column of each pixel; the mask leaves out the left quarter."""
    column = torch.linspace(0, 1, width).expand(1, height, width)
    dense = {name: column.repeat(kind.channels, 1, 1) for name, kind in DENSE.items()}
    rgb = (255 * column).round().to(torch.uint8).repeat(3, 1, 1)
    return {"rgb": rgb, "depth": 1 + 9 * column, "mask_valid": (column >= 0.25).float()} | dense


def test_depth_is_seen_through_the_crop_of_its_photograph():
    """The short side is resized; a pixel's colour and its depth say the same column."""
    for train in (True, False):
        transform = DepthTransform(depth(**{"augmentation.color_jitter": 0, "augmentation.grey": 0}), train)
        out = transform(room(), random.Random(3) if train else None)
        truth, rgb = out["target"], out["rgb"].float() / 255
        known = truth.isfinite()
        assert truth.shape == (1, 32, 32) and known.any() and not known.all()
        assert (truth[known] - (1 + 9 * rgb[:1][known])).abs().max() < 0.15
        assert not known[rgb[:1] < 0.22].any() and known[rgb[:1] > 0.28].all()


def test_holes_hold_no_value():
    sample = room() | {"mask_valid": torch.ones(1, 48, 64)}
    sample["depth"][:, 20:28, 30:40] = 0
    sample["depth"][:, 0, 0] = math.inf
    truth = DepthTransform(depth(), train=False)(sample)["target"]
    assert truth[:, 14:18, 15:20].isnan().all() and (truth[truth.isfinite()] >= 1).all()


def test_a_whole_block_is_left_out_with_one_pixel():
    sample = room(32, 32) | {"mask_valid": torch.ones(1, 32, 32)}
    sample["mask_valid"][0, 9, 14] = 0
    for block, lost in ((4, 16), (1, 1)):
        out = RegressTransform(regress("edges", mask_block=block), train=True)(sample, random.Random(0))
        assert out["target"].isnan().sum() == lost
    assert not RegressTransform(regress("edges", masked=False), train=True)(sample)["target"].isnan().any()


@pytest.mark.parametrize("target", ["depth", *DENSE])
def test_targets_are_in_their_range_and_not_augmented(target):
    config = regress(target, masked=False)
    out = RegressTransform(config, train=True)(room(), random.Random(0))
    again = RegressTransform(config, train=False)(room())
    assert torch.equal(out["target"], again["target"]) and torch.equal(out["rgb"], again["rgb"])
    kind, columns = FIELDS[target], torch.linspace(0, 1, 32)
    expected = (1 + 9 * columns if target == "depth" else columns) / kind.top
    assert out["target"].shape == (kind.channels, 32, 32)
    torch.testing.assert_close(out["target"][0, 5], expected.clamp(0, 1), atol=0.05 / min(kind.top, 1), rtol=0)


def test_a_target_is_no_input():
    with pytest.raises(ConfigError, match=r"depth is what is predicted.*inputs=\[rgb,pseudo_depth\]"):
        depth(inputs=["rgb", "depth"])
    assert depth(inputs=["rgb", "pseudo_depth"]).fields == ("rgb", "pseudo_depth", "depth", "mask_valid")
    assert regress("normals", inputs=["rgb", "depth"]).fields == ("rgb", "depth", "normals", "mask_valid")


def test_a_head_that_reads_layers_which_are_not_there_is_refused():
    with pytest.raises(ConfigError, match="head.layers .* the encoder has 4"):
        depth(**{"head.layers": [1, 2, 3, 5]})
    with pytest.raises(ConfigError, match="four layers, from the first on"):
        depth(**{"head.layers": [2, 1, 3, 4]})


# ---- folders


def taskonomy(root: Path) -> Runtime:
    """Two buildings in each split, of which none is in another."""
    for split, buildings in (("train", "ab"), ("val", "cd"), ("test", "ef")):
        for building in buildings:
            for number in range(4):
                for field, image in (
                    ("rgb", Image.new("RGB", (16, 16), "teal")),
                    ("normals", Image.new("RGB", (16, 16), (255, 128, 0))),
                    ("mask_valid", Image.new("L", (16, 16), 255)),
                ):
                    path = root / split / field / building / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image.save(path)
    return Runtime(data_roots={"taskonomy": root}, runs=root / "runs")


def test_buildings_are_no_classes(tmp_path):
    runtime = taskonomy(tmp_path)
    config = regress("normals", **{"data.train_samples": 3, "selection.samples": 2, "data.eval_samples": None})
    for what, (data, split) in config.reads.items():
        dataset = open_dataset(data, split, runtime, config.fields)
        assert len(dataset) == {"train": 3, "val": 2, "eval": 8}[what] and not dataset.class_names
    sample = RegressTransform(config, train=False)(dataset.sample(0, config.fields))
    torch.testing.assert_close(sample["target"][:, 0, 0], torch.tensor([1.0, 128 / 255, 0.0]))
    found = contents(tmp_path, folder_reads(config), config.fields)
    assert {what: said["n"] for what, said in found.items()} == {"train": 3, "val": 2, "eval": 8}


def test_a_label_changes_no_draw(tmp_path):
    runtime = taskonomy(tmp_path)
    data = regress("normals", **{"data.train_samples": 5}).data
    plain, labelled = (open_dataset(data, "train", runtime, fields) for fields in (("rgb",), ("rgb", "label")))
    assert plain.fingerprint == labelled.fingerprint and labelled.class_names == ("a", "b")


def test_a_mask_of_ones_is_refused_by_name(tmp_path):
    """Its pixels would all be taken for invalid, and the loss for 0."""
    file = tmp_path / "mask.png"
    Image.new("L", (4, 4), 1).save(file)
    with pytest.raises(Unusable, match="of 0 and 255 alone: it holds 1"):
        read(file, "mask_valid", 100)
    Image.new("L", (4, 4), 255).save(file)
    assert read(file, "mask_valid", 100).eq(1).all()


def test_a_depth_in_another_unit(tmp_path):
    file = tmp_path / "depth.png"
    Image.fromarray(np.full((4, 4), 6554, np.uint16)).save(file)
    assert read(file, "depth", 100, depth().data.depth_unit).mean() == pytest.approx(1.0, abs=1e-4)
