"""What the runs of a study are doing: told by their folders, by this machine, and by the scheduler that has their jobs.

The last submission decides who is asked. Of a job that the scheduler has, only its word and the run's heartbeat count,
because a job that failed or was interrupted may have gone back to the queue; `slurm` implements that. Of a job that it
has no more, and of all others, the folder tells (`multimae.record.state`). Reading never writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..config import RunConfig
from ..record.folder import RunFolder
from ..record.heartbeat import alive
from ..record.reading import FolderError
from ..record.state import Status, Traces

SETTLED = ("missing", "interrupted", "dead", "failed", "done")  # which the folder must back; others can be cancelled


class Scheduler(Protocol):
    """What a study learns from whoever has its jobs in a queue, and asks of it."""

    def statuses(self, runs: Mapping[str, Traces], needs: "Needs") -> dict[str, Status]:
        """By signature, of runs that are not done and whose last submission is a `job`; asked once for all of them."""

    def cancel(self, jobs: Iterable[str]) -> set[str]:
        """End jobs for good; returns those of other users, who alone may. Raises RuntimeError where nobody answers."""


def read(folder: RunFolder, scheduler: Scheduler | None = None) -> Status:
    """The status of one run. Of several runs, `read_all` asks the scheduler only once."""
    return read_all([folder], scheduler=scheduler)[folder.signature]


def read_all(
    folders: Iterable[RunFolder], configs: Mapping[str, RunConfig] | None = None, scheduler: Scheduler | None = None
) -> dict[str, Status]:
    """{signature: status}. `configs`: those at hand, by signature; of others the file is read, which takes longer."""
    statuses: dict[str, Status] = {}
    runs: dict[str, Traces] = {}
    for folder in folders:
        try:
            runs[folder.signature] = Traces(folder)
        except FolderError as error:
            statuses[folder.signature] = Status("refused", str(error))
    needs = Needs(runs, configs or {})
    given = {signature: run for signature, run in runs.items() if run.job and not run.done}
    statuses |= scheduler.statuses(given, needs) if scheduler and given else {s: _unasked(r) for s, r in given.items()}
    for signature, run in runs.items():
        status = statuses.get(signature) or (run.status if run.done else _launched(run, needs))
        if status.state in SETTLED:
            try:
                run.folder.check(needs.configs.get(signature))
            except FolderError as error:
                status = Status("refused", str(error), run.beat, job=run.job)
        statuses[signature] = status
    return statuses


def _unasked(run: Traces) -> Status:
    if run.lives is not False:
        return run.running
    return Status("unknown", f"its job {run.job} is a scheduler's, which is not asked here", run.beat, job=run.job)


def _launched(run: Traces, needs: "Needs") -> Status:
    """Of a run that a launcher of this machine has, or nobody."""
    if run.lives is not False:
        return run.running
    submitted = run.submitted
    if not submitted or submitted["time"] <= run.seen:  # an attempt's last word
        return run.left
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
        return run.left
    needed = needs.awaited(run)
    return Status("waiting", f"for {needed}") if needed else Status("pending")


@dataclass(frozen=True)
class Needs:
    """What runs start from."""

    runs: Mapping[str, Traces]
    configs: Mapping[str, RunConfig]

    def awaited(self, run: Traces) -> str | None:
        """The first that is not done; None, too, where its folder does not tell."""
        try:
            config = self.configs.get(run.folder.signature) or run.folder.config()
        except FolderError:
            return None
        return next((needed for needed in config.needs if not self._done(run, needed)), None)

    def _done(self, run: Traces, needed: str) -> bool:
        seen = self.runs.get(needed)
        return seen.done if seen else RunFolder.of(run.folder.path.parent, needed).done
