"""Classes of a folder: a part of the samples has all of them, and one numbering serves training and evaluation."""

import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from image_files import write
from PIL import Image
from safetensors import safe_open

from multimae.config import ConfigError, Folder, Runtime, build
from multimae.data.datasets import open_dataset
from multimae.data.listing import class_names
from multimae.data.subsets import choose
from multimae.record.folder import RunFolder
from multimae.run import run
from multimae.tasks.classify import ClassifyTask

CLASSES = tuple(f"class{n}" for n in range(10))


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "pets", CLASSES, 8)


def opened(root, split="train", fields=("rgb", "label"), **settings):
    runtime = Runtime(runs=root.parent / "runs", data_roots={"pets": root})
    return open_dataset(Folder(name="pets", **settings), split, runtime, fields)


def labels(dataset) -> Counter:
    return Counter(int(dataset.sample(i, ("label",))["label"]) for i in range(len(dataset)))


# ---- a part of the samples


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_part_of_a_sorted_folder_has_every_class(root, split):
    """The first 20 of 80 samples would be three classes of ten."""
    dataset = opened(root, split, train_samples=20, eval_samples=20)
    assert labels(dataset) == dict.fromkeys(range(10), 2)


def names(dataset) -> list[str]:
    return [dataset.name(i) for i in range(len(dataset))]


def test_which_part_is_the_subset_seeds_choice_alone_and_in_the_fingerprint(root):
    first, again, other = (opened(root, train_samples=40, subset_seed=seed) for seed in (0, 0, 1))
    assert names(first) == names(again) != names(other)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.fingerprint.endswith("-40-subset0") and other.fingerprint.endswith("-40-subset1")
    assert opened(root, train_samples=80).fingerprint == opened(root).fingerprint  # all of them: nothing was drawn
    with open(first.name(0), "ab") as file:
        file.write(b"0")
    assert opened(root, train_samples=40).fingerprint != first.fingerprint


def test_the_same_part_on_every_machine():
    """Pinned: neither Python's version, nor NumPy's, nor the order of the files may change it."""
    stems = [f"{name}/{n}" for name in ("cat", "dog") for n in range(6)] + ["owl/0", "owl/1", "owl/2"]
    data = Folder(name="x", train_samples=5)
    assert choose(stems, data, "train") == ["cat/1", "cat/5", "dog/2", "dog/5", "owl/0"]
    assert set(choose(stems[::-1], data, "train")) == set(choose(stems, data, "train"))
    flat = [f"{n}" for n in range(9)]
    assert choose(flat, Folder(name="x", eval_samples=3, subset_seed=7), "eval") == ["0", "4", "6"]


def test_every_class_keeps_its_share():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 60, rng.integers(1, 12))
        stems = [f"{c}/{n}" for c, size in enumerate(sizes) for n in range(size)]
        count = int(rng.integers(1, len(stems) + 1))
        try:
            chosen = choose(stems, Folder(name="x", train_samples=count), "train")
        except ValueError as error:
            smallest = int(str(error).rpartition("=")[2])
            for asked in range(1, smallest + 1):  # it works, and nothing below does
                data = Folder(name="x", train_samples=asked)
                if asked == smallest:
                    assert len({stem.split("/")[0] for stem in choose(stems, data, "train")}) == len(sizes)
                else:
                    with pytest.raises(ValueError, match="without one"):
                        choose(stems, data, "train")
            continue
        assert len(chosen) == count and chosen == [stem for stem in stems if stem in set(chosen)]
        got = Counter(stem.split("/")[0] for stem in chosen)
        for c, size in enumerate(sizes):
            assert abs(got[str(c)] - count * size / len(stems)) < 1


# ---- samples that are held out


def held_out(share, **settings) -> Folder:
    return Folder(name="pets", held_out=share, eval_split="train", **settings)


def test_what_is_held_out_is_not_trained_on_and_nothing_is_left_out():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 60, rng.integers(1, 12))
        stems = [f"{c}/{n}" for c, size in enumerate(sizes) for n in range(size)]
        asked = {} if rng.random() < 0.5 else {"train_samples": len(stems)}
        data = held_out(float(rng.uniform(0.05, 0.9)), **asked)
        count = round(data.held_out * len(stems))
        if not 0 < count <= len(stems) - len(sizes):
            with pytest.raises(ValueError, match=f"is {count}, and what is held out are 1 to"):
                choose(stems, data, "eval")
            continue
        kept, held = (choose(stems, data, split) for split in ("train", "eval"))
        assert len(held) == count and sorted(kept + held) == sorted(stems) and not set(kept) & set(held)
        assert {stem.split("/")[0] for stem in kept} == {str(c) for c in range(len(sizes))}  # none loses its last
        spare = sizes - 1
        for c, one in enumerate(spare):
            assert abs(sum(stem.startswith(f"{c}/") for stem in held) - count * one / spare.sum()) < 1


def test_samples_are_held_out_of_those_that_are_asked_for(root):
    data = {"eval_split": "train", "held_out": 0.25, "train_samples": 40}
    kept, held = opened(root, "train", **data), opened(root, "eval", **data)
    assert (len(kept), len(held)) == (30, 10) == (held_out(0.25, train_samples=40).trained, 10)
    assert sorted(names(kept) + names(held)) == names(opened(root, train_samples=40))
    assert labels(held) == dict.fromkeys(range(10), 1) and labels(kept) == dict.fromkeys(range(10), 3)
    assert len({kept.fingerprint, held.fingerprint, opened(root, train_samples=40).fingerprint}) == 3
    assert names(held) != names(opened(root, "eval", **data | {"subset_seed": 1}))


def test_held_out_is_told_where_it_means_nothing():
    for wrong in ({}, {"eval_split": "train", "eval_samples": 3}, {"eval_split": "mine"}):
        with pytest.raises(ConfigError, match="held_out 0.1 is evaluated on, as a whole"):
            build({"task": "pretrain", "data": {"name": "x", "held_out": 0.1, **wrong}})
    config = build({"task": "pretrain", "data": {"name": "x"}})
    assert config.edit({"data.held_out": 0.1, "data.eval_split": "train"}).signature != config.signature
    evaluate = build({"task": "evaluate", "init": "run:0123456789", "data": {"name": "x", "eval_split": "train"}})
    assert evaluate.edit({"data.train_samples": 9}).signature == evaluate.signature
    held = evaluate.edit({"data.held_out": 0.1})
    assert held.edit({"data.train_samples": 9}).signature != held.signature


def test_the_signature_knows_the_subset_seed_only_where_it_chooses():
    config = build({"task": "pretrain", "data": {"name": "x", "train_samples": 9}})
    assert config.edit({"data.subset_seed": 0}).signature == config.signature
    assert config.edit({"data.subset_seed": 1}).signature != config.signature
    with pytest.raises(ConfigError, match="unknown key .data.subset_seed.. Valid with data.name=scenes"):
        build({"task": "pretrain", "data": {"name": "scenes", "train_samples": 9, "subset_seed": 1}})


def test_the_first_scenes_are_a_fair_choice():
    """The label of a scene does not depend on its index."""
    from multimae.data.scenes.composing import LABELS, scene

    counts = Counter(scene("train", index).label for index in range(500))
    assert len(counts) == len(LABELS)
    assert sum((n - 50) ** 2 / 50 for n in counts.values()) < 27.9  # chi-square, 9 degrees: p > 0.001
    halves = [Counter(scene("train", index).label for index in range(start, start + 250)) for start in (0, 250)]
    assert max(abs(halves[0][k] - halves[1][k]) for k in range(len(LABELS))) < 30


# ---- one numbering


@pytest.mark.parametrize("junk", ["_old", ".ipynb_checkpoints", "class1.empty/deeper"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_folders_without_images_are_no_classes(root, junk, split):
    (root / split / "rgb" / junk).mkdir(parents=True)
    train, evaluation = opened(root), opened(root, "eval")
    assert train.class_names == evaluation.class_names == class_names(root / "train") == CLASSES
    assert [evaluation.sample(i, ("label",)) for i in range(80)] == [train.sample(i, ("label",)) for i in range(80)]


def test_hidden_images_are_no_class(root):
    hidden = root / "train/rgb/.ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "0.jpg").write_bytes((root / "train/rgb/class0/0.jpg").read_bytes())
    assert len(opened(root).class_names) == 10 and len(opened(root)) == 80


SETTINGS = {
    "task": "classify", "classes": 3, "epochs": 12, "batch_size": 8, "precision": "fp32", "drop_path": 0,
    "data": {"name": "colours"}, "model": {"image_size": 16, "patch_size": 8, "dim": 32, "depth": 1, "heads": 2},
    "optimizer": {"base_lr": 0.003, "base_batch": None, "layer_decay": 1, "warmup_epochs": 0},
    "augmentation": {"rand_augment": None, "mixup": 0, "cutmix": 0, "label_smoothing": 0, "crop_scale": [0.5, 1]},
}  # fmt: skip


def test_a_leftover_folder_does_not_shift_what_is_measured(tmp_path):
    """An empty `_old` in the training folder once made an accuracy of 100 one of 0."""
    root = tmp_path / "colours"
    for split in ("train", "val"):
        for c, name in enumerate(("blue", "green", "red")[: 3 if split == "train" else 2]):
            (root / split / "rgb" / name).mkdir(parents=True)
            for n in range(8):
                image = np.full((16, 16, 3), 20 + n, np.uint8)
                image[..., 2 - c] = 200
                Image.fromarray(image).save(root / split / "rgb" / name / f"{n}.png")
    (root / "train/rgb/_old").mkdir()
    config = build(SETTINGS)
    runtime = Runtime(runs=tmp_path / "runs", data_roots={"colours": root}, device="cpu")
    assert run(config, runtime) == "finished"
    folder = RunFolder.of(runtime.runs, config.signature)
    assert folder.journal.last("eval")["metrics"]["accuracy"] == 100
    said = folder.journal.last("data")
    assert said["classes"] == ["blue", "green", "red"] and said["eval_lacks"] == ["red"]
    with safe_open(folder.weights, "pt") as weights:
        about = json.loads(weights.metadata()["run"])
    assert about == {"task": "classify", "signature": config.signature, "step": 36, "classes": ["blue", "green", "red"]}


class Prefers(torch.nn.Module):
    """Scores that do not depend on the images: the first of `classes` has the largest, and so on."""

    def __init__(self, *classes: int):
        super().__init__()
        self.scores = torch.tensor([-classes.index(n) for n in range(len(classes))], dtype=torch.float32)

    def forward(self, images):
        return self.scores.repeat(len(images["rgb"]), 1)


def test_where_a_split_lacks_classes_they_need_not_be_chosen_from(tmp_path):
    """As of ImageNet-A, which has 200 of the 1,000."""
    root = write(tmp_path / "colours", ("blue", "green", "red"), 8)
    shutil.rmtree(root / "val/rgb/red")
    task = ClassifyTask(build(SETTINGS), Runtime(runs=tmp_path), trains=False)
    task.model = Prefers(2, 0, 1)
    rooms = open_dataset(Folder(name="colours"), "eval", Runtime(runs=tmp_path, data_roots={"colours": root}))
    cpu = torch.device("cpu")
    everywhere, present = task.evaluate_on(rooms, cpu), task.evaluate_on(rooms, cpu, present_only=True)
    assert everywhere["metrics"] == {"accuracy": 0} and present["metrics"] == {"accuracy": 50}
    assert present["fingerprint"] == everywhere["fingerprint"] + "-among2"  # so no table has both in a column
    task.model.scores[2] = float("nan")
    assert math.isnan(task.evaluate_on(rooms, cpu, present_only=True)["metrics"]["accuracy"]), "a broken model is told"


@pytest.mark.parametrize("split, folder", [("train", "train"), ("eval", "val")])
def test_a_class_that_is_left_out_whole_is_refused(root, split, folder):
    for image in (root / folder / "rgb/class4").iterdir():
        image.write_bytes(b"")
    with pytest.raises(ValueError, match=f"all samples of 1 classes in .*{folder} .*class4"):
        opened(root, split, allow_missing=True)


def test_a_class_that_only_evaluation_has_is_refused(root):
    write(root, ["zebra"], 1, splits=["val"])
    with pytest.raises(ValueError, match="classes that .*/train/rgb lacks, or has no image of: zebra"):
        opened(root, "eval")
    (root / "train/rgb/zebra").mkdir()
    with pytest.raises(ValueError, match="zebra"):
        opened(root, "eval")
