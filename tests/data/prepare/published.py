"""Archives in the layouts that their makers publish, small. Written with tarfile and zipfile alone."""

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from image_files import picture
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02105855")
WORDS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "Shetland sheepdog, Shetland sheep dog, Shetland")
TRAIN, VAL = (4, 3, 5), 2  # images of each class
KIT_IDS = (2, 3, 1)  # the kit's numbers are in no order of names


def jpeg(seed: int) -> bytes:
    return encoded(picture(seed), "JPEG")


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png(value: int, kind: type = np.uint8) -> bytes:
    return encoded(Image.fromarray(np.full((24, 24), value, kind)), "PNG")


def tar(files: Mapping[str, bytes] | Iterable[tuple[str, bytes | tarfile.TarInfo]]) -> bytes:
    """`name -> content`; or in their place what a member is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def train_images() -> dict[str, dict[str, bytes]]:
    """By class; one JPEG of four inks, and the one PNG that is called JPEG."""
    images = {w: {f"{w}_{10 * n + 6}.JPEG": jpeg(10 * c + n) for n in range(TRAIN[c])} for c, w in enumerate(WNIDS)}
    images["n02105855"]["n02105855_2933.JPEG"] = encoded(picture(77), "PNG")
    images["n01443537"]["n01443537_6.JPEG"] = encoded(picture(78).convert("CMYK"), "JPEG")
    return images


def val_classes() -> list[str]:
    """Of the validation images, in the order of their numbers."""
    return [WNIDS[(2 * n) % 3] for n in range(VAL * len(WNIDS))]


def val_images() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{n + 1:08}.JPEG": jpeg(100 + n) for n in range(VAL * len(WNIDS))}


def kit() -> dict[str, bytes]:
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O"),
             ("children", "O"), ("wordnet_height", "O"), ("num_train_images", "O")]  # fmt: skip
    trains = [len(images) for images in train_images().values()]
    rows = [(KIT_IDS[c], w, WORDS[c], "a fish", 0, np.zeros(0), 0, trains[c]) for c, w in enumerate(WNIDS)]
    rows += [(4, "n00001740", "entity", "all there is", 3, np.array(KIT_IDS), 2, 0)]
    synsets = np.array([tuple(row) for row in sorted(rows)], dtype=kinds)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    truth = "".join(f"{KIT_IDS[WNIDS.index(wnid)]}\n" for wnid in val_classes())
    top = "ILSVRC2012_devkit_t12"
    return {
        f"{top}/readme.txt": b"",
        f"{top}/data/meta.mat": meta.getvalue(),
        f"{top}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


def imagenet(source: Path, labels: bool = False) -> Path:
    """As image-net.org has it, and the pseudo labels as the authors' aria2c lists place them."""
    write(source / "ILSVRC2012_img_train.tar", tar({f"{w}.tar": tar(files) for w, files in train_images().items()}))
    write(source / "ILSVRC2012_img_val.tar", tar(val_images()))
    with tarfile.open(source / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, content in kit().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    if labels:
        stems = {"train": {w: [Path(name).stem for name in files] for w, files in train_images().items()}, "val": {}}
        for name, wnid in zip(val_images(), val_classes()):
            stems["val"].setdefault(wnid, []).append(Path(name).stem)
        for split, classes in stems.items():
            for wnid, names in classes.items():
                depth = {f"{wnid}/{stem}.png": png(1000, np.uint16) for stem in names}
                semseg = {f"./{stem}.png": png(7) for stem in names}
                top = source / "imagenet_multitask" / split
                write(top / "depth_tar" / f"{wnid}.tar", tar(depth))
                write(top / "semseg_tar" / f"{wnid}.tar", tar(semseg))
    return source


def kaggle(source: Path) -> Path:
    top = source / "ILSVRC/Data/CLS-LOC"
    for wnid, files in train_images().items():
        for name, content in files.items():
            write(top / "train" / wnid / name, content)
    lines = ["ImageId,PredictionString"]
    for (name, content), wnid in zip(val_images().items(), val_classes()):
        write(top / "val" / name, content)
        lines.append(f"{Path(name).stem},{wnid} 85 1 499 272 {wnid} 131 0 499 254 ")
    write(source / "LOC_val_solution.csv", "\n".join(lines).encode())
    mapping = "\n".join(f"{wnid} {words}" for wnid, words in zip(WNIDS, WORDS))
    write(source / "LOC_synset_mapping.txt", mapping.encode())
    return source


def ade20k(source: Path, samples: Mapping[str, int]) -> Path:
    top = "ADEChallengeData2016"
    source.mkdir(parents=True, exist_ok=True)
    names = "\n".join(f"{n + 1}{' ' * (n == 21)}\t0.1\t9\t9\tthing {n}, item {n} " for n in range(150))
    with zipfile.ZipFile(source / f"{top}.zip", "w") as archive:
        archive.writestr(f"{top}/", "")
        archive.writestr(f"{top}/objectInfo150.txt", f"Idx\tRatio\tTrain\tVal\tName\n{names}\n")
        archive.writestr(f"{top}/sceneCategories.txt", "ADE_train_00000001 airport_terminal\n")
        for part, short in (("training", "train"), ("validation", "val")):
            for n in range(samples[part]):
                stem = f"ADE_{short}_{n + 1:08}"
                archive.writestr(f"{top}/images/{part}/{stem}.jpg", jpeg(n))
                archive.writestr(f"{top}/annotations/{part}/{stem}.png", png(n % 151))
    return source
