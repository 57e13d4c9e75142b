"""Runs that label: what they write, and what becomes of one that is killed, moved, or given another network."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from image_files import cut_inside, picture, png_header
from PIL import Image
from tiny_networks import depth_anything, mask2former

import multimae.label
from multimae.config import ConfigError, Runtime
from multimae.data import subsets
from multimae.data.about import About
from multimae.engine.task import RunFailed
from multimae.label import Labelling, add_arguments, gone, planned
from multimae.labelling.conversions import ORIENTATION
from multimae.run import run
from multimae.study import planning, runs_of
from multimae.tasks import label

pytest.importorskip("transformers")
BLOCK = 6  # instead of 64


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("networks")
    return {"depth": depth_anything(at / "anything"), "semseg": mask2former(at / "mask")}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for place in ("multimae.config.label", "multimae.label"):
        monkeypatch.setattr(f"{place}.BLOCK", BLOCK)


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Of two sizes; one lies on its side, one is grey, one CMYK, one has alpha. BLOCK + 3 in train, 2 in val."""
    root = tmp_path / "photographs"
    for split, count in (("train", BLOCK + 3), ("val", 2)):
        for n in range(count):
            file = root / split / "rgb" / f"class{n % 2}" / f"{n:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            image, more = picture(n, (20 + 10 * (n % 2), 24)), {}
            if n == 0:
                exif = Image.Exif()
                exif[ORIENTATION] = 6
                more["exif"] = exif
            image = image.convert({1: "L", 2: "CMYK"}.get(n, "RGB"))
            image.save(file, quality=95, **more)
    with Image.open(root / "train/rgb/class1/003.jpg") as image:
        image.convert("RGBA").save(root / "train/rgb/class1/003.png")
    (root / "train/rgb/class1/003.jpg").unlink()
    return root


def asked(folder: Path, *words: str) -> Labelling:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return Labelling.of(parser.parse_args([str(folder), *words]))


def carry_out(labelling: Labelling, runs: Path, shards: int = 1, **how) -> None:
    runtime = Runtime(
        runs=runs, data_roots={labelling.name: labelling.folder}, weights=labelling.weights, device="cpu",
        usage_seconds=0, threads=1, **how,
    )  # fmt: skip
    for found in runs_of(labelling.study(shards).build("smoke")).values():
        assert run(found.config, runtime) == "finished"


def contents(root: Path) -> dict[str, bytes]:
    files = (file for field in ("pseudo_depth", "pseudo_semseg") for file in root.rglob(f"{field}/**/*.png"))
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def test_a_folder_is_labelled_and_a_killed_labelling_ends_in_the_same_bytes(
    networks, photographs, tmp_path, monkeypatch
):
    copy = shutil.copytree(photographs, tmp_path / "copy" / "photographs")
    words = ("--depth", str(networks["depth"]))
    carry_out(asked(photographs, *words), tmp_path / "runs")
    whole = contents(photographs)
    assert len(whole) == BLOCK + 3 + 2
    for name, data in whole.items():
        split, _, inner = name.split("/", 2)
        (photograph,) = (photographs / split / "rgb").glob(inner.replace(".png", ".*"))
        with Image.open(photograph) as image, Image.open(photographs / name) as labels:
            assert labels.size == image.size and labels.mode in ("I;16", "I"), (
                "as the pixels lie, not as they are shown"
            )
            assert np.array(labels).min() > 0 and data
    about = About.of(photographs)
    assert about.fields["pseudo_depth"].unit == pytest.approx(128 / 65535)
    assert "its disparity inverted" in about.notes[0] and "anything" in about.notes[0]
    said = yaml.safe_load((photographs / "train/pseudo_depth/labels.yaml").read_text())
    assert said["architecture"] == "depth_anything" and said["versions"]["transformers"]
    assert list((tmp_path / "runs").glob("*/samples/labels.png"))

    # Of two runs of a split, one is killed among its files, which are finished in another order.
    class Killed(BaseException):
        pass

    write, written = label.LabelTask._write, []

    def until(task, photograph, one):
        if len(written) == 5:
            raise Killed
        written.append(photograph.index)
        write(task, photograph, one)

    labelling = asked(copy, *words)
    with monkeypatch.context() as patch, pytest.raises((Killed, RunFailed)):
        patch.setattr(label.LabelTask, "_write", until)
        carry_out(labelling, tmp_path / "others", shards=2)
    assert len(contents(copy)) == 5
    carry_out(labelling, tmp_path / "others", shards=2)
    assert contents(copy) == whole


def test_labels_of_two_networks_are_never_mixed(networks, photographs, tmp_path):
    labelling = asked(photographs, "--depth", str(networks["depth"]), "--split", "val")
    carry_out(labelling, tmp_path / "runs")
    other = depth_anything(tmp_path / "other", max_depth=2)
    with pytest.raises(ConfigError, match=r"has labels of anything.*network: 'f?\w+.*mv .*pseudo_depth"):
        carry_out(asked(photographs, "--depth", str(other), "--split", "val"), tmp_path / "runs")
    shutil.rmtree(photographs / "val/pseudo_depth")
    (photographs / "val/pseudo_depth").mkdir()
    shutil.copy(photographs / "val/rgb/class0/000.jpg", photographs / "val/pseudo_depth/mine.png")
    with pytest.raises(ConfigError, match="mine.png lies there already, and no labels.yaml says which network made it"):
        carry_out(labelling, tmp_path / "new")


def test_what_is_gone_is_made_again_and_what_is_added_is_labelled(networks, photographs, tmp_path):
    words = ("--depth", str(networks["depth"]), "--split", "val")
    labelling = asked(photographs, *words)
    carry_out(labelling, tmp_path / "runs")
    study = labelling.study(1)
    wanted = planning.Wanted(study, "smoke", study.build("smoke"), tmp_path / "runs", files=labelling.weights)
    plan = planned(wanted, labelling)
    assert not plan.todo and not gone(plan, labelling)
    lost = photographs / "val/pseudo_depth/class0/000.png"
    lost.unlink()
    multimae.label._labels.cache_clear()
    (entry,) = planned(wanted, labelling).todo
    assert entry.action == "redo"
    picture(7).save(photographs / "val/rgb/class0/new.jpg")
    kept = photographs / "val/pseudo_depth/class1/001.png"
    replaced = kept.read_bytes()
    picture(9, (33, 35)).save(photographs / "val/rgb/class1/001.jpg")
    for cached in (multimae.label.listed, multimae.label.contents, subsets.listed):
        cached.cache_clear()
    before = labelling.study(1).build("smoke")[0].stages["pseudo_depth"].signature
    carry_out(asked(photographs, *words), tmp_path / "runs")
    assert lost.exists() and (photographs / "val/pseudo_depth/class0/new.png").exists()
    assert before != entry.run.signature
    with Image.open(kept) as now:
        assert now.size == (35, 33) and kept.read_bytes() != replaced


def test_photographs_that_lie_otherwise_are_linked(networks, tmp_path):
    flat = tmp_path / "holiday"
    flat.mkdir()
    for n in range(12):
        picture(n).save(flat / f"{n}.jpg")
    with pytest.raises(ConfigError, match=r"expected .*holiday/train/rgb/<class>/<name>.jpg.*give --out NEW"):
        asked(flat, "--depth", str(networks["depth"]))
    new = tmp_path / "new"
    labelling = asked(flat, "--depth", str(networks["depth"]), "--out", str(new))
    assert labelling.splits == ("train", "val")
    assert [len(list((new / split / "rgb").iterdir())) for split in labelling.splits] == [11, 1]
    carry_out(labelling, tmp_path / "runs")
    assert len(contents(new)) == 12 and not [path for path in flat.iterdir() if path.suffix != ".jpg"]
    asked(flat, "--depth", str(networks["depth"]), "--out", str(new))  # again
    with pytest.raises(ConfigError, match="lies in .*holiday: choose a folder outside"):
        asked(flat, "--depth", str(networks["depth"]), "--out", str(flat / "inner"))
    classes = shutil.copytree(flat, tmp_path / "imagenet/train/n01")
    shutil.copytree(flat, tmp_path / "imagenet/val/n01")
    labelling = asked(classes.parents[1], "--depth", str(networks["depth"]), "--out", str(tmp_path / "of_imagenet"))
    assert (tmp_path / "of_imagenet/train/rgb").resolve() == classes.parent


BAD = {
    "a part is missing": (cut_inside, "is damaged"),
    "16 bits": (lambda path: Image.fromarray(np.ones((9, 9), np.uint16)).save(path, "PNG"), "found mode I"),
    "30,000 px": (
        lambda path: png_header(path, 30_000, 30_000),
        "has 30000 x 30000 pixels; max_pixels=100000000 allows",
    ),
    "oblong": (lambda path: picture(0, (3, 400)).save(path), "is 400 x 3: one side may be 100 times the other"),
    "a GIF by another name": (lambda path: picture(0).save(path, "GIF"), "it is no JPEG, PNG, WEBP"),
    "nothing in it": (lambda path: path.write_bytes(b""), "it is empty"),
}


def test_photographs_that_cannot_be_read_are_named_or_left_out(networks, photographs, tmp_path):
    words = ("--depth", str(networks["depth"]), "--split", "val")
    folder = photographs / "val/rgb/class0"
    Image.new("RGB", (1, 1), "red").save(folder / "dot.jpg")
    carry_out(asked(photographs, *words), tmp_path / "runs")
    with Image.open(photographs / "val/pseudo_depth/class0/dot.png") as label:
        assert label.size == (1, 1)
    for number, (given, (make, told)) in enumerate(BAD.items()):
        shutil.rmtree(folder.parents[1] / "pseudo_depth")
        bad = folder / "bad.jpg"
        picture(3, (60, 60)).save(bad, quality=95)
        make(bad)
        runs = tmp_path / f"runs{number}"
        for cached in (multimae.label.listed, multimae.label.contents, subsets.listed):
            cached.cache_clear()
        with pytest.raises((ConfigError, RunFailed), match=told) as error:
            carry_out(asked(photographs, *words), runs)
        assert "bad.jpg" in str(error.value), given
        carry_out(asked(photographs, *words, "--skip-damaged"), runs)
        assert len(contents(photographs)) == 3, given
        assert not (photographs / "val/pseudo_depth/class0/bad.png").exists()


def test_a_folder_that_cannot_be_written_is_named(networks, photographs, tmp_path, monkeypatch):
    """As root every folder can be: the system's answer is made up."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    labelling = asked(photographs, "--depth", str(networks["depth"]), "--split", "val")
    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="No space left on device"):
        patch.setattr(label, "write_atomic", full)
        carry_out(labelling, tmp_path / "runs")
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="cannot take labels .*--out NEW"):
        patch.setattr("multimae.labelling.provenance.write_atomic", full)
        (photographs / "val/pseudo_depth/labels.yaml").unlink()
        carry_out(labelling, tmp_path / "others")
    carry_out(labelling, tmp_path / "runs")  # goes on
    assert len(contents(photographs)) == 2
