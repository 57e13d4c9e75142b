"""What SLURM's jobs say of the runs of a study: its word for a job, with what the run's own files add. No torch."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from multimae.files import user
from multimae.record.heartbeat import AT_WORK
from multimae.record.state import STALE, Status, Traces, line
from multimae.study.status import Needs

from . import scheduler
from .job import logs
from .scheduler import GONE, SchedulerJob

# SLURM's words. What is neither here nor GONE has ended.
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ACTIVE = {
    **dict.fromkeys(("RUNNING", "RESIZING"), ""),
    **dict.fromkeys(("COMPLETING", "STAGE_OUT", "SIGNALING"), "ending"),
    **dict.fromkeys(("SUSPENDED", "STOPPED"), "suspended"),
    "CONFIGURING": "starting",
}
CLOCKS = 5.0  # seconds by which the clocks of two machines may differ


class Slurm:
    """The scheduler of a study (`multimae.study.status.Scheduler`)."""

    def statuses(self, runs: Mapping[str, Traces], needs: Needs) -> dict[str, Status]:
        jobs = scheduler.query({run.job for run in runs.values()}) or {}
        return {signature: _status(run, jobs.get(run.job), needs) for signature, run in runs.items()}

    def cancel(self, jobs: Iterable[str]) -> set[str]:
        return scheduler.cancel(jobs)


def _status(run: Traces, job: SchedulerJob | None, needs: Needs) -> Status:
    status = _scheduled(run, job, needs)
    if status.state in ("pending", "waiting", "blocked", "unknown"):
        return replace(status, job=run.job)
    return replace(status, job=run.job, node=(job.nodes if job else "") or run.node)


def _scheduled(run: Traces, job: SchedulerJob | None, needs: Needs) -> Status:
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
    if job.state == GONE and run.submitted.get("user", user()) != user() and scheduler.hides_jobs():
        return _unseen(run)
    return run.left if job.state == GONE else _ended(run, job)


def _queued(run: Traces, job: SchedulerJob, needs: Needs) -> Status:
    if job.reason == "Dependency":
        return Status("waiting", f"for {needs.awaited(run) or 'another job'}", run.beat)
    if job.reason == "DependencyNeverSatisfied":
        needed = needs.awaited(run) or "what it needs"
        return Status("blocked", f"{needed} did not finish; its job stays in the queue until it is cancelled", run.beat)
    why = job.reason + (f"; `scontrol release {job.id}` lets it go on" if "held" in job.reason.lower() else "")
    if not run.began:
        return Status("pending", why, run.beat)
    words = [r for r in (run.released, run.record) if r and "reason" in r and r["time"] >= run.attempted]
    last = words[0]["reason"] if words else "its processes were killed"
    return Status("pending", line(f"restarts after: {last}") + (f" ({why})" if why else ""), run.beat)


def _active(run: Traces, job: SchedulerJob) -> Status:
    started = job.started or run.attempted
    seen, told = started, "starting"
    if run.beat and run.beat["time"] >= started - CLOCKS:
        seen, told = run.beat["time"], run.running.reason if run.beat["state"] in AT_WORK else "ending"
    doing = ACTIVE[job.state] or told
    if (silent := time.time() - seen) >= STALE:
        minutes = f"no sign of life for {silent / 60:.0f} min"
        doing = f"{doing}, {minutes}" if doing else minutes
    return Status("running", doing, run.beat)


def _unseen(run: Traces) -> Status:
    """Of a colleague's job, on a site that shows a user only his own: what its records say, and whom to ask."""
    if run.ended and run.ended["time"] >= run.attempted:
        return Status.told(run.ended["state"], run.ended["reason"], run.beat)
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
    if run.ended and run.ended["time"] >= run.attempted:
        return Status.told(run.ended["state"], run.ended["reason"], run.beat)
    if job.state == "CANCELLED":
        if not run.begun:
            return Status("missing", "cancelled before it began")
        return Status("interrupted", "its job was cancelled", run.beat)
    if last["kind"] == "interrupted" or (job.state == "COMPLETED" and last["kind"] == "failed"):
        return Status.told(last["kind"], last["reason"], run.beat)
    if job.state in ("FAILED", "OUT_OF_MEMORY"):
        return Status.told("failed", _cause(run, job, last.get("reason", "")), run.beat)
    if job.state == "COMPLETED":
        return Status("dead", "its job completed, but the run did not finish", run.beat)
    return Status("dead", f"{job.state} on {job.nodes}" if job.nodes else job.state, run.beat)


def _cause(run: Traces, job: SchedulerJob, said: str) -> str:
    """Why a job failed: what the journal says, unless that is only what the first process saw of another's end."""
    if not said or logs.SYMPTOM.search(said):
        said = logs.cause(logs.folder_of(run.folder.path.parent, job.id)) or said
    if job.state == "OUT_OF_MEMORY":
        return f"out of memory{': ' * bool(said)}{said}"
    return said or f"exit code {job.exit_code}"
