"""What `multimae data check` says of data that are sound, and of twenty kinds that are not."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import cut_inside, picture, rooms
from PIL import Image

from multimae.data.check import PAGE, main
from multimae.data.inspect import structure

DEPTH, SEMSEG, MASK = ("depth", "semseg", "mask_valid")


def every(root: Path, pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the numbers in these files."""
    for file in root.glob(pattern):
        numbers = np.array(Image.open(file))
        changed = change(numbers)
        Image.fromarray(changed.astype(np.uint16 if changed.max() > 255 else np.uint8)).save(file)


def said(root: Path, **fields: str) -> None:
    """`dataset.yaml` says something else; an empty text: nothing of it."""
    file = root / "dataset.yaml"
    text = file.read_text()
    for old, new in fields.items():
        pattern = {"unit": r"depth: \{unit: [^}]*\}, ", "semseg": r"(, )?semseg: \{[^}]*\}"}[old]
        text, count = re.subn(pattern, new, text)
        assert count == 1
    file.write_text(text)


def rename(root: Path, pattern: str, name: str) -> None:
    (file,) = root.glob(pattern)
    file.rename(file.with_name(name))


def copy(root: Path, source: str, target: str) -> None:
    """Of a photograph: its labels may be others."""
    (root / target).write_bytes((root / source).read_bytes())


def capitals(root: Path) -> None:
    """An ending in capitals is as good; a photograph's name is another."""
    rename(root, "train/depth/cat/0.png", "0.PNG")
    rename(root, "val/rgb/dog/1.jpg", "I1.jpg")
    for field in (DEPTH, SEMSEG, MASK):
        rename(root, f"val/{field}/dog/1.png", "i1.png")


def accents(root: Path) -> None:
    """One name in two forms of Unicode is one sample; a ligature and its letters look alike, and are two names."""
    rename(root, "train/rgb/cat/0.*", unicodedata.normalize("NFC", "café.jpg"))
    rename(root, "train/rgb/cat/1.*", "\ufb01sh.jpg")
    for field in (DEPTH, SEMSEG, MASK):
        rename(root, f"train/{field}/cat/0.*", unicodedata.normalize("NFD", "café.png"))
        rename(root, f"train/{field}/cat/1.*", "fish.png")


def other_kinds(root: Path) -> None:
    picture(0).save(root / "train/rgb/cat/9.tif", "TIFF")
    rename(root, "val/rgb/cat/0.jpg", "0")


def empty(root: Path) -> None:
    for file in root.glob("val/*/*/*"):
        file.unlink()
    (root / "train/rgb/owl").mkdir()


def modes(root: Path) -> None:
    every(root, "train/depth/cat/*.png", lambda depth: depth >> 8)
    every(root, "train/semseg/dog/*.png", lambda labels: np.stack([labels] * 3, -1))


def sizes(root: Path) -> None:
    """A small photograph, and one that is a strip; partners as large; and labels that are not."""
    for n, size in enumerate(((24, 24), (400, 40))):
        for file in root.glob(f"train/*/cat/{n}.*"):
            Image.open(file).resize(size, Image.Resampling.NEAREST).save(file)
    Image.new("L", (20, 20)).save(root / "val/semseg/cat/0.png")


def flat(root: Path) -> None:
    every(root, "train/depth/cat/*.png", lambda depth: np.where(depth == 0, 65535, depth))
    every(root, "train/depth/dog/1.png", lambda depth: np.full_like(depth, 3000))


def copies(root: Path) -> None:
    copy(root, "train/rgb/cat/0.jpg", "val/rgb/dog/0.jpg")
    copy(root, "train/rgb/cat/1.jpg", "train/rgb/cat/2.jpg")


def damage(root: Path) -> None:
    (root / "val/rgb/cat/0.jpg").write_bytes(b"")
    cut_inside(root / "train/rgb/cat/1.jpg")


def change(pattern: str, numbers: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda root: every(root, pattern, numbers)


OWN = "--set data.name=rooms --set data.train_samples=null --set data.eval_samples=null"
# given: (what is done to sound data, options, what is said of it: white space does not count, * is anything)
BROKEN: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "missing partners": (
        lambda root: [file.unlink() for file in [*root.glob("train/depth/*/0.png"), root / "train/semseg/cat/1.png"]],
        "",
        [
            "train: 2 of 12 samples lack depth */train/depth/cat/0.png */train/depth/dog/0.png -> make or copy what is",
            "train: 1 of 12 samples lack semseg */train/semseg/cat/1.png -> *--set data.allow_missing=true",
        ],
    ),
    "names that differ by capitals": (
        capitals,
        "",
        ["val: 1 of 13 samples lack rgb, and a file differs from theirs only by capitals", "there is rgb/dog/I1.jpg"],
    ),
    "names that look alike": (accents, "", ["1 of 13 samples lack rgb, and a file differs * or form of Unicode"]),
    "files of other kinds": (
        other_kinds,
        "",
        ["train: 1 of 13 files are none that is read *9.tif: expected one of .jpg*found .tif", "found no ending"],
    ),
    "an empty split, and an empty class": (
        empty,
        "",
        ["val: holds no sample -> expected */val/rgb/<subfolder>/<stem>.jpg", "class folders hold no image* owl ->"],
    ),
    "a class that train lacks": (
        lambda root: [path.rename(path.with_name("emu")) for path in root.glob("train/*/dog")],
        f"--for smoke/classify {OWN} --set classes=2",
        ["val: 1 of 2 classes are not in train dog -> add them to train", "note: val: 1 of 2 classes have no sample"],
    ),
    "images beside class folders": (
        lambda root: [file.rename(file.parents[1] / file.name) for file in root.glob("train/*/dog/0.*")],
        "",
        ["train: 1 of 12 samples lie beside the class folders 0 -> move them into their class"],
    ),
    "modes": (
        modes,
        "",
        [
            "train/depth: 6 of 12 files like this: expected a PNG with one 16-bit channel, found mode L *-> export it",
            "semseg: 6 of 12 files like this: expected * found mode RGB *-> write class numbers, not colours",
        ],
    ),
    "sizes": (
        sizes,
        "",
        [
            "val: 1 of 12 samples have files of different sizes */rgb/cat/0.jpg 48 x 40,*/semseg/cat/0.png 20 x 20",
            "note: train: 1 of 12 samples have a side below 32 px 24 x 24 px ->",
            "note: train: 1 of 12 samples have more than 15,000 pixels 400 x 40 px ->",
            "note: train: 1 of 12 samples have a side more than 4 times the other 400 x 40 px ->",
        ],
    ),
    "classes out of range": (
        change("train/semseg/cat/1.png", lambda labels: np.where(labels == 3, 77, labels)),
        "",
        ["1 of 12 files looked into hold class 77, and dataset.yaml says 4 classes, 0 to 3 -> convert the labels"],
    ),
    "classes that count from 1": (
        change("*/semseg/*/*.png", lambda labels: np.where(labels == 255, labels, labels + 1)),
        "",
        [
            "12 of 12 files looked into hold class 4, and dataset.yaml says 4 classes, 0 to 3. 0 never occurs, so that "
            "it seems to count from 1 -> if it counts from 1: `first: 1` for semseg in dataset.yaml"
        ],
    ),
    "masks of 0 and 1": (
        change("train/mask_valid/*/*.png", lambda mask: mask // 255),
        "",
        ["train/mask_valid: 12 of 12 files like this: *of 0 and 255 alone: it holds 1 *-> write 255 *mask * 255"],
    ),
    "millimetres read as 65535 = 128 m": (
        lambda root: said(root, unit=""),
        "",
        [
            "trains on something else: train/depth: nobody says its unit. Read as 65535 = 128 m, its median is 5.0*; "
            "if it is in millimetres, as most sensors write, that is 1.95 times too far: the median is 2.5",
            "data.depth_unit=0.001 *dataset.yaml: fields: {depth: {unit: 0.001}}; if it is right as it is, say so",
        ],
    ),
    "another unit than the files have": (
        lambda root: said(root, unit="depth: {unit: 1.0}, "),
        "",
        ["read as 1 m a step (dataset.yaml), its median is 2.*e+03 m", "millimetres: 2.5* m, data.depth_unit=0.001"],
    ),
    "depth that is not known as 65535, and flat": (
        flat,
        "",
        [
            "0.5% of the pixels, in 6 of 12 files looked into, hold 65535: that often means unknown, and is read as "
            "65.53 m",
            "train/depth: 1 of 12 files looked into hold one value everywhere",
        ],
    ),
    "disparity": (
        change("*/depth/*/*.png", lambda depth: np.where(depth > 0, 4_000_000 / np.maximum(depth, 1), 0)),
        "",
        ["note: train/depth: what lies lower is farther (correlation 0.9", "this may be disparity or inverse depth"],
    ),
    "copies": (
        copies,
        "",
        [
            "train and val: 2 of 24 samples are in both, byte for byte: * train/rgb/cat/0.jpg = val/rgb/dog/0.jpg",
            "note: train: 1 of 12 samples are copies of others in it",
        ],
    ),
    "fewer samples than there should be": (
        lambda root: [file.unlink() for file in root.glob("train/*/dog/5.*")],
        "",
        ["train: has 11 whole samples, and dataset.yaml says 12 -> prepare the data set again"],
    ),
    "damage": (
        damage,
        "",
        [
            "val/rgb: 1 of 12 files cannot be read as an image of 8 bits a channel: it is empty *-> get or make",
            "train/rgb: 1 of 12 files is damaged: its data end before its last block",
        ],
    ),
    "a recipe that reads another data set": (
        lambda root: None,
        "--for paper/depth",
        [
            "stops training: test: is not there, and paper/depth reads it",
            "settings: paper/depth has data.depth_unit=0.000152588, and dataset.yaml says 0.001 -> "
            "--set data.depth_unit=0.001",
            "train: has 12 whole samples, and paper/depth asks for 795",
        ],
    ),
}
NOTES = {"disparity"}  # what may well be meant; said of many files only


def check(root: Path, capsys, *options: str) -> tuple[int, str]:
    code = main([str(root), *options])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 60 and PAGE < 20
    return code, " ".join(printed.split())


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(structure, "LARGE", 15_000)
    breaks, options, expected = BROKEN[kind]
    breaks(rooms(tmp_path, each=12 if kind in NOTES else 6))
    code, printed = check(tmp_path, capsys, *options.split())
    for text in expected:
        assert re.search(".*".join(map(re.escape, text.split("*"))), printed), printed
    assert code == (0 if kind in NOTES else 1), printed


def test_sound_data_have_no_problem(tmp_path, capsys):
    code, printed = check(rooms(tmp_path), capsys)
    assert code == 0 and "0 problems, 0 notes" in printed, printed
    assert re.search(r"depth: 12 files .*; median 2.5\d m, 1% to 99%: 1.\d+ to 4.\d+ m; 1.0% unknown", printed)
    pretrain = f"--for smoke/pretrain {OWN} --set data.depth_unit=0.001 --set model.semseg_unlabelled=true"
    for options in ("--deep", "--sample 3", pretrain):
        code, printed = check(tmp_path, capsys, *options.split())
        assert code == 0, printed


def test_a_recipe_is_held_to_what_the_run_would_refuse_and_no_more(tmp_path, capsys):
    """Pre-training reads an unlabelled 0 as a class; classes that do not occur do no harm."""
    every(rooms(tmp_path), "*/semseg/*/*.png", lambda labels: np.where(labels == 255, 0, labels + 1).astype(np.uint8))
    said(tmp_path, semseg=", semseg: {classes: [floor, wall, box, ball], first: 1}")
    for count, shown in ((5, ""), (14, ""), (4, "has model.semseg_classes=4, and dataset.yaml says 5")):
        words = f"--for smoke/pretrain {OWN} --set data.depth_unit=0.001 --set model.semseg_classes={count}"
        code, printed = check(tmp_path, capsys, *words.split())
        assert code == bool(shown) and shown in printed, printed
    code, printed = check(tmp_path, capsys, *f"--for smoke/pretrain {OWN}".split())
    assert code == 1 and "stops training: settings: smoke/pretrain has data.depth_unit=0.00195315" in printed


def test_options_stand_in_for_what_the_data_say_of_themselves(tmp_path, capsys):
    said(rooms(tmp_path), unit="", semseg="")
    assert check(tmp_path, capsys)[0] == 1
    assert check(tmp_path, capsys, "--depth-unit", "0.001", "--classes", "4")[0] == 0
    code, printed = check(tmp_path, capsys, "--depth-unit", "0.001", "--classes", "3")
    assert code == 1 and "--classes says 3 classes, 0 to 2. 0 covers" in printed, printed


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("gone", "gone is not there: expected the folder of a data set"),
        ("train", "it is a split. Give the data set's folder"),
        (". --set epochs=3", "give one with --for"),
        (". --for paper/dpeth", "no recipe at paper/dpeth"),
        (". --depth-unit 0.002", "--depth-unit 0.002: .*dataset.yaml says 0.001; mend it there"),
        (". --classes 9", "dataset.yaml names 4"),
    ],
)
def test_where_nothing_can_be_told(options, shown, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(rooms(tmp_path, each=1))
    assert main(options.split()) == 2
    assert re.search(shown, capsys.readouterr().err)


def test_findings_for_a_program_and_on_a_page(tmp_path, capsys):
    root = rooms(tmp_path / "rooms")
    (root / "train/depth/cat/3.png").write_bytes(b"no image")
    code = main([str(root), "--json", "--html", str(tmp_path / "page.html")])
    (finding,) = json.loads(capsys.readouterr().out)
    assert code == 1 and finding["level"] == "STOPS" and finding["place"] == "train/depth" and finding["count"] == 1
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == 4 * (12 + 12) and page.count("<svg") == 6 and "it is no JPEG, PNG, WEBP" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # it needs no other file


def test_a_draw_may_miss_what_a_deep_look_finds(tmp_path, capsys):
    rooms(tmp_path, each=30)
    every(tmp_path, "train/semseg/cat/7.png", lambda labels: np.full_like(labels, 9))
    drawn = check(tmp_path, capsys, "--sample", "3")
    assert drawn == check(tmp_path, capsys, "--sample", "3") and drawn[0] == 0
    code, printed = check(tmp_path, capsys, "--deep")
    assert code == 1 and "1 of 60 files looked into hold class 9" in printed
