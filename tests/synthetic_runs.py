"""Run folders as a training writes them, without the training."""

import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.kept import NO_TENSORS
from multimae.config import RunConfig
from multimae.files import write_atomic
from multimae.record.folder import RunFolder

METRICS = {"pretrain": {"loss": 0.3, "loss_rgb": 0.1}, "classify": {"accuracy": 40.0}, "segment": {"mIoU": 20.0}}


def finish(folder: RunFolder, step: int = 10, seconds: float = 1.0) -> None:
    """Leave what a run leaves that is done: the last record, and weights for transfers."""
    folder.weights.write_bytes(NO_TENSORS)
    folder.journal.write("finished", step=step, seconds=seconds)


class SyntheticRun:
    """Writes a run's journal, record by record, through the project's own Journal."""

    def __init__(self, runs: Path, config: RunConfig):
        self.config = config
        self.folder = RunFolder.of(runs, config.signature)
        self.folder.create(config)
        self.journal = self.folder.journal

    def submit(self, study: str, row: str, stage: str, scale: str = "smoke") -> None:
        where = {"study": study, "row": row, "stage": stage, "scale": scale}
        self.folder.jobs.write("submitted", job=f"local:{os.getpid()}", host=socket.gethostname(), **where)

    def start(self, step: int = 0, pid: int | None = None, processes: int = 1, device: str = "cpu", **how: Any) -> None:
        """`how`: of `Runtime`, what is not as by default."""
        self.journal.write(
            "start",
            attempt=len(self.journal.records("start")) + 1,
            step=step,
            total_steps=40,
            steps_per_epoch=10,
            processes=processes,
            micro_batches=1,
            device=device,
            threads=1,
            how=how,
            matrix_gflops=50.0 * processes,
            host=socket.gethostname(),
            pid=pid or os.getpid(),
            params=self.config.resolved(),
            delta=self.config.delta(),
            commit="0123abc",
        )
        write_atomic(self.folder.environment, json.dumps({"commit": "0123abc", "dirty": True}))

    def beat(self, state: str, pid: int | None = None, **fields) -> None:
        beat = {"time": time.time(), "pid": pid or os.getpid(), "host": socket.gethostname(), "state": state} | fields
        write_atomic(self.folder.heartbeat, json.dumps(beat))

    def end(self, kind: str, step: int, reason: str) -> None:
        self.journal.write(kind, step=step, reason=reason)
        self.beat(kind)

    def train(self, steps: Iterable[int]) -> None:
        """Train records whose values follow from the step, as those of a real run do."""
        for step in steps:
            self.journal.write(
                "train",
                step=step,
                epoch=step / 10,
                loss=1.0 / step,
                losses={"rgb": 0.5 / step, "depth": 0.5 / step},
                lr=1e-4,
                grad_norm=1.0,
                images_per_second=100.0,
                data_seconds=0.01,
                step_seconds=0.1,
            )

    def epoch(self, number: int, seconds: float = 3.5, **fields: float) -> None:
        fields = {
            "seconds": seconds,
            "images_per_second": 90.0,
            "data_share": 0.1,
            "memory_gib": 1.0,
            "cores": 0.9,
        } | fields
        self.journal.write("epoch", step=number * 10, epoch=number, **fields)

    def evaluate(self, step: int = 40, metrics: dict | None = None, **conditions) -> None:
        conditions = {"split": "val", "n": 500, "fingerprint": "f00d"} | conditions
        self.journal.write(
            "eval", step=step, epoch=step / 10, metrics=metrics or METRICS[self.config.task], **conditions
        )

    def finish(self) -> None:
        finish(self.folder, step=40, seconds=12.0)

    def whole(self, **evaluation) -> "SyntheticRun":
        """A run from start to finish."""
        self.start()
        self.train(range(1, 41))
        self.epoch(4)
        self.evaluate(**evaluation)
        self.finish()
        return self
