"""Hypersim: 74,619 rendered images of 457 scenes (Roberts et al. 2021). No torch.

Its `depth_meters` is the distance to the camera along a pixel's ray, and is made depth along the optical axis here, as
NYUv2's and the networks' depth is. More than half of the scenes have a camera of their own, by which that depth differs
by up to 15 % from what the usual focal length of 886.81 px gives: metadata_camera_parameters.csv has them all.
"""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ...config.settings import ConfigError
from ...modalities import MODALITIES
from ..about import About, FieldFacts
from .arrays import DAMAGED, LAST, contents, dataset, flags, hdf5, png, required, rows, some, steps
from .pieces import Piece, Writer

HOME = "https://github.com/apple/ml-hypersim"
SPLIT, CAMERAS = "metadata_images_split_scene_v1.csv", "metadata_camera_parameters.csv"
EXPECTED = f"""The folder holds
  {SPLIT}   of evermotion_dataset/analysis in {HOME}
  {CAMERAS}       of contrib/mikeroberts3000 there
  ai_VVV_NNN/ or ai_VVV_NNN.zip        each scene, by code/python/tools/dataset_download_images.py there (1.9 TB).
                                       *.tonemap.jpg, *.depth_meters.hdf5 and *.semantic.hdf5 are read, which
                                       contrib/99991/download.py can fetch alone
The makers' page: {HOME}"""
HEIGHT, WIDTH = 768, 1024
SPLITS = ("train", "val", "test")
RUN = 25  # images of a piece: some seconds
BYTES = 500_000  # of an image's three files, about
# semantic_label_descs.csv of the makers, spelt as there: NYUv2's 40 classes.
NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floormat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "showercurtain", "box", "whiteboard", "person", "nightstand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
UNIT = MODALITIES["depth"].unit
Frame = tuple[str, str, int]  # scene, camera, number
Camera = tuple[float, ...]  # the 9 numbers of the 3 x 3 matrix that makes rays of pixels


class Hypersim:
    """See `pieces.Maker`."""

    about = About(
        name="hypersim",
        home=HOME,
        fields={"depth": FieldFacts(unit=UNIT), "semseg": FieldFacts(classes=NAMES, first=1)},
        splits={"train": 59543, "val": 7386, "test": 7690},
        notes=(
            "rgb is the makers' tone-mapped preview (tonemap.jpg), byte for byte.",
            "depth is that along the optical axis, from the distance along the ray (depth_meters) and the scene's "
            "camera; 0 is unknown, and what is farther than 128 m is 128 m.",
            "mask_valid is where depth is known and within 128 m.",
            "semseg is 0 where the makers' is -1.",
            "The splits are the makers' v1 of the public release. The paper trains on 51,674 of the 59,543 images, and "
            "neither it nor its authors' code says which.",
        ),
    )

    def expected(self) -> str:
        return EXPECTED

    def pieces(self, source: Path) -> list[Piece]:
        frames, cameras = _frames(required(source, SPLIT, EXPECTED)), _cameras(required(source, CAMERAS, EXPECTED))
        scenes = sorted({scene for _, (scene, _, _) in frames})
        places = {scene: place for scene in scenes if (place := _place(source, scene))}
        for what, known in ((f"in {source}", places), (f"in {source / CAMERAS}", cameras)):
            if lost := [scene for scene in scenes if scene not in known]:
                raise ConfigError(
                    f"{len(lost)} of {len(scenes)} scenes are not {what}: {some(lost)}; {contents(source)}. {EXPECTED}"
                )
        return [
            Piece(
                f"{scene}_{camera}_{run[0]:04d}",
                len(run) * BYTES,
                partial(_make, places[scene], split, scene, camera, run, cameras[scene]),
            )
            for split, scene, camera, run in _runs(frames)
        ]


def _frames(path: Path) -> list[tuple[str, Frame]]:
    """(split, frame) of each image of the public release."""
    found = []
    for line, row in rows(path, ("scene_name", "camera_name", "frame_id", "included_in_public_release")):
        if row["included_in_public_release"] != "True":
            continue
        split, number = row.get("split_partition_name"), row["frame_id"]
        if split not in SPLITS or not number.isdecimal():
            raise ConfigError(
                f"{path}, line {line}: expected a frame's number and one of {', '.join(SPLITS)}, found '{number}' and "
                f"'{split}'"
            )
        found.append((split, (row["scene_name"], row["camera_name"], int(number))))
    if not found:
        raise ConfigError(f"{path}: expected a line for each image, found none of the public release")
    return found


def _cameras(path: Path) -> dict[str, Camera]:
    """Of each scene. Its matrix makes the ray of a pixel, in the camera's axes (x right, y up, z backwards), from
    (u, v, 1), of which u is -1 to 1 over the image to the right, and v upwards:
    github.com/apple/ml-hypersim/blob/main/contrib/mikeroberts3000/jupyter/01_casting_rays_that_match_hypersim_images.ipynb
    """
    keys = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    sides = ("settings_output_img_width", "settings_output_img_height")
    found = {}
    for line, row in rows(path, ("scene_name", *sides, *keys)):
        try:
            numbers = [float(row[key]) for key in (*sides, *keys)]
        except ValueError:
            numbers = [np.nan]
        if numbers[:2] != [WIDTH, HEIGHT] or not np.isfinite(numbers).all():
            raise ConfigError(
                f"{path}, line {line}: expected {WIDTH}, {HEIGHT} and nine numbers, found "
                f"{', '.join(row[key] for key in (*sides, *keys))}"
            )
        found[row["scene_name"]] = tuple(numbers[2:])
    return found


def _place(source: Path, scene: str) -> Path | None:
    """Where a scene lies: its folder, or its archive."""
    return next((path for path in (source / scene, source / f"{scene}.zip") if path.exists()), None)


def _runs(frames: list[tuple[str, Frame]]) -> Iterator[tuple[str, str, str, list[int]]]:
    """(split, scene, camera, numbers of frames): some frames of a camera each."""
    cameras: dict[tuple[str, str, str], list[int]] = {}
    for split, (scene, camera, number) in frames:
        cameras.setdefault((split, scene, camera), []).append(number)
    for key, numbers in cameras.items():
        for start in range(0, len(numbers), RUN):
            yield *key, numbers[start : start + RUN]


def _make(place: Path, split: str, scene: str, camera: str, numbers: list[int], matrix: Camera, writer: Writer) -> None:
    along = axial(matrix)
    with _opened(place, scene) as top:
        for number in numbers:
            shown = top / f"images/scene_{camera}_final_preview/frame.{number:04d}.tonemap.jpg"
            measured = f"images/scene_{camera}_geometry_hdf5/frame.{number:04d}"
            depth = along * _array(top / f"{measured}.depth_meters.hdf5", "f").astype(np.float32)
            pixels = {
                "depth": steps(depth, UNIT),
                "semseg": _semseg(top / f"{measured}.semantic.hdf5"),
                "mask_valid": flags((depth > 0) & (depth <= LAST * UNIT)),
            }
            stem = f"{scene}/{camera}_{number:04d}"
            writer.write(f"{split}/rgb/{stem}.jpg", _photograph(shown))
            for field, values in pixels.items():
                writer.write(f"{split}/{field}/{stem}.png", png(values))


@contextlib.contextmanager
def _opened(place: Path, scene: str) -> Iterator[Path | zipfile.Path]:
    """A scene's folder, in its archive or not. Raises ValueError for an archive that is none."""
    if place.is_dir():
        yield place
        return
    try:
        archive = zipfile.ZipFile(place)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{place}: expected an archive that is whole, found: {error}. Download it again") from None
    with archive:
        yield zipfile.Path(archive, f"{scene}/")


def _read(path: Path | zipfile.Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, KeyError):
        raise ValueError(f"{path} is not there, though {SPLIT} lists it") from None
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a file that is whole, found: {error}. Download it again") from None


def axial(matrix: Camera) -> np.ndarray:
    """float32 (H, W): of a distance along a pixel's ray, the share that is along the optical axis."""
    u = (np.arange(WIDTH) + 0.5) * 2 / WIDTH - 1
    v = 1 - (np.arange(HEIGHT) + 0.5) * 2 / HEIGHT
    rays = np.stack(np.broadcast_arrays(u[None], v[:, None], 1.0), -1) @ np.reshape(matrix, (3, 3)).T
    return (-rays[..., 2] / np.linalg.norm(rays, axis=-1)).astype(np.float32)


def _array(path: Path | zipfile.Path, kinds: str) -> np.ndarray:
    with hdf5(io.BytesIO(_read(path)), str(path)) as opened:
        return dataset(opened, "dataset", str(path), (HEIGHT, WIDTH), kinds)[:]


def _semseg(path: Path | zipfile.Path) -> np.ndarray:
    values = _array(path, "i")
    low, high = values.min(), values.max()
    if low < -1 or high > len(NAMES) or (values == 0).any():  # as the makers assert when they write it
        raise ValueError(f"{path}: expected -1 and classes from 1 to {len(NAMES)}, found {low} to {high}")
    return np.where(values > 0, values, 0).astype(np.uint8)


def _photograph(path: Path | zipfile.Path) -> bytes:
    data = _read(path)
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            image.load()
    except DAMAGED as error:
        raise ValueError(f"{path}: expected a JPEG file that is whole, found: {error}. Download it again") from None
    if image.size != (WIDTH, HEIGHT):
        raise ValueError(f"{path}: expected {WIDTH} x {HEIGHT} pixels, found {image.width} x {image.height}")
    return data


HYPERSIM = Hypersim()
