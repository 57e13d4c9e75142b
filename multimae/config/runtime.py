"""Where and how a run is computed."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from .base import RunConfig
from .fields import Count, Name, Number, PathTo, Positive, Text, Whole
from .schema import Section
from .settings import ConfigError, nearest, pairs

# Workers that are chosen for a process, however many cores it has: more hold memory, and rarely read faster.
MOST_WORKERS = 16
OF_SPEED = {"zero_stage", "activation_checkpointing", "compile", "alone"}


def _no_root(path: Path) -> Path:
    if os.path.abspath(path) == os.path.sep:
        raise ValueError("expected a folder for run folders, not the root of the file system")
    return path


def cpus() -> int:
    """That this process may use; it may be bound to some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Runtime(Section):
    """Where and how a run is computed; never hashed.

    Changes no result beyond the order of floating-point sums, with two exceptions, both of the size of a micro-batch:
    stochastic depth is drawn for each, and segmentation's mean over its labelled pixels gives each the same weight.
    """

    runs: Annotated[PathTo, AfterValidator(_no_root)] = Path("runs")
    cache: PathTo | None = None  # rendered scenes; None: the user's on this machine, ~/.cache/multimae/scenes
    data_roots: dict[Name, PathTo] = {}  # data.name -> folder
    weights: dict[Name, PathTo] = {}  # name in init -> checkpoint file
    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero_stage: Annotated[Whole, Field(ge=0, le=3)] = 0
    micro_batch_size: Count | None = None  # per process; None: batch_size / processes. Accumulates to batch_size
    activation_checkpointing: bool = False
    compile: bool = False
    threads: Annotated[Count, Field(le=1024)] | None = None  # of a process on the CPU; None: torch's choice
    # Data-loading processes for each training process. None: with a GPU, a core each of those that it may use; else 0
    workers: Annotated[Whole, Field(ge=0, le=1024)] | None = None
    eval_batch_size: Annotated[Count, Field(le=10**6)] = 64  # samples of a process at a time in an evaluation
    max_pixels: Count = 100_000_000  # of an image file: a larger one is refused before it fills the memory
    checkpoint_minutes: Annotated[Positive, Field(le=10**6)] = 15.0
    log_every_steps: Count = 10
    usage_seconds: Annotated[Number, Field(ge=0, le=10**6)] = 10.0  # between two samples of CPU, memory, GPUs; 0: none
    # Steps with a non-finite loss that are skipped before failing.
    nonfinite_budget: Annotated[Whole, Field(ge=0, le=10**9)] = 3
    # Without a word from another process, after which the run fails.
    timeout_minutes: Annotated[Number, Field(ge=0.01, le=10**6)] = 30.0
    max_parameters: Annotated[Whole, Field(ge=1)] = 2 * 10**9  # of a model, beyond which it is taken for a slip
    max_tokens: Annotated[Whole, Field(ge=1)] = 20_000  # of an image, all inputs together; likewise
    alone: bool = False  # nothing else is computed on its machines meanwhile: whoever starts it sees to that
    # None: MLFLOW_TRACKING_URI, else SQLite beside the runs. May hold a password.
    tracking_uri: Text | None = Field(None, repr=False)

    @property
    def how(self) -> dict[str, Any]:
        """What decides the time and memory of a step beside the device, where it is not as by default: a condition of
        what is measured of them."""
        return self.model_dump(include=OF_SPEED, exclude_defaults=True)

    def micro_batches(self, batch_size: int, processes: int) -> int:
        """Of each process in a step. Raises ConfigError where the global batch cannot be split like that."""
        micro = self.micro_batch_size or max(1, batch_size // processes)
        if batch_size % (processes * micro):
            raise ConfigError(
                f"batch_size: {batch_size} is not a multiple of {processes} processes x micro_batch_size {micro}; "
                "choose a micro_batch_size (or a number of processes) that divides it"
            )
        return batch_size // (processes * micro)

    def check_size(self, config: RunConfig) -> None:
        """Raises ConfigError for a model that no machine is meant for: one digit too many takes its memory, or the
        day."""
        for what, size in {"parameters": config.parameters(), "tokens": config.tokens()}.items():
            if size > (limit := getattr(self, f"max_{what}")):
                raise ConfigError(
                    f"model: {size:,.0f} {what} are more than the {limit:,} that runtime.max_{what} allows; look at "
                    f"model.image_size, patch_size, dim and depth, or if it is meant, raise max_{what} there"
                )


def weights_of(given: Iterable[str], configs: Iterable[RunConfig]) -> dict[str, str]:
    """The files of `NAME=FILE` words. Raises ConfigError for a NAME that no run starts from."""
    files = pairs(given, "--weights", "NAME=FILE")
    names = {config.foreign_weights.partition(":")[2] for config in configs if config.foreign_weights}
    for name in files:
        if name not in names:
            raise ConfigError(f"--weights: no run here starts from '{name}'{nearest(name, sorted(names))}")
    return files
