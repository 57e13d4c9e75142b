"""What the doctor's job looks at, in each of its processes. Imports torch inside the job only.

Process N keeps what it has seen in `probe-N.json` in the job's folder: `state` is begun, ready (for the signal) or
done, and each look is there by its name, or `{"error": ...}` in its place.
"""

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import multimae.config
from multimae.config import Runtime
from multimae.config.runtime import cpus
from multimae.files import write_atomic
from multimae.record.folder import RunFolder
from multimae.record.reading import read_json
from multimae.redact import FIX, host_port, parse, public, redact
from multimae.tracking import is_server

from ..job.logs import folder_of
from ..job.rendezvous import JobProcess, given_gpu, meet

PATIENCE = 60.0  # seconds that a process waits for the doctor's answers
PAUSE = 0.2
WRITTEN = 256 << 20  # bytes, to measure the shared folder
REDUCED = 64 << 20  # bytes of an all-reduce
PORTS = {"https": 443, "http": 80, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def report_file(folder: Path, rank: int) -> Path:
    return folder / f"probe-{rank}.json"


def answer_file(folder: Path, rank: int) -> Path:
    """The doctor's answer, as soon as it sees the first report of a process: its clock."""
    return folder / f"answer-{rank}.json"


@dataclass(frozen=True)
class Probe:
    """What submitit pickles: called in every process of the job."""

    runtime: Runtime

    def __call__(self) -> None:
        caught: list[float] = []
        signal.signal(signal.SIGUSR2, lambda *_: caught.append(time.time()))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of scancel
        place = JobProcess.here()
        report = ProcessReport(folder_of(self.runtime.runs, place.job), place)
        report.look("place", lambda: _place(place))
        report.look("clock", report.ask_doctor)
        if place.local_rank == 0:
            report.look("data", lambda: {name: _classes(root) for name, root in self.runtime.data_roots.items()})
        if place.rank == 0:
            report.look("disk", lambda: _disk(report.folder))
            report.look("lock", lambda: _lock(report.folder))
            report.look("tracking", lambda: _tracking(self.runtime.tracking_uri))
        report.look("meet", lambda: _meet(place, report.folder, self.runtime))
        report.say("ready")
        report.look("signal", lambda: _wait_for(lambda: bool(caught), "SIGUSR2"))
        report.say("done")


class ProcessReport:
    """The file of one process, rewritten after each look."""

    def __init__(self, folder: Path, place: JobProcess):
        self.folder, self.rank = folder, place.rank
        self.values: dict[str, Any] = {"rank": place.rank, "time": time.time()}
        self.say("begun")

    def say(self, state: str) -> None:
        self.values["state"] = state
        write_atomic(report_file(self.folder, self.rank), json.dumps(self.values), durable=False)

    def look(self, name: str, look: Callable[[], Any]) -> None:
        """Keep what `look` returns, or how it failed: one that fails must not hide the others."""
        try:
            self.values[name] = look()
        except Exception as error:
            told = redact(str(error), os.environ.get("MLFLOW_TRACKING_URI"))
            self.values[name] = {"error": f"{type(error).__name__}: {told}"}
        self.say(self.values["state"])

    def ask_doctor(self) -> dict[str, float]:
        """How long a word takes to the submitting machine and back through the shared folder, and its clock."""
        asked = self.values["time"]
        file = answer_file(self.folder, self.rank)
        # A listing is asked of the file server, where the absence of one file may be remembered.
        _wait_for(lambda: file.name in os.listdir(self.folder), f"{file}, which the submitting machine writes")
        now = time.time()
        answered = read_json(file)["time"]
        return {"seconds": now - asked, "ahead": (asked + now) / 2 - answered}


def _place(place: JobProcess) -> dict[str, Any]:
    return {
        "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        "cpus": cpus(),
        "memory_gb": psutil.virtual_memory().total / 2**30,
        "code": str(Path(multimae.config.__file__).parents[2]),
        "python": f"{sys.version.split()[0]} ({sys.executable})",
    }


def _meet(place: JobProcess, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Meet the other processes exactly as a training does, and add up a tensor."""
    import torch
    import torch.distributed as dist

    from multimae.engine.distributed import Processes

    began = time.monotonic()
    store = meet(place, folder, 60 * runtime.timeout_minutes)  # kept until the others have joined, too
    processes = Processes.join(runtime)
    met = time.monotonic() - began
    values = torch.full((REDUCED // 4,), place.rank + 1.0, device=processes.device)
    total = values.clone()
    dist.all_reduce(total)  # the first one also sets up connections
    total = total[-1].item()
    began = time.monotonic()
    dist.all_reduce(values)
    values[-1].item()  # waits for the device
    reduced = time.monotonic() - began
    del store
    cuda = processes.device.type == "cuda"
    return {
        "seconds": met,
        "processes": processes.count,
        "sum": total,
        "reduce_seconds": reduced,
        "device": torch.cuda.get_device_name(processes.device) if cuda else "cpu",
        "gpu": str(torch.cuda.get_device_properties(processes.device).uuid) if cuda else given_gpu(),
    }


def _classes(root: Path) -> dict[str, Any]:
    """What a dataset's folder has in it; raises OSError where it cannot be read."""
    if not root.is_dir():
        return {"error": "is not there"}
    train = root / "train"
    folder = next(path for path in (train / "rgb", train, root) if path.is_dir())
    return {"folder": str(folder), "entries": len(os.listdir(folder))}


def _disk(folder: Path) -> dict[str, float]:
    file = folder / "written"
    block = os.urandom(1 << 20)
    began = time.monotonic()
    try:
        with open(file, "wb") as stream:
            for _ in range(WRITTEN // len(block)):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        seconds = time.monotonic() - began
    finally:
        file.unlink(missing_ok=True)
    return {"write_bytes_per_second": WRITTEN / seconds, "free_bytes": psutil.disk_usage(str(folder)).free}


def _lock(folder: Path) -> dict[str, bool]:
    """As a run's one writer holds it; some file systems must be mounted for that."""
    with RunFolder(folder / "lock").claim():
        return {"held": True}


def _tracking(uri: str | None) -> dict[str, Any]:
    """Whether the tracking server answers; its address without user and password."""
    uri = (uri or os.environ.get("MLFLOW_TRACKING_URI", "")).strip()
    if not is_server(uri) or "://" not in uri:
        return {}
    parts = parse(uri)
    if not parts or not parts.hostname:
        return {"address": public(uri), "error": f"nobody can be asked there, or it can be read in several ways: {FIX}"}
    scheme = parts.scheme.partition("+")[0]
    parts = parts._replace(netloc=host_port(parts) if parts.port else f"{host_port(parts)}:{PORTS.get(scheme, 443)}")
    address = f"{parts.scheme}://{parts.netloc}"
    try:
        if scheme in ("http", "https"):
            urllib.request.urlopen(f"{address}{parts.path.rstrip('/')}/health", timeout=10).close()
        else:
            socket.create_connection((parts.hostname, parts.port), 10).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # it answers, and wants to know who asks
            return {"address": address, "error": redact(f"answers with {error.code} {error.reason}", uri)}
    except OSError as error:
        return {"address": address, "error": redact(str(getattr(error, "reason", error)), uri)}
    return {"address": address}


def _wait_for(what: Callable[[], bool], name: str) -> dict[str, float]:
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {name}")
        time.sleep(PAUSE)
    return {"seconds": time.monotonic() - began}
