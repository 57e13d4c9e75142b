"""Networks and photographs that cannot be used for pseudo labels."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from image_files import picture
from PIL import Image

from . import Case

LABEL = "python -m multimae.label photos --dry-run "
DEPTH = LABEL + "--depth net"
SEMSEG = LABEL + "--semseg net"
PLANNED = r"smoke scale · 2\s+runs.*at a time on this machine"
COCO = {i: f"stuff {i}" for i in range(133)} | {
    0: "person", 2: "car", 56: "chair", 79: "toothbrush", 80: "banner", 88: "flower", 120: "cabinet-merged",
}  # fmt: skip


def photos(change: Callable[[Path], object] = lambda folder: None) -> Callable[[Path], None]:
    """Six photographs of two splits, two networks whose weights are one number, then `change(the folder of all)`."""

    def prepare(folder: Path) -> None:
        for n in range(6):
            file = folder / "photos" / ("val" if n > 3 else "train") / f"rgb/cat/{n}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(n).save(file)
        net(folder / "net", model_type="depth_anything", depth_estimation_type="relative")
        change(folder)

    return prepare


def net(folder: Path, **config) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors())


def safetensors() -> bytes:
    head = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * 4


def at(file: str, data: str | bytes | None) -> Callable[[Path], None]:
    """With a file of the network replaced; None: removed."""

    def change(folder: Path) -> None:
        path = folder / "net" / file
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data if isinstance(data, bytes) else data.encode())

    return photos(change)


def of(**config) -> Callable[[Path], None]:
    return photos(lambda folder: net(folder / "net", **config))


def beside(name: str, data: bytes = b"x") -> Callable[[Path], None]:
    return photos(lambda folder: (folder / "photos/train/rgb/cat" / name).write_bytes(data))


def flat(folder: Path) -> None:
    for file in list((folder / "photos").rglob("*.jpg")):
        file.rename(folder / "photos" / file.name)
    for split in ("train", "val"):
        shutil.rmtree(folder / "photos" / split)


def foreign(folder: Path) -> None:
    (folder / "photos/train/pseudo_depth").mkdir()
    Image.fromarray(np.ones((4, 4), np.uint16)).save(folder / "photos/train/pseudo_depth/0.png")


def other_network(folder: Path) -> None:
    (folder / "photos/val/pseudo_depth").mkdir()
    text = "network: old\nsettings: {field: pseudo_depth, network: abc, precision: fp32}\n"
    (folder / "photos/val/pseudo_depth/labels.yaml").write_text(text)


def classes(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        net(folder / "net", model_type="mask2former", id2label={0: "sky", 1: "sea"})
        (folder / "classes.yaml").write_text(text)

    return photos(change)


CASES = [
    # ---- the network
    Case("photographs, and no network", LABEL, r"expected a network.*Depth-Anything-V2-Small-hf", prepare=photos()),
    Case("a network's name on the hub", LABEL + "--depth depth-anything/Depth-Anything-V2-Small-hf",
         "expected the folder of a network, but .* is not there", prepare=photos()),
    Case("a network that can be used", DEPTH, PLANNED, 0, photos()),
    Case("a file for a network", LABEL + "--depth net/config.json", "is no folder", prepare=photos()),
    Case("a folder that is no network's", LABEL + "--depth photos", "config.json is not there: expected a folder in Hug",
         prepare=photos()),
    Case("a config that is no JSON", DEPTH, "config.json is no JSON file, or damaged", prepare=at("config.json", "{")),
    Case("a config that is a list", DEPTH, "expected settings in braces, found a list", prepare=at("config.json", "[]")),
    Case("a config of bytes", DEPTH, "is no JSON file, or damaged", prepare=at("config.json", b"\xff\xfe\x00")),
    Case("a config of endless brackets", DEPTH, "is no JSON file", prepare=at("config.json", "[" * 100_000)),
    Case("another architecture", DEPTH, "expected model_type depth_anything or dpt, found 'vit'", prepare=of(model_type="vit")),
    Case("no architecture", DEPTH, "found None", prepare=of(hidden_size=3)),
    Case("a network of depth for classes", SEMSEG, "expected model_type mask2former or maskformer, found 'depth_an",
         prepare=photos()),
    Case("code of its own", DEPTH, "auto_map., which is never run here",
         prepare=of(model_type="depth_anything", auto_map={"AutoModel": "x.Y"})),
    Case("no preprocessor", DEPTH, "preprocessor_config.json is not there", prepare=at("preprocessor_config.json", None)),
    Case("no weights", DEPTH, "expected .*model.safetensors, or one file .* found none",
         prepare=at("model.safetensors", None)),
    Case("weights cut short", DEPTH, "its head promises .* bytes, and it has",
         prepare=at("model.safetensors", safetensors()[:-2])),
    Case("weights that are empty", DEPTH, "its head is damaged; get it again", prepare=at("model.safetensors", b"")),
    Case("weights of noise", DEPTH, "its head is damaged", prepare=at("model.safetensors", bytes(range(256)) * 9)),
    Case("a pickle called safetensors", DEPTH, "its head is damaged", prepare=at("model.safetensors", b"\x80\x04." * 20)),
    Case("an index of what is not there", DEPTH, "a-1.safetensors cannot be read: No such file",
         prepare=photos(lambda folder: [
             (folder / "net/model.safetensors").unlink(),
             (folder / "net/model.safetensors.index.json").write_text('{"weight_map": {"x": "a-1.safetensors"}}')])),
    Case("an index that leads out", DEPTH, "expected a weight_map that names files beside it",
         prepare=photos(lambda folder: [
             (folder / "net/model.safetensors").unlink(),
             (folder / "net/model.safetensors.index.json").write_text('{"weight_map": {"x": "../../x"}}')])),
    Case("a DPT that does not say what it gives", DEPTH, "give --depth-gives disparity .MiDaS, of Intel. or relative",
         prepare=of(model_type="dpt")),
    Case("the same, told", DEPTH + " --depth-gives relative", PLANNED, 0, of(model_type="dpt")),
    Case("a word against what it says", DEPTH + " --depth-gives metres", "says of itself that it gives disparity",
         prepare=photos()),
    # ---- classes
    Case("the classes of COCO panoptic", SEMSEG, PLANNED, 0, of(model_type="mask2former", id2label=COCO)),
    Case("as many classes in another order", SEMSEG, "has 133 classes, of which 0 is not person: expected the 133 of COCO",
         prepare=of(model_type="mask2former", id2label={i: f"a{i}" for i in range(133)})),
    Case("classes without names", SEMSEG, "expected id2label, the names of", prepare=of(model_type="mask2former")),
    Case("other classes, numbered", SEMSEG + " --classes classes.yaml", PLANNED, 0, classes("sea: 113\n")),
    Case("a class that it has not", SEMSEG + " --classes classes.yaml", "no class 'see'; did you mean 'sea'",
         prepare=classes("see: 1\n")),
    Case("a class of 300", SEMSEG + " --classes classes.yaml", "expected numbers of 0 to 255, found 300",
         prepare=classes("sea: 300\n")),
    Case("classes that are no mapping", SEMSEG + " --classes classes.yaml", "expected a mapping", prepare=classes("- sea\n")),
    Case("classes that are not there", SEMSEG + " --classes none.yaml", "none.yaml is not there", prepare=classes("")),
    # ---- the photographs
    Case("no such folder", DEPTH.replace("photos", "nowhere"), "nowhere is not there", prepare=photos()),
    Case("a file for a folder", DEPTH.replace("photos", "net/config.json"), "is no folder", prepare=photos()),
    Case("photographs without splits", DEPTH, "to lay that out by links, without a copy, give --out NEW",
         prepare=photos(flat)),
    Case("the same, laid out", DEPTH + " --out new", PLANNED, 0, photos(flat)),
    Case("laid out within", DEPTH + " --out photos/new", "lies in .*photos: choose a folder outside", prepare=photos(flat)),
    Case("laid out where something is", DEPTH + " --out net", PLANNED, 0, photos()),
    Case("laid out over other photographs", DEPTH + " --out other", "is there already, and is no link to",
         prepare=photos(lambda folder: (folder / "other/train/rgb").mkdir(parents=True))),
    Case("nothing to lay out", DEPTH.replace("photos", "empty") + " --out new", "has no photographs",
         prepare=photos(lambda folder: (folder / "empty").mkdir())),
    Case("a GIF among them", DEPTH, "moving.gif: expected one of .jpg, .jpeg, .png, .webp, found .gif",
         prepare=beside("moving.gif")),
    Case("a HEIC among them", DEPTH, "found .heic", prepare=beside("phone.heic")),
    Case("the same, left out", DEPTH + " --skip-damaged", PLANNED, 0, beside("phone.heic")),
    Case("two photographs of one name", DEPTH, "two files for one sample", prepare=beside("0.png")),
    Case("a link to nothing", DEPTH, "is a link to .*gone.*not there",
         prepare=photos(lambda folder: (folder / "photos/train/rgb/cat/9.jpg").symlink_to("gone"))),
    Case("a split without photographs", DEPTH, "val/rgb has no photographs",
         prepare=photos(lambda folder: [file.unlink() for file in (folder / "photos/val/rgb/cat").iterdir()])),
    Case("a split that is not there", DEPTH + " --split test", "photos has train, val; found 'test'",
         prepare=photos()),
    Case("labels of nobody", DEPTH, "0.png lies there already, and no labels.yaml says", prepare=photos(foreign)),
    Case("labels of another network", DEPTH, "has labels of old, and these would be others", prepare=photos(other_network)),
    Case("a broken note of whose they are", DEPTH, "labels.yaml is not valid YAML|labels.yaml: ",
         prepare=photos(lambda folder: [other_network(folder), (folder / "photos/val/pseudo_depth/labels.yaml").write_text("a: [")])),
    Case("the scenes, and nowhere to write them", LABEL.replace("photos", "scenes") + "--depth embedded",
         "say where their photographs are to be written, with --out NEW"),
    Case("no runs side by side", DEPTH + " --jobs 0", "--jobs: expected 1 or more, found 0", prepare=photos()),
    Case("no photographs at once", DEPTH + " --batch 0", "micro_batch_size", prepare=photos()),
]  # fmt: skip
