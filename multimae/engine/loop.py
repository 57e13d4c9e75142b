"""The one training loop. It knows no model, no data, no metric and no tracking server: those are a task's, a reader's.

A run is a pure function of its config. All that is random in a step derives from (seed, step, shard), the learning
rate from the step; a checkpoint holds the rest. A run that was killed therefore continues as if nothing had happened.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import safetensors.torch
import torch

from ..config import Runtime, TrainingConfig
from ..files import write_atomic
from ..precision import autocast
from ..record.folder import RunFolder
from ..shards import Batch, Shard
from ..units import duration
from .attempt import see_through
from .best import BestWeights
from .checkpoint import Checkpoint, CheckpointError, Checkpoints
from .distributed import Processes, seed_everything
from .meter import Clock, Meter
from .nonfinite import culprits
from .optimizer import DistributedOptimizer, load_module
from .preemption import Preemption
from .recorder import Recorder
from .retry import retry
from .schedule import evaluation_steps, learning_rate
from .task import Diverged, RunFailed, Task


def train(task: Task, config: TrainingConfig, runtime: Runtime, folder: RunFolder) -> str:
    """Train until done or asked to stop, continuing from the newest checkpoint of the folder.

    Returns "finished" or "interrupted" (by SIGTERM, SIGINT or SIGUSR2, after a checkpoint). Raises RunFailed, Diverged
    where what was trained is not finite.
    """
    if folder.done:
        return "finished"
    with Preemption() as preemption:
        return see_through(Training(task, config, runtime, folder, preemption))


class Training:
    """One attempt at a run, in one of its processes."""

    def __init__(self, task: Task, config: TrainingConfig, runtime: Runtime, folder: RunFolder, preemption: Preemption):
        self.task, self.config, self.runtime, self.folder = task, config, runtime, folder
        self.preemption = preemption
        self.processes = Processes.join(runtime)
        self.device = self.processes.device
        self.recorder = Recorder(folder, config, self.processes)
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.best = BestWeights(task.selection, folder.checkpoints / "best") if task.selection else None
        self.meter = Meter(config.batch_size, self.processes)
        self.step = 0  # optimizer steps done,
        self.nonfinite = 0  # and how many of them were skipped
        self.loss: float | None = None  # of the last log window
        self.saved_at = time.monotonic()

    # ---- the run, from top to bottom

    def run(self) -> str:
        self.start()
        while self.step < self.total_steps:
            signal, due = self.train_step(self.batches)
            if self.step % self.runtime.log_every_steps == 0 or self.step == self.total_steps:
                self.log_step()
            if self.step % self.steps_per_epoch == 0:
                self.log_epoch()
            evaluation = self.step in self.eval_steps
            if due or signal or evaluation or self.step == self.total_steps:
                self.save()
            if signal:
                self.recorder.end("interrupted", step=self.step, reason=Preemption.name(signal))
                return "interrupted"
            if evaluation:  # after the save, for which a signal leaves time; a restart makes up for the evaluation
                self.look()
        self.finish()
        return "finished"

    def start(self) -> None:
        """Count the steps, and continue from the newest complete checkpoint where there is one."""
        self.shards = self.processes.shards(self.config, self.runtime)
        self.steps_per_epoch = self.config.steps_per_epoch(self.task.train_samples)
        self.total_steps = self.config.total_steps(self.task.train_samples)
        self.eval_steps = evaluation_steps(self.config, self.task.train_samples)
        checkpoint, faults = self.left_off() if self.processes.main else (None, [])
        resumed = self.processes.first(checkpoint.step if checkpoint else -1)
        tensors = None
        if resumed >= 0:
            checkpoint = checkpoint or self.checkpoints.at(resumed)
            tensors = checkpoint.tensors()
            load_module(self.task.module, tensors)
            self.step, self.nonfinite = resumed, checkpoint.progress["nonfinite"]
            self.meter.load(checkpoint.progress["meter"])
        self.batches = self.task.batches(self.step, self.shards, self.runtime.workers)  # read ahead of what follows
        self.optimizer = DistributedOptimizer(self.task, self.config, self.runtime, self.processes)
        if tensors:
            self.optimizer.load(tensors)
        self.task.module.train()
        self.recorder.start(
            step=self.step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            micro_batches=len(self.shards),
            damaged_checkpoints=faults,
            how=self.runtime.how,
            matrix_gflops=self.meter.matrix_gflops(self.config.precision),
        )
        self.beat("training")
        if self.step in self.eval_steps and (self.best or not self.evaluated()):
            self.look()

    def left_off(self) -> tuple[Checkpoint | None, list[str]]:
        """(where the run continues, what is wrong with later checkpoints). Tells of those. Raises RunFailed."""
        checkpoint, faults = self.newest_of(self.checkpoints)
        if self.best:
            kept, more = self.newest_of(self.best.checkpoints)
            self.best.take(kept)
            faults += more
            if checkpoint and self.best.lost(checkpoint):
                self.folder.drop_checkpoints()
                self.best.take(None)
                faults.append(f"the best weights before step {checkpoint.step} are gone")
                checkpoint = None
        if faults and checkpoint is None:
            self.recorder.say("NO CHECKPOINT IS WHOLE: the run begins anew, from step 0")
        return checkpoint, faults

    def newest_of(self, checkpoints: Checkpoints) -> tuple[Checkpoint | None, list[str]]:
        """(the newest one that is whole, what was wrong with newer ones). Tells of those. Raises RunFailed."""
        try:
            newest = functools.partial(checkpoints.newest, self.config.signature, self.total_steps)
            found = retry(newest, OSError, self.recorder.say)
        except OSError as error:
            raise RunFailed(
                f"cannot read the checkpoints in {self.folder.checkpoints}: {error}. See to the folder (permissions, "
                "its server), then start the run again"
            ) from error
        for fault in found[1]:
            self.recorder.say(f"a checkpoint is damaged and was moved aside: {fault}")
        return found

    def train_step(self, batches: Iterator[list[Batch]]) -> tuple[int, bool]:
        """One optimizer step. Returns (signal that asks to stop or 0, whether a checkpoint is due), as all agree."""
        self.meter.start_step()
        micro_batches = next(batches)
        self.meter.data_arrived()
        parts = []
        for shard, batch in zip(self.shards, micro_batches, strict=True):
            seed_everything(self.config.seed, self.step, shard.index, shard.count)
            inputs = self.task.prepare(batch, self.device, self.step, shard)
            values, self.loss_names = self.optimizer.accumulate(inputs, last=shard is self.shards[-1])
            parts.append(values)
        losses = torch.stack(parts)  # (micro-batches, losses)
        signal, due, finite = self.agree(losses)
        if finite:
            self.lr = learning_rate(self.config, self.step, self.task.train_samples)
            finite = self.optimizer.step(self.lr)
        else:
            self.optimizer.skip()
        self.step += 1
        if finite:
            self.meter.add_losses(losses.mean(0))
        else:
            self.count_nonfinite(losses.sum(1), micro_batches)
        self.meter.end_step()
        return signal, due

    def agree(self, losses: torch.Tensor) -> tuple[int, bool, bool]:
        """(signal, whether a checkpoint is due, whether losses and gradients are finite), the same for all processes.

        One small reduction, and the step's one wait for the GPU.
        """
        due = time.monotonic() - self.saved_at >= 60 * self.runtime.checkpoint_minutes
        flags = torch.zeros(3, device=self.device)
        flags[0] = self.preemption.signal
        flags[1] = self.processes.main and due  # the first process's clock decides
        flags[2] = ~(losses.isfinite().all() & self.optimizer.finite())
        signal, due, bad = self.processes.maximum(flags).tolist()
        return int(signal), bool(due), not bad

    # ---- what happens now and then

    def count_nonfinite(self, losses: torch.Tensor, micro_batches: list[Batch]) -> None:
        """Journal a step that was skipped; the run has diverged with too many. `losses`: (micro-batches,)."""
        self.nonfinite += 1
        size = self.config.batch_size // self.shards[0].count
        for record in culprits(self.processes, losses, micro_batches, size):
            self.recorder.write("nonfinite", step=self.step, **record)
        if self.nonfinite > self.runtime.nonfinite_budget:
            raise Diverged(
                f"{self.nonfinite} steps had a loss or a gradient that is not finite, the last one step {self.step}; "
                f"nonfinite_budget allows {self.runtime.nonfinite_budget}. The journal's `nonfinite` records name the "
                "samples. A lower optimizer.base_lr, optimizer.clip_grad or precision=fp32 may help"
            )

    def log_step(self) -> None:
        losses, clock = self.meter.take_losses(), self.meter.window
        if losses:
            self.loss = sum(losses)
            self.recorder.write(
                "train",
                step=self.step,
                epoch=self.step / self.steps_per_epoch,
                loss=self.loss,
                losses=dict(zip(self.loss_names, losses, strict=True)),
                lr=self.lr,
                grad_norm=self.optimizer.grad_norm,
                images_per_second=clock.images_per_second,
                data_seconds=clock.data_seconds / clock.steps,
                step_seconds=clock.seconds / clock.steps,
            )
        self.beat("training")
        self.meter.window = Clock()

    def log_epoch(self) -> None:
        clock = self.meter.epoch
        self.recorder.write(
            "epoch",
            step=self.step,
            epoch=self.step // self.steps_per_epoch,
            seconds=clock.seconds,
            images_per_second=clock.images_per_second,
            data_share=self.meter.data_share(clock),
            memory_gib=self.meter.memory_gib(),
            cores=clock.cpu_seconds / clock.seconds,
        )
        self.meter.epoch = Clock()

    def evaluated(self) -> bool:
        """Whether an earlier attempt has evaluated this step."""
        done = any(r["step"] == self.step for r in self.folder.journal.records("eval")) if self.processes.main else 0
        return bool(self.processes.first(done))

    def look(self) -> None:
        """Evaluate on the way. Where weights are selected: on the validation split, and the best so far are kept."""
        if self.best is None:
            self.evaluate("eval")
            return
        (result,) = self.evaluate("val", selects=True)
        value = result["metrics"][self.best.metric]
        if self.processes.first(self.best.beaten(self.step, value)):
            self.beat("saving")
            self.write(self.best.checkpoints, self.optimizer.weights(self.task.model), metric=value)
            self.best.step, self.best.value = self.step, value
            self.beat("training")

    def evaluate(self, split: str, **about: Any) -> list[dict[str, Any]]:
        """Journal the results on a split, and tell of those that are not finite.

        Disturbs nothing: every step seeds its own randomness, and the mode is set back.
        """
        self.beat("evaluating")
        began = time.monotonic()
        seed_everything(self.config.seed)
        shard = Shard(self.processes.rank, self.processes.count)

        def progress(done: int, of: int) -> None:
            rate = done / (time.monotonic() - began)
            left = (of - done) / rate
            self.beat("evaluating", rate, left)
            self.recorder.show(f"evaluating {done:,}/{of:,}  {rate:.0f} images/s  left {duration(left)}")

        with self.optimizer.whole() as module, autocast(self.config.precision, self.device):
            results = self.task.evaluate(module, self.device, shard, split, progress)
        for result in results:
            now = {"step": self.step, "epoch": self.step / self.steps_per_epoch, "seconds": time.monotonic() - began}
            self.recorder.write("eval", **now, **result, **about)
        if bad := _not_finite(results):
            self.recorder.say(f"the evaluation at step {self.step} is not finite: {bad}")
        self.beat("training")
        return results

    def save(self) -> None:
        self.beat("saving")
        began = time.monotonic()
        tensors = {key: tensor.cpu() for key, tensor in self.optimizer.state() if self.processes.main}
        size = self.write(self.checkpoints, tensors, **(self.best.progress if self.best else {}))
        self.saved_at = time.monotonic()
        self.recorder.write("checkpoint", step=self.step, seconds=self.saved_at - began, bytes=size)
        self.beat("training")

    def write(self, checkpoints: Checkpoints, tensors: dict[str, torch.Tensor], **more: Any) -> int:
        """The first process writes a checkpoint; none goes on before it has. Returns its bytes there."""
        progress = {"run": self.config.signature, "step": self.step}
        progress |= {"nonfinite": self.nonfinite, "meter": self.meter.state(), **more}
        error, size = None, 0
        if self.processes.main:
            try:
                size = retry(lambda: checkpoints.save(tensors, progress), CheckpointError, self.recorder.say)
            except CheckpointError as problem:
                error = problem
        if self.processes.first(error is not None):
            raise error or CheckpointError("the first process could not write a checkpoint")
        return size

    def finish(self) -> None:
        """Judge the trained model, and leave its weights and pictures. Raises Diverged where it is none."""
        if self.nonfinite >= self.total_steps:
            raise _diverged(f"not one of {self.total_steps} steps had a finite loss and gradient: nothing was learnt")
        selected, weights = self.select() if self.best else ({}, self.optimizer.weights(self.task.model))
        if bad := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
            raise _diverged(f"{len(bad)} of {len(weights)} tensors of the final weights are not finite, {bad[0]} first")
        if metrics := _not_finite(self.evaluate("eval", **selected)):
            raise _diverged(f"the final evaluation is not finite: {metrics}")
        with self.optimizer.whole() as module, autocast(self.config.precision, self.device):
            pictures = self.task.pictures(module, self.device)
        # One entry: safetensors writes several in a random order, and equal weights should be equal files.
        step = selected.get("selected_step", self.step)
        about = {"task": self.config.task, "signature": self.config.signature, "step": step}
        metadata = {"run": json.dumps(about | {"classes": list(self.task.class_names)})}
        written = {}
        if self.processes.main:
            self.folder.samples.mkdir(exist_ok=True)
            for name, picture in pictures.items():
                file = self.folder.samples / f"{name}.png"
                self.recorder.retry(functools.partial(picture.save, file))
                self.recorder.write("sample", step=self.step, file=str(file.relative_to(self.folder.path)))
            contents = safetensors.torch.save(weights, metadata)
            self.recorder.retry(lambda: write_atomic(self.folder.weights, contents))
            written = {"weights_sha256": hashlib.sha256(contents).hexdigest()}
        self.recorder.end("finished", step=self.step, seconds=self.meter.run.seconds, **written, **selected)
        if self.processes.main:
            self.folder.drop_checkpoints()  # only now: until the record is on the disk, a run may have to continue

    def select(self) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
        """(which weights are the best, as records say it; they, now those of the module too). Raises Diverged."""
        assert self.best
        self.look()  # the last ones may be
        if (step := self.processes.first(self.best.step)) < 0:
            raise _diverged(f"{self.best.metric} was finite in no evaluation on the validation split")
        weights = self.best.checkpoints.at(step).tensors()
        self.optimizer.load_weights(self.task.model, weights)
        return {"selected_step": step}, weights

    def beat(self, state: str, rate: float | None = None, more: float = 0.0) -> None:
        """`rate`: images/s, if not that of training; `more`: seconds until the steps go on."""
        speed = self.meter.run
        self.recorder.beat(
            state,
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.step / self.steps_per_epoch,
            images_per_second=self.meter.window.images_per_second if rate is None else rate,
            loss=self.loss,
            seconds_left=(self.total_steps - self.step) * speed.seconds / max(1, speed.steps) + more,
        )


def _not_finite(results: list[dict[str, Any]]) -> str:
    """The metrics that are not, as `split name value, ...`."""
    return ", ".join(f"{r['split']} {k} {v}" for r in results for k, v in r["metrics"].items() if not math.isfinite(v))


def _diverged(what: str) -> Diverged:
    return Diverged(
        f"diverged: {what}. Another try repeats this: change a setting, which makes another run. A lower "
        "optimizer.base_lr, optimizer.clip_grad or precision=fp32 may help"
    )
