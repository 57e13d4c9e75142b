"""Folders of images: joined by stem, and refused with the paths that were expected when anything is wrong."""

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimae.config import ConfigError, Dirichlet, Folder, Model, Pretrain, Runtime
from multimae.data import index
from multimae.data.datasets import open_dataset
from multimae.data.loaders import train_batches
from multimae.data.transforms import PretrainTransform
from multimae.shards import Shard

STEMS = ("n01/a", "n01/b", "n02/a", "n02/c", "n03/z")


def write_sample(root: Path, split: str, stem: str, value: int, size: tuple[int, int] = (40, 48)) -> None:
    """An image whose modalities all say `value`."""
    for field, array, ending in (
        ("rgb", np.full((*size, 3), value, np.uint8), "jpg"),
        ("depth", np.full(size, value * 512, np.uint16), "png"),
        ("semseg", np.full(size, value, np.uint8), "png"),
    ):
        path = root / split / field / f"{stem}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        for i, stem in enumerate(STEMS):
            write_sample(tmp_path / "data", split, stem, 10 * (i + 1))
    return tmp_path / "data"


def opened(root: Path, split: str = "train", fields=None, **settings):
    runtime = Runtime(runs=root.parent / "runs", data_roots={"mine": root})
    return open_dataset(Folder(name="mine", **settings), split, runtime, fields)


def test_samples_in_the_order_of_their_stems_with_the_units_of_the_layout(root):
    dataset = opened(root)
    assert len(dataset) == 5 and dataset.split == "train"
    assert dataset.class_names == ("n01", "n02", "n03")
    for i in range(5):
        sample = dataset.sample(i, ("rgb", "depth", "semseg", "label"))
        assert sample["rgb"].shape == (3, 40, 48) and sample["rgb"].dtype == torch.uint8
        assert (sample["rgb"].float() - 10 * (i + 1)).abs().max() <= 2
        assert sample["depth"].shape == (1, 40, 48)
        torch.testing.assert_close(sample["depth"], torch.full((1, 40, 48), 10 * (i + 1) * 512 * 128 / 65535))
        assert (sample["semseg"] == 10 * (i + 1)).all() and sample["semseg"].dtype == torch.uint8
        assert sample["label"] == (0, 0, 1, 1, 2)[i]
    assert set(dataset.sample(0, ("semseg",))) == {"semseg"}


def test_pseudo_labels_lie_in_folders_of_their_own(root):
    """And are read as their modality is."""
    depths = []
    for split in ("train", "val"):
        for stem in STEMS:
            path = root / split / "pseudo_depth" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 48), 5120, np.uint16)).save(path)
    model = Model(image_size=32, patch_size=8)
    for source in ("depth", "pseudo_depth"):
        config = Pretrain(inputs=(source,), targets=("depth",), model=model, masking=Dirichlet(visible_tokens=4))
        dataset = opened(root, fields=config.fields)
        assert dataset.fields == (source,) and f"/{source}/" in dataset.name(0)
        depths.append(dataset.sample(4, config.fields)[source])
        assert set(PretrainTransform(config, train=False)(dataset.sample(0, config.fields))) == {"depth"}
    torch.testing.assert_close(depths[0], torch.full((1, 40, 48), 50 * 512 * 128 / 65535))
    torch.testing.assert_close(depths[1], torch.full((1, 40, 48), 5120 * 128 / 65535))
    with pytest.raises(ValueError, match="pseudo_semseg not found"):
        opened(root, fields=("rgb", "pseudo_semseg"))


def test_a_missing_file_in_the_middle_is_refused_with_the_path_expected(root):
    lost = root / "train" / "depth" / "n01" / "b.png"
    lost.unlink()
    with pytest.raises(ValueError, match="1 of 5 samples") as error:
        opened(root)
    assert f"{lost} missing" in str(error.value) and "allow_missing" in str(error.value)


def test_what_is_left_after_a_missing_file_is_not_shifted(root, capsys):
    (root / "train" / "depth" / "n01" / "b.png").unlink()
    dataset = opened(root, allow_missing=True)
    assert len(dataset) == 4
    assert "1 of 5 samples" in capsys.readouterr().err
    for i, value in enumerate((10, 30, 40, 50)):
        sample = dataset.sample(i, ("rgb", "depth", "semseg"))
        assert (sample["semseg"] == value).all() and (sample["rgb"].float() - value).abs().max() <= 2
        assert abs(float(sample["depth"][0, 0, 0]) - value * 512 * 128 / 65535) < 1e-3


def test_a_file_too_many_counts_as_missing_in_the_others(root):
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(root / "train" / "semseg" / "n02" / "b.png")
    with pytest.raises(ValueError, match="rgb/n02/b.jpg and .*depth/n02/b.png missing"):
        opened(root)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>not found</html>")


def eight_bits(path: Path) -> None:
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(path)


def color(path: Path) -> None:
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.zeros((40, 48), np.uint16)).save(path)


def other_size(path: Path) -> None:
    Image.fromarray(np.zeros((20, 48), np.uint16)).save(path)


@pytest.mark.parametrize(
    "file, damage, said",
    [
        ("rgb/n02/a.jpg", truncate, "cannot be read as an image"),
        ("rgb/n02/a.jpg", empty, "cannot be read as an image"),
        ("rgb/n02/a.jpg", text, "cannot be read as an image"),
        ("depth/n02/a.png", truncate, "is damaged or cut short"),
        ("depth/n02/a.png", eight_bits, "expected a PNG with one 16-bit channel, found mode L"),
        ("depth/n02/a.png", other_size, "48 x 20"),
        ("semseg/n02/a.png", color, "expected a PNG with one 8-bit channel, found mode RGB"),
        ("semseg/n02/a.png", sixteen_bits, "expected a PNG with one 8-bit channel"),
    ],
)
def test_files_that_cannot_be_used_are_refused_before_training(root, file, damage, said):
    damage(root / "train" / file)
    with pytest.raises(ValueError, match="1 of 5 samples") as error:
        opened(root)
    assert str(root / "train" / file) in str(error.value) and said in str(error.value)
    dataset = opened(root, allow_missing=True)  # now from what the first check left in the cache
    assert len(dataset) == 4
    assert [int(dataset.sample(i, ("semseg",))["semseg"][0, 0]) for i in range(4)] == [10, 20, 40, 50]


def test_fields_that_are_not_asked_for_are_not_looked_at(root):
    truncate(root / "train" / "depth" / "n02" / "a.png")
    (root / "train" / "semseg" / "n01" / "a.png").unlink()
    assert len(opened(root, fields=("rgb", "label"))) == 5


def test_a_repaired_file_is_seen(root):
    good = (root / "train" / "rgb" / "n01" / "a.jpg").read_bytes()
    truncate(root / "train" / "rgb" / "n01" / "a.jpg")
    with pytest.raises(ValueError):
        opened(root)
    (root / "train" / "rgb" / "n01" / "a.jpg").write_bytes(good)
    assert len(opened(root)) == 5


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("allow_missing", [False, True])
def test_an_error_of_the_file_system_drops_no_sample_and_is_not_remembered(root, monkeypatch, code, allow_missing):
    def failing(path, *arguments):
        if str(path).endswith("n02/a.jpg"):
            raise OSError(code, os.strerror(code), str(path))
        return open(path, *arguments)

    with monkeypatch.context() as broken:
        broken.setattr(index, "open", failing, raising=False)
        with pytest.raises(OSError, match=f"n02/a.jpg could not be read: {os.strerror(code)}.*nothing is left out"):
            opened(root, allow_missing=allow_missing)
    assert len(opened(root, allow_missing=allow_missing)) == 5


def test_what_is_wrong_with_a_files_content_is_remembered(root, monkeypatch):
    truncate(root / "train" / "rgb" / "n02" / "a.jpg")
    for _ in range(2):
        with pytest.raises(ValueError, match="1 of 5 samples"):
            opened(root)
        monkeypatch.setattr(index, "_check", None)  # not called again


def test_verdicts_that_a_power_cut_has_emptied_are_made_again(root):
    assert len(opened(root)) == 5
    for file in (root.parent / "runs/.cache/index").glob("[!.]*"):
        for left in (b"", b'{"n01', b"[]", file.read_bytes()[:200]):
            file.write_bytes(left)
            assert len(opened(root)) == 5


def test_a_folder_that_may_not_be_listed_is_named(root, monkeypatch):
    def scandir(path):
        if str(path).endswith("n02"):
            raise OSError(code, os.strerror(code), path)
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    for code, kind in ((errno.EACCES, ValueError), (errno.EIO, OSError)):
        with pytest.raises(kind, match=f"n02 cannot be listed: {os.strerror(code)}"):
            opened(root)


def test_bytes_after_the_end_of_an_image_do_no_harm(root):
    with open(root / "train" / "rgb" / "n01" / "a.jpg", "ab") as file:
        file.write(b"\0" * 100)
    assert len(opened(root)) == 5


def test_many_problems_are_listed_in_part_and_counted(tmp_path):
    for i in range(30):
        write_sample(tmp_path / "data", "train", f"s/{i:03d}", i)
        (tmp_path / "data" / "train" / "depth" / "s" / f"{i:03d}.png").unlink()
    with pytest.raises(ValueError) as error:
        opened(tmp_path / "data")
    assert str(error.value).count(".png missing") == 20 and "and 10 more" in str(error.value)


def test_a_file_that_breaks_later_is_named(root):
    config = Pretrain(batch_size=5, model=Model(image_size=32, patch_size=8), masking=Dirichlet(visible_tokens=8))
    dataset = opened(root)
    truncate(root / "train" / "rgb" / "n02" / "c.jpg")
    with pytest.raises(ValueError, match=r"rgb/n02/c\.jpg has \d+ bytes, and had"):
        next(train_batches(dataset, PretrainTransform(config, train=True), config, [Shard()], 0))


def test_a_file_that_breaks_later_is_named_by_a_worker_too(root):
    config = Pretrain(batch_size=5, model=Model(image_size=32, patch_size=8), masking=Dirichlet(visible_tokens=8))
    dataset = opened(root)
    truncate(root / "train" / "rgb" / "n02" / "c.jpg")
    with pytest.raises(ValueError, match=r"^\S*n02/c\.jpg") as error:
        next(train_batches(dataset, PretrainTransform(config, train=True), config, [Shard()], 0, workers=1))
    assert "Traceback" not in str(error.value)


def test_a_class_that_is_too_large_is_named(root):
    Image.fromarray(np.full((40, 48), 200, np.uint8)).save(root / "train" / "semseg" / "n02" / "c.png")
    config = Pretrain(batch_size=5, model=Model(image_size=32, patch_size=8), masking=Dirichlet(visible_tokens=8))
    with pytest.raises(ValueError, match=r"n02/c\.jpg: the semseg input holds class 200"):
        next(train_batches(opened(root), PretrainTransform(config, train=True), config, [Shard()], 0))


def test_a_task_that_needs_more_than_the_folder_holds(root):
    config = Pretrain(batch_size=5, model=Model(image_size=32, patch_size=8), masking=Dirichlet(visible_tokens=8))
    dataset = opened(root, fields=("rgb", "semseg"))
    with pytest.raises(ValueError, match="missing: depth"):
        next(train_batches(dataset, PretrainTransform(config, True), config, [Shard()], 0))
    (root / "train" / "depth").rename(root / "train" / "other")
    with pytest.raises(ValueError, match="train/depth"):
        opened(root, fields=("rgb", "depth"))


def test_imagenet_has_no_folder_for_its_modality(tmp_path):
    for split, stems in (("train", ("n01/x", "n02/x", "n03/x")), ("val", ("n03/v",))):
        for stem in stems:
            path = tmp_path / "data" / split / f"{stem}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "JPEG")
    dataset = opened(tmp_path / "data", fields=("rgb", "label"))
    assert dataset.fields == ("rgb", "label") and len(dataset) == 3
    evaluation = opened(tmp_path / "data", "eval")
    assert evaluation.class_names == ("n01", "n02", "n03")
    assert evaluation.sample(0, ("label",))["label"] == 2, "numbered by the training folder"
    (tmp_path / "data" / "val" / "n04").mkdir()
    (tmp_path / "data" / "val" / "n03" / "v.JPEG").rename(tmp_path / "data" / "val" / "n04" / "v.JPEG")
    with pytest.raises(ValueError, match="n04"):
        opened(tmp_path / "data", "eval")


def test_ade20k_has_no_subfolders(tmp_path):
    for stem in ("one", "two"):
        write_sample(tmp_path / "data", "train", stem, 3)
    dataset = opened(tmp_path / "data", fields=("rgb", "semseg"))
    assert dataset.class_names == () and dataset.fields == ("rgb", "semseg") and len(dataset) == 2


def test_a_part_of_the_samples_has_all_classes(root):
    dataset = opened(root, train_samples=3)
    assert len(dataset) == 3 and len(dataset.class_names) == 3
    assert [int(dataset.sample(i, ("label",))["label"]) for i in range(3)] == [0, 1, 2]
    assert dataset.fingerprint != opened(root).fingerprint
    with pytest.raises(ValueError, match="9 were asked for, .* has 5 samples; set data.train_samples=5"):
        opened(root, train_samples=9)


def test_the_fingerprint_is_that_of_the_samples(root):
    before = opened(root).fingerprint
    assert before == opened(root).fingerprint
    write_sample(root, "train", "n03/zz", 60)
    assert opened(root).fingerprint != before


def test_folders_that_are_not_there(root):
    with pytest.raises(ConfigError, match="known: scenes"):
        open_dataset(Folder(name="elsewhere"), "train", Runtime())
    with pytest.raises(ValueError, match="train2"):
        opened(root, train_split="train2")
    (root / "empty" / "rgb").mkdir(parents=True)
    with pytest.raises(ValueError, match="no samples"):
        opened(root, train_split="empty", fields=("rgb",))


def test_crops_of_a_folder_are_random_but_repeatable(root):
    config = Pretrain(batch_size=5, model=Model(image_size=32, patch_size=8), masking=Dirichlet(visible_tokens=8))
    transform, dataset = PretrainTransform(config, train=True), opened(root)
    first, again = (transform(dataset.sample(0, transform.fields), random.Random(3)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
