"""What the engine asks of a task. The engine knows nothing else about it: no model, no data, no metrics."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..shards import Batch, Shard

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class RunFailed(RuntimeError):
    """The run cannot go on; the message says why. It is in the journal too."""


class Diverged(RunFailed):
    """What was trained is no model, or is about to be none. Trying again repeats it: the same settings give the same
    numbers."""


class Task(Protocol):
    """A model, its data, and how it is judged.

    Everything random in a step must come from torch's, numpy's or Python's global generators, which the engine seeds
    from (seed, step, shard) before `prepare`, or from `step` and `shard` themselves: a resumed run then repeats it.
    """

    train_samples: int

    @property
    def class_names(self) -> Sequence[str]:
        """Of a classifier, in the order of its outputs; else empty."""

    @property
    def selection(self) -> tuple[str, str] | None:
        """(a metric, "higher" or "lower" as it is better), by which the weights that are tested and kept are chosen: on
        the way, "val" is evaluated, and "eval" at the end alone. None: the last are kept, and all is of "eval"."""

    @property
    def module(self) -> "torch.nn.Module":
        """forward(what prepare returned) -> {name: scalar loss}; their sum is minimised."""

    @property
    def model(self) -> "torch.nn.Module":
        """A part of `module`; its state_dict becomes weights.safetensors."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """torch's parameter groups, each with `weight_decay` and `lr_scale` (a factor on the scheduled lr)."""

    def batches(self, first_step: int, shards: list[Shard], workers: int | None) -> Iterator[list[Batch]]:
        """One item an optimizer step, from `first_step` on, without end: a batch of CPU tensors for each shard. Workers
        (None: as many as the task chooses) begin with the call."""

    def prepare(self, batch: Batch, device: "torch.device", step: int, shard: Shard) -> Any:
        """What `module` takes: the batch on the device, normalised, masked, mixed."""

    def evaluate(
        self,
        module: "torch.nn.Module",
        device: "torch.device",
        shard: Shard,
        split: str = "eval",
        progress: "Progress | None" = None,
    ) -> list[dict[str, Any]]:
        """Called by all processes, in eval mode and without gradients. Returns, reduced over them, a list of
        {"dataset", "split", "n", "fingerprint", "metrics": {name: float}}; of the split "val", one. `progress`: to be
        called now and then, with samples."""

    def pictures(self, module: "torch.nn.Module", device: "torch.device") -> "dict[str, Image]":
        """Prediction pictures by name. Called by all processes; the first one's are kept."""


Progress = Callable[[int, int], None]  # (images done, of all) of a piece


class Work(Protocol):
    """What a run does that trains nothing: evaluating, labelling, timing. It is done piece by piece, and a piece that a
    run was stopped in is done again."""

    @property
    def pieces(self) -> Sequence[str]:
        """Names of what is to be done, in order."""

    def do(self, piece: str, device: "torch.device", shard: Shard, progress: Progress) -> list[dict[str, Any]]:
        """Called by all processes. Returns what `Task.evaluate` returns, or nothing where the result is in files.

        To be called now and then, equally often by all processes: `progress`, which may raise to stop.
        """
