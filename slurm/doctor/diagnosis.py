"""What the reports of the doctor's job say of a profile: a check for each thing that a training relies on.

Imports no torch.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimae.config import Runtime

from ..jobs import CLOCKS
from ..profile import Profile, Resources
from . import Check, bad, good, note

VIT_B = 98.6e6 * 12  # bytes of a checkpoint: float32 parameters and two moments of each (paper Table 5's model)
SAVES = 2  # that must fit between the signal and the end: a step is finished first, and disks vary
SLOW_FOLDER = 10.0  # seconds


@dataclass(frozen=True)
class Diagnosis:
    profile: Profile
    resources: Resources
    runtime: Runtime
    code: Path  # the snapshot that the job should run
    reports: dict[int, dict[str, Any]]  # rank -> its report (slurm.doctor.probe)

    def checks(self) -> Iterator[Check]:
        yield from self._processes()
        if self.reports:
            for look in (self._cpus, self._memory, self._meeting, self._devices, self._gpus):
                yield from look()
            for look in (self._folder, self._saving, self._data, self._tracking, self._signal, self._code):
                yield from look()

    @property
    def write_rate(self) -> float | None:
        """Bytes a second into the folder of the runs; None where it was not measured."""
        return next((seen["write_bytes_per_second"] for seen in self._seen("disk").values()), None)

    def _seen(self, look: str) -> dict[int, Any]:
        """rank -> what it saw, of those whose look did not fail."""
        return {rank: r[look] for rank, r in self.reports.items() if look in r and "error" not in r[look]}

    def _failed(self, look: str) -> tuple[str, str] | None:
        """(`rank 1 on n2`, what went wrong) of the first process whose look failed."""
        for rank, report in sorted(self.reports.items()):
            if error := report.get(look, {}).get("error"):
                return f"rank {rank} on {self._node(rank)}", error
        return None

    def _node(self, rank: int) -> str:
        return self.reports[rank].get("place", {}).get("node", "?")

    # ---- the looks

    def _processes(self) -> Iterator[Check]:
        asked = self.resources.processes
        missing = sorted(set(range(asked)) - self.reports.keys())
        if missing == list(range(asked)):
            yield bad("no process of the job reported", f"do all nodes see the folder? srun ls -d {self.runtime.runs}")
            return
        if missing:
            yield bad(f"of {asked} processes, ranks {missing} never reported", "what they printed says why")
            return
        on = Counter(self._node(rank) for rank in self.reports)
        where = ", ".join(f"{count} on {node}" for node, count in sorted(on.items()))
        if len(on) == self.resources.nodes:
            yield good(f"{asked} processes: {where}")
        else:
            yield bad(
                f"{asked} processes on {len(on)} nodes, not {self.resources.nodes}: {where}", "nodes, tasks_per_node"
            )

    def _cpus(self) -> Iterator[Check]:
        asked, workers = self.resources.cpus_per_task, self.runtime.workers
        counts = [place["cpus"] for place in self._seen("place").values()]
        fewest = min(counts, default=asked)
        if workers is None:  # they are chosen by the CPUs
            workers = max(1, fewest - 1)
        if fewest < asked:
            yield bad(
                f"a process is bound to {fewest} CPUs, not to the {asked} of cpus_per_task",
                "`scontrol show config | grep TaskPlugin` says how the site binds; sbatch: {hint: multithread} helps",
            )
        elif fewest < workers + 1:
            yield note(
                f"a process has {fewest} CPUs for itself and {workers} data workers", f"cpus_per_task: {workers + 1}"
            )
        else:
            free = "" if fewest == asked else f" (cpus_per_task is {asked}: the site binds no process to its own)"
            yield good(f"a process may use {fewest} CPUs{free}, for itself and {workers} data workers")

    def _memory(self) -> Iterator[Check]:
        places = self._seen("place").values()
        if places:
            yield good(f"memory of a node: {min(place['memory_gb'] for place in places):.0f} GiB")

    def _meeting(self) -> Iterator[Check]:
        count = self.resources.processes
        if failed := self._failed("meet"):
            yield bad(
                f"{failed[0]} did not meet the others: {failed[1]}",
                "several networks? environment: {NCCL_SOCKET_IFNAME: ib0, GLOO_SOCKET_IFNAME: ib0}",
            )
            return
        met = self._seen("meet").values()
        expected = count * (count + 1) / 2
        if not met:
            yield bad("the processes did not meet before the job ended", "what they printed says why")
        elif any(seen["sum"] != expected or seen["processes"] != count for seen in met):
            sums = sorted({seen["sum"] for seen in met})
            yield bad(f"the sum over {count} processes is {expected}, but they have {sums}", "report this as a bug")
        else:
            slowest, reduced = (max(seen[key] for seen in met) for key in ("seconds", "reduce_seconds"))
            yield good(
                f"{count} processes met within {slowest:.0f} s, torch's start included; "
                f"they sum 64 MiB in {1000 * reduced:.0f} ms"
            )

    def _devices(self) -> Iterator[Check]:
        devices = Counter(seen["device"] for seen in self._seen("meet").values())
        named = ", ".join(f"{count} x {name}" for name, count in devices.items())
        if self.resources.gpus_per_node and "cpu" in devices and self.runtime.device == "cpu":
            yield note("every process computes on the CPU, as runtime.device says: its GPUs are idle", "device: auto")
        elif self.resources.gpus_per_node and "cpu" in devices:
            yield bad(
                f"{devices['cpu']} processes compute on the CPU, though the job has GPUs: torch sees none",
                "setup: [module load cuda], or a torch that suits the driver (`nvidia-smi`)",
            )
        elif len(devices) > 1:
            yield note(f"the GPUs differ: {named}", "constraint: one kind of node")
        elif devices:
            yield good(f"every process computes on {named.partition(' x ')[2]}")

    def _gpus(self) -> Iterator[Check]:
        """Whether each process has a GPU for itself."""
        if not self.resources.gpus_per_node:
            return
        users: dict[tuple[str, str], list[int]] = {}
        nameless = []
        for rank, seen in sorted(self._seen("meet").items()):
            if seen["gpu"] is None:
                nameless.append(f"rank {rank} on {self._node(rank)}")
            else:
                users.setdefault((self._node(rank), seen["gpu"]), []).append(rank)
        if nameless:
            yield note(
                f"SLURM names no GPU to {nameless[0]} (CUDA_VISIBLE_DEVICES is not set there): where the site does not "
                "hide them otherwise, jobs that share a node use the same GPUs",
                "sbatch: has no gpu_bind: none? environment and setup: do not unset it?",
            )
        for (node, gpu), ranks in users.items():
            if len(ranks) > 1:
                yield bad(
                    f"ranks {ranks} on {node} have one GPU between them: {gpu}",
                    "does environment or setup set CUDA_VISIBLE_DEVICES, or sbatch a gpu_bind? Leave that out",
                )
        if users and not nameless and len(users) == self.resources.processes:
            yield good("each process has a GPU for itself: " + ", ".join(f"{gpu} of {node}" for node, gpu in users))

    def _folder(self) -> Iterator[Check]:
        if failed := self._failed("clock"):
            yield bad(
                f"{failed[0]} does not see what this machine writes ({failed[1]})",
                "runs: a folder on a file system that this machine and all nodes share",
            )
            return
        clocks = self._seen("clock").values()
        if not clocks:
            return
        slowest = max(clock["seconds"] for clock in clocks)
        text = f"a word to all nodes and back through the shared folder takes {slowest:.1f} s"
        yield note(text, "--status lags behind as much") if slowest > SLOW_FOLDER else good(text)
        # Half of the way there and back is how exactly this can be known.
        ahead = max((clock for clock in clocks), key=lambda clock: abs(clock["ahead"]) - clock["seconds"] / 2)
        if abs(ahead["ahead"]) - ahead["seconds"] / 2 > CLOCKS:
            yield note(
                f"the clocks of the nodes and of this machine differ by {abs(ahead['ahead']):.0f} s",
                "have them synchronised: --status takes a run for dead whose heartbeat is older than three minutes",
            )

    def _saving(self) -> Iterator[Check]:
        seconds = self.profile.signal_seconds
        if failed := self._failed("disk"):
            yield bad(f"{failed[0]} cannot write into {self.runtime.runs}: {failed[1]}", "runs: a folder to write into")
        if failed := self._failed("lock"):
            how = "mount it with file locks (Lustre: -o flock), or give another folder in runs"
            yield bad(f"{self.runtime.runs} takes no lock, by which a run has one writer: {failed[1]}", how)
        for disk in self._seen("disk").values():
            rate, free = disk["write_bytes_per_second"], disk["free_bytes"]
            save = VIT_B / rate
            text = (
                f"the folder of the runs takes {rate / 1e6:,.0f} MB/s: a ViT-B checkpoint ({VIT_B / 1e9:.1f} GB) in "
                f"{save:.0f} s, and the signal leaves {seconds} s"
            )
            if save * SAVES > seconds:
                short = bad if self.profile.scale == "paper" else note  # the other scales' models are smaller
                yield short(text, f"signal_seconds: {10 * math.ceil(save * SAVES / 10)}")
            else:
                yield good(text)
            text = f"{free / 1e9:,.0f} GB are free; a ViT-B run keeps {3 * VIT_B / 1e9:.1f} GB at most"
            yield good(text) if free > 3 * VIT_B else bad(text, "runs: a folder with more room")

    def _data(self) -> Iterator[Check]:
        for name, root in self.runtime.data_roots.items():
            seen = {rank: data[name] for rank, data in self._seen("data").items()}
            lost = {self._node(rank): data["error"] for rank, data in seen.items() if "error" in data}
            if lost:
                error = next(iter(lost.values()))
                text = f"data_roots.{name}: {root} {error} on {', '.join(lost)}"
                yield bad(text, f"data_roots: {{{name}: its folder}}")
            elif seen:
                data = next(iter(seen.values()))
                yield good(f"data_roots.{name}: {data['entries']} folders and files in {data['folder']}, on every node")
        if failed := self._failed("data"):
            yield bad(f"{failed[0]} cannot read the data: {failed[1]}", "data_roots")

    def _tracking(self) -> Iterator[Check]:
        for report in self.reports.values():
            seen = report.get("tracking")
            if seen is None:
                continue
            if "error" in seen:
                where = seen.get("address", "the tracking server")
                yield note(
                    f"{where}: {seen['error']}; training does without, and `multimae sync` sends what is missing",
                    "tracking_uri",
                )
            elif seen:
                yield good(f"the tracking server {seen['address']} answers")
            else:
                yield good("no tracking server: results are collected where --status or `multimae sync` is called")

    def _signal(self) -> Iterator[Check]:
        if failed := self._failed("signal"):
            yield bad(
                f"the signal to save did not reach {failed[0]}",
                "does a container's start pass SIGUSR2 on? python: must end in `exec` or start Python itself",
            )
        elif len(self._seen("signal")) == self.resources.processes:
            yield good("the signal to save reaches every process")

    def _code(self) -> Iterator[Check]:
        other = {place["code"] for place in self._seen("place").values()} - {str(self.code)}
        if other:
            yield bad(
                f"jobs import the code of {', '.join(sorted(other))}, not of the snapshot {self.code}",
                "setup or python: changes PYTHONPATH, or a container does not see the folder of the runs",
            )
        else:
            pythons = sorted({place["python"] for place in self._seen("place").values()})
            yield good(f"jobs run the snapshot {self.code.name} under Python {', '.join(pythons)}")
