"""python -m slurm.doctor PROFILE: proves a profile with one small job, in about two minutes once it starts.

First it asks the cluster whether it has what the profile names. Then a job with the profile's real resources looks, in
every process, at what a training relies on. What is wrong is told with the line that mends it.
"""

import argparse
import getpass
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from multimae.config import ConfigError, Runtime, recipe, recipes
from multimae.config.settings import nearest
from multimae.files import write_atomic
from multimae.record.folder import make_runs
from multimae.record.reading import read_json
from multimae.redact import parse_arguments, redact

from .. import scheduler
from ..job import logs
from ..profile import Profile, load_profile
from ..submission import snapshot
from ..submission.arrays import Array
from ..submission.script import BatchScript
from . import BAD, Check, bad, good, note
from .diagnosis import Diagnosis
from .partition import choose, partitions
from .probe import Probe, answer_file, report_file

EPILOG = """\
Exit code: 0 if all is well, 1 if something must be mended, 2 for a command or profile that is wrong.
How fast the folder of the runs takes a checkpoint is kept in it, for --cluster to compare with signal_seconds.
"""

NEEDED = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
MINUTES = 5  # of the job, besides the time to save
MEETING_MINUTES = 2.0  # that its processes wait for each other
LOOK, ASK = 0.3, 3.0  # seconds between two looks into the folder, and two questions to the scheduler
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED")
ALIVE = (*WAITING, "RUNNING", "COMPLETING")
REASONS = {  # how squeue's reason begins -> what it means
    "Resources": "it is next, and waits until enough nodes are free",
    "Priority": "others go first",
    "QOS": "a limit of the QoS is reached",
    "Assoc": "a limit of the account is reached",
    "PartitionTimeLimit": "time_limit is more than the partition allows",
    "PartitionNodeLimit": "nodes are more than the partition allows",
    "PartitionDown": "the partition is down",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Nodes required": "nodes that it needs are down, drained or reserved",
    "JobHeld": "it is held: scontrol release",
    "BeginTime": "it may start in a moment",
}


def main(argv: list[str] | None = None) -> int:
    args, given = parse_arguments(_parser(), argv)
    try:
        return examine(load_profile(args.profile), args, Console(highlight=False, soft_wrap=True))
    except (ConfigError, scheduler.Unreachable) as error:
        print(f"doctor: {redact(str(error), *given)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m slurm.doctor",
        description="Proves a profile with one small job.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("profile", nargs="?", help="a name in slurm/profiles/ or a YAML file (default: site)")
    parser.add_argument("--stage", default="", help="with the resources of this stage (default: those of most stages)")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="run folders (default: the profile's)")
    parser.add_argument("--wait", type=float, default=10, metavar="MIN", help="for the start (default: %(default)s)")
    parser.add_argument("--leave", action="store_true", help="leave a job that has not started by then in the queue")
    parser.add_argument("--job", metavar="ID", help="go on with a job that was left in the queue")
    return parser


def examine(profile: Profile, args: argparse.Namespace, console: Console) -> int:
    if args.job is not None and not re.fullmatch(r"\d+", args.job):
        raise ConfigError(f"--job: expected the number of a job that was left in the queue, found '{args.job}'")
    if not 0 <= args.wait < math.inf:
        raise ConfigError(f"--wait: expected minutes, 0 or more, found {args.wait:g}")
    profile.use_cluster()
    runtime = profile.runtime(_kind(args.stage), args.stage, runs=args.runs)
    found: list[Check] = []

    def tell(checks: Iterator[Check]) -> None:
        for check in checks:
            console.print(str(check), markup=False)
            found.append(check)

    if args.job:
        job = DoctorJob(args.job, runtime.runs)
    else:
        tell(has_tools())
        if not _bad(found):
            make_runs(runtime.runs)
            script = _script(profile, args.stage, runtime, snapshot.take(runtime.runs))
            tell(before(profile, args.stage, script.text))
        if _bad(found):
            console.print("Nothing was submitted.")
            return 1
        job = DoctorJob.submit(script, runtime)
    try:
        ended = job.watch(profile.resources(_kind(args.stage), args.stage).processes, 60 * args.wait, console)
    except KeyboardInterrupt:
        scheduler.cancel([job.id])
        console.print(f"\nStopped; job {job.id} is cancelled.")
        return 130
    except NotStarted as error:
        console.print(f"✗ {error}", markup=False)
        if args.leave:
            words = f"{args.profile or profile.name}{f' --stage {args.stage}' if args.stage else ''} --job {job.id}"
            console.print(f"It stays in the queue; to go on: python -m slurm.doctor {words}", markup=False)
        else:
            scheduler.cancel([job.id])
            console.print("It is cancelled; --wait MIN waits longer, --leave leaves it in the queue.")
        return 1
    diagnosis = Diagnosis(profile, profile.resources(_kind(args.stage), args.stage), runtime, job.code, job.reports())
    tell(diagnosis.checks())
    if rate := diagnosis.write_rate:
        measured = {"write_bytes_per_second": rate, "time": time.time(), "host": socket.gethostname(), "job": job.id}
        write_atomic(runtime.runs / ".slurm" / f"doctor-{profile.name}.json", json.dumps(measured))
    if _bad(found):
        said = redact(job.printed(), profile.tracking_uri)
        console.print(f"Job {job.id} {ended}. {said}".rstrip(), markup=False)
        return 1
    console.print(f"The profile {profile.name} works.")
    return 0


# ---- before the job


def has_tools() -> Iterator[Check]:
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        yield bad(f"no {', '.join(missing)} here", "give the command on a login node of the cluster")
        return
    try:
        yield good(f"the cluster {scheduler.cluster_name()} answers")
    except scheduler.Unreachable as error:
        yield bad(str(error), "`scontrol ping` says whether the controller is up")
        return
    if scheduler.answer("sacct", "--noheader", "--allocations", "--starttime", "now-1minutes") is not None:
        yield good("sacct answers: how jobs ended is known for good")
    else:
        yield note("sacct does not answer: the state of runs comes from squeue and their heartbeats")


def before(profile: Profile, stage: str, script: str) -> Iterator[Check]:
    """What can be told of a profile without a job."""
    resources = profile.resources(_kind(stage), stage)
    stages = _recipes()
    for name in [stage] if stage else [*stages, *(other for other in profile.stages if other not in stages)]:
        if name not in stages:
            yield note(f"stage {name}: no recipe of scale {profile.scale} has this name{nearest(name, stages)}")
            continue
        try:
            yield from map(note, profile.check(recipe(name, profile.scale), name, profile.resources(_kind(name), name)))
        except ConfigError as error:
            yield bad(str(error), f"stages: {{{name}: {{...}}}} in the profile")
    among = partitions()
    chosen = choose(resources.partition, among) if among else note("sinfo lists no partition")
    yield from [chosen] if isinstance(chosen, Check) else chosen.judge(resources)
    done = scheduler.sbatch(script, "--test-only")
    if not done.returncode and (never := _never(done.stderr)):
        yield bad(f"sbatch takes the job, and SLURM does not mean to start it before {never}", "partition, qos")
    if done.returncode:
        said = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
        yield bad(f"sbatch would refuse a job: {said}", "partition, account, qos or constraint" + _associations())


def _never(said: str) -> str | None:
    """The year in which SLURM says it would start a job that nothing lets start, of `sbatch --test-only`."""
    found = re.search(r"to start at (\d{4})-", said)
    return found[1] if found and int(found[1]) > time.localtime().tm_year + 1 else None


def _associations() -> str:
    """What the user may name, where the site has accounting."""
    asked = ("where", f"user={getpass.getuser()}", "format=account,partition,qos")
    lines = (scheduler.answer("sacctmgr", "--noheader", "--parsable2", "show", "assoc", *asked) or "").split()
    return f"; yours (account|partition|qos): {', '.join(lines)}" if lines else ""


# ---- the job


class NotStarted(RuntimeError):
    """The job is still in the queue."""


class Examination(Array):
    """The one job; it trains nothing."""

    title = "the doctor's job"

    def comment(self, study: str, length: int) -> str:
        return f"{study}: proves the profile {self.stage}"[:length]


class ExaminationScript(BatchScript):
    restarts = 0


@dataclass(frozen=True)
class DoctorJob:
    """The doctor's job, in the queue or beyond."""

    id: str
    runs: Path

    @classmethod
    def submit(cls, script: BatchScript, runtime: Runtime) -> "DoctorJob":
        """Raises ConfigError where sbatch refuses."""
        (runtime.runs / ".slurm" / "batch").mkdir(parents=True, exist_ok=True)  # of the script's own output
        # The script has the address of MLflow, which may hold a password.
        changes = {"timeout_minutes": MEETING_MINUTES, "tracking_uri": None}
        script.submit({None: Probe(runtime.model_copy(update=changes))})
        job = cls(script.array.job, runtime.runs)
        write_atomic(job.folder / "doctor.json", json.dumps({"code": str(script.code)}))
        return job

    @property
    def folder(self) -> Path:
        return logs.folder_of(self.runs, self.id)

    @property
    def code(self) -> Path:
        """The snapshot that the job should run."""
        return Path((read_json(self.folder / "doctor.json") or {"code": ""})["code"])

    def reports(self) -> dict[int, dict[str, Any]]:
        ranks = [int(file.stem.partition("-")[2]) for file in self.folder.glob("probe-*.json")]
        return {rank: report for rank in sorted(ranks) if (report := read_json(report_file(self.folder, rank)))}

    def watch(self, processes: int, wait: float, console: Console) -> str:
        """Answer the job's processes and send it the signal, until it has ended; how it did.

        Raises NotStarted when it is still in the queue after `wait` seconds.
        """
        began, asked, signalled, told = time.monotonic(), -ASK, False, ""
        seen = scheduler.SchedulerJob(self.id, "", "PENDING")
        with console.status("") as line:
            while True:
                waited = time.monotonic() - began
                if time.monotonic() - asked >= ASK:
                    seen, asked = (scheduler.query([self.id]) or {}).get(self.id, seen), time.monotonic()
                reports = self.reports()
                self._answer(reports)
                if (doing := self._doing(seen, reports)) != told and not console.is_terminal:
                    console.print(f"{waited:.0f} s: {doing}", markup=False)
                told = doing
                line.update(f"{waited:.0f} s: {escape(doing)}")
                states = [report["state"] for report in reports.values()]
                if len(states) == processes and "begun" not in states and not signalled:
                    signalled = True
                    subprocess.run(["scancel", "--signal=USR2", self.id], capture_output=True, check=False)
                if seen.state not in ALIVE or states.count("done") == processes:
                    return f"ended as {seen.state}" if seen.state not in ALIVE else "has ended"
                if seen.state in WAITING and waited > wait:
                    raise NotStarted(f"job {self.id} did not start within {wait / 60:g} min: {_why(seen)}")
                time.sleep(LOOK)

    def printed(self) -> str:
        """What the job had to say for itself."""
        log = self.runs / ".slurm" / "batch" / f"{self.id}.log"
        lines = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
        said = [line for line in (logs.cause(self.folder), *lines) if line]
        return "\n".join([f"What it printed is in {self.folder}", *(f"    {line}" for line in said)])

    def _answer(self, reports: dict[int, dict[str, Any]]) -> None:
        for rank in reports:
            if not (file := answer_file(self.folder, rank)).exists():
                write_atomic(file, json.dumps({"time": time.time()}), durable=False)

    def _doing(self, seen: scheduler.SchedulerJob, reports: dict[int, dict[str, Any]]) -> str:
        if seen.state in WAITING and not reports:
            return f"job {self.id} is in the queue: {_why(seen)}"
        return f"job {self.id} runs on {seen.nodes or '?'}: {len(reports)} processes have reported"


def _why(seen: scheduler.SchedulerJob) -> str:
    """Why a job waits, in squeue's word and in plain ones."""
    meaning = next((meaning for word, meaning in REASONS.items() if seen.reason.startswith(word)), "")
    text = f"{seen.reason or 'no reason given yet'}{f' ({meaning})' if meaning else ''}"
    if seen.started and seen.started > time.time():
        text += f"; expected to start at {time.strftime('%F %H:%M', time.localtime(seen.started))}"
    return text


def _script(profile: Profile, stage: str, runtime: Runtime, code: Path) -> BatchScript:
    """As the launcher would ask for it, but for the time limit."""
    resources = profile.resources(_kind(stage), stage)
    minutes = min(resources.minutes, MINUTES + math.ceil(profile.signal_seconds / 60))
    array = Examination(
        profile.name, _kind(stage), resources.model_copy(update={"time_limit": str(minutes)}), {None: None}
    )
    return ExaminationScript(array, profile, runtime.runs, code, "doctor")


def _recipes() -> list[str]:
    return [name.removeprefix("paper/") for name in recipes() if name.startswith("paper/")]


def _kind(stage: str) -> str:
    """The kind of run of a stage that is called like a recipe."""
    return recipe(stage, "paper").task if stage in _recipes() else ""


def _bad(found: list[Check]) -> bool:
    return any(check.mark == BAD for check in found)
