"""Stand-ins for a training, for tests of the launcher: real processes and real files, no torch."""

import json
import os
import signal
import time
from dataclasses import dataclass

from synthetic_runs import finish

from multimae.config import Classify, Evaluate, Pretrain, Segment
from multimae.record.folder import RunFolder
from multimae.record.heartbeat import Heartbeat
from multimae.study import Evaluation, Row, Study, Table
from slurm.job.job import Job


def tiny_rows(scale: str):
    """Two rows; their transfers start from pre-trainings that differ in alpha."""
    for alpha in (1.0, 0.5):
        pretrain = Pretrain().edit({"masking.alpha": alpha, "data.train_samples": 4096})
        init = {"init": f"run:{pretrain.signature}", "data.train_samples": 4096}
        stages = {"pretrain": pretrain, "classify": Classify().edit(init), "segment": Segment().edit(init)}
        yield Row(f"alpha={alpha:g}", stages)


tiny_table = Table(
    "10",
    "A tiny table",
    (
        Evaluation("classify", stage="classify", metric="accuracy"),
        Evaluation("segment_ade20k", stage="segment", metric="mIoU"),
    ),
)
tiny_study = Study(name="tiny", title="A tiny study", rows=tiny_rows, tables=(tiny_table,))


def chain_rows(scale: str):
    """Two rows of three links, and one that evaluates the transfer of another row on a third split."""
    for row in tiny_rows(scale):
        classify = row.stages["classify"]
        robust = Evaluate().edit({"init": f"run:{classify.signature}", "data.eval_samples": 64})
        yield Row(row.name, {"pretrain": row.stages["pretrain"], "classify": classify, "robust": robust})
    yield Row("borrowed", {"robust": robust.edit({"data.eval_split": "other"})})


chain_study = Study(
    "chain", "A chain", chain_rows,
    (
        Table(
            "links",
            "Links",
            (
                Evaluation("classify", stage="classify", metric="accuracy"),
                Evaluation("robust", stage="robust", metric="accuracy"),
            ),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ScriptedJob(Job):
    """Does what `runs/script.json` says of its signature: finish (the default), slow, raise, segfault, kill, wait."""

    def __call__(self) -> str:
        script = self.runtime.runs / "script.json"
        act = json.loads(script.read_text()).get(self.signature, "finish") if script.exists() else "finish"
        print("doing", act)
        folder: RunFolder = self.folder
        with folder.claim():
            if folder.done:
                return "finished"
            journal = folder.journal
            gpu, alone = os.environ.get("CUDA_VISIBLE_DEVICES"), self.runtime.alone
            journal.write("start", step=0, pid=os.getpid(), gpu=gpu, alone=alone)
            heart = Heartbeat(folder, step=0, total_steps=10, epoch=0.0, epochs=1.0, images_per_second=5.0, loss=1.0)
            heart.beat("training")
            match act:
                case "raise":
                    raise RuntimeError("the data is on fire")
                case "segfault":
                    os.kill(os.getpid(), signal.SIGSEGV)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    time.sleep(60)
                case "slow":
                    time.sleep(0.5)
                case "wait":
                    return self._wait(heart)
            time.sleep(0.05)
            heart.beat("finished", step=10)
            finish(folder, seconds=0.05)
        return "finished"

    def _wait(self, heart: Heartbeat) -> str:
        """Until asked to stop."""
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        while not asked:
            time.sleep(0.02)
        self.folder.journal.write("interrupted", step=3, reason="SIGTERM")
        heart.beat("interrupted", step=3)
        return "interrupted"
