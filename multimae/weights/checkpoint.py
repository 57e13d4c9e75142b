"""The state dict in a checkpoint, and what tells it from another. No code in a file is run."""

import argparse
import hashlib
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..files import sha256

State = dict[str, Tensor]
Source = Path | str | Mapping[str, Tensor]

TORCH_FILE = (b"PK\x03\x04", b"\x80")  # how a zip begins, and a pickle
SAFETENSORS_HEADER = b"{"  # the ninth byte, after the length
# What torch's unpickler, which follows whatever bytes it is given, was seen to stumble over in 19,000 damaged files.
DAMAGED = (
    *(EOFError, RuntimeError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, AssertionError),
    struct.error,
)


def fingerprint(source: Path | nn.Module) -> str:
    """SHA-256 of a file, or of a model's tensors with their names: what timm fetched and a file of it differ."""
    if isinstance(source, Path):
        return sha256(source)
    digest = hashlib.sha256()
    for name, tensor in sorted(source.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def read(source: Source) -> State:
    """The state dict in a checkpoint (`.safetensors`, or a torch file whose entry `model` or `state_dict`, or whole, is
    the state dict).

    No code in a file is run: a torch file may hold tensors, plain values and the argparse.Namespace of a training run.
    Raises ValueError for a file that is damaged, or holds anything else.
    """
    found = source if isinstance(source, Mapping) else _read_file(Path(source))
    for entry in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(entry), Mapping):
            found = found[entry]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        name = source if isinstance(source, Path | str) else "source"
        raise ValueError(f"{name}: expected a state dict of tensors, or one under 'model'")
    return dict(found)


def _read_file(path: Path) -> Any:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint, but it is no file")
    with open(path, "rb") as file:
        start = file.read(9)
    if not start.startswith(TORCH_FILE) and start[8:] != SAFETENSORS_HEADER:
        raise ValueError(f"{path}: expected a checkpoint of torch or of safetensors, but it is no checkpoint")
    try:
        if start[8:] == SAFETENSORS_HEADER:
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest of torch's message tells how to switch the check off.
        named = re.search(r"Unsupported \w+[^\n]*", str(error))
        raise ValueError(
            f"{path}: refused, because reading it would run code that it names, or it is no checkpoint: expected "
            f"tensors, plain values and argparse.Namespace only. {named[0] if named else ''}"
        ) from None
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path}: expected a checkpoint, but the file is damaged or no such ({reason})") from None
