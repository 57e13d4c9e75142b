"""An append-only log of JSON lines: the first and only truth about what a run did. Imports no torch.

Every record has `time` (seconds since the epoch) and `kind`. A run that is killed and continues repeats the steps since
its last checkpoint, with the same values; `curve` therefore keeps the last record of each step.

It is JSON, which knows no NaN and no infinity: those are written as the text "nan", "inf" or "-inf", for `float`.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .reading import opened
from .shape import Shape, count, fits, list_of, mapping_of, maybe, measured, number, process, strict, text

CHUNK = 1 << 13  # bytes of the first read from the end; more than most records


def _job(value: Any) -> bool:
    """Who has a run: a process of some machine, or a job of SLURM."""
    return text(value) and re.fullmatch(r"local:\d{1,9}|slurm:\d+(_\d+)?", value) is not None


# What readers rely on. A record that lacks it is passed over, like a torn line: it costs only itself.
RECORD = {"time": number, "kind": text}
SAMPLES = {"n": count, "fingerprint": text}
KINDS: dict[str, Mapping[str, Shape]] = {
    # of journal.jsonl
    "data": {
        "root": maybe(text),
        **dict.fromkeys(("train", "eval", "val"), maybe(SAMPLES)),
        **dict.fromkeys(("fields", "classes"), maybe(list_of(text))),
        "learnt": maybe(list_of(list_of(text))),
    },
    "start": {
        "step": count,
        "params": maybe(mapping_of()),
        "pid": maybe(process),
        **dict.fromkeys(("processes", "threads"), maybe(count)),
        **dict.fromkeys(("host", "device"), maybe(text)),
        "how": maybe(mapping_of()),
        "matrix_gflops": maybe(number),  # of all processes; FLOP/s of many GPUs would be no number that JSON carries
    },
    "train": {"step": count, "epoch": number, "loss": measured, "losses": mapping_of(measured)},
    "epoch": {
        "step": count,
        **dict.fromkeys(("seconds", "images_per_second", "data_share", "memory_gib", "cores"), maybe(number)),
    },
    "eval": {
        "step": count,
        "dataset": maybe(text),
        "split": text,
        "n": count,
        "fingerprint": text,
        "metrics": mapping_of(measured),
        "seconds": maybe(number),
    },
    "sample": {"step": count, "file": text},
    "piece": {"step": count, "piece": text, "seconds": number},
    "checkpoint": {"step": count, "seconds": number},
    "nonfinite": {"step": count, "rank": maybe(count)},
    "interrupted": {"step": count, "reason": text},
    "failed": {"step": count, "reason": text},
    "finished": {"step": count, "seconds": number, "weights_sha256": maybe(text)},
    # of system/<node>.jsonl
    "system": {"node": count, "nodes": count, "metrics": mapping_of(number)},
    # of jobs.jsonl
    "submitted": {"job": _job, **dict.fromkeys(("host", "cluster", "study", "scale", "row", "stage"), maybe(text))},
    "began": {"job": maybe(text), "step": number, "nodes": maybe(text)},
    "released": {"reason": text},
    "redone": {"number": count},
    "ended": {"state": lambda value: value in ("missing", "interrupted", "dead", "failed"), "reason": text},
}


@dataclass(frozen=True)
class Journal:
    path: Path

    def write(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append one record, whole or not at all as far as readers can tell; it is in the file when this returns."""
        record = {"time": time.time(), "kind": kind, **fields}
        line = (json.dumps(strict(record), allow_nan=False) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # half a line, of a writer that was killed: end it, so that only that is lost
                    line = b"\n" + line
            file.write(line)
            file.flush()
            # A lost train record is repeated after a crash, a lost sample of a node missed by nobody.
            if kind not in ("train", "system"):
                os.fsync(file.fileno())
        return record

    def read(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(offset of the next record, record) of each whole record from byte `start` on; torn lines are passed over."""
        if (file := opened(self.path)) is None:
            return
        with file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written
                start += len(line)
                if (record := _parse(line)) is not None:
                    yield start, record

    def records(self, *kinds: str) -> list[dict[str, Any]]:
        return [record for _, record in self.read() if not kinds or record["kind"] in kinds]

    def backwards(self) -> Iterator[dict[str, Any]]:
        """The records from the last to the first. Reads only as far as it is asked to."""
        if (file := opened(self.path)) is None:
            return
        with file:
            start = os.fstat(file.fileno()).st_size
            rest, chunk = b"", CHUNK  # of a line whose beginning is not read yet
            while start:
                size = min(chunk, start)
                start, chunk = start - size, chunk * 4
                file.seek(start)
                lines = (file.read(size) + rest).splitlines(keepends=True)
                rest = lines.pop(0) if start else b""
                for line in reversed(lines):
                    if line.endswith(b"\n") and (record := _parse(line)) is not None:
                        yield record

    def last(self, *kinds: str) -> dict[str, Any] | None:
        """The last record (of these kinds). Reads backwards, only as far as it must."""
        return next((record for record in self.backwards() if not kinds or record["kind"] in kinds), None)

    def curve(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind in the order of their `step`, one a step."""
        return [r for _, r in sorted({r["step"]: r for r in self.records(kind)}.items())]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if fits(record, RECORD) and fits(record, KINDS.get(record["kind"], {})) else None
