"""NYUv2's MATLAB files, as its makers' page describes them, become what the paper's recipes read."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from makers import made
from PIL import Image

from multimae.config import ConfigError, Runtime, recipe
from multimae.data.datasets import open_dataset
from multimae.data.prepare.nyuv2 import NYUV2

N, H, W = 1449, 480, 640
DRAWN = (0, 1, 2, 9, 1448)  # images, from 0; the others are black
TEST = [n for n in range(1, N + 1) if n % 2 == 0][:654]  # from 1, as in MATLAB
TRAIN = [n for n in range(1, N + 1) if n not in TEST]
FINE = [n % 40 + 1 for n in range(894)]  # the class of each of the 894, the first of which is number 1


def depth(n: int) -> np.ndarray:
    """Metres: H x W, of image n."""
    return (1 + np.arange(H)[:, None] / H + 2 * np.arange(W) / W + 0.1 * (n % 7)).astype(np.float32)


def photograph(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (H, W, 3), dtype=np.uint8)


def labels(n: int) -> np.ndarray:
    rows = (np.arange(H) * 7 + n) % 895
    rows[0] = 0  # unlabelled
    return np.broadcast_to(rows[:, None], (H, W)).astype(np.uint16)


def write(folder: Path) -> Path:
    """MATLAB stores the first axis as the fastest, so HDF5, whose last is, has them in reverse."""
    folder.mkdir()
    path = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        images = file.create_dataset("images", (N, 3, W, H), np.uint8, chunks=(1, 3, W, H))
        flat = {
            name: file.create_dataset(name, (N, W, H), kind, chunks=(1, W, H), compression="gzip")
            for name, kind in (("depths", np.float32), ("rawDepths", np.float32), ("labels", np.uint16))
        }
        for n in DRAWN:
            raw = depth(n)
            raw[:, :20], raw[:10] = 0, 10  # what the Kinect did not see, and what was too far for it
            images[n] = np.transpose(photograph(n))
            for name, values in (("depths", depth(n)), ("rawDepths", raw), ("labels", labels(n))):
                flat[name][n] = np.transpose(values)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116))
    columns = {"trainNdxs": np.array(TRAIN, np.uint16)[:, None], "testNdxs": np.array(TEST, np.uint16)[:, None]}
    scipy.io.savemat(folder / "splits.mat", columns)
    names = np.array(NYUV2.about.fields["semseg"].classes, object)[None]
    classes = {"mapClass": np.array(FINE, np.uint8)[None], "className": names}
    scipy.io.savemat(folder / "classMapping40.mat", classes)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("nyuv2") / "source")


def opened(name: str, folder: Path, cache: Path, split: str, samples: int, inputs: str = "rgb"):
    config = recipe(name, "paper").edit({"inputs": inputs.split("+"), f"data.{split}_samples": samples})
    return open_dataset(config.data, split, Runtime(cache=cache, data_roots={"nyuv2": folder}), config.fields)


def test_what_recipes_read(source, tmp_path):
    ends = ("0000-0007", "0008-0015", "1448-1448")
    folder = made(NYUV2, source, tmp_path / "made", lambda piece: piece.name in ends)
    train, test = opened("depth", folder, tmp_path, "train", 9), opened("depth", folder, tmp_path, "eval", 8)
    assert [Path(train.name(i)).name for i in (0, 1, 8)] == ["0000.png", "0002.png", "1448.png"]
    assert [Path(test.name(i)).name for i in range(5)] == ["0001.png", "0003.png", "0005.png", "0007.png", "0009.png"]
    for data, index, n in ((train, 0, 0), (train, 1, 2), (test, 0, 1), (test, 4, 9), (train, 8, 1448)):
        sample = data.sample(index, ("rgb", "depth", "mask_valid"))
        assert np.array_equal(sample["rgb"].permute(1, 2, 0).numpy(), photograph(n))
        assert np.abs(sample["depth"][0].numpy() - depth(n)).max() <= 10 / 65536  # metres, holes filled in
        known = np.ones((H, W), bool)
        known[:, :20] = known[:10] = False
        assert np.array_equal(sample["mask_valid"][0].numpy() == 1, known)
    segments = opened("segment_nyuv2", folder, tmp_path, "train", 9, "rgb+depth")
    found = segments.sample(1, ("semseg",))["semseg"].numpy()
    assert all(found[y, x] == (FINE[label - 1] if label else 0) for y, x, label in
               ((y, x, labels(2)[y, x]) for y in range(0, H, 13) for x in (0, 639)))  # fmt: skip
    assert {0, 1, 40} <= set(found.ravel().tolist()) and found.max() == 40


def test_what_it_says_of_itself():
    about = NYUV2.about
    assert about.splits == {"train": 795, "test": 654} and about.fields["depth"].unit == 10 / 65536
    assert about.fields["semseg"].numbers == range(1, 41) and about.fields["semseg"].classes[23] == "refridgerator"
    assert recipe("depth", "paper").data.depth_unit == about.fields["depth"].unit


def test_masks_of_the_paper_s_authors_are_taken_where_they_are(source, tmp_path):
    copied = copy(source, tmp_path)
    (copied / "normals_gt/masks").mkdir(parents=True)
    for n in range(N):
        path = copied / f"normals_gt/masks/{n:04d}.png"
        if n in (0, 1):
            Image.fromarray(np.where(np.arange(W) < 100 * (n + 1), 0, 255)[None].repeat(H, 0).astype(np.uint8)).save(
                path
            )
        else:
            path.symlink_to("0000.png")
    folder = made(NYUV2, copied, tmp_path / "made", lambda piece: piece.name == "0000-0007")
    for split, n in (("train", 0), ("test", 1)):
        mask = np.array(Image.open(folder / f"{split}/mask_valid/data/000{n}.png"))
        assert (mask[:, : 100 * (n + 1)] == 0).all() and (mask[:, 100 * (n + 1) :] == 255).all()
    (copied / "normals_gt/masks/1448.png").unlink()
    with pytest.raises(ConfigError, match="expected 1449 PNG files, found 1448"):
        NYUV2.pieces(copied)


# ---- what is wrong


def copy(source: Path, tmp_path: Path) -> Path:
    """The source by links, of which a test replaces one."""
    copied = tmp_path / "source"
    copied.mkdir()
    for path in source.iterdir():
        (copied / path.name).symlink_to(path)
    return copied


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def older(path: Path) -> None:
    path.unlink()
    scipy.io.savemat(path, {"images": np.zeros((4, 4))})


def unreversed(path: Path) -> None:
    """As a conversion by another program may have it."""
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (H, W, 3, N), np.uint8, chunks=(H, W, 3, 1))


def millimetres(path: Path) -> None:
    with h5py.File(path, "r") as file:
        assert file["depths"].shape == (N, W, H)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    with h5py.File(path, "r+") as file:
        file["depths"][1] = 1000 * file["depths"][1]


def beyond(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    with h5py.File(path, "r+") as file:
        file["labels"][2, 5, 5] = 895


def numbered(train: list[int]):
    def change(path: Path) -> None:
        path.unlink()
        scipy.io.savemat(path, {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(TEST)[:, None]})

    return change


def mapped(classes, names=None):
    def change(path: Path) -> None:
        path.unlink()
        given = NYUV2.about.fields["semseg"].classes if names is None else names
        scipy.io.savemat(path, {"mapClass": np.array(classes)[None], "className": np.array(given, object)[None]})

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "nyu_depth_v2_labeled.mat",
            Path.unlink,
            r"nyu_depth_v2_labeled.mat is not there; in .* lie .*splits.mat.*horatio",
        ),
        ("splits.mat", Path.unlink, r"splits.mat is not there"),
        ("nyu_depth_v2_labeled.mat", cut, r"labeled.mat: expected an HDF5 file that is whole, found: .*truncated"),
        ("nyu_depth_v2_labeled.mat", older, r"labeled.mat: .*found: a MATLAB file of a version before 7.3"),
        (
            "nyu_depth_v2_labeled.mat",
            unreversed,
            r"expected 'images' as \(1449, 3, 640, 480\).*found \(480, 640, 3, 1449\)",
        ),
        ("nyu_depth_v2_labeled.mat", millimetres, r"expected depth in metres, 10 at most, found \d{4}.* another unit"),
        ("nyu_depth_v2_labeled.mat", beyond, r"expected labels from 0 to 894, found 895 in images 0 to 7"),
        ("splits.mat", cut, r"splits.mat: expected a MATLAB file, found"),
        ("splits.mat", numbered([n - 1 for n in TRAIN]), r"found 0 that is not within 1 to 1449 in 'trainNdxs'"),
        ("splits.mat", numbered([2, *TRAIN[1:]]), r"found 2 twice in 'testNdxs'"),
        ("splits.mat", numbered(TRAIN[1:]), r"expected 795 numbers in 'trainNdxs', found 794"),
        ("classMapping40.mat", mapped([*FINE[:-1], 41]), r"894 classes from 1 to 40, found 894 from 1 to 41"),
        ("classMapping40.mat", mapped(FINE[:-1]), r"found 893"),
        ("classMapping40.mat", mapped(FINE, ["floor", "wall", *"abc"]), r"with 'wall', found 'floor'"),
    ],
)
def test_what_is_wrong_is_named(source, tmp_path, name, change, message):
    copied = copy(source, tmp_path)
    change(copied / name)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        made(NYUV2, copied, tmp_path / "made", lambda piece: piece.name == "0000-0007")


def test_a_library_that_is_missing_is_named(source, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"h5py is needed.*pip install -e '.\[prepare\]'"):
        NYUV2.pieces(source)
