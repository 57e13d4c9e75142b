"""What a run is doing, as its own files tell: journal, heartbeat, submissions. Imports no torch.

The one answer to "is it dead?", for --status, for MLflow and for tables. Reading never writes. A scheduler that has the
run's job may know more (`multimae.study.status`).

missing      nothing has begun, and nobody has it in a queue
pending      in the queue of a launcher that lives, or of the scheduler
waiting      pending, and a run that it starts from is not done
running      its process lives, or the scheduler says that its job runs
interrupted  stopped on request, with a checkpoint: the same command continues it
dead         its process or job is gone without a word: the same command continues it from its last checkpoint
failed       ended by an error: `--retry-failed` tries again
done         finished
refused      its folder is not what its name says, or cannot be read: the reason names the mend
blocked      waits for a run that will not be done (told by the study, `multimae.study.planning`, or by the scheduler)
unknown      the scheduler, or the machine, that knows cannot be asked: nothing is done about it
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from .folder import RunFolder
from .heartbeat import AT_WORK, alive, last_beat

UNDER_WAY = ("pending", "waiting", "running")

# Seconds without a heartbeat after which a process on another machine counts as gone. Heartbeats come every few
# seconds; the rest is for clocks and shared file systems that lag.
STALE = 180.0
REASON = 160  # characters of a reason; all of it is in the journal


@dataclass(frozen=True)
class Status:
    state: str
    reason: str = ""  # why it failed, what it waits for, ...: of what was written down, not more than a line
    heartbeat: Mapping[str, Any] = field(default_factory=dict)  # the last one, {} where there is none
    seconds: float | None = None  # that it took, of a run that is done
    job: str = ""  # SLURM's id of its last submission: `123`, or `123_4` of an array
    node: str = ""  # where that job runs or ran last, as SLURM names nodes: `n[1-2]`
    words: str = field(default="", compare=False)  # the reason as it was written down, where it was

    @classmethod
    def told(cls, state: str, words: str, beat: Mapping[str, Any]) -> "Status":
        """For a reason of any length, such as the message of an error."""
        return cls(state, line(words), beat, words=words)

    @property
    def in_full(self) -> str:
        """The whole reason."""
        return self.words or self.reason

    @property
    def under_way(self) -> bool:
        return self.state in UNDER_WAY


class Traces:
    """What a run's files say, each read once."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.record = folder.journal.last()
        if self.record and self.record["kind"] == "data":
            self.record = None  # written before the first attempt's start, while nothing beats yet
        jobs = list(folder.jobs.backwards())
        self.submitted, self.ended = _first(jobs, "submitted"), _first(jobs, "ended")
        # A job may begin before its launcher has written all submissions of an array: the id tells, not the order.
        whose = [self.submitted.get(key) for key in ("job", "cluster")] if self.submitted else []
        its = [r for r in jobs if self.submitted and whose == [r.get(key) for key in ("job", "cluster")]]
        self.began = _first(its, "began")  # the last start of the last submission's job
        self.released = _first(its, "released")  # the last time that job was given back to the queue
        self.since = min((r["time"] for r in its), default=0.0)  # when that job is first mentioned
        self.beat = last_beat(folder)

    @property
    def done(self) -> bool:
        return self.record is not None and self.record["kind"] == "finished"

    @property
    def job(self) -> str:
        """SLURM's id, if the run was last given to SLURM."""
        kind, _, id = self.submitted["job"].partition(":") if self.submitted else ("", "", "")
        return id if kind == "slurm" else ""

    @property
    def node(self) -> str:
        """Where that job began."""
        return (self.began.get("nodes") or "") if self.began else ""

    @property
    def begun(self) -> bool:
        return bool(self.record or self.beat or self.began)

    @property
    def attempted(self) -> float:
        """Since when the last attempt of the last submission's job runs or waits."""
        return self.began["time"] if self.began else self.since

    @property
    def seen(self) -> float:
        """When an attempt last gave a sign of life."""
        return max((r["time"] for r in (self.record, self.beat, self.ended) if r), default=0.0)

    @property
    def lives(self) -> bool | None:
        """Whether its process beats; None: it is on another machine, and has beaten within the last minutes."""
        if self.beat.get("state") not in AT_WORK:
            return False
        lives = alive(self.beat["pid"], self.beat["host"], self.beat["time"])
        return False if lives is None and time.time() - self.beat["time"] >= STALE else lives

    @property
    def running(self) -> Status:
        doing = self.beat["state"]
        return Status("running", "" if doing in ("training", "working") else doing, self.beat)

    @property
    def left(self) -> Status:
        """Of a run that is in no queue, and that no process works on."""
        record, ended = self.record, self.ended
        said = record is not None and record["kind"] in ("failed", "interrupted")
        # A later attempt may have ended before it could say a word; one that never began changes nothing.
        if ended and ended["time"] >= self.seen and not (said and ended["state"] == "missing"):
            return Status.told(ended["state"], ended["reason"], self.beat)
        if record and said:
            return Status.told(record["kind"], record["reason"], self.beat)
        if self.begun:
            whose = "its process" if self.beat or not self.job else "its job"
            where = f" {self.beat['pid']} on {self.beat['host']}" if self.beat else ""
            return Status("dead", f"{whose}{where} is gone", self.beat)
        return Status("missing", "submitted, but never begun" if self.submitted else "")

    @property
    def status(self) -> Status:
        """As far as the files tell."""
        if self.record and self.done:
            return Status("done", "", self.beat, self.record["seconds"], self.job, self.node)
        return self.left if self.lives is False else self.running


def line(text: str) -> str:
    """A reason, not more than a line."""
    return shorten(text, REASON, placeholder=" ...")


def _first(records: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    return next((record for record in records if record["kind"] == kind), None)
