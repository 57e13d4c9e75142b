"""An append-only log of JSON lines: the first and only truth about what a run did. Imports no torch.

Every record has `time` (seconds since the epoch) and `kind`. A run that is killed and continues repeats the steps since
its last checkpoint, with the same values; `curve` therefore keeps the last record of each step.

kinds: data, start, train, epoch, eval, sample, checkpoint, nonfinite, interrupted, failed, finished.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 1 << 13  # bytes of the first read from the end; more than most records


@dataclass(frozen=True)
class Journal:
    path: Path

    def write(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append one record, whole or not at all as far as readers can tell; it is in the file when this returns."""
        record = {"time": time.time(), "kind": kind, **fields}
        line = (json.dumps(record) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            # A writer that was killed may have left half a line: end it, so that only that line is lost.
            if file.tell() and not _ends_line(file):
                line = b"\n" + line
            file.write(line)
            file.flush()
            if kind not in ("train",):  # a lost train record is repeated after a crash; the others are worth the wait
                os.fsync(file.fileno())
        return record

    def read(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(offset of the next record, record) of each whole record from byte `start` on; torn lines are passed over."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
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
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            start = os.fstat(file.fileno()).st_size
            rest, chunk = b"", CHUNK  # of a line whose beginning is not read yet
            while start:
                size = min(chunk, start)
                start, chunk = start - size, chunk * 4
                file.seek(start)
                lines = (file.read(size) + rest).splitlines(keepends=True)
                rest = lines.pop(0) if start else b""
                for line in reversed(lines):
                    record = _parse(line) if line.endswith(b"\n") else None
                    if record is not None:
                        yield record

    def last(self, *kinds: str) -> dict[str, Any] | None:
        """The last record (of these kinds). Reads backwards, only as far as it must."""
        return next((record for record in self.backwards() if not kinds or record["kind"] in kinds), None)

    def curve(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind in the order of their `step`, one a step."""
        return [r for _, r in sorted({r["step"]: r for r in self.records(kind)}.items())]


def _ends_line(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None
