"""ImageNet's classes: names, numbers of training images, and which the validation images are of. No torch.

From the development kit of ILSVRC2012 (https://image-net.org/challenges/LSVRC/2012/2012-downloads.php; its readme.txt
describes meta.mat), or from the lists of Kaggle's copy
(https://www.kaggle.com/competitions/imagenet-object-localization-challenge/data).
"""

import csv
import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from ...config import ConfigError

KIT = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


@dataclass(frozen=True)
class Classes:
    words: dict[str, str] = field(default_factory=dict)  # WordNet id -> what a person calls it
    train: dict[str, int] = field(default_factory=dict)  # WordNet id -> training images
    val: dict[str, str] = field(default_factory=dict)  # stem of a validation image -> WordNet id


def classes_of(source: Path) -> Classes | None:
    """None where neither the kit nor the lists are there. Raises ConfigError for what is not one of them."""
    archive, folder = source / f"{KIT}.tar.gz", source / KIT
    if archive.is_file():
        return _of_kit(*_unpacked(archive), archive)
    if folder.is_dir():
        try:
            return _of_kit((folder / META).read_bytes(), (folder / TRUTH).read_bytes(), folder)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; expected {META} and {TRUTH} in {folder}") from None
    return _of_lists(source) if (source / SOLUTION).is_file() else None


def _unpacked(archive: Path) -> tuple[bytes, bytes]:
    found = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for info in tar:
                for wanted in (META, TRUTH):
                    if info.name.endswith(f"/{wanted}") and (file := tar.extractfile(info)):
                        found[wanted] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ConfigError(f"{archive} is no whole archive: {error}; download it again") from None
    if lost := [name for name in (META, TRUTH) if name not in found]:
        raise ConfigError(f"{archive} has no {KIT}/{lost[0]}: expected the kit of ILSVRC2012, tasks 1 and 2")
    return found[META], found[TRUTH]


def _of_kit(meta: bytes, truth: bytes, place: Path) -> Classes:
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ConfigError(f"{place} is read with scipy, which is not there: pip install 'multimae[prepare]'") from None
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        rows = [synset for synset in synsets if not synset["num_children"]]  # the others are what classes are kinds of
        ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
        words = {str(row["WNID"]): str(row["words"]) for row in rows}
        train = {str(row["WNID"]): int(row["num_train_images"]) for row in rows}
        numbers = [int(line) for line in truth.split()]
        val = {f"ILSVRC2012_val_{image + 1:08}": ids[number] for image, number in enumerate(numbers)}
    except (ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise ConfigError(
            f"{place} is not as ILSVRC2012's kit is: expected `synsets` in {META} and the number of a class in each "
            f"line of {TRUTH}, found {type(error).__name__}: {error}"
        ) from None
    return Classes(words, train, val)


def _of_lists(source: Path) -> Classes:
    file, words = source / SOLUTION, {}
    if (source / MAPPING).is_file():
        lines = (source / MAPPING).read_text().splitlines()
        words = {wnid: rest for wnid, _, rest in (line.partition(" ") for line in lines) if rest}
    with open(file, newline="") as text:
        rows = list(csv.reader(text))
    # ILSVRC2012_val_00048981,n03995372 85 1 499 272: a class and a box, of each of its objects
    val = {row[0]: row[1].split()[0] for row in rows[1:] if len(row) == 2 and row[1].split()}
    if rows[:1] != [["ImageId", "PredictionString"]] or len(val) < len(rows) - 1:
        raise ConfigError(f"{file}: expected lines such as ILSVRC2012_val_00048981,n03995372 85 1 499 272")
    return Classes(words, {}, val)
