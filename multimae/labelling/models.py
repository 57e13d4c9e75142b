"""A network as a folder on the disk, in Hugging Face's layout: what it is, known by its content. No torch.

Nothing is downloaded, no code of the folder is run, and no pickle is read but by `weights.read`.
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..config.settings import nearest, shown
from ..data.walking import lacking
from ..files import sha256
from ..modalities import MODALITIES

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH = (".bin", ".ckpt", ".pt", ".pth")  # read by the safe reader
LARGEST = 10_000_000  # bytes of a JSON file

# model_type -> what it gives: kinds of `config.label`'s conversion; "" where only the user can say.
NUMBERS = {"depth_anything": "disparity", "dpt": ""}
# Universal segmentation whose queries are summed as Mask2Former's are.
CLASSES = ("mask2former", "maskformer")

# COCO panoptic in Mask2Former's order: 80 things, then 53 kinds of stuff. Where the names of some are.
# https://github.com/facebookresearch/Mask2Former/blob/main/mask2former/data/datasets/register_coco_panoptic_annos_semseg.py
COCO = 133
COCO_NAMES = {0: "person", 2: "car", 56: "chair", 79: "toothbrush", 80: "banner", 88: "flower", 120: "cabinet-merged"}

# Names, sizes and licences as their pages say: https://huggingface.co/<name>, and for Omnidata
# https://github.com/EPFL-VILAB/omnidata/tree/main/omnidata_tools/torch.
WHERE = {
    False: """\
  depth-anything/Depth-Anything-V2-Small-hf   99 MB, Apache-2.0; the larger ones are CC-BY-NC-4.0
  Intel/dpt-hybrid-midas                      490 MB, Apache-2.0 (the paper's for Hypersim); --{name}-gives disparity
  omnidata_dpt_depth_v2.ckpt                  1.9 GB, of Omnidata (the paper's; its data are for research only), in a
                                              folder with the two .json of Intel/dpt-hybrid-midas;
                                              --{name}-gives relative""",
    True: """\
  facebook/mask2former-swin-small-coco-panoptic   276 MB (the paper's); licence "other", its code MIT; of COCO""",
}
GET = "where there is a network: hf download NAME --local-dir DIR"


def offered(modality: str) -> str:
    """Which networks there are for a modality, where from, and under which licence: lines."""
    return WHERE[MODALITIES[modality].channels is None].format(name=modality)


@dataclass(frozen=True)
class NetworkFolder:
    """One that can be used. `gives`: a kind of conversion, "" where the user is to say, or "classes"."""

    folder: Path
    name: str
    architecture: str  # transformers' model_type
    content: str  # SHA-256 of all that decides what it computes
    gives: str
    labels: tuple[str, ...]  # of its classes, in their order
    weights: tuple[Path, ...]

    @property
    def safe(self) -> bool:
        """Whether its weights are safetensors."""
        return self.weights[0].suffix == ".safetensors"


@functools.cache  # hashing takes a second
def network(folder: Path, modality: str) -> NetworkFolder:
    """The network in a folder, for this modality. Raises ConfigError that says what was expected."""
    classes = MODALITIES[modality].channels is None
    if lack := lacking(folder):
        raise ConfigError(
            f"--{modality}: expected the folder of a network, but {folder} {lack}. There are\n{offered(modality)}\n"
            f"  {GET}; and `embedded`, a small one that knows the embedded scenes alone"
        )
    config = _json(folder, CONFIG, modality)
    kind = config.get("model_type")
    known = CLASSES if classes else tuple(NUMBERS)
    if not isinstance(kind, str) or kind not in known:
        near = nearest(str(kind), list(known))
        raise ConfigError(
            f"--{modality}: {folder / CONFIG}: expected model_type {' or '.join(known)}, found {shown(kind)}{near} "
            f"There are\n{offered(modality)}"
        )
    if config.get("auto_map"):
        raise ConfigError(f"--{modality}: {folder / CONFIG} names code of its own (auto_map), which is never run here")
    _json(folder, PREPROCESSOR, modality)
    weights = _weights(folder, modality)
    files = [folder / CONFIG, folder / PREPROCESSOR, *weights]
    content = hashlib.sha256("\n".join(f"{file.name} {sha256(file)}" for file in files).encode()).hexdigest()
    name = config.get("_name_or_path") or folder.resolve().name
    gives = "classes" if classes else "metres" if config.get("depth_estimation_type") == "metric" else NUMBERS[kind]
    name = " ".join(str(name).rstrip("/").split("/")[-2:]).split()[-1] if str(name).startswith("/") else str(name)
    labels = _labels(config, folder, modality) if classes else ()
    return NetworkFolder(folder, name[:100] or "network", kind, content, gives, labels, tuple(weights))


def numbering(network: NetworkFolder, given: dict[str, int], modality: str) -> dict[str, int]:
    """What the user gives as class numbers, checked; without, a network of COCO panoptic's classes has theirs.

    Raises ConfigError.
    """
    if given:
        unknown = [name for name in given if name not in network.labels]
        if unknown:
            near = nearest(unknown[0], list(network.labels))
            raise ConfigError(f"--classes: {network.name} has no class {shown(unknown[0])}{near} It has "
                              f"{', '.join(network.labels[:10])}, ... ({len(network.labels)})")  # fmt: skip
        if twice := [name for name in given if network.labels.count(name) > 1]:
            raise ConfigError(f"--classes: {network.name} calls several classes {shown(twice[0])}; name them apart in "
                              f"{network.folder / CONFIG} (id2label)")  # fmt: skip
        return given
    wrong = [i for i, name in COCO_NAMES.items() if network.labels[i : i + 1] != (name,)]
    if len(network.labels) != COCO or wrong:
        found = f"{len(network.labels)} classes"
        found += f", of which {min(wrong)} is not {COCO_NAMES[min(wrong)]}" if wrong else ""
        raise ConfigError(
            f"--{modality}: {network.name} has {found}: expected the {COCO} of COCO panoptic. For others, give "
            "--classes FILE.yaml with a line `name: number` for each class that is to be labelled (0 to 254)"
        )
    return {}


# ---- files


def _json(folder: Path, name: str, modality: str) -> dict[str, Any]:
    file = folder / name
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"--{modality}: {file} has {file.stat().st_size:,} bytes; expected a JSON file")
        values = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"--{modality}: {file} is not there: expected a folder in Hugging Face's layout ({CONFIG}, {PREPROCESSOR}, "
            f"{SAFETENSORS}). There are\n{offered(modality)}\n  {GET}"
        ) from None
    except OSError as error:
        raise ConfigError(f"--{modality}: {file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"--{modality}: {file} is no JSON file, or damaged; get it again ({GET})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--{modality}: {file}: expected settings in braces, found a {type(values).__name__}")
    return values


def _weights(folder: Path, modality: str) -> list[Path]:
    """Its files of weights, in order. Raises ConfigError where there are none, or one is cut short."""
    if (folder / SAFETENSORS).exists():
        files = [folder / SAFETENSORS]
    elif (folder / INDEX).exists():
        parts = _json(folder, INDEX, modality).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) and "/" not in p for p in parts.values()):
            raise ConfigError(f"--{modality}: {folder / INDEX}: expected a weight_map that names files beside it")
        files = [folder / name for name in sorted(set(parts.values()))]
    else:
        files = sorted(path for path in folder.iterdir() if path.suffix in TORCH and path.is_file())
        if len(files) != 1:
            found = ", ".join(path.name for path in files) or "none"
            raise ConfigError(
                f"--{modality}: expected {folder / SAFETENSORS}, or one file {' or '.join('*' + e for e in TORCH)}; "
                f"found {found}"
            )
        return files
    for file in files:
        _check_safetensors(file, modality)
    return files


def _check_safetensors(file: Path, modality: str) -> None:
    """Its head says how long it is. https://huggingface.co/docs/safetensors"""
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            head = json.loads(opened.read(length)) if length <= min(size - 8, LARGEST * 10) else None
        ends = [t["data_offsets"][1] for name, t in head.items() if name != "__metadata__"] if head else []
    except OSError as error:
        raise ConfigError(f"--{modality}: {file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        ends, head = [], None
    if not head or not ends or size != (whole := 8 + length + max(ends)):
        said = f"its head promises {whole:,} bytes, and it has {size:,}" if head and ends else "its head is damaged"
        raise ConfigError(f"--{modality}: {file} is no whole safetensors file: {said}; get it again ({GET})")


def _labels(config: dict[str, Any], folder: Path, modality: str) -> tuple[str, ...]:
    names = config.get("id2label")
    numbers = {str(i) for i in range(len(names))} if isinstance(names, dict) else set()
    if not isinstance(names, dict) or set(names) != numbers or not all(isinstance(n, str) for n in names.values()):
        raise ConfigError(f"--{modality}: {folder / CONFIG}: expected id2label, the names of the classes 0, 1, ...")
    return tuple(names[str(i)] for i in range(len(names)))
