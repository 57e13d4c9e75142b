"""Whether a packed split is whole: its shards are there, as long, in their place, and hold what was packed."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..packs import FACTS, table_of
from .findings import Findings, Level

MEND = "copy it again; or give `multimae data pack` again, which makes what is not whole"
NAME, LONG = 100, b"././@LongLink"  # bytes of a name in a tar's header, and what stands there for a longer one


def judge_pack(
    folder: Path, split: str, facts: Mapping[str, Any], deep: bool, findings: Findings, done: Callable[[int], None]
) -> None:
    """`deep` reads all of every shard. `done` is told of samples. Raises OSError of the file system."""
    table, shards = table_of(folder), facts["shards"]
    numbers, rows = np.unique(table["shard"], return_index=True)
    if len(table) != facts["samples"] or len(numbers) != len(shards):
        said = f"{FACTS} says {facts['samples']:,} in {len(shards)}"
        what = f"has {len(table):,} samples in {len(numbers)} shards, and {said}"
        findings.add(Level.STOPS, split, what, "its two files are of two packs: copy both again")
        return
    wrong = []
    for shard, row in zip(shards, rows):
        path = folder / shard["name"]
        if problem := _wrong(path, shard, table["stem"][row], deep):
            wrong.append(f"{path} {problem}")
        done(shard["samples"])
    findings.among(Level.STOPS, split, len(shards), "shards", "are not what was packed", MEND, wrong)


def _wrong(path: Path, shard: Mapping[str, Any], first: bytes, deep: bool) -> str:
    """`first`: the stem of its first sample."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return "is missing"
    if found != shard["bytes"]:
        return f"has {found:,} bytes, not {shard['bytes']:,}"
    with open(path, "rb") as file:
        name = file.read(NAME).rstrip(b"\0")
        if name != LONG and not name.startswith(first[:NAME]):
            return f"does not begin with {first.decode()}: it is another shard"
        file.seek(0)
        if deep and hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
            return "has other contents, by its checksum"
    return ""
