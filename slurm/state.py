"""What a run is doing, told from its folder alone: journal, heartbeat and submissions. Reading never writes.

missing      nothing has begun, and nobody has it in a queue
pending      in the queue of a launcher that lives
waiting      pending, and the pre-training it starts from is not done
running      its process lives
interrupted  stopped on request, with a checkpoint: the same command continues it
dead         its process is gone without a word: the same command continues it from its last checkpoint
failed       ended by an error: `--retry-failed` tries again
done         finished
blocked      waits for a run that will not be done (only a study knows this: `slurm.launch`)
unknown      the folder does not tell
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from multimae.config import ConfigError, Transfer
from multimae.engine.folder import RunFolder, read_json
from multimae.engine.heartbeat import alive

STATES = ("missing", "pending", "waiting", "running", "interrupted", "dead", "failed", "done", "blocked", "unknown")
UNDER_WAY = ("pending", "waiting", "running")

# Seconds without a heartbeat after which a process on another machine counts as gone. Heartbeats come every few
# seconds; the rest is for clocks and shared file systems that lag.
STALE = 180.0
REASON = 160  # characters of a reason; all of it is in the journal


@dataclass(frozen=True)
class Status:
    state: str
    reason: str = ""  # one line: why it failed, what it waits for, ...
    heartbeat: Mapping[str, Any] = field(default_factory=dict)  # the last one, {} where there is none
    seconds: float | None = None  # that the training took, of a run that is done

    @property
    def under_way(self) -> bool:
        return self.state in UNDER_WAY


def read(folder: RunFolder) -> Status:
    """The status of one run."""
    try:
        record = folder.journal.last()
        if record and record["kind"] == "data":
            record = None  # written before the first attempt's start, while nothing beats yet
        beat = read_json(folder.heartbeat) or {}
        submitted = folder.jobs.last("submitted")
        ended = folder.jobs.last("ended")
        return _status(folder, record, beat, submitted, ended)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Status("unknown", f"{folder.path} cannot be read: {type(error).__name__}: {error}")


def _status(folder: RunFolder, record, beat, submitted, ended) -> Status:
    if record and record["kind"] == "finished":
        return Status("done", heartbeat=beat, seconds=record["seconds"])
    written = max((r["time"] for r in (record, beat, ended) if r), default=0.0)  # the last word of an attempt
    if beat.get("state") in ("starting", "training", "evaluating", "saving"):
        lives = alive(beat["pid"], beat["host"], beat["time"])
        if lives or (lives is None and time.time() - beat["time"] < STALE):
            return Status("running", "" if beat["state"] == "training" else beat["state"], beat)
    if submitted and submitted["time"] > written and (queued := _queued(folder, submitted)):
        return queued
    if record and record["kind"] in ("failed", "interrupted"):
        return Status(record["kind"], shorten(record["reason"], REASON, placeholder=" ..."), beat)
    if ended and ended["time"] >= written:
        return Status(ended["state"], ended["reason"], beat)
    if record or beat:
        return Status("dead", f"its process{_where(beat)} is gone", beat)
    return Status("missing", "submitted, but never begun" if submitted else "")


def _queued(folder: RunFolder, submitted: Mapping[str, Any]) -> Status | None:
    """pending or waiting, if the launcher that has this submission in its queue still lives."""
    scheduler, _, pid = submitted["job"].partition(":")
    lives = alive(int(pid), submitted["host"], submitted["time"]) if scheduler == "local" else None
    if lives is None:
        return Status("unknown", f"submitted as {submitted['job']}, which cannot be asked from here")
    if not lives:
        return None
    try:
        config = folder.config()
    except FileNotFoundError as error:
        raise ConfigError(f"no config: {error}") from None
    if isinstance(config, Transfer) and config.needs:
        if not RunFolder.of(folder.path.parent, config.needs).done:
            return Status("waiting", f"for {config.needs}")
    return Status("pending")


def _where(beat: Mapping[str, Any]) -> str:
    return f" {beat['pid']} on {beat['host']}" if beat else ""
