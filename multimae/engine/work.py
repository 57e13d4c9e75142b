"""The loop of a run that trains nothing: piece by piece, each journalled when it is done."""

import time

import torch

from ..config import RunConfig, Runtime
from ..precision import autocast
from ..record.folder import RunFolder
from ..shards import Shard
from .attempt import see_through
from .distributed import Processes, seed_everything
from .preemption import Preemption
from .recorder import Recorder
from .task import Work


class _Asked(Exception):
    """All processes agreed that one of them was asked to stop."""


def work(task: Work, config: RunConfig, runtime: Runtime, folder: RunFolder) -> str:
    """Do the pieces that the journal does not have yet. Returns and raises as `loop.train`."""
    if folder.done:
        return "finished"
    with Preemption() as preemption:
        return see_through(Working(task, config, runtime, folder, preemption))


class Working:
    """One attempt at a run, in one of its processes."""

    def __init__(self, task: Work, config: RunConfig, runtime: Runtime, folder: RunFolder, preemption: Preemption):
        self.task, self.config, self.runtime, self.folder = task, config, runtime, folder
        self.preemption = preemption
        self.processes = Processes.join(runtime)
        self.recorder = Recorder(folder, config, self.processes)
        self.pieces = list(task.pieces)
        self.step = 0  # pieces
        self.seconds = 0.0  # that they took, in earlier attempts too

    def run(self) -> str:
        records = self.folder.journal.records("piece")
        finished = {record["piece"]: record["seconds"] for record in records}
        self.step, self.seconds = len(finished), sum(finished.values())
        # The others may see an older file.
        finished = {p: finished.get(p, 0.0) for p in self.pieces if self.processes.first(p in finished)}
        self.recorder.start(step=self.step, total_steps=len(self.pieces))
        try:
            for piece in self.pieces:
                if piece not in finished:
                    self.do(piece)
        except _Asked:
            self.recorder.end("interrupted", step=self.step, reason=Preemption.name(self.preemption.signal))
            return "interrupted"
        self.recorder.end("finished", step=self.step, seconds=self.seconds, weights_sha256=None)
        return "finished"

    def do(self, piece: str) -> None:
        began = time.monotonic()

        def progress(done: int, of: int) -> None:
            signal = self.processes.maximum(torch.tensor(float(self.preemption.signal), device=self.processes.device))
            if signal:
                self.preemption.signal = int(signal)
                raise _Asked
            share = self.step + done / max(1, of)
            took = self.seconds + time.monotonic() - began
            left = (len(self.pieces) - share) * took / share if share else None
            rate = {"images_per_second": done / (time.monotonic() - began)} if done else {}
            self.recorder.beat("working", step=self.step, total_steps=len(self.pieces), seconds_left=left, **rate)

        progress(0, 1)
        seed_everything(self.config.seed, self.step)
        shard = Shard(self.processes.rank, self.processes.count)
        with autocast(self.config.precision, self.processes.device):
            results = self.task.do(piece, self.processes.device, shard, progress)
        took = time.monotonic() - began
        for result in results:
            self.recorder.write("eval", step=self.step, seconds=took, **result)
        self.step, self.seconds = self.step + 1, self.seconds + took
        self.recorder.write("piece", step=self.step, piece=piece, seconds=took)
