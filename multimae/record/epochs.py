"""The epochs that a run has done, and whether it is bound by data or by compute. Imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

KINDS = ("start", "epoch", "finished")  # of the records that tell
# Of the time of an epoch. Workers that keep up leave next to nothing to wait for, so a tenth is more than chance, and
# what it is worth to look: without any waiting, the run would be 1.1 times as fast.
DATA_BOUND = 0.1


class Epoch(NamedTuple):
    """One that a run has done, and under which conditions."""

    record: Mapping[str, Any]
    start: Mapping[str, Any]  # the record of the attempt
    warm: bool  # not the first of its attempt, in which caches are cold, workers begin and kernels are compiled

    @property
    def where(self) -> dict[str, Any]:
        return {key: self.start.get(key) for key in ("processes", "device", "threads")} | (self.start.get("how") or {})


def epochs_of(records: Iterable[Mapping[str, Any]]) -> list[Epoch]:
    """Each epoch once, as it was done last: a run that continues repeats some. `records`: of `KINDS`, in order."""
    done: dict[int, Epoch] = {}
    start: Mapping[str, Any] = {}
    warm = False
    for record in records:
        if record["kind"] == "start":
            start, warm = record, False
        elif record["kind"] == "epoch" and record.get("seconds") is not None:
            done[record["step"]] = Epoch(record, start, warm)
            warm = True
    return list(done.values())


def waited(records: list[dict[str, Any]]) -> float | None:
    """The share of its time that a run waits for data, from 0 to 1; None before that can be told.

    Of the epochs after the first of an attempt; of a run that has finished and has no others, of those. `records`: of
    `KINDS`, in order.
    """
    epochs = [epoch for epoch in epochs_of(records) if epoch.record.get("data_share") is not None]
    if not (counted := [epoch.record for epoch in epochs if epoch.warm]):
        finished = any(record["kind"] == "finished" for record in records)
        counted = [epoch.record for epoch in epochs] if finished else []
    seconds = sum(record["seconds"] for record in counted)
    return sum(record["data_share"] * record["seconds"] for record in counted) / seconds if seconds else None


def bound_by(share: float | None) -> str:
    """`data`, `compute`, or `unknown`: the verdict on a share of time waited."""
    if share is None:
        return "unknown"
    return "data" if share >= DATA_BOUND else "compute"
