"""The embedded scenes: deterministic, independent of what is rendered with them, and their fields agree."""

import hashlib
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from multimae.config import Runtime, Scenes
from multimae.data.datasets import open_dataset
from multimae.data.scenes import composing as scenes
from multimae.data.scenes.dataset import BLOCK, RenderedScenes
from multimae.data.scenes.rendering import render

ALL = ("rgb", "depth", "semseg", "normals", "instance")


def digest(split: str, indices: list[int]) -> str:
    images = render([scenes.scene(split, i) for i in indices], 32, ALL)
    return hashlib.sha256(b"".join(images[field].tobytes() for field in ALL)).hexdigest()


@pytest.fixture(scope="module")
def images():
    with np.errstate(divide="raise", invalid="raise"):
        return render([scenes.scene("train", i) for i in range(24)], 64, ALL)


def test_scenes_are_equal_in_another_process():
    code = "from test_scenes import digest; print(digest('val', [3, 1, 4]))"
    here = Path(__file__).parent
    other = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest("val", [3, 1, 4])


def test_an_image_does_not_depend_on_its_batch(images):
    alone = render([scenes.scene("train", 7)], 64, ALL)
    for field in ALL:
        np.testing.assert_array_equal(alone[field][0], images[field][7])


def test_the_rooms_with_toys_are_what_they_were(tmp_path):
    """Numbers that were measured stand for these very bytes: another picture is another `composing.VERSION`."""
    dataset = RenderedScenes("train", 6, 32, tmp_path)
    assert dataset.fingerprint == "scenes-v4-32px-train-6"
    files = sorted(path for path in tmp_path.rglob("*.npy"))
    assert [str(path.relative_to(tmp_path)) for path in files] == [
        f"scenes-v4-32px/train/0000000-0000006.{field}.npy" for field in ("depth", "label", "rgb", "semseg")
    ]
    assert hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16] == "5323468c212104fd"
    assert digest("test", [0, 5]) == "ee36db2e3492916b48ac10fc8b5ff5772690bcf319213375ac4b00fa7cda128e"


def test_splits_and_indices_differ():
    assert len({digest(split, [index]) for split in ("train", "val", "test") for index in (0, 1)}) == 6
    with pytest.raises(ValueError, match="train, val, test"):
        scenes.scene("validation", 0)


def test_fields_agree_with_each_other(images):
    semseg, instance, depth = images["semseg"], images["instance"], images["depth"][:, 0]
    for image in range(len(semseg)):
        for surface in np.unique(instance[image]):
            assert len(np.unique(semseg[image][instance[image] == surface])) == 1, "a surface has one class"
    assert semseg.max() < len(scenes.SEMSEG)
    assert depth.min() > 0.3 and depth.max() < 16, "everything is in a room"
    lengths = np.linalg.norm(images["normals"].astype(float), axis=1)
    assert np.abs(lengths / 127 - 1).max() < 0.01
    assert (images["normals"][:, 2] <= 20).mean() > 0.98, "what is seen faces the camera"


def test_normals_are_perpendicular_to_the_surface_that_depth_describes(images):
    """Back-projected neighbours on one flat surface lie in the plane of its normal."""
    size = 64
    for index in range(8):
        scene = scenes.scene("train", index)
        x = ((np.arange(size) + 0.5) * 2 / size - 1) / scene.focal
        depth = images["depth"][index, 0].astype(float)
        points = np.stack([x[None] * depth, x[:, None] * depth, depth])
        step = points[:, :, 1:] - points[:, :, :-1]
        floor = images["instance"][index] == 0
        inside = floor[:, 1:] & floor[:, :-1]
        normals = images["normals"][index, :, :, 1:] / 127
        off = np.abs((step * normals).sum(0) / np.linalg.norm(step, axis=0))[inside]
        assert off.size and off.max() < 0.02


def test_every_class_and_label_occurs():
    some = [scenes.scene("train", i) for i in range(160)]
    assert {scene.label for scene in some} == set(range(len(scenes.LABELS)))
    semseg = render(some, 32, ("semseg",))["semseg"]
    assert set(np.unique(semseg)) == set(range(len(scenes.SEMSEG)))


def test_colours_alone_do_not_tell_the_label():
    """A nearest-mean classifier on colour histograms stays near chance (0.1)."""
    some = [scenes.scene("train", i) for i in range(600)]
    rgb = render(some, 16, ("rgb",))["rgb"].astype(int) // 64
    codes = rgb[:, 0] * 16 + rgb[:, 1] * 4 + rgb[:, 2]
    histograms = np.sqrt(np.stack([np.bincount(code.ravel(), minlength=64) for code in codes]) / 256)
    labels = np.array([scene.label for scene in some])
    means = np.stack([histograms[:400][labels[:400] == k].mean(0) for k in range(len(scenes.LABELS))])
    guesses = ((histograms[400:, None] - means) ** 2).sum(2).argmin(1)
    assert (guesses == labels[400:]).mean() < 0.25


def test_rendered_scenes_are_what_the_renderer_gives(tmp_path):
    dataset = open_dataset(Scenes(train_samples=9, render_size=32), "train", Runtime(runs=tmp_path))
    assert len(dataset) == 9 and dataset.class_names == scenes.LABELS and dataset.semseg_classes == len(scenes.SEMSEG)
    sample = dataset.sample(5, dataset.fields)
    direct = render([scenes.scene("train", 5)], 32, ALL)
    np.testing.assert_array_equal(sample["rgb"], direct["rgb"][0])
    np.testing.assert_array_equal(sample["semseg"], direct["semseg"][0])
    np.testing.assert_allclose(sample["depth"], direct["depth"][0], rtol=1e-3)
    assert sample["label"] == scenes.scene("train", 5).label


def test_other_fields_are_rendered_when_they_are_asked_for(tmp_path):
    data, runtime = Scenes(eval_samples=3, render_size=16), Runtime(runs=tmp_path)
    open_dataset(data, "eval", runtime)
    dataset = open_dataset(data, "eval", runtime, fields=("normals", "instance"))
    sample = dataset.sample(2, ("normals",))
    stored = render([scenes.scene("val", 2)], 16, ALL)["normals"][0]
    np.testing.assert_allclose(sample["normals"], (stored / np.float32(127) + 1) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"scenes have rgb, depth, .*mask_valid; asked for albedo"):
        open_dataset(data, "eval", runtime, fields=("rgb", "albedo"))


def test_pseudo_labels_are_the_truth_with_its_edges_off(tmp_path):
    fields = ("depth", "pseudo_depth", "semseg", "pseudo_semseg")
    dataset = RenderedScenes("val", 4, 48, tmp_path, fields)
    for index in range(4):
        sample, again = dataset.sample(index, fields), dataset.sample(index, fields)
        for true in ("depth", "semseg"):
            pseudo = sample[f"pseudo_{true}"]
            assert pseudo.shape == sample[true].shape and pseudo.dtype == sample[true].dtype
            assert torch.equal(pseudo, again[f"pseudo_{true}"])
        assert 0.7 < float((sample["semseg"] == sample["pseudo_semseg"]).float().mean()) < 1
        assert np.corrcoef(sample["depth"].ravel(), sample["pseudo_depth"].ravel())[0, 1] > 0.9
    assert not list(tmp_path.rglob("*pseudo*")), "made of what is rendered for all tasks"


def test_the_first_samples_do_not_depend_on_how_many_there_are(tmp_path):
    few, many = (RenderedScenes("train", count, 8, tmp_path) for count in (3, BLOCK + 2))
    for index in range(3):
        np.testing.assert_array_equal(few.sample(index, ("rgb",))["rgb"], many.sample(index, ("rgb",))["rgb"])
    np.testing.assert_array_equal(
        many.sample(BLOCK + 1, ("rgb",))["rgb"], render([scenes.scene("train", BLOCK + 1)], 8, ("rgb",))["rgb"][0]
    )
    assert few.fingerprint != many.fingerprint


def _open(folder):
    return int(RenderedScenes("train", BLOCK + 40, 8, folder).sample(BLOCK + 39, ("rgb",))["rgb"].sum())


def test_several_processes_render_together(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        sums = pool.map(_open, [tmp_path] * 3)
    assert len(set(sums)) == 1
    files = [path.name for path in tmp_path.rglob("*.npy")]
    assert len(files) == 2 * 4 and not any(name.startswith(".") for name in files)


def test_a_rendering_that_was_killed_is_done_again(tmp_path):
    RenderedScenes("train", 4, 8, tmp_path)
    victim = next(tmp_path.rglob("*.rgb.npy"))
    before = victim.read_bytes()
    victim.unlink()
    victim.with_name(f".{victim.name}.host.1").write_bytes(before[:100])
    RenderedScenes("train", 4, 8, tmp_path)
    assert victim.read_bytes() == before


@pytest.mark.parametrize("left", [b"", bytes(3000), None])
def test_a_rendering_that_a_power_cut_tore_is_done_again(tmp_path, left):
    RenderedScenes("train", 4, 32, tmp_path)
    victim = next(tmp_path.rglob("*.rgb.npy"))
    before = victim.read_bytes()
    victim.write_bytes(before[:3000] if left is None else left)
    RenderedScenes("train", 4, 32, tmp_path)
    assert victim.read_bytes() == before
