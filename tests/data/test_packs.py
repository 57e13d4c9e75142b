"""A pack holds what its folder does, sample for sample; what is wrong with one is named."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from multimae.config import Folder, Runtime
from multimae.data import check, packing, packs
from multimae.data.datasets import open_dataset
from multimae.data.listing import Listing, class_names, count_images
from multimae.data.subsets import contents

FIELDS = ("rgb", "depth", "semseg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of all that a pack must hold: photographs of several kinds, 16 and 8 bits, palettes, names that are not ASCII."""
    root, rng = tmp_path_factory.mktemp("data") / "mine", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for i in range(count):
            stem = f"n{i % 3}/é{i}" if i == 4 else f"n{i % 3}/{i}.x"
            height, width = 20 + i, 24
            rgb = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
            depth = Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
            classes = Image.fromarray(rng.integers(0, 133, (height, width), np.uint8))
            if i == 1:
                classes.putpalette(list(range(256)) * 3)
            ending = (".JPEG", ".png", ".webp")[i % 3]
            for field, image, end in (("rgb", rgb, ending), ("depth", depth, ".png"), ("semseg", classes, ".PNG")):
                path = root / split / field / (stem + end)
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    (root / "dataset.yaml").write_text("name: mine\nsplits: {train: 12, val: 5}\n")
    return root


def packed(folder: Path, place: Path, *options: str) -> Path:
    assert packing.main([str(folder), str(place), "--jobs", "2", *options]) == 0
    return place


@pytest.fixture(scope="module")
def pack(folder, tmp_path_factory) -> Path:
    place = packed(folder, tmp_path_factory.mktemp("packs") / "mine")
    parts = sorted((place / "train").glob("*.tar"))
    assert len(parts) == 1
    return place


@pytest.fixture
def small(folder, tmp_path, monkeypatch) -> Path:
    """In several shards."""
    shard(monkeypatch, 8)
    return packed(folder, tmp_path / "mine")


def shard(monkeypatch, kilobytes: int) -> None:
    """Options say megabytes; a test has less."""
    parts = packing._parts

    def smaller(found, split, args):
        args.shard_mb = kilobytes / 1000
        return parts(found, split, args)

    monkeypatch.setattr(packing, "_parts", smaller)


def opened(root: Path, split: str = "train", **settings):
    runtime = Runtime(runs=root.parent / "runs", data_roots={"mine": root})
    return open_dataset(Folder(name="mine", **settings), split, runtime, (*FIELDS, "label"))


@given(arrays.arrays(st.sampled_from([np.uint8, np.uint16]), arrays.array_shapes(min_dims=2, max_dims=3, max_side=9)))
def test_pixels_come_back(pixels):
    copy = packs.decode(packs.encode(pixels))
    assert copy.dtype == pixels.dtype and np.array_equal(copy, pixels)


@pytest.mark.parametrize("options", [[], ["--labels", "files"]])
@pytest.mark.parametrize("settings", [{}, {"train_samples": 7, "subset_seed": 3}])
def test_a_pack_is_its_folder(folder, tmp_path, monkeypatch, options, settings):
    shard(monkeypatch, 8)
    place = packed(folder, tmp_path / "mine", *options)
    assert len(list((place / "train").glob("*.tar"))) > 2
    for split in ("train", "eval"):
        one, other = opened(folder, split, **settings), opened(place, split, **settings)
        assert one.fingerprint == other.fingerprint and len(one) == len(other)
        assert one.class_names == other.class_names and one.fields == other.fields
        for i in range(len(one)):
            there, here = (data.sample(i, (*FIELDS, "label")) for data in (one, other))
            assert there.keys() == here.keys() and all(torch.equal(there[key], here[key]) for key in there)
        assert other.sample(1, ("semseg",)).keys() == {"semseg"}


def test_planning_sees_the_same_in_a_pack(folder, pack):
    data = Folder(name="mine")
    reads = (("train", data, "train"), ("eval", data, "eval"))
    assert contents(folder, reads, FIELDS) == contents(pack, reads, FIELDS)
    assert class_names(folder / "train") == class_names(pack / "train") == ("n0", "n1", "n2")
    assert count_images(pack / "train", 100) == 12 and count_images(pack / "train", 3) == 3
    ours, theirs = (Listing(root / "train", FIELDS) for root in (folder, pack))
    assert [ours.found[f][s][:2] for f in FIELDS for s in ours.stems] == [
        theirs.found[f][s][:2] for f in FIELDS for s in theirs.stems
    ]
    with pytest.raises(ValueError, match="pseudo_depth not found"):
        Listing(pack / "train", ("rgb", "pseudo_depth"))


def test_shards_are_archives_that_others_read(folder, small):
    names = [name for part in sorted((small / "train").glob("*.tar")) for name in tarfile.open(part).getnames()]
    assert len(names) == 3 * 12 and names[:3] == ["n0/0.x.rgb.JPEG", "n0/0.x.depth.zpx", "n0/0.x.semseg.zpx"]
    with tarfile.open(small / "train/00000.tar") as archive:
        assert archive.extractfile("n0/0.x.rgb.JPEG").read() == (folder / "train/rgb/n0/0.x.JPEG").read_bytes()


@pytest.mark.parametrize("labels", ["pixels", "files"])
def test_unpacking_gives_the_folder_back(folder, tmp_path, labels):
    place = packed(folder, tmp_path / "mine", "--labels", labels)
    assert packing.main_unpack([str(place), str(tmp_path / "back")]) == 0
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("[!.]*") if path.is_file()
    }
    for name in files:
        there, here = folder / name, tmp_path / "back" / name
        if labels == "files" or "rgb" in name.parts or name.suffix == ".yaml":
            assert there.read_bytes() == here.read_bytes()
        else:
            assert np.array_equal(np.array(Image.open(there)), np.array(Image.open(here)))


def test_splits_within_folders_are_packed_as_such(folder, tmp_path, capsys):
    """As ImageNet-C's are: `fog/3`."""
    shutil.copytree(folder / "train", tmp_path / "c/fog/3")
    shutil.copytree(folder / "val", tmp_path / "c/val")
    (tmp_path / "c/dataset.yaml").write_text("name: c\nsplits: {fog/3: 12}\n")
    place = packed(tmp_path / "c", tmp_path / "pack")
    assert packs.facts_of(place / "fog/3")["samples"] == 12 and not packs.facts_of(place / "fog")
    assert Listing(place / "fog/3", None).stems == Listing(tmp_path / "c/fog/3", None).stems
    assert check.main([str(place)]) == 0
    assert packing.main_unpack([str(place), str(tmp_path / "back")]) == 0
    assert len(list((tmp_path / "back/fog/3/rgb").rglob("*.*"))) == 12
    (place / "fog/3/00000.tar").unlink()
    capsys.readouterr()
    assert check.main([str(place)]) == 1 and "fog/3: 1 of 1 shards" in capsys.readouterr().out


def test_unpacking_leaves_other_files_alone(folder, small, tmp_path, capsys):
    """It goes on with its own, and takes nobody else's for them."""
    for _ in range(2):
        assert packing.main_unpack([str(small), str(tmp_path / "back")]) == 0
    shutil.copytree(folder, tmp_path / "other")
    assert packing.main_unpack([str(small), str(tmp_path / "other")]) == 2
    assert "holds something else than this pack" in capsys.readouterr().err


def test_packing_goes_on_where_it_was_killed(folder, small, tmp_path):
    """And a shard that was lost or torn is made again, alone."""
    again = tmp_path / "again"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pytest, test_packs, time\n"
    code += "from multimae.data import packing\nmake = packing._make\n"
    code += "packing._make = test_packs.slowly\ntest_packs.shard(pytest.MonkeyPatch(), 8)\n"
    code += f"packing.main([{str(folder)!r}, {str(again)!r}, '--jobs', '2'])"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not list((again / "train").glob(f"{packing.WORK}/0*.json")):
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (again / "train" / packs.FACTS).exists()
    made = [path.parents[1] / f"{path.stem}.tar" for path in again.rglob(f"{packing.WORK}/0*.json")]
    kept = {path: path.stat().st_mtime_ns for path in made}
    assert len(kept) < len(list(small.rglob("*.tar")))
    packed(folder, again)
    assert kept == {path: path.stat().st_mtime_ns for path in made}
    for path in small.rglob("*.*"):
        if path.suffix in (".tar", ".npy", ".yaml") and packing.WORK not in path.parts:
            assert path.read_bytes() == (again / path.relative_to(small)).read_bytes()
    torn = again / "train/00001.tar"
    torn.write_bytes(torn.read_bytes()[:-1000])
    packed(folder, again)
    assert torn.read_bytes() == (small / "train/00001.tar").read_bytes()


def slowly(part: packing.Part, make=packing._make) -> None:
    make(part)
    time.sleep(0.3)


def lose(part: Path) -> None:
    part.unlink()


def tear(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-600])


def double(part: Path) -> None:
    data = (part.parent / "00000.tar").read_bytes()
    part.write_bytes(data[: part.stat().st_size].ljust(part.stat().st_size, b"\0"))


def flip(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[700] ^= 1
    part.write_bytes(data)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lose, "00001.tar is missing"),
        (tear, "00001.tar has .* bytes, not"),
        (double, "is not the"),
        (flip, "is not the"),
    ],
)
def test_a_shard_that_is_not_what_was_packed_is_named(small, damage, said):
    damage(small / "train/00001.tar")
    with pytest.raises(ValueError, match=said) as error:
        dataset = opened(small)
        for i in range(len(dataset)):
            dataset.sample(i, FIELDS)
    assert "00001.tar" in str(error.value)


@pytest.mark.parametrize("file, text", [("pack.json", "{"), ("pack.npy", "x"), ("pack.json", '{"version": 9}')])
def test_a_damaged_index_is_named(small, file, text):
    (small / "train" / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file}"):
        opened(small)


def test_what_cannot_be_packed_is_refused(folder, small, tmp_path, capsys):
    def refused(*argv, said: str, main=packing.main) -> None:
        assert main([str(word) for word in argv]) != 0
        assert said in capsys.readouterr().err

    refused(small, tmp_path / "x", said="is a pack already")
    refused(folder, folder / "x", said="expected a folder outside it")
    refused(tmp_path / "no", tmp_path / "x", said="cannot be listed")
    refused(folder, tmp_path / "x", main=packing.main_unpack, said="is no pack")
    refused(folder, tmp_path / "x", "--jobs", "0", said="expected 1 or more")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "train/depth/n0/0.x.png").write_bytes(b"")
    refused(copy, tmp_path / "y", said="0.x.png")
    shutil.copy(folder / "train/depth/n0/3.x.png", copy / "train/depth/n0/0.x.png")
    refused(copy, tmp_path / "y", said="sizes differ")
    shutil.copy(folder / "train/depth/n0/0.x.png", copy / "train/depth/n0/0.x.png")
    os.utime(copy / "train/depth/n0/0.x.png", (1, 1))
    refused(copy, small, said="was begun from other files")
    data = bytearray((copy / "train/rgb/n0/0.x.JPEG").read_bytes())
    (copy / "train/rgb/n0/0.x.JPEG").write_bytes(data[:-60] + data[-20:])
    refused(copy, tmp_path / "y", said="0.x.JPEG")
    assert not (tmp_path / "y/train/00000.tar").exists() and not list((tmp_path / "y").rglob(packs.FACTS))


def test_a_disk_that_is_full_loses_nothing(folder, tmp_path):
    """A limit on the size of a file stands for it: the kernel's answer is the same kind of error."""
    code = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\nfrom multimae.data import packing\n"
    code += f"sys.exit(packing.main([{str(folder)!r}, {str(tmp_path / 'p')!r}, '--jobs', '1']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "The same command goes on" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "p").rglob("*.tar"))
    facts = json.loads((packed(folder, tmp_path / "p") / "train" / packs.FACTS).read_text())
    assert facts["samples"] == 12


@pytest.mark.parametrize(
    "damage, options, said",
    [
        (lose, [], "is missing"),
        (tear, [], "has .* bytes, not"),
        (double, [], "does not begin with .*: it is another shard"),
        (flip, ["--deep"], "has other contents, by its checksum"),
    ],
)
def test_check_says_which_shard_is_not_whole(small, capsys, damage, options, said):
    assert check.main([str(small), "--deep"]) == 0
    capsys.readouterr()
    assert check.main([str(small), "--for", "paper/depth"]) == 1
    told = capsys.readouterr().out
    assert "test: is not there, and paper/depth reads it" in told and "has no folder mask_valid" in told
    assert "train: has 12 whole samples, and paper/depth asks for 795" in told
    damage(small / "train/00001.tar")
    assert check.main([str(small), *options]) == 1
    assert re.search(rf"1 of \d shards are not what was packed\n.*00001.tar {said}", capsys.readouterr().out)
