"""Images, folders of images, and the words that say where they lie."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from image_files import SIZE, cut_inside, four_bits, picture, png_header, without_palette, write
from PIL import Image

from . import Case

CLASSES = ("cat", "dog", "owl")
MODEL = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "semseg_classes": 10}
TINY = {
    "epochs": 1, "batch_size": 4, "precision": "fp32", "data": {"name": "pets"}, "model": MODEL,
    "optimizer": {"warmup_epochs": 0},
}  # fmt: skip
RECIPES = {
    "classify": {
        "task": "classify", "classes": 3, **TINY, "augmentation": {"rand_augment": None, "mixup": 0, "cutmix": 0}
    },
    "pretrain": {"task": "pretrain", **TINY, "masking": {"visible_tokens": 4}, "decoder": {"dim": 16, "heads": 2}},
    "segment": {"task": "segment", "classes": 10, "zero_is_unlabelled": False, "head": {"dim": 128, "depth": 1}} | TINY,
}  # fmt: skip
RUN = "multimae run {}.yaml --no-track --runtime device=cpu --data pets=pets"
CLASSIFY, PRETRAIN, SEGMENT = (RUN.format(task) for task in RECIPES)
PAPER = "python sweeps/alpha_ablation.py --scale paper"
SWEEP = "python sweeps/alpha_ablation.py --dry-run --data "
FITTING = "".join(
    f" --set {stage}.{key}" for stage in ("pretrain", "classify", "segment") for key in ("batch_size=4", "epochs=2")
)


def pets(change: Callable[[Path], object] = lambda root: None, fields=("rgb",)) -> Callable[[Path], None]:
    """Four images of each class, and recipes that train on them; then `change(the data's folder)`."""

    def prepare(folder: Path) -> None:
        for name, recipe in RECIPES.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        change(write(folder / "pets", CLASSES, 4, fields))

    return prepare


def everything(change: Callable[[Path], object] = lambda root: None) -> Callable[[Path], None]:
    return pets(change, ("rgb", "depth", "semseg"))


def at(file: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    """`change` one file of the training split: `cat/0.jpg` is an rgb image."""
    return pets(lambda root: change(root / "train" / "rgb" / file))


def label(change: Callable[[Path], object], field: str = "semseg") -> Callable[[Path], None]:
    return everything(lambda root: change(root / "train" / field / "cat" / "0.png"))


def as_png(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path, "PNG")


def link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def to_file(path: Path) -> None:
    """A file in place of a folder."""
    path.rename(path.with_name("aside"))
    path.write_text("a note")


def rings(root: Path) -> None:
    (root / "train/rgb/cat/friends").symlink_to(root / "train/rgb/dog")
    (root / "train/rgb/dog/friends").symlink_to(root / "train/rgb/cat")


def latin1(folder: str) -> None:
    """A name that is no UTF-8."""
    with open(os.path.join(os.fsencode(folder), b"caf\xe9.jpg"), "wb") as file:
        picture(0).save(file, "JPEG")


def no_class(root: Path, split: str = "train") -> None:
    """Every image of a class is damaged."""
    for image in (root / split / "rgb/dog").iterdir():
        image.write_bytes(b"")


def rare(root: Path) -> None:
    """40 cats, 4 dogs, 1 owl."""
    for n in range(4, 40):
        picture(n).save(root / "train/rgb/cat" / f"{n}.jpg")
    for n in range(1, 4):
        (root / f"train/rgb/owl/{n}.jpg").unlink()


def accents(root: Path) -> None:
    """A Mac wrote the labels' names, another machine the images'."""
    for field, form in (("rgb", "NFC"), ("depth", "NFD"), ("semseg", "NFD")):
        for file in (root / "train" / field / "cat").glob("0.*"):
            file.rename(file.with_name(unicodedata.normalize(form, "café") + file.suffix))


def shouting(root: Path) -> None:
    for file in list(root.rglob("*.jpg")):
        file.rename(file.with_suffix(".JPG"))


def odd_but_fine(root: Path) -> None:
    """Every kind of image that is one: CMYK, grey, one bit, palettes, transparency, WebP."""
    cats = root / "train/rgb/cat"
    picture(0).convert("CMYK").save(cats / "0.jpg")
    picture(1).convert("L").save(cats / "1.jpg", progressive=True)
    for n, mode in enumerate(("1", "LA", "RGBA", "P"), 4):
        picture(n).convert(mode).save(cats / f"{n}.png", **({"transparency": bytes(range(256))} if mode == "P" else {}))
    picture(8).save(cats / "8.webp")
    Image.fromarray(np.zeros((1, 90, 3), np.uint8)).save(cats / "9.png")
    with open(cats / "2.jpg", "ab") as file:
        file.write(b"\0" * 99)  # as some cameras do


def junk(root: Path) -> None:
    """What gathers in folders: nothing of it is a class or a sample."""
    for name in ("train/rgb/_old", "train/rgb/.ipynb_checkpoints", "val/rgb/zebra"):
        (root / name).mkdir()
    picture(0).save(root / "train/rgb/.ipynb_checkpoints/cat-checkpoint.jpg")
    (root / "train/rgb/cat/Thumbs.db").write_bytes(b"x")
    for name in ("README", "classes.csv", "sha256sums", "LICENSE.rst"):
        (root / "train/rgb" / name).write_text("hello")


def many_classes(root: Path) -> None:
    write(root, [f"class{n}" for n in range(150)], 2, ("rgb", "depth", "semseg"))


def move(name: str) -> Callable[[Path], None]:
    return pets(lambda root: root.rename(root.with_name(name)))


def few(n: int) -> Callable[[Path], None]:
    """`n` images of each of two classes, in all modalities."""
    return lambda folder: write(folder / "pets", CLASSES[:2], n, ("rgb", "depth", "semseg")) and None


def unlabelled(root: Path) -> None:
    for file in root.rglob("semseg/*/*.png"):
        labels = np.array(Image.open(file))
        labels[:5] = 255
        Image.fromarray(labels).save(file)


def void(value: int) -> Callable[[Path], None]:
    """All labels of the evaluation have one value."""
    empty = np.full((SIZE, SIZE), value, np.uint8)
    return everything(lambda root: [Image.fromarray(empty).save(file) for file in root.glob("val/semseg/*/*.png")])


def class_200(root: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 200, np.uint8)).save(root / "train/semseg/cat/0.png")


CASES = [
    # ---- links, pipes and names
    Case("a link to the folder that holds it", CLASSIFY, "link to a folder that holds it",
         prepare=pets(lambda root: (root / "train/rgb/cat/up").symlink_to(".."))),
    Case("two folders that link to each other", CLASSIFY, "link to a folder that holds it", prepare=pets(rings)),
    Case("the same, planned", SWEEP + "pets" + FITTING, "link to a folder that holds it", prepare=pets(rings)),
    Case("a link to nothing", CLASSIFY, "0.jpg is a link to gone.jpg, which is not there",
         prepare=at("cat/0.jpg", lambda path: link(path, "gone.jpg"))),
    Case("a link to itself", CLASSIFY, "0.jpg is a link to 0.jpg, which is not there",
         prepare=at("cat/0.jpg", lambda path: link(path, "0.jpg"))),
    Case("a class folder that is a link to itself", CLASSIFY, "bird is a link to bird, which is not there",
         prepare=pets(lambda root: link(root / "train/rgb/bird", "bird"))),
    Case("a class folder that is a link to nothing", CLASSIFY, "train/rgb/emu is a link to gone, which is not there",
         prepare=pets(lambda root: link(root / "train/rgb/emu", "gone"))),
    Case("the same, planned", SWEEP + "pets" + FITTING, "train/rgb/emu is a link to gone, which is not there",
         prepare=pets(lambda root: link(root / "train/rgb/emu", "gone"))),
    Case("the same in the evaluation, left out", CLASSIFY + " --set data.allow_missing=true", "val/rgb/emu is a link",
         prepare=pets(lambda root: link(root / "val/rgb/emu", "a_file/gone"))),
    Case("a link to nothing inside a class", CLASSIFY, "cat/friends is a link to gone, which is not there",
         prepare=at("cat/friends", lambda path: link(path, "gone"))),
    Case("a class that is an archive", CLASSIFY, "rgb/emu.tar lies beside the class folders",
         prepare=at("emu.tar", lambda path: path.write_bytes(b"x"))),
    Case("the same in the evaluation", CLASSIFY, "val/rgb/emu.tar lies beside the class folders",
         prepare=pets(lambda root: (root / "val/rgb/emu.tar").write_bytes(b"x"))),
    Case("a class that is a file", CLASSIFY, "rgb/emu lies beside the class folders",
         prepare=at("emu", lambda path: path.write_bytes(b"x"))),
    Case("two classes of one name", CLASSIFY, r"the same name in two forms of Unicode: 'caf.*' and 'caf.*'",
         prepare=pets(lambda root: write(root, ["caf\u00e9", "cafe\u0301"], 2))),
    Case("a pipe", CLASSIFY, "5.jpg is no file, but a pipe", prepare=at("cat/5.jpg", os.mkfifo)),
    Case("a name in Latin-1", CLASSIFY, r"caf\\xe9.jpg: the name is not UTF-8; rename it",
         prepare=pets(lambda root: latin1(str(root / "train/rgb/cat")))),
    Case("a class in Latin-1", CLASSIFY, r"caf\\xe9: the folder's name is not UTF-8",
         prepare=pets(lambda root: os.mkdir(os.path.join(os.fsencode(root / "train/rgb"), b"caf\xe9")))),
    Case("a folder given in Latin-1", "multimae run classify.yaml --no-track --data pets=caf\udce9", "not UTF-8",
         prepare=pets()),
    Case("names of one sample in two forms of Unicode", PRETRAIN, "finished", 0, everything(accents)),
    Case("endings in capitals", CLASSIFY, "finished", 0, pets(shouting)),
    Case("hidden, empty and other folders beside the classes", CLASSIFY, "finished", 0, pets(junk)),
    Case("the same, planned: they are no classes", SWEEP + "pets" + FITTING, "Would run 14 runs", 0,
         everything(junk)),
    Case("two images of one name", CLASSIFY, "two files for one sample: .*0.jpg",
         prepare=at("cat/0.png", lambda path: picture(0).save(path))),
    Case("an image beside the class folders", CLASSIFY, "1 images lie beside the class folders.*rgb/loose.jpg",
         prepare=at("loose.jpg", lambda path: picture(0).save(path))),
    Case("no class folders at all", CLASSIFY, "has no class folders",
         prepare=lambda folder: (pets()(folder), [(folder / "pets" / s).rename(folder / s) for s in ("train", "val")],
                                 [write(folder / "pets", ["."], 8)])[0]),
    # ---- a file where a folder is expected, and the reverse
    Case("the split is a file", CLASSIFY, "train is no folder", prepare=pets(lambda root: to_file(root / "train"))),
    Case("a modality is a file", PRETRAIN, "train/depth not found",
         prepare=everything(lambda root: to_file(root / "train/depth"))),
    Case("no evaluation split", CLASSIFY, "pets/val is not there",
         prepare=pets(lambda root: (root / "val").rename(root / "test"))),
    Case("a folder named as an image", CLASSIFY, "finished", 0,
         prepare=pets(lambda root: (root / "train/rgb/cat/9.jpg").mkdir())),
    Case("a modality without any image", PRETRAIN, "train/depth/cat/0.png missing",
         prepare=everything(lambda root: [file.unlink() for file in (root / "train/depth").rglob("*.png")])),
    # ---- what is in a file
    Case("an empty file", CLASSIFY, "0.jpg cannot be read as an image.*it is empty",
         prepare=at("cat/0.jpg", lambda path: path.write_bytes(b""))),
    Case("a page of HTML", CLASSIFY, "0.jpg cannot be read.*begins with b'<html>",
         prepare=at("cat/0.jpg", lambda path: path.write_text("<html>404</html>"))),
    Case("a GIF named .jpg", CLASSIFY, "is no JPEG, PNG, WEBP",
         prepare=at("cat/0.jpg", lambda path: picture(0).save(path, "GIF"))),
    Case("a TIFF", CLASSIFY, "5.tif: expected one of .jpg, .jpeg, .png, .webp, found .tif",
         prepare=at("cat/5.tif", lambda path: picture(0).save(path, "TIFF"))),
    Case("a JPEG named .jpe", CLASSIFY, "5.jpe: expected one of .*, found .jpe",
         prepare=at("cat/5.jpe", lambda path: picture(0).save(path, "JPEG"))),
    Case("an image without an ending", CLASSIFY, "cat/5: expected one of .*, found no ending",
         prepare=at("cat/5", lambda path: picture(0).save(path, "JPEG"))),
    Case("labels of an unknown kind", PRETRAIN, "cat/0.lbl: expected one of .png, found .lbl",
         prepare=label(lambda path: path.rename(path.with_suffix(".lbl")))),
    Case("half a JPEG", CLASSIFY, "0.jpg is damaged|0.jpg cannot be read as an image",
         prepare=at("cat/0.jpg", lambda path: path.write_bytes(path.read_bytes()[:500]))),
    Case("a JPEG that lacks a part inside", CLASSIFY, "0.jpg is damaged: its data end before its last block", 1,
         prepare=at("cat/0.jpg", cut_inside)),
    Case("the same, read by workers", CLASSIFY + " --runtime workers=2", "ValueError: pets/train/rgb/cat/0.jpg is", 1,
         prepare=at("cat/0.jpg", cut_inside)),
    Case("the same, looked for", "multimae data check pets", "train/rgb: 1 of 12 files is damaged.*cat/0.jpg", 1,
         prepare=at("cat/0.jpg", cut_inside)),
    Case("a check of what is no folder", "multimae data check gone", "gone is not there"),
    Case("an image of 400 megapixels", CLASSIFY, "5.png has 20000 x 20000 pixels; max_pixels=100000000 allows",
         prepare=at("cat/5.png", lambda path: png_header(path, 20_000, 20_000))),
    Case("an image of 120 megapixels", CLASSIFY, "5.png has 12000 x 10000 pixels",
         prepare=at("cat/5.png", lambda path: png_header(path, 12_000, 10_000))),
    Case("a limit below the images", CLASSIFY + " --runtime max_pixels=500", "0.jpg has 24 x 24 pixels; max_pixels=500",
         prepare=pets()),
    Case("no pixels allowed", CLASSIFY + " --runtime max_pixels=0", "max_pixels", prepare=pets()),
    Case("an image of one row", CLASSIFY, "is 9000 x 1: one side may be 100 times the other",
         prepare=at("cat/5.png", as_png(np.zeros((1, 9000, 3), np.uint8)))),
    Case("a 16-bit grey image as rgb", CLASSIFY, r"expected an image of 8 bits .* \(16-bit grey\)",
         prepare=at("cat/5.png", as_png(np.full((SIZE, SIZE), 60_000, np.uint16)))),
    Case("CMYK, grey, palettes, WebP, bytes after the end", CLASSIFY, "finished", 0, pets(odd_but_fine)),
    Case("a palette image without its palette", CLASSIFY, "5.png cannot be read as .*: its palette is missing",
         prepare=at("cat/5.png", without_palette)),
    Case("the same, looked for", "multimae data check pets",
         r"1 of 13 files cannot be .*its\s+palette\s+is\s+missing",
         1, at("cat/5.png", without_palette)),
    Case("depth of 8 bits", PRETRAIN, "expected a PNG with one 16-bit channel, found mode L",
         prepare=label(as_png(np.zeros((SIZE, SIZE), np.uint8)), "depth")),
    Case("depth in colour", PRETRAIN, "expected a PNG with one 16-bit channel, found mode RGB",
         prepare=label(as_png(np.zeros((SIZE, SIZE, 3), np.uint8)), "depth")),
    Case("classes of 16 bits", PRETRAIN, "expected a PNG with one 8-bit channel, found mode .*16-bit grey",
         prepare=label(as_png(np.zeros((SIZE, SIZE), np.uint16)))),
    Case("classes of 4 bits", PRETRAIN, "expected a PNG with one 8-bit channel, found 4 bits",
         prepare=label(lambda path: four_bits(path, 3))),
    Case("classes in a JPEG", PRETRAIN, "expected a PNG with one 8-bit channel, found JPEG",
         prepare=label(lambda path: picture(0).convert("L").save(path, "JPEG"))),
    Case("classes of another size", PRETRAIN, "sizes differ", prepare=label(as_png(np.zeros((9, 9), np.uint8)))),
    Case("a bit that flipped in a PNG", PRETRAIN, "0.png is damaged or cut short: a checksum is wrong", 1,
         prepare=label(lambda path: path.write_bytes(bytes([*path.read_bytes()[:-25], 7, *path.read_bytes()[-24:]])))),
    Case("unlabelled pixels in an input", PRETRAIN, "set model.semseg_unlabelled=true", 1, everything(unlabelled)),
    Case("the same, as advised", PRETRAIN + " --set model.semseg_unlabelled=true", "finished", 0, everything(unlabelled)),
    Case("a class too many", PRETRAIN, "holds class 200.*set model.semseg_classes=201", 1, everything(class_200)),
    Case("the same, as advised", PRETRAIN + " --set model.semseg_classes=201", "finished", 0, everything(class_200)),
    Case("a class too many in labels", SEGMENT, "holds class 200.*set classes=201", 1, everything(class_200)),
    Case("the same, as advised", SEGMENT + " --set classes=201", "finished", 0, everything(class_200)),
    Case("an evaluation without a label", SEGMENT, "no labelled pixel in 'val' of 'pets': all of its semseg is 255", 1,
         void(255)),
    Case("the same of zeros", SEGMENT + " --set zero_is_unlabelled=true", "set zero_is_unlabelled=false where 0 is", 1,
         void(0)),
    Case("the same in pre-training", PRETRAIN + " --set model.semseg_unlabelled=true --set targets=[semseg]",
         "no labelled pixel in 'val' of 'pets'", 1, void(255)),
    Case("the same with other targets", PRETRAIN + " --set model.semseg_unlabelled=true", "finished", 0, void(255)),
    Case("rgb sheared away from depth", CLASSIFY + " --set inputs=[rgb,depth] --set augmentation.rand_augment=rand-m9",
         "set augmentation.rand_augment=null", prepare=everything()),
    Case("mixup of classes", CLASSIFY + " --set inputs=[rgb,semseg] --set augmentation.mixup=0.2",
         "set augmentation.mixup=0 and augmentation.cutmix=0", prepare=everything()),
    # ---- classes and parts
    Case("a class that only the evaluation has", CLASSIFY, "val has classes that .*: emu",
         prepare=pets(lambda root: write(root, ["emu"], 2, splits=["val"]))),
    Case("the number of classes", CLASSIFY + " --set classes=7", "'pets' has 3 classes, found 7; set classes=3",
         prepare=pets()),
    Case("a class all of whose images are damaged", CLASSIFY + " --set data.allow_missing=true",
         "all samples of 1 classes in .* were left out: dog", prepare=pets(no_class)),
    Case("the same in the evaluation", CLASSIFY + " --set data.allow_missing=true",
         "all samples of 1 classes in .*val were left out: dog", prepare=pets(lambda root: no_class(root, "val"))),
    Case("an evaluation without a class", CLASSIFY, "note: the evaluation split has no sample of 1 of 3 classes: dog",
         0, pets(lambda root: shutil.rmtree(root / "val/rgb/dog"))),
    Case("a part without a class", CLASSIFY + " --set data.train_samples=4",
         "leave 2 of 3 classes without one, such as 'dog'; .* data.train_samples=23", prepare=pets(rare)),
    Case("the same, as advised", CLASSIFY + " --set data.train_samples=23", "finished", 0, pets(rare)),
    Case("more samples than there are", CLASSIFY + " --set data.eval_samples=13",
         "13 were asked for, but 'val' of 'pets' has 12 samples; set data.eval_samples=12", prepare=pets()),
    Case("a part of what is made", "multimae run smoke/pretrain --set data.subset_seed=1", "unknown key .data.subset_seed"),
    Case("a part of everything", CLASSIFY + " --set data.subset_seed=1", "set that, or leave it at 0", prepare=pets()),
    Case("a negative subset seed", CLASSIFY + " --set data.subset_seed=-1", "data.subset_seed", prepare=pets()),
    Case("fewer images than a batch", CLASSIFY + " --set batch_size=13", "batch_size: 13 .* set batch_size=12 or less",
         prepare=pets()),
    Case("a split outside of the data", CLASSIFY + " --set data.train_split=../x", "within the data's", prepare=pets()),
    Case("scenes a million pixels wide", "multimae run smoke/pretrain --set data.render_size=1000000", "render_size"),
    Case("a trillion scenes", "multimae run smoke/pretrain --set data.train_samples=1000000000000", "less than or equal to 1000000000"),
    Case("a split that scenes lack", "multimae run smoke/pretrain --set data.eval_split=valid", "data.eval_split: .*.train., .val. or .test., found .valid."),
    Case("a cache that is a file", "multimae run smoke/pretrain --no-track --runtime cache=a_file",
         "cannot take rendered scenes .* choose another folder", 1, lambda folder: (folder / "a_file").touch()),
    # ---- where data lie
    Case("a misspelt data set", "multimae run classify.yaml --data pest=pets", "did you mean 'pets'", prepare=pets()),
    Case("the same, in a study", SWEEP + "imagnet=pets --scale paper", "did you mean 'imagenet'", prepare=pets()),
    Case("the same, in a table", "python sweeps/alpha_ablation.py --table --scale paper --data imagnet=pets",
         "did you mean 'imagenet'", prepare=pets()),
    Case("data that no stage reads", SWEEP + "ade20k=pets", "'ade20k' is the data set of no run here", prepare=pets()),
    Case("a folder for the scenes", SWEEP + "scenes=pets", "embedded, and lie in no folder", prepare=pets()),
    Case("a folder named scenes", SWEEP + "scenes", "rename the folder, or reach it by", prepare=move("scenes")),
    Case("a folder named as the recipe's data", SWEEP + "imagenet --scale paper", "--data imagenet=/",
         prepare=move("imagenet")),
    Case("no name", SWEEP + "=pets", "expected NAME=DIR, found '=pets'", prepare=pets()),
    Case("no folder", "multimae run classify.yaml --data pets=", "expected NAME=DIR, found 'pets='", prepare=pets()),
    Case("the home of nobody", CLASSIFY.replace("pets=pets", "pets=~nosuchuser/x"), "~nosuchuser/x/train is not there",
         prepare=pets()),
    Case("the same, in a study", SWEEP + "'~nosuchuser/x'", "nosuchuser/x/train.* it is not there"),
    Case("nothing", SWEEP + "''", "expected DIR or NAME=DIR"),
    Case("two folders of one name", CLASSIFY + " --data pets=other", "lies in one folder", prepare=pets()),
    Case("two folders for all", SWEEP + "pets --data other", "one folder for all stages, found 2", prepare=pets()),
    Case("one folder twice, by two words", SWEEP + "pets --data pets=pets", "means nothing beside it", prepare=pets()),
    Case("a data set that is not there", PAPER + " --data imagenet=gone --data ade20k=x",
         "--data imagenet=gone: the folder is not there"),
    Case("no data set at all", PAPER, "give it with --data imagenet=DIR"),
    Case("the same, only planned", PAPER + " --dry-run", "note: no folder is known", 0),
    Case("a status where the data are not", PAPER + " --status --data imagenet=gone", "missing", 0),
    Case("a file for a folder", SWEEP + "pets", "no such folder: it cannot be looked at .Not a directory",
         prepare=lambda folder: (folder / "pets").touch()),
    Case("a folder without an evaluation split", SWEEP + "pets", "expected .*pets/val/rgb/<class>/<image>",
         prepare=pets(lambda root: (root / "val").rename(root / "valid"))),
    Case("a folder of one class", SWEEP + "pets" + FITTING, "needs labels: expected at least two class folders .*found 1", 0,
         lambda folder: write(folder / "pets", ["cat"], 6, ("rgb", "depth", "semseg")) and None),
    Case("class folders that are empty", SWEEP + "pets", "has no image",
         prepare=lambda folder: [(folder / "pets" / s / "cat").mkdir(parents=True) for s in ("train", "val")] and None),
    Case("a folder without a modality", SWEEP + "pets" + FITTING, "needs semseg: expected .*pets/train/semseg", 0,
         pets(fields=("rgb", "depth"))),
    Case("a folder that lacks a file", SWEEP + "pets" + FITTING, "1 of 12 samples in .*depth/cat/0.png missing",
         prepare=everything(lambda root: (root / "val/depth/cat/0.png").unlink())),
    Case("three images, all modalities", SWEEP + "pets", "--set pretrain.batch_size=4 .at most: 32", prepare=few(2)),
    Case("the same, as advised", SWEEP + "pets" + FITTING, "cost is not counted", 0, few(2)),
    Case("one image a class, asked for more", SWEEP + "pets --set segment.data.train_samples=9" + FITTING,
         "segment.data.train_samples=2 .not 9", prepare=few(1)),
    Case("more classes than samples", SWEEP + "pets", "--set segment.data.train_samples=153 .at least: 64 leave out",
         prepare=everything(many_classes)),
]  # fmt: skip
