"""What a split holds is found out by one process, once, and again when something has changed."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_folders import STEMS, opened, root, write_sample  # noqa: F401 - a fixture

from multimae.config import ConfigError, Depth, Pretrain, Segment
from multimae.data import index
from multimae.data.about import About, check, settings

RANK = """
import sys
import torch.distributed as dist
from multimae.config import Folder, Runtime
from multimae.data.datasets import open_dataset

root, rank, settings = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
looked = []
sys.addaudithook(lambda event, args: looked.append(str(args[0])) if event in ("os.scandir", "open") else None)
dist.init_process_group("gloo", store=dist.FileStore(f"{root}/../store", 2), rank=rank, world_size=2)
runtime = Runtime(runs=f"{root}/../runs", data_roots={"mine": root})
dataset = open_dataset(Folder(name="mine", **settings), "train", runtime, ("rgb", "depth", "label"))
print(sum(path.startswith(f"{root}/train") for path in looked))
print(len(dataset), dataset.fingerprint, dataset.name(2), int(dataset.sample(2, ("depth", "label"))["label"]))
try:
    open_dataset(Folder(name="mine", train_split="lost"), "train", runtime, ("rgb",))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("settings", ["{}", "{'train_samples': 3}"])
def test_the_first_process_looks_for_all(root, settings):
    command = [sys.executable, "-c", RANK, str(root)]
    ranks = [subprocess.Popen([*command, rank, settings], stdout=subprocess.PIPE, text=True) for rank in "01"]
    (looked, *said), (none, *also) = [rank.communicate(timeout=120)[0].splitlines() for rank in ranks]
    assert int(looked) > 6 and none == "0"
    assert said == also and len(said) == 2 and "lost is not there" in said[1]


def test_what_another_process_is_given_is_small_and_the_same(root):
    dataset = opened(root, train_samples=4)
    given = pickle.dumps(dataset)
    assert len(given) < 3000 and b"n01/a" not in given
    copy = pickle.loads(given)
    assert [copy.name(i) for i in range(4)] == [dataset.name(i) for i in range(4)]
    assert copy.fields == dataset.fields and copy.sample(3, ("label",)) == dataset.sample(3, ("label",))


def test_without_a_cache_nothing_is_lost_but_time(root, capsys):
    (root.parent / "runs").write_text("no folder")
    dataset = pickle.loads(pickle.dumps(opened(root)))
    assert len(dataset) == 5 and dataset.name(4).endswith("n03/z.jpg")
    assert "the next start checks the images again" in capsys.readouterr().err


def test_an_index_that_is_not_to_be_seen_elsewhere_is_told(root, monkeypatch):
    given = pickle.dumps(opened(root))
    for file in (root.parent / "runs/.cache/index").iterdir():
        file.unlink()
    monkeypatch.setattr(index, "PATIENCE", 0)
    with pytest.raises(OSError, match="must lie on a file system that all machines of a run share"):
        pickle.loads(given)


def test_every_change_is_seen_and_nothing_else(root, monkeypatch):
    """A file that was written anew, whatever its size and its name, is checked again; a look that finds all as it was
    checks nothing."""
    checked = []
    monkeypatch.setattr(index, "_check", lambda *args, check=index._check: checked.append(args[-1]) or check(*args))
    path = root / "train/depth/n01/b.png"
    data = path.read_bytes()
    fingerprint = opened(root).fingerprint
    for change in (
        lambda: path.write_bytes(data),
        lambda: os.utime(path, (1, 1)),
        lambda: (root / "train/depth/n01/b.png").rename(root / "train/depth/n01/b.PNG"),
        lambda: write_sample(root, "train", "n04/new", 7),
    ):
        checked.clear()
        opened(root)
        assert not checked
        change()
        dataset = opened(root)
        assert len(checked) == len(dataset)
        assert (dataset.fingerprint == fingerprint) == (len(dataset) == 5)
    assert dataset.sample(1, ("depth",))["depth"].shape == (1, 40, 48)


def test_names_in_other_forms_of_unicode_and_case_lead_to_their_files(root):
    """macOS writes é as e and an accent; the index knows the one and finds the other."""
    for field, ending in (("rgb", "JPG"), ("depth", "png"), ("semseg", "PNG")):
        folder = root / "train" / field / "n01"
        source = next(folder.glob("a.*"))
        name = ("cafe\u0301" if field == "rgb" else "caf\u00e9") + f".{ending}"
        (folder / name).write_bytes(source.read_bytes())
    dataset = opened(root)
    assert len(dataset) == 6 and dataset._stem(2) == "n01/café"
    assert set(dataset.sample(2, ("rgb", "depth", "semseg"))) == {"rgb", "depth", "semseg"}


# ---- what a data set says of itself

NYU = {"depth": {"unit": 10 / 65536}, "semseg": {"classes": ["wall", "floor"], "first": 1}}


def test_settings_that_contradict_the_data_set_are_refused(root):
    About(name="mine", fields=NYU, splits={"train": 5}).write(root)
    segment = Segment(classes=2, model={"image_size": 64, "semseg_unlabelled": True})
    check(segment, root)
    check(Depth(), root)
    check(Pretrain(), root.parent)  # which says nothing
    for config, said in (
        (segment.edit({"classes": 3}), "classes is 3, and .*dataset.yaml says 2: give --set classes=2"),
        (segment.edit({"zero_is_unlabelled": False}), "zero_is_unlabelled=True"),
        (Depth().edit({"data.depth_unit": 0.001}), "data.depth_unit is 0.001, and .* says 0.000152"),
        (Pretrain(), "data.depth_unit is 0.00195"),
        (Pretrain(data={"name": "mine", "depth_unit": 10 / 65536}, model={"semseg_classes": 2}), "semseg_classes=3"),
    ):
        with pytest.raises(ConfigError, match=said):
            check(config, root)
    assert settings(About(name="mine", fields=NYU), Segment())["zero_is_unlabelled"]


def test_a_split_that_is_not_whole_is_refused(root):
    About(name="mine", splits={"train": 6}).write(root)
    with pytest.raises(ValueError, match=r"train has 5 samples, and .*dataset.yaml says 6"):
        opened(root)
    assert len(opened(root, "eval")) == 5


def test_pseudo_labels_have_a_unit_of_their_own(root):
    for stem in STEMS:
        path = root / "train/pseudo_depth" / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 48), 500, np.uint16)).save(path)
    About(name="mine", fields={"pseudo_depth": {"unit": 0.5}, "depth": {"unit": 0.25}}).write(root)
    sample = opened(root, depth_unit=0.25).sample(0, ("pseudo_depth", "depth"))
    assert sample["pseudo_depth"].unique() == 250 and sample["depth"].unique() == 10 * 512 / 4


@pytest.mark.parametrize(
    "text, said",
    [
        ("name: [", "dataset.yaml"),
        ("name: x\nfields: {deep: {unit: 1}}", "no field of a sample is deep"),
        ("name: x\nfields: {depth: {unit: -1}}", "fields.depth.unit"),
        ("name: x\nsplits: {train: -3}", "splits.train"),
        ("name: x\nsplits: {../other/train: 3}", "splits"),
        ("name: x\nunits: 3", "unknown key 'units'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(root, text, said):
    (root / "dataset.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        opened(root)
    (root / "dataset.yaml").unlink()
    (root / "dataset.yaml").symlink_to("gone")  # a data set that says nothing would be read in another unit
    with pytest.raises(ConfigError, match="is a link to gone, which is not there"):
        opened(root)
