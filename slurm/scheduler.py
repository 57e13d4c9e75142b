"""What SLURM says of jobs, in two calls at most, however many they are. Imports no torch.

The controller (squeue) is asked first: it knows a job from the moment it is submitted, and why it waits; the accounting
database lags by seconds. How a job ended that the controller has forgotten, only the accounting (sacct) tells; not
every site has one.

The commands find their cluster as they always do: by SLURM_CONF in the environment, else by the site's default.
"""

import contextlib
import functools
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TIMEOUT = 20.0  # seconds for one command; squeue gives up on a controller that is down after ten

# Neither pending, nor running, nor ended: the scheduler has no such job any more, and nobody knows how it ended.
GONE = "GONE"

FORGOTTEN = "Invalid job id specified"  # how squeue refuses a single id; among several it passes over an unknown one
DENIED = re.compile(r"job id (\d+)\S*: Access/permission denied")
QUEUE_FIELDS = ("JobArrayID", "Cluster", "State", "Reason", "NodeList", "exit_code", "StartTime")
ACCOUNTING_FIELDS = ("JobID", "Cluster", "State", "Reason", "NodeList", "ExitCode", "Start")


class Unreachable(RuntimeError):
    """The scheduler cannot be asked. `said`: all that its command printed."""

    def __init__(self, message: str, said: str = ""):
        super().__init__(message)
        self.said = said


@dataclass(frozen=True)
class SchedulerJob:
    id: str  # `123`, or `123_4` of an array
    cluster: str
    state: str  # SLURM's word, such as PENDING or OUT_OF_MEMORY; or GONE
    reason: str = ""  # SLURM's word for why it waits or failed, such as Dependency
    nodes: str = ""  # `node[1-2]`
    exit_code: str = ""  # `1:0`, the code and the signal; of a job that ended
    started: float | None = None  # seconds since the epoch, of its last start


def query(ids: Iterable[str]) -> dict[str, SchedulerJob] | None:
    """What is known of each job; an id that nothing is known of is left out. None: nobody can be asked.

    Where no id is known, a third call names the cluster that does not know them.
    """
    ids = set(ids)
    queue, accounting = _queue(ids), None
    seen = dict(queue or {})
    if missing := ids - seen.keys():
        accounting = _accounting(missing)
        seen |= accounting or {}
    if queue is None and accounting is None:
        return None
    if queue is not None and (gone := ids - seen.keys()):
        with contextlib.suppress(Unreachable):
            cluster = next((job.cluster for job in seen.values()), None) or cluster_name()
            seen |= {id: SchedulerJob(id, cluster, GONE) for id in gone}
    return {id: job for id, job in seen.items() if id in ids}


def sbatch(script: str, option: str) -> subprocess.CompletedProcess[str]:
    """Hand a batch script to sbatch: `--parsable` submits it, `--test-only` asks."""
    return subprocess.run(
        ["sbatch", option], input=script, env=submitting(), capture_output=True, text=True, check=False
    )


def submitting() -> dict[str, str]:
    """The environment for sbatch, which hands it on to the job. Of a job in which the command is given, such as an
    interactive one, nothing is handed on: srun and the job would take its size and its array's numbers for theirs."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    inside = "SLURM_JOB_ID" in os.environ
    of_the_job = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_") if inside else ()
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(of_the_job)}


def cluster_name() -> str:
    """ClusterName of the cluster that commands given here reach. Raises Unreachable."""
    return _config()["ClusterName"]


@functools.cache
def hides_jobs() -> bool:
    """Whether the site shows a user only his own jobs, so that a colleague's may be there that nobody seems to know."""
    if os.geteuid() == 0:
        return False  # root is shown everything
    try:
        return "jobs" in _config().get("PrivateData", "").split(",")
    except Unreachable:
        return True


def cancel(ids: Iterable[str]) -> set[str]:
    """End jobs for good, by one command; those that ended already are passed over.

    Returns those of other users, who alone may; of an array, perhaps all that were to be cancelled. Raises Unreachable.
    """
    ids, tasks = set(ids), {}
    for id in sorted(ids):
        master, _, task = id.partition("_")
        tasks.setdefault(master, []).append(task)
    if not tasks:
        return set()
    try:
        _run("scancel", *(f"{master}_[{','.join(of)}]" if of[0] else master for master, of in tasks.items()))
    except Unreachable as error:
        if not (refused := set(DENIED.findall(error.said))):
            raise
        return {id for id in ids if id.partition("_")[0] in refused}
    return set()


def _queue(ids: set[str]) -> dict[str, SchedulerJob] | None:
    """The jobs that the controller still has, those that ended a few minutes ago among them."""
    fields = ",".join(f"{field}:|" for field in QUEUE_FIELDS)
    try:
        text = _run("squeue", "-harO", fields, "-t", "all", "-j", _masters(ids)) if ids else ""
    except Unreachable as error:
        return {} if FORGOTTEN in str(error) else None
    jobs = {}
    for line in text.splitlines():
        id, cluster, state, reason, nodes, status, start = line.split("|")[: len(QUEUE_FIELDS)]
        code = f"{int(status) >> 8}:{int(status) & 127}"  # as `wait` gives it
        jobs[id] = SchedulerJob(id, cluster, state, _word(reason), nodes, code, _seconds(start))
    return jobs


def _accounting(ids: set[str]) -> dict[str, SchedulerJob] | None:
    """The last state of each job in the database."""
    fields = ",".join(ACCOUNTING_FIELDS)
    # -S: were it left out, some versions would look at today's jobs only.
    text = answer("sacct", "-XPn", "-S", "2000-01-01", "-o", fields, "-j", _masters(ids))
    if text is None:
        return None
    jobs = {}
    for line in text.splitlines():
        expression, cluster, state, reason, nodes, code, start = line.split("|")
        state = state.split()[0]  # `CANCELLED by 0`
        for id in expand(expression):
            jobs[id] = SchedulerJob(id, cluster, state, _word(reason), _word(nodes), code, _seconds(start))
    return jobs


def expand(expression: str) -> Iterator[str]:
    """The jobs that `12`, `12_3` or `12_[0-3,7,10-20:2%5]` stands for."""
    master, _, tasks = expression.partition("_")
    if not tasks.startswith("["):
        yield expression
        return
    for part in tasks.strip("[]").partition("%")[0].split(","):
        first, last, step = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part).groups()
        for task in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{master}_{task}"


def _config() -> dict[str, str]:
    """The cluster's configuration; it names the cluster. Raises Unreachable."""
    lines = _run("scontrol", "show", "config").splitlines()
    config = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if "ClusterName" not in config:
        raise Unreachable("`scontrol show config` names no ClusterName")
    return config


def _masters(ids: Iterable[str]) -> str:
    """Arrays as a whole, so that the command stays short."""
    return ",".join(sorted({id.partition("_")[0] for id in ids}))


def _word(text: str) -> str:
    return "" if text in ("None", "None assigned", "(null)") else text


def _seconds(time: str) -> float | None:
    return float(time) if time.isdigit() else None


def answer(*command: str) -> str | None:
    """What a command prints that a site may lack; None where there is none, or it fails."""
    try:
        return _run(*command)
    except Unreachable:
        return None


def _run(*command: str) -> str:
    """The output of one of SLURM's commands. Raises Unreachable."""
    # Whatever the user has set to filter or format their own squeue and sacct is left out.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))}
    environment = own | {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    hint = "Is this a login node of the cluster? SLURM_CONF names the configuration of another one"
    try:
        done = subprocess.run(command, env=environment, timeout=TIMEOUT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unreachable(f"there is no `{command[0]}` here. {hint}") from None
    except subprocess.TimeoutExpired:
        raise Unreachable(f"`{command[0]}` did not answer within {TIMEOUT:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"`{command[0]}` failed with exit code {done.returncode}"]
        raise Unreachable(f"{said[-1]}. {hint}", done.stderr)
    return done.stdout
