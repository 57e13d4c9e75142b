"""What a run is doing, told from its folder (journal, heartbeat, submissions) and from the scheduler it was given to.
Reading never writes, and asks the scheduler once for all runs together.

missing      nothing has begun, and nobody has it in a queue
pending      in the queue of a launcher that lives, or of the scheduler
waiting      pending, and the pre-training it starts from is not done
running      its process lives, or the scheduler says that its job runs
interrupted  stopped on request, with a checkpoint: the same command continues it
dead         its process or job is gone without a word: the same command continues it from its last checkpoint
failed       ended by an error: `--retry-failed` tries again
done         finished
refused      its folder is not what its name says, or cannot be read: the reason names the mend
blocked      waits for a run that will not be done (told by the study, `slurm.launch`, or by the scheduler)
unknown      the scheduler, or the machine, that knows cannot be asked: nothing is done about it

The last submission decides who is asked. Of a job that SLURM has, only its word and the run's heartbeat count, because
a job that failed or was interrupted may have gone back to the queue. Of a job that SLURM has no more, the folder tells.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

from multimae.config import RunConfig, Transfer
from multimae.engine.folder import FolderError, RunFolder
from multimae.engine.heartbeat import AT_WORK, alive, last_beat

from . import logs, scheduler
from .scheduler import GONE, SchedulerJob

STATES = ("missing", "pending", "waiting", "running", "interrupted", "dead", "failed", "done", "refused", "blocked")
STATES += ("unknown",)
UNDER_WAY = ("pending", "waiting", "running")
SETTLED = ("missing", "interrupted", "dead", "failed", "done")  # which the folder must back; others can be cancelled

# SLURM's words. What is neither here nor GONE has ended.
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ACTIVE = {
    **dict.fromkeys(("RUNNING", "RESIZING"), ""),
    **dict.fromkeys(("COMPLETING", "STAGE_OUT", "SIGNALING"), "ending"),
    **dict.fromkeys(("SUSPENDED", "STOPPED"), "suspended"),
    "CONFIGURING": "starting",
}

# Seconds without a heartbeat after which a process on another machine counts as gone. Heartbeats come every few
# seconds; the rest is for clocks and shared file systems that lag.
STALE = 180.0
CLOCKS = 5.0  # seconds by which the clocks of two machines may differ
REASON = 160  # characters of a reason; all of it is in the journal


@dataclass(frozen=True)
class Status:
    state: str
    reason: str = ""  # one line: why it failed, what it waits for, ...
    heartbeat: Mapping[str, Any] = field(default_factory=dict)  # the last one, {} where there is none
    seconds: float | None = None  # that the training took, of a run that is done
    job: str = ""  # SLURM's id of its last submission: `123`, or `123_4` of an array
    node: str = ""  # where that job runs or ran last, as SLURM names nodes: `n[1-2]`

    @property
    def under_way(self) -> bool:
        return self.state in UNDER_WAY


@dataclass(frozen=True)
class Traces:
    """What a run's files say, each read once."""

    folder: RunFolder
    record: Mapping[str, Any] | None  # the journal's last
    beat: Mapping[str, Any]
    submitted: Mapping[str, Any] | None
    began: Mapping[str, Any] | None  # the last start of the last submission's job
    released: Mapping[str, Any] | None  # the last time that job was given back to the queue
    ended: Mapping[str, Any] | None
    since: float  # when the last submission's job is first mentioned

    @classmethod
    def of(cls, folder: RunFolder) -> "Traces":
        record = folder.journal.last()
        if record and record["kind"] == "data":
            record = None  # written before the first attempt's start, while nothing beats yet
        jobs = list(folder.jobs.backwards())
        submitted = _first(jobs, "submitted")
        # A job may begin before its launcher has written all submissions of an array: the id tells, not the order.
        whose = [submitted.get(key) for key in ("job", "cluster")] if submitted else []
        its = [r for r in jobs if submitted and whose == [r.get(key) for key in ("job", "cluster")]]
        began, released = _first(its, "began"), _first(its, "released")
        since = min((r["time"] for r in its), default=0.0)
        beat = last_beat(folder)
        return cls(folder, record, beat, submitted, began, released, _first(jobs, "ended"), since)

    @property
    def done(self) -> bool:
        return bool(self.record) and self.record["kind"] == "finished"

    @property
    def job(self) -> str:
        """SLURM's id, if the run was last given to SLURM."""
        kind, _, id = self.submitted["job"].partition(":") if self.submitted else ("", "", "")
        return id if kind == "slurm" else ""

    @property
    def begun(self) -> bool:
        return bool(self.record or self.beat or self.began)

    @property
    def attempted(self) -> float:
        """Since when the last attempt of the last submission's job runs or waits."""
        return self.began["time"] if self.began else self.since

    @property
    def lives(self) -> bool | None:
        """Whether its process beats; None: it is on another machine, and has beaten within the last minutes."""
        if self.beat.get("state") not in AT_WORK:
            return False
        lives = alive(self.beat["pid"], self.beat["host"], self.beat["time"])
        return False if lives is None and time.time() - self.beat["time"] >= STALE else lives

    @property
    def running(self) -> Status:
        return Status("running", "" if self.beat["state"] == "training" else self.beat["state"], self.beat)


def read(folder: RunFolder) -> Status:
    """The status of one run. Of several runs, `read_all` asks the scheduler only once."""
    return read_all([folder])[folder.signature]


def read_all(folders: Iterable[RunFolder], configs: Mapping[str, RunConfig] | None = None) -> dict[str, Status]:
    """{signature: status}. `configs`: those at hand, by signature; of others the file is read, which takes longer."""
    statuses: dict[str, Status] = {}
    runs: dict[str, Traces] = {}
    for folder in folders:
        try:
            runs[folder.signature] = Traces.of(folder)
        except FolderError as error:
            statuses[folder.signature] = Status("refused", str(error))
    ids = {run.job for run in runs.values() if run.job and not run.done}
    jobs = (scheduler.query(ids) if ids else None) or {}
    needs = _Needs(runs, configs or {})
    for signature, run in runs.items():
        status = _status(run, jobs.get(run.job), needs)
        if status.state in SETTLED:
            try:
                run.folder.check(needs.configs.get(signature))
            except FolderError as error:
                status = Status("refused", str(error), run.beat, job=run.job)
        statuses[signature] = status
    return statuses


def _status(run: Traces, job: SchedulerJob | None, needs: "_Needs") -> Status:
    if run.done:
        status = Status("done", heartbeat=run.beat, seconds=run.record["seconds"])
    elif run.job:
        status = _scheduled(run, job, needs)
    else:
        return _launched(run, needs)
    if status.state in ("pending", "waiting", "blocked", "unknown"):
        return replace(status, job=run.job)
    node = (job.nodes if job else "") or (run.began.get("nodes") or "" if run.began else "")
    return replace(status, job=run.job, node=node)


# ---- runs that SLURM has


def _scheduled(run: Traces, job: SchedulerJob | None, needs: "_Needs") -> Status:
    cluster = run.submitted.get("cluster")
    if job is None or job.cluster != cluster:
        if run.lives is not False:
            return run.running
        told = "which cannot be asked now"
        if job:
            told = f"which cannot be asked from here; this is {job.cluster}. If {cluster} is gone for good, remove "
            told += "jobs.jsonl in the folder of the run, and it goes on here"
        return Status("unknown", f"its job is on cluster {cluster}, {told}", run.beat)
    if job.state in QUEUED:
        return _queued(run, job, needs)
    if job.state in ACTIVE:
        return _active(run, job)
    if run.lives or (job.state == GONE and run.lives is None):
        return run.running
    if job.state == GONE and run.submitted.get("user", scheduler.user()) != scheduler.user() and scheduler.hides_jobs():
        return _unseen(run)
    return _folder(run) if job.state == GONE else _ended(run, job)


def _queued(run: Traces, job: SchedulerJob, needs: "_Needs") -> Status:
    if job.reason == "Dependency":
        return Status("waiting", f"for {needs.of(run) or 'another job'}", run.beat)
    if job.reason == "DependencyNeverSatisfied":
        needed = needs.of(run) or "what it needs"
        return Status("blocked", f"{needed} did not finish; its job stays in the queue until it is cancelled", run.beat)
    why = job.reason + (f"; `scontrol release {job.id}` lets it go on" if "held" in job.reason.lower() else "")
    if not run.began:
        return Status("pending", why, run.beat)
    words = [r for r in (run.released, run.record) if r and "reason" in r and r["time"] >= run.attempted]
    last = words[0]["reason"] if words else "its processes were killed"
    return Status("pending", _line(f"restarts after: {last}") + (f" ({why})" if why else ""), run.beat)


def _active(run: Traces, job: SchedulerJob) -> Status:
    started = job.started or run.attempted
    doing, seen = ACTIVE[job.state], started
    if run.beat and run.beat["time"] >= started - CLOCKS:
        seen = run.beat["time"]
        alive = run.beat["state"] in AT_WORK
        doing = doing or (run.running.reason if alive else "ending")
    else:
        doing = doing or "starting"
    if (silent := time.time() - seen) >= STALE:
        minutes = f"no sign of life for {silent / 60:.0f} min"
        doing = f"{doing}, {minutes}" if doing else minutes
    return Status("running", doing, run.beat)


def _unseen(run: Traces) -> Status:
    """Of a colleague's job, on a site that shows a user only his own: what its records say, and whom to ask."""
    if run.ended and run.ended["time"] >= run.attempted:
        return Status(run.ended["state"], _line(run.ended["reason"]), run.beat)
    who, silent = run.submitted["user"], time.time() - max(run.attempted, run.beat.get("time", 0.0))
    words = f"a job of {who}, which this site does not show you"
    mend = f"if {who} says that it has ended, remove {run.folder.jobs.path}, and it goes on here"
    if not run.began:
        return Status("pending", f"{words}; {mend}", run.beat)
    if run.released and run.released["time"] >= run.attempted:
        return Status("pending", f"restarts after: {run.released['reason']}; {words}; {mend}", run.beat)
    if silent < STALE:
        return Status("running", "starting or ending", run.beat)
    return Status("unknown", f"{words}, and no sign of life for {silent / 60:.0f} min; {mend}", run.beat)


def _ended(run: Traces, job: SchedulerJob) -> Status:
    """Of a job that ended for good, without the run being done."""
    last = run.record if run.record and run.record["time"] >= run.attempted else {"kind": "nothing"}
    where = f" on {job.nodes}" if job.nodes else ""
    if run.ended and run.ended["time"] >= run.attempted:
        return Status(run.ended["state"], _line(run.ended["reason"]), run.beat)
    if job.state == "CANCELLED":
        if not run.begun:
            return Status("missing", "cancelled before it began")
        return Status("interrupted", "its job was cancelled", run.beat)
    if last["kind"] == "interrupted" or (job.state == "COMPLETED" and last["kind"] == "failed"):
        return Status(last["kind"], _line(last["reason"]), run.beat)
    if job.state in ("FAILED", "OUT_OF_MEMORY"):
        return Status("failed", _line(_cause(run, job, last.get("reason", ""))), run.beat)
    if job.state == "COMPLETED":
        return Status("dead", "its job completed, but the run did not finish", run.beat)
    return Status("dead", f"{job.state}{where}", run.beat)


def _cause(run: Traces, job: SchedulerJob, said: str) -> str:
    """Why a job failed: what the journal says, unless that is only what the first process saw of another's end."""
    if not said or logs.SYMPTOM.search(said):
        said = logs.cause(logs.folder_of(run.folder.path.parent, job.id)) or said
    if job.state == "OUT_OF_MEMORY":
        return f"out of memory{': ' * bool(said)}{said}"
    return said or f"exit code {job.exit_code}"


# ---- runs that a launcher of this machine has, or nobody


def _launched(run: Traces, needs: "_Needs") -> Status:
    if run.lives is not False:
        return run.running
    submitted = run.submitted
    written = max((r["time"] for r in (run.record, run.beat, run.ended) if r), default=0.0)  # an attempt's last word
    if not submitted or submitted["time"] <= written:
        return _folder(run)
    kind, _, pid = submitted["job"].partition(":")
    lives = alive(int(pid), submitted.get("host"), submitted["time"]) if kind == "local" else None
    if lives is None:
        where = f" on {submitted['host']}" if submitted.get("host") else ""
        return Status(
            "unknown",
            f"submitted as {submitted['job']}{where}, which cannot be asked from here. If that is gone for good, "
            f"remove {run.folder.jobs.path}, and the run goes on here",
        )
    if not lives:
        return _folder(run)
    needed = needs.of(run)
    return Status("waiting", f"for {needed}") if needed and not needs.done(run, needed) else Status("pending")


def _folder(run: Traces) -> Status:
    """Of a run that is in no queue, and that no process works on."""
    record, ended = run.record, run.ended
    written = max((r["time"] for r in (record, run.beat, ended) if r), default=0.0)
    if record and record["kind"] in ("failed", "interrupted"):
        return Status(record["kind"], _line(record["reason"]), run.beat)
    if ended and ended["time"] >= written:
        return Status(ended["state"], ended["reason"], run.beat)
    if run.begun:
        who = f"its process{_where(run.beat)}" if run.beat or not run.job else "its job"
        return Status("dead", f"{who} is gone", run.beat)
    return Status("missing", "submitted, but never begun" if run.submitted else "")


@dataclass(frozen=True)
class _Needs:
    """What runs start from."""

    runs: Mapping[str, Traces]
    configs: Mapping[str, RunConfig]

    def of(self, run: Traces) -> str | None:
        """None, too, where its folder does not tell."""
        try:
            config = self.configs.get(run.folder.signature) or run.folder.config()
        except FolderError:
            return None
        return config.needs if isinstance(config, Transfer) else None

    def done(self, run: Traces, needed: str) -> bool:
        seen = self.runs.get(needed)
        return seen.done if seen else RunFolder.of(run.folder.path.parent, needed).done


def _first(records: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    return next((record for record in records if record["kind"] == kind), None)


def _line(text: str) -> str:
    return shorten(text, REASON, placeholder=" ...")


def _where(beat: Mapping[str, Any]) -> str:
    return f" {beat['pid']} on {beat['host']}" if beat else ""
