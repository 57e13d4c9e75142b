"""ImageNet, its pseudo labels and variants, and ADE20K: from archives as they are published to what training opens."""

import dataclasses
import tarfile
import zipfile
from pathlib import Path

import published
import pytest
import torch
from published import TRAIN, VAL, WNIDS, WORDS, jpeg, tar, write

from multimae.config import ConfigError, Folder, Runtime
from multimae.data.about import About
from multimae.data.check import check
from multimae.data.datasets import open_dataset
from multimae.data.inspect.expected import expect
from multimae.data.prepare.ade20k import ADE20K
from multimae.data.prepare.command import main
from multimae.data.prepare.counting import as_found, count, differences
from multimae.data.prepare.imagenet import IMAGENET
from multimae.data.prepare.makers import MAKERS, maker
from multimae.data.prepare.pieces import Telling, Whole
from multimae.data.prepare.variants import IMAGENET_A, IMAGENET_C, IMAGENET_SKETCH
from multimae.data.prepare.writing import FolderWriter


def made(kind, source: Path, root: Path) -> Path:
    """What the command makes, without its processes."""
    (root / ".prepare").mkdir(parents=True, exist_ok=True)
    for piece in kind.pieces(source):
        piece.make(FolderWriter(root))
    return root


def opened(root: Path, split: str = "train", fields=None, **settings):
    runtime = Runtime(runs=root.parent / "runs", data_roots={"mine": root})
    return open_dataset(Folder(name="mine", **settings), split, runtime, fields)


def below(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".prepare" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def photographs() -> dict[str, bytes]:
    """ImageNet's, by where they go."""
    train = {f"train/rgb/{w}/{n}": data for w, files in published.train_images().items() for n, data in files.items()}
    val = zip(published.val_images().items(), published.val_classes())
    return train | {f"val/rgb/{wnid}/{name}": data for (name, data), wnid in val}


# ---- ImageNet


def test_imagenet_by_the_command_with_its_pseudo_labels(tmp_path, photographs, capsys):
    source, root = published.imagenet(tmp_path / "in", labels=True), tmp_path / "out"
    argv = ["imagenet", str(source), str(root), "--jobs", "2", "--classes", ",".join(WNIDS)]
    assert main([*argv, "--dry-run"]) == 0 and not root.exists()
    out = capsys.readouterr().out
    assert "train/semseg" in out and "to make: 18 pieces, " in out and "whole, it has: train 13, val 6 samples" in out
    assert main(argv) == 0, capsys.readouterr().err
    files = below(root)
    assert {name: data for name, data in files.items() if "/rgb/" in name} == photographs  # to the byte

    about = About.of(root)
    assert about and about.splits == {"train": sum(TRAIN) + 1, "val": VAL * len(WNIDS)}
    assert about.categories == dict(zip(WNIDS, WORDS))
    assert about.fields["depth"].unit == 128 / 65535 and len(about.fields["semseg"].classes) == 133
    assert (about.fields["semseg"].classes[0], about.fields["semseg"].classes[132]) == ("person", "rug-merged")
    for split, samples in about.splits.items():
        dataset = opened(root, {"train": "train", "val": "eval"}[split], ("rgb", "depth", "semseg", "label"))
        assert len(dataset) == samples and dataset.class_names == WNIDS
        for index in range(samples):  # of four inks, and a PNG by another name
            sample = dataset.sample(index, dataset.fields)
            assert sample["rgb"].shape == (3, 24, 24) and (sample["semseg"] == 7).all()
            torch.testing.assert_close(sample["depth"], torch.full((1, 24, 24), 1000 * 128 / 65535))
            assert WNIDS[sample["label"]] in dataset.name(index)

    capsys.readouterr()
    assert main(argv) == 0 and "made" not in capsys.readouterr().err  # nothing is made again
    (root / "train/depth/n01440764/n01440764_6.png").unlink()
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "train: 1 samples lack a file:" in said and "train/depth/n01440764/n01440764_6.png missing" in said
    assert "train: expected 13 samples, found 12\n    1 of 3 classes: n01440764 (3 of 4)" in said
    assert said.splitlines()[-1].startswith(
        "So it has no dataset.yaml. Of 1 piece, files were removed: the same command"
    )
    assert not (root / "dataset.yaml").exists() and main(argv) == 0 and (root / "dataset.yaml").exists()


def test_the_layouts_that_people_have_give_the_same(tmp_path, photographs):
    kaggle = made(IMAGENET, published.kaggle(tmp_path / "kaggle"), tmp_path / "a")
    assert below(kaggle) == photographs
    whole = IMAGENET.whole(tmp_path / "kaggle")
    assert whole.about.categories == dict(zip(WNIDS, WORDS)) and whole.about.splits["train"] == 1_281_167
    one = next(kaggle.glob("train/rgb/*/*"))
    assert one.samefile(tmp_path / "kaggle/ILSVRC/Data/CLS-LOC/train" / one.parent.name / one.name)  # a hard link

    folders = tmp_path / "folders"
    for name, data in photographs.items():
        write(folders / name.replace("/rgb/", "/"), data)
    assert below(made(IMAGENET, folders, tmp_path / "b")) == photographs

    archives = published.imagenet(tmp_path / "archives")
    (archives / "ILSVRC2012_img_train").mkdir()
    with tarfile.open(archives / "ILSVRC2012_img_train.tar") as train:
        train.extractall(archives / "ILSVRC2012_img_train", filter="data")
    (archives / "ILSVRC2012_img_train.tar").unlink()
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    for name, data in published.kit().items():
        write(archives / name, data)
    assert below(made(IMAGENET, archives, tmp_path / "c")) == photographs


def test_some_classes_and_later_the_others(tmp_path):
    source, one = published.imagenet(tmp_path / "in"), dataclasses.replace(IMAGENET, classes=WNIDS[:1])
    names = [piece.name for piece in one.pieces(source)]
    assert names == [f"train/rgb/{WNIDS[0]}", f"val/rgb/{WNIDS[0]}"]
    assert set(names) < {piece.name for piece in IMAGENET.pieces(source)}  # which a preparation of all does not repeat
    whole = one.whole(source)
    assert whole.about.splits == {"train": TRAIN[0], "val": VAL}
    found = count(made(one, source, tmp_path / "out"), whole.about.splits)
    assert differences(found, whole) == []
    part = as_found(whole.about, found, partial=True)
    assert part.categories == {WNIDS[0]: WORDS[0]} and not part.fields and "A part of it" in part.notes[-1]


def test_fewer_classes_than_are_made_take_no_description_away(tmp_path, capsys):
    words = ["imagenet", str(published.imagenet(tmp_path / "in")), str(tmp_path / "out"), "--jobs", "1", "--classes"]
    assert main([*words, ",".join(WNIDS[:2])]) == 0
    assert main([*words, WNIDS[0]]) == 2
    assert f"was made with others too, such as train/rgb/{WNIDS[1]}: give them as well" in capsys.readouterr().err
    assert (tmp_path / "out/dataset.yaml").is_file()


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def cut(path: Path, size: int) -> None:
    """By so many bytes; -1: before the fourth member; -2: leave it, with a head that is none."""
    data = path.read_bytes()
    if size < 0:
        with tarfile.open(path) as archive:
            fourth = archive.getmembers()[3].offset
        path.write_bytes(data[:fourth] if size == -1 else data[:fourth] + b"?" * 512 + data[fourth + 512 :])
    else:
        path.write_bytes(data[:-size])


TRAIN_TAR, VAL_TAR, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"


def without(name: str):
    return lambda source: (source / name).unlink()


def holds(name: str, data: bytes):
    return lambda source: (source / name).write_bytes(data)


WRONG = {  # what is done to a source, and what is said of it
    "no kit": (without(KIT), "img_val.tar does not say what its images are of: expected ILSVRC2012_devkit"),
    "no val": (without(VAL_TAR), "has no ILSVRC2012_img_val.tar, and no folders of it; it has ILSVRC2012_devkit_t12"),
    "cut": (
        lambda source: cut(source / TRAIN_TAR, 26_000),
        "cut off or damaged after n0.* it has 147,897,477,120 bytes",
    ),
    "cut between two": (
        lambda source: cut(source / VAL_TAR, -1),
        "cut off or damaged after ILSVRC2012_val_00000003.JPEG",
    ),
    "damaged": (lambda source: cut(source / VAL_TAR, -2), "is cut off or damaged after ILSVRC2012_val_00000003.JPEG"),
    "no tar": (holds(TRAIN_TAR, b"<html>" * 99), "is no tar file: .*594 bytes. Download it again"),
    "another": (holds(TRAIN_TAR, tar({"a.txt": b"1"})), "expected n01440764.tar and so on, found a.txt"),
    "val of another": (holds(VAL_TAR, tar({"b.JPEG": b""})), "expected ILSVRC2012_val_00000001.JPEG to"),
    "evil": (holds(VAL_TAR, tar({"../evil.JPEG": b""})), r"a file with the name '../evil.JPEG', which leads"),
    "absolute": (holds(VAL_TAR, tar({"/etc/x.JPEG": b""})), "the name '/etc/x.JPEG', which leads out of"),
    "link": (holds(VAL_TAR, tar([("", link("a.JPEG", "/etc/x"))])), "holds a link, a.JPEG to /etc/x"),
    "kit of text": (holds(KIT, b"no kit"), f"{KIT} is no whole archive"),
    "kit of 2010": (holds(KIT, tar({"kit/readme": b""})), "has no ILSVRC2012_devkit_t12/data/meta.mat"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_archives_is_told_before_anything_is_made(case, tmp_path, capsys):
    source = published.imagenet(tmp_path / "in")
    harm, said = WRONG[case]
    harm(source)
    with pytest.raises(ConfigError, match=said):
        IMAGENET.pieces(source)
    assert main(["imagenet", str(source), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists() and "Traceback" not in capsys.readouterr().err
    if case == "no val":
        assert len(dataclasses.replace(IMAGENET, partial=True).pieces(source)) == len(WNIDS)


@pytest.mark.parametrize(
    "members, said",
    [
        ([("n01440764_1.JPEG", b"1"), ("../n01440764_2.JPEG", b"2")], "leads out of the folder"),
        ([("", link("n01440764_1.JPEG", "../evil"))], "n01440764.tar in .* holds a link, n01440764_1.JPEG to ../evil"),
        ([("n01440764_1.JPEG", b"1"), ("n01443537_2.JPEG", b"2")], "expected n01440764_<number>.JPEG, found n01443"),
        ([("n01440764_1.JPEG", b"1"), ("a/n01440764_1.JPEG", b"2")], "there are two files for train/rgb/n01440764/n0"),
        ([], "expected n01440764_<number>.JPEG, found nothing"),
    ],
)  # fmt: skip
def test_an_archive_in_the_archive(members, said, tmp_path):
    source = published.imagenet(tmp_path / "in")
    write(source / TRAIN_TAR, tar({"n01440764.tar": tar(members)}))
    (tmp_path / "out/.prepare").mkdir(parents=True)
    with pytest.raises(ValueError, match=said):
        IMAGENET.pieces(source)[0].make(FolderWriter(tmp_path / "out"))
    assert not set(below(tmp_path / "out")) - {"train/rgb/n01440764/n01440764_1.JPEG"}


def test_pseudo_labels_in_folders_and_of_another_kind(tmp_path):
    source = published.imagenet(tmp_path / "in", labels=True)
    labels = source / "imagenet_multitask/train"
    (labels / "depth_tar/n01440764.tar").write_bytes((labels / "semseg_tar/n01440764.tar").read_bytes())
    (tmp_path / "out/.prepare").mkdir(parents=True)
    unpacked = tmp_path / "folders"
    for name, data in below(
        made(IMAGENET, published.imagenet(tmp_path / "good", labels=True), tmp_path / "all")
    ).items():
        write(unpacked / name.replace("/rgb/", "/"), data)
    assert below(made(IMAGENET, unpacked, tmp_path / "again")) == below(tmp_path / "all")
    pieces = {piece.name: piece for piece in IMAGENET.pieces(source)}
    with pytest.raises(
        ValueError, match=r"n01440764_6.png in .*: expected a PNG with one channel of 16 bits, for depth"
    ):
        pieces["train/depth/n01440764"].make(FolderWriter(tmp_path / "out"))


def test_mistakes_in_words(tmp_path, capsys):
    source, root = str(published.imagenet(tmp_path / "in")), str(tmp_path / "out")
    for argv, said in (
        (["imagent", source, root], "no data set that can be prepared is 'imagent'; did you mean 'imagenet'? There"),
        (["imagenet", root, root], f"SOURCE {root} is not there. Expected a folder with:\nILSVRC2012_img_train.tar"),
        (["imagenet", source, source], "SOURCE and DEST are both"),
        (["imagenet", source, f"{source}/ILSVRC2012_img_val.tar"], "img_val.tar is no folder: give a folder"),
        (["imagenet", source, root, "--jobs", "0"], "--jobs: expected 1 or more, found 0"),
        (["imagenet", source, root, "--classes", "tench"], "--classes: expected a file, or WordNet ids"),
        (["imagenet", source, root, "--classes", "n00000001"], "--classes: 1 of 1 are not in"),
        (["ade20k", source, root, "--classes", "n01440764"], "--classes: ade20k has no class folders"),
    ):  # fmt: skip
        assert main(argv) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    help = capsys.readouterr().out
    assert all(f"\n{name}\n  " in help for name in MAKERS) and "ADEChallengeData2016.zip" in help


# ---- ADE20K


def test_ade20k(tmp_path):
    source = published.ade20k(tmp_path / "in", {"training": 4, "validation": 2})
    root = made(ADE20K, source, tmp_path / "out")
    whole = ADE20K.whole(source)
    assert whole.about.splits == {"train": 20_210, "val": 2_000} and whole.about.fields["semseg"].first == 1
    assert len(whole.about.fields["semseg"].classes) == 150
    assert whole.about.fields["semseg"].classes[149] == "thing 149, item 149"
    about = as_found(whole.about, count(root, ("train", "val")), partial=True)
    about.write(root)
    assert About.of(root) == about and about.splits == {"train": 4, "val": 2}
    dataset = opened(root, "eval", ("rgb", "semseg"))
    assert len(dataset) == 2 and (dataset.sample(1, ("semseg",))["semseg"] == 1).all()

    with zipfile.ZipFile(source / "ADEChallengeData2016.zip") as archive:
        archive.extractall(tmp_path / "folders")
    (root / "dataset.yaml").unlink()
    assert below(made(ADE20K, tmp_path / "folders", tmp_path / "again")) == below(root)
    with pytest.raises(ConfigError, match="has no ADEChallengeData2016.zip and no folder"):
        ADE20K.pieces(tmp_path)


def test_a_zip_that_is_damaged(tmp_path):
    source = published.ade20k(tmp_path / "in", {"training": 2, "validation": 1})
    path = source / "ADEChallengeData2016.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 100] ^= 255  # within the first photograph
    path.write_bytes(data)
    (tmp_path / "out/.prepare").mkdir(parents=True)
    with pytest.raises(ValueError, match="ADE_train_00000001.jpg in .* is damaged: Bad CRC-32"):
        ADE20K.pieces(source)[0].make(FolderWriter(tmp_path / "out"))
    cut(path, 100)
    other = path.rename(path.parent.parent / path.name)  # the one before is kept open
    with pytest.raises(ConfigError, match="is no whole zip file of .* bytes: File is not a zip file"):
        ADE20K.pieces(other.parent)


# ---- what a classifier is evaluated on


def test_variants_are_numbered_by_the_training_split_of_imagenet(tmp_path, photographs):
    imagenet = made(IMAGENET, published.imagenet(tmp_path / "in", labels=True), tmp_path / "imagenet")
    one = "0.003001_balloon _ balloon_0.4695473.jpg"  # as its makers name them
    files = {"imagenet-a/README.txt": b"", f"imagenet-a/n01443537/{one}": jpeg(1), "imagenet-a/._x": b""}
    write(tmp_path / "a/imagenet-a.tar", tar(files))
    root = made(IMAGENET_A, tmp_path / "a", tmp_path / "imagenet-a")
    assert below(root) == {f"val/rgb/n01443537/{one}": jpeg(1)}
    with pytest.raises(ValueError, match=f"ln -s OTHER/train {root}/train"):
        opened(root, "eval", ("rgb", "label"))
    (root / "train").symlink_to(imagenet / "train")  # as the note says
    IMAGENET_A.about.model_copy(update={"splits": {"val": 1}}).write(root)
    findings, _ = check(root, expect(root), 10**8, None)  # what ImageNet has besides, the variant does not lack
    assert not [finding.text for finding in findings.found.values() if "has no folder" in finding.what]
    dataset = opened(root, "eval", ("rgb", "label"))
    assert len(dataset) == 1 and dataset.sample(0, ("label",))["label"] == 1
    assert dataset.class_names == WNIDS and dataset.lacks == ("n01440764", "n02105855")

    with zipfile.ZipFile(tmp_path / "a/ImageNet-Sketch.zip", "w") as archive:
        archive.writestr("sketch/n02105855/sketch_3.JPEG", jpeg(2))
        archive.writestr("__MACOSX/sketch/n02105855/._sketch_3.JPEG", b"")
    assert below(made(IMAGENET_SKETCH, tmp_path / "a", tmp_path / "s")) == {
        "val/rgb/n02105855/sketch_3.JPEG": jpeg(2)
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"has no imagenet-a.tar and no folder imagenet-a. Expected:"):
        IMAGENET_A.pieces(tmp_path / "in")


def test_imagenet_c_has_a_split_for_each_corruption_and_severity(tmp_path):
    source = tmp_path / "c"
    image = "n01440764/ILSVRC2012_val_00000293.JPEG"
    for group, names in (("noise", ("gaussian_noise", "shot_noise")), ("extra", ("spatter",))):
        files = {f"{name}/{level}/{image}": jpeg(level) for name in names for level in range(1, 6)}
        write(source / f"{group}.tar", tar(files))
    write(source / "fog/3" / image, jpeg(9))
    with pytest.raises(
        ConfigError, match=r"has no defocus_blur \(of blur.tar\), (.|\n)*extra.tar is left out(.|\n)*--partial"
    ):
        IMAGENET_C.pieces(source)
    some = dataclasses.replace(IMAGENET_C, partial=True)
    root = made(some, source, tmp_path / "out")
    expected = {f"{name}/{n}/rgb/{image}": jpeg(n) for name in ("gaussian_noise", "shot_noise") for n in range(1, 6)}
    assert below(root) == expected | {f"fog/3/rgb/{image}": jpeg(9)}
    assert len(IMAGENET_C.about.splits) == 75 and set(IMAGENET_C.about.splits.values()) == {50_000}
    (root / "train").symlink_to(made(IMAGENET, published.imagenet(tmp_path / "in"), tmp_path / "imagenet") / "train")
    assert len(opened(root, "eval", ("rgb", "label"), eval_split="fog/3")) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_every_maker_describes_itself(name):
    try:
        kind = maker(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    assert kind.about.name == name and "http" in kind.expected() and (kind.about.home or "").startswith("http")
    if isinstance(kind, Telling):
        assert Whole(kind.about, {}).about.splits
