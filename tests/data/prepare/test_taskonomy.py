"""Taskonomy's files, in the three ways in which they are found, become what the paper's recipe reads."""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from makers import made
from PIL import Image

from multimae.config import ConfigError, Runtime, recipe
from multimae.data.datasets import open_dataset
from multimae.data.prepare.taskonomy import TASKONOMY

SIZE = 24
TASKS = ("rgb", "depth_zbuffer", "principal_curvature", "edge_texture", "edge_occlusion", "keypoints2d")
TASKS += ("keypoints3d", "normal", "reshading")
FIELD = dict(zip(TASKS, ("rgb", "depth", "curvature", "edges", "occlusion", "keypoints2d", "keypoints3d", "normals")))
FIELD["reshading"] = "reshading"
OF_16_BITS = ("depth_zbuffer", "edge_texture", "edge_occlusion", "keypoints2d", "keypoints3d")
# train_val_test_tiny.csv of the makers, without woodbine and wiconisco.
TRAIN = (
    "hanson",
    "merom",
    "klickitat",
    "onaga",
    "leonardo",
    "marstons",
    "newfields",
    "pinesdale",
    "lakeville",
    "cosmos",
)
TRAIN += ("benevolence", "pomaria", "tolstoy", "shelbyville", "allensville", "wainscott", "beechwood", "coffeen")
TRAIN += ("stockman", "hiteman", "lindenwood", "forkland", "mifflinburg", "ranchester")
VAL, TEST = (
    ("corozal", "collierville", "markleeville", "darden"),
    ("ihlen", "muleshoe", "uvalda", "noxapater", "mcdade"),
)
VIEWS = {"hanson": ((0, 0), (2, 1), (10, 0)), "darden": ((3, 4), (5, 6))}  # of the others (7, 1)


def pixels(task: str, building: str, view: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng([TASKS.index(task), len(building), *view])
    if task not in OF_16_BITS:
        return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    values = rng.integers(300, 6000, (SIZE, SIZE), dtype=np.uint16)
    if task == "depth_zbuffer" and building != "ihlen":
        values[:5, :7] = 65535  # a hole of the scan
    return values


def file(task: str, building: str, view: tuple[int, int]) -> tuple[str, bytes]:
    data = io.BytesIO()
    Image.fromarray(pixels(task, building, view)).save(data, "PNG")
    return f"point_{view[0]}_view_{view[1]}_domain_{task}.png", data.getvalue()


def write(source: Path) -> Path:
    for building in (*TRAIN, *VAL, *TEST):
        for task in TASKS:
            files = [file(task, building, view) for view in VIEWS.get(building, ((7, 1),))]
            if building in ("darden", "ihlen"):
                name = f"{building}_{task}.tar" if building == "darden" else f"{task}__taskonomy__{building}.tar"
                with tarfile.open(source / name, "w") as archive:
                    for name, data in files:
                        member = tarfile.TarInfo(f"{task}/{name}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
                continue
            folder = source / task / ("taskonomy" if building == "uvalda" else "") / building
            folder.mkdir(parents=True)
            for name, data in files:
                (folder / name).write_bytes(data)
    return source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("taskonomy"))


def opened(target: str, folder: Path, cache: Path, split: str, **samples: int):
    config = recipe("regress", "paper").edit({"target": target} | {f"data.{key}": n for key, n in samples.items()})
    return open_dataset(config.data, split, Runtime(cache=cache, data_roots={"taskonomy": folder}), config.fields)


def test_what_the_recipe_reads(source, tmp_path):
    folder = made(TASKONOMY, source, tmp_path / "made")
    for target in ("depth", *sorted(set(FIELD.values()) - {"rgb", "depth"})):
        assert len(opened(target, folder, tmp_path, "train", train_samples=26)) == 26
        assert len(opened(target, folder, tmp_path, "eval", eval_samples=5)) == 5
    for split, building, view in (
        ("train", "hanson", (10, 0)), ("val", "darden", (5, 6)), ("test", "ihlen", (7, 1)), ("test", "uvalda", (7, 1)),
    ):  # fmt: skip
        for task, field in FIELD.items():
            found = folder / split / field / building / f"point_{view[0]}_view_{view[1]}.png"
            data = file(task, building, view)[1]
            if field != "depth" or building == "ihlen":
                assert found.read_bytes() == data
            else:
                values = pixels(task, building, view)
                assert np.array_equal(np.array(Image.open(found)), np.where(values == 65535, 0, values))
    data = opened("depth", folder, tmp_path, "train", train_samples=26)
    index = next(i for i in range(26) if "hanson/point_2_view_1" in data.name(i))
    sample = data.sample(index, ("depth", "mask_valid"))
    metres = pixels("depth_zbuffer", "hanson", (2, 1)) / 512
    assert (sample["mask_valid"][0, :5, :7] == 0).all() and sample["mask_valid"].sum() == SIZE * SIZE - 35
    assert (sample["depth"][0, :5, :7] == 0).all()  # no 128 m
    assert np.allclose(sample["depth"][0, 5:].numpy(), metres[5:], rtol=2e-5)


def test_the_lists_of_the_authors_choose(source, tmp_path):
    copied = tmp_path / "source"
    shutil.copytree(source, copied)
    header, rest = "building,point,view\n", "merom,7,1\n" * 799  # the code reads the first 800 lines
    (copied / "tiny_train.csv").write_text(f"{header}hanson,2,1\n{rest}onaga,7,1\n")
    (copied / "tiny_val.csv").write_text(f"{header}darden,5,6\n")
    names = [piece.name.split("_")[:2] for piece in TASKONOMY.pieces(copied) if not piece.name.startswith("test")]
    assert names == [["train", "hanson"], ["train", "merom"], ["val", "darden"]]
    folder = made(TASKONOMY, copied, tmp_path / "made", lambda piece: piece.name.split("_")[1] in ("hanson", "darden"))
    stems = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/rgb/*/*"))]
    assert stems == ["train/rgb/hanson/point_2_view_1.png", "val/rgb/darden/point_5_view_6.png"]
    for line, message in (
        ("ihlen,7,1", "line 3: expected a building of val and numbers, found ihlen, 7, 1"),
        ("../darden,7,1", "expected a building"),
        ("darden,1", "found darden, 1, $"),
        ("darden,1,1", "darden_rgb.tar has 1 images less than .*tiny_val.csv names, such as point_1_view_1_domain_rgb"),
    ):
        (copied / "tiny_val.csv").write_text(f"{header}darden,5,6\n{line}\n")
        with pytest.raises(ConfigError, match=message):
            TASKONOMY.pieces(copied)


def test_a_grey_reshading_becomes_colours(source, tmp_path):
    copied = tmp_path / "source"
    shutil.copytree(source, copied)
    grey = pixels("reshading", "merom", (7, 1))[..., 0]
    Image.fromarray(grey).save(copied / "reshading/merom/point_7_view_1_domain_reshading.png")
    folder = made(TASKONOMY, copied, tmp_path / "made", lambda piece: "merom" in piece.name)
    written = Image.open(folder / "train/reshading/merom/point_7_view_1.png")
    assert written.mode == "RGB" and np.array_equal(np.array(written), grey[..., None].repeat(3, 2))


# ---- what is wrong


def test_a_source_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"(?s)297 of 297 .* rgb of allensville, .* and 289 more; .*nowhere is no folder"
    ):
        TASKONOMY.pieces(tmp_path / "nowhere")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def no_archive(path: Path) -> None:
    path.write_bytes(b"no archive")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def saved(pixels: np.ndarray, kind: str = "PNG"):
    return lambda path: Image.fromarray(pixels).save(path, kind)


GREY = np.zeros((SIZE, SIZE), np.uint8)
MEROM = "merom/point_7_view_1_domain"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("normal/merom", shutil.rmtree, r"1 of 297 folders or archives are not in .*: normal of merom; .*omnitools"),
        ("darden_rgb.tar", no_archive, r"darden_rgb.tar: expected an archive"),
        (f"normal/{MEROM}_normal.png", Path.unlink, r"normal/merom has no point_7_view_1_domain_normal.png, though"),
        (f"normal/{MEROM}_normal.png", cut, r"domain_normal.png: expected a PNG of 8 bits a channel, found"),
        (f"edge_texture/{MEROM}_edge_texture.png", flipped, r"edge_texture.png: expected a PNG with one 16-bit"),
        (f"depth_zbuffer/{MEROM}_depth_zbuffer.png", saved(GREY), r"with one 16-bit channel, found mode L"),
        (f"normal/{MEROM}_normal.png", saved(GREY), r"expected a PNG of 8 bits a channel, found mode L"),
        (f"rgb/{MEROM}_rgb.png", saved(GREY[..., None].repeat(3, 2), "JPEG"), r"_rgb.png: expected .* found: cannot "),
        (f"rgb/{MEROM}_rgb.png", saved(GREY[:12, :, None].repeat(3, 2)), r"sizes differ: .*_rgb.png 24 x 12, .* 24 x"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(source, tmp_path, name, change, message):
    copied = tmp_path / "source"
    shutil.copytree(source, copied)
    change(copied / name)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        made(TASKONOMY, copied, tmp_path / "made", lambda piece: "merom" in piece.name)
    assert not list((tmp_path / "made").rglob("*.png"))  # nothing of an image of which a file is damaged
