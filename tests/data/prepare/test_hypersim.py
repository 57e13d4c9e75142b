"""Hypersim's scenes, as its makers' page describes them, become what the paper's recipe reads."""

import csv
import functools
import io
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from makers import made
from PIL import Image

from multimae.config import ConfigError, Runtime, recipe
from multimae.data.datasets import open_dataset
from multimae.data.prepare.hypersim import HYPERSIM

H, W = 768, 1024
UNIT = 128 / 65535
# Two scenes of metadata_camera_parameters.csv: the usual camera, and the most unusual one (ai_021_002), whose sensor is
# tilted. Both matrices of each, of which the reader takes the first and what is expected here is made of the second.
RAYS = {
    "ai_001_001": (0.5773502886169104, 0, 0, 0, 0.4330127164626828, 0, 0, 0, -1),
    "ai_021_002": (
        0.5921100334279958, 0, -0.03552660121159832, 0, 0.44294547502683684, 0.35435649970875766, 0,
        0.03175838828849088, -1.0255646263489975,
    ),
}  # fmt: skip
PROJECTIONS = {  # rows 0, 1 and 3, of x, y and w, from x, y and z
    "ai_001_001": ((1.7320507492870254, 0, 0), (0, 2.309400999049367, 0), (0, 0, -1)),
    "ai_021_002": (
        (1.6888752825391975, 0.004093252636162593, -0.057090042380612493),
        (0, 2.203037491520368, 0.761200839191837),
        (0, 0.068220878794232, -0.9515007276112399),
    ),
}
SPLITS = {"ai_001_001": "train", "ai_021_002": "train", "ai_003_010": "val", "ai_004_001": "test"}
NORMAL, DISTANCE = np.array((0.5, -0.3, 0.8)), -3.0  # a plane before the camera, which looks along -z


def camera_of(scene: str) -> str:
    """The scene above whose camera it has."""
    return scene if scene in RAYS else "ai_001_001"


@functools.cache
def plane(scene: str) -> tuple[np.ndarray, np.ndarray]:
    """(distance to the camera, depth along the optical axis) of each pixel of an oblique plane: the point of the plane
    that the scene's projection puts at the pixel."""
    row_x, row_y, row_w = (np.array(row) for row in PROJECTIONS[scene])
    right = (np.arange(W) + 0.5) / W * 2 - 1
    up = 1 - (np.arange(H) + 0.5) / H * 2
    equations = np.empty((H, W, 3, 3))
    equations[..., 0, :] = row_x - right[None, :, None] * row_w
    equations[..., 1, :] = row_y - up[:, None, None] * row_w
    equations[..., 2, :] = NORMAL
    points = np.linalg.solve(equations, np.broadcast_to(np.array((0, 0, DISTANCE))[:, None], (H, W, 3, 1)))[..., 0]
    assert (points[..., 2] < 0).all()
    return np.linalg.norm(points, axis=-1), -points[..., 2]


def hdf5(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.create_dataset("dataset", data=values, compression="gzip")
    return file.getvalue()


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (W, H), (value, 100, 200)).save(file, "JPEG")
    return file.getvalue()


def scene_files(scene: str, frames: tuple[int, ...]) -> dict[str, bytes]:
    files = {}
    distance = plane(camera_of(scene))[0].astype(np.float16)
    distance[0, :3] = np.nan, np.inf, 300  # nothing there, and beyond what is written
    semantic = np.broadcast_to(np.arange(W) % 41 - 1, (H, W)).astype(np.int16)
    semantic = np.where(semantic == 0, -1, semantic).astype(np.int16)
    for frame in frames:
        start = f"images/scene_cam_00_geometry_hdf5/frame.{frame:04d}"
        files[f"images/scene_cam_00_final_preview/frame.{frame:04d}.tonemap.jpg"] = jpeg(frame)
        files[f"{start}.depth_meters.hdf5"] = hdf5(distance)
        files[f"{start}.semantic.hdf5"] = hdf5(semantic)
    return files


def table(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write(folder: Path) -> Path:
    """Two scenes as archives, two unpacked. Frame 1 of the first was not released."""
    folder.mkdir()
    rows, cameras = [], []
    for scene, split in SPLITS.items():
        for frame in (0, 1, 2) if scene == "ai_001_001" else (0,):
            out = scene == "ai_001_001" and frame == 1
            values = (scene, "cam_00", frame, not out, "CONTENT FLAGGED FOR REMOVAL" * out, "" if out else split)
            keys = ("scene_name", "camera_name", "frame_id", "included_in_public_release", "exclude_reason")
            rows.append(dict(zip((*keys, "split_partition_name"), values)))
        matrix = RAYS[camera_of(scene)]
        cameras.append(
            {"scene_name": scene, "settings_output_img_height": 768.0, "settings_output_img_width": 1024.0}
            | {f"M_cam_from_uv_{n // 3}{n % 3}": number for n, number in enumerate(matrix)}
        )
        files = scene_files(scene, (0, 2) if scene == "ai_001_001" else (0,))
        if scene in ("ai_021_002", "ai_003_010"):
            with zipfile.ZipFile(folder / f"{scene}.zip", "w") as archive:
                for name, data in files.items():
                    archive.writestr(f"{scene}/{name}", data)
        else:
            for name, data in files.items():
                (folder / scene / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / scene / name).write_bytes(data)
    table(folder / "metadata_images_split_scene_v1.csv", rows)
    table(folder / "metadata_camera_parameters.csv", cameras)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("hypersim") / "source")


def opened(folder: Path, cache: Path, split: str):
    config = recipe("segment_hypersim", "paper").edit({"inputs": ["rgb", "depth"], "data.train_samples": 3})
    fields = (*config.fields, "mask_valid")
    return open_dataset(config.data, split, Runtime(cache=cache, data_roots={"hypersim": folder}), fields)


def test_what_the_recipe_reads(source, tmp_path):
    folder = made(HYPERSIM, source, tmp_path / "made")
    train, val = opened(folder, tmp_path, "train"), opened(folder, tmp_path, "eval")
    names = [Path(train.name(i)).relative_to(folder / "train/rgb").as_posix() for i in range(3)]
    assert names == ["ai_001_001/cam_00_0000.jpg", "ai_001_001/cam_00_0002.jpg", "ai_021_002/cam_00_0000.jpg"]
    assert len(val) == 1 and (folder / "test/depth/ai_004_001/cam_00_0000.png").is_file()
    assert (folder / "train/rgb" / names[1]).read_bytes() == jpeg(2)
    for data, index, scene in ((train, 1, "ai_001_001"), (train, 2, "ai_021_002"), (val, 0, "ai_003_010")):
        sample = data.sample(index, ("depth", "semseg", "mask_valid"))
        depth, known = sample["depth"][0].numpy(), sample["mask_valid"][0].numpy()
        true = plane(camera_of(scene))[1]
        assert (np.abs(depth - true) <= UNIT / 2 + true * 2**-11 + 1e-6)[1:].all()  # of 16-bit floats, the makers'
        assert (known[0, :3] == 0).all() and known[0, 3:].all() and known[1:].all()
        assert (depth[0, :2] == 0).all() and depth[0, 2] == pytest.approx(128)
        expected = np.where(np.arange(W) % 41 >= 2, np.arange(W) % 41 - 1, 0)
        assert (sample["semseg"].numpy() == expected).all() and expected.max() == 39


def test_the_usual_camera_has_the_focal_length_that_the_makers_document():
    distance, depth = plane("ai_001_001")
    x, y = (np.arange(W) + 0.5 - W / 2) / 886.81, (np.arange(H) + 0.5 - H / 2) / 886.81
    assert np.allclose(depth * np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2), distance, rtol=1e-5)
    assert (distance / depth).max() > 1.2  # so to take one for the other would be seen


def test_what_it_says_of_itself():
    about = HYPERSIM.about
    assert about.splits == {"train": 59543, "val": 7386, "test": 7690} and sum(about.splits.values()) == 74619
    assert about.fields["semseg"].numbers == range(1, 41) and about.fields["depth"].unit == UNIT
    assert recipe("segment_hypersim", "paper").data.depth_unit == about.fields["depth"].unit


# ---- what is wrong


def geometry(kind: str) -> str:
    return f"ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.{kind}.hdf5"


def replaced(data: bytes):
    return lambda path: path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without(text: str, other: str = ""):
    return lambda path: path.write_text(path.read_text().replace(text, other))


CAMERAS, IMAGES = "metadata_camera_parameters.csv", "metadata_images_split_scene_v1.csv"
CLASSES = np.ones((H, W), np.int16)
PREVIEW = "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (CAMERAS, Path.unlink, r"parameters.csv is not there; in .* lie .*contrib/mikeroberts"),
        ("ai_003_010.zip", Path.unlink, r"1 of 4 scenes are not in .*source: ai_003_010; in .*source lie ai_001_001"),
        (CAMERAS, without("ai_004_001", "ai_9"), r"1 of 4 scenes .*parameters.csv: ai_004_001"),
        (CAMERAS, without("1024", "640"), r"line 2: expected 1024, 768 and nine numbers, found 640.0, 768.0, 0.57"),
        (IMAGES, without("frame_id", "id"), r"expected a column 'frame_id', found scene"),
        (IMAGES, without("val", "dev"), r"line 6: .*one of train, val, test, found '0' and 'dev'"),
        (IMAGES, without("True", "no"), r"found none of the public release"),
        ("ai_003_010.zip", cut, r"ai_003_010.zip: expected an archive that is whole"),
        (geometry("depth_meters"), Path.unlink, r"frame.0000.depth_meters.hdf5 is not there"),
        (geometry("depth_meters"), cut, r"depth_meters.hdf5: expected an HDF5 file that is whole"),
        (geometry("depth_meters"), replaced(b""), r"depth_meters.hdf5: expected an HDF5 file that is whole"),
        (geometry("depth_meters"), replaced(hdf5(CLASSES)), r"as \(768, 1024\) floating-point numbers, found .* int16"),
        (geometry("depth_meters"), replaced(hdf5(np.ones((W, H), np.float16))), r"found \(1024, 768\) float16"),
        (geometry("semantic"), replaced(hdf5(41 * CLASSES)), r"expected -1 and classes from 1 to 40, found 41 to 41"),
        (geometry("semantic"), replaced(hdf5(0 * CLASSES)), r"expected -1 and classes from 1 to 40, found 0 to 0"),
        (PREVIEW, cut, r"tonemap.jpg: expected a JPEG file that is whole"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, source, name, change, message):
    copied = tmp_path / "source"
    shutil.copytree(source, copied)
    change(copied / name)
    first = ("ai_001_001_cam_00_0000", "ai_003_010_cam_00_0000")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        made(HYPERSIM, copied, tmp_path / "made", lambda piece: piece.name in first)


def test_a_source_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere is no folder\. The folder holds"):
        HYPERSIM.pieces(tmp_path / "nowhere")
