"""What says of a checkpoint, or of final weights, that they are complete. Imports no torch: launchers ask, too."""

import json
from pathlib import Path
from typing import Any

from .reading import opened, read_json, usable
from .shape import Shape, count, fits, list_of, mapping_of, number, text

CLOCK = {"steps": count, "samples": count, "seconds": number, "data_seconds": number}
CLOCKS = dict.fromkeys(("window", "epoch", "run"), CLOCK)
METER: Shape = {"clocks": CLOCKS, "sums": list_of(list_of(number)), "summed": count}
PROGRESS: dict[str, Shape] = {"step": count, "nonfinite": count, "meter": METER, "bytes": count, "sha256": text}
TENSOR = {"data_offsets": lambda value: isinstance(value, list) and len(value) == 2 and all(map(count, value))}


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


def progress_of(path: Path) -> dict[str, Any]:
    """The progress.json of a checkpoint. Raises Damaged where it, or a byte of the tensors, is missing."""
    file = path / "progress.json"
    progress = read_json(file) if file.is_file() else None
    if not fits(progress, PROGRESS):
        raise Damaged("progress.json is missing, torn, or does not say all")
    if path.name != name_of(progress["step"]):
        raise Damaged(f"progress.json is of step {progress['step']}")
    tensors = path / "tensors.safetensors"
    size = tensors.stat().st_size if tensors.is_file() else 0
    if size != progress["bytes"]:
        raise Damaged(f"tensors.safetensors has {size} bytes, and {progress['bytes']} were written")
    return progress


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def weights_fault(path: Path, run: str) -> str | None:
    """What is wrong with the weights.safetensors of a run, by its signature, as far as its header and its size tell."""
    if (file := opened(path)) is None:
        return "is gone"
    with file, usable(path):
        size = int.from_bytes(file.read(8), "little")
        length = path.stat().st_size
        try:
            header = json.loads(file.read(size) if size < length else b"")
        except (ValueError, RecursionError):
            header = None
    if not fits(header, mapping_of(mapping_of())):
        return "is no safetensors file, or cut short"
    about = header.pop("__metadata__", {})
    if not fits(about, mapping_of(text)):
        return "is no safetensors file"
    ends = [tensor["data_offsets"][1] for tensor in header.values() if fits(tensor, TENSOR)]
    if len(ends) != len(header) or 8 + size + max(ends, default=0) != length:
        return "is cut short, or not what was written"
    if run not in about.get("run", run):
        return f"holds the weights of another run ({about['run']})"
    return None
