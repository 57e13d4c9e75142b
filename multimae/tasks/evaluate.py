"""Evaluating a finished transfer on other data than its own (paper Section E)."""

from collections.abc import Sequence
from typing import Any

import torch

from ..config import ConfigError, Evaluate, Runtime, Transfer, load
from ..data.about import check
from ..data.datasets import Dataset, open_dataset
from ..data.sharing import of_first
from ..shards import Shard
from .base import Progress
from .transfer import TransferTask, load_trained


class EvaluateTask:
    """A `Work` of one piece."""

    pieces = ("evaluation",)
    weights: tuple[str, str] | None = None

    def __init__(self, config: Evaluate, runtime: Runtime):
        self.config = config
        (signature,) = config.needs
        folder = runtime.runs / signature
        if not (file := folder / "config.yaml").exists():
            raise ConfigError(f"init: {file} is not there, and says what the model is; put it back")
        transfer = load(file)
        if not isinstance(transfer, Transfer):
            raise ConfigError(f"init: run {signature} is of the task {transfer.task}, which is no transfer")
        if root := runtime.data_roots.get(config.data.name):
            of_first(lambda: check(transfer.model_copy(update={"data": config.data}), root))
        self.transfer: TransferTask = load_trained(transfer, folder / "weights.safetensors", runtime)
        self.sets: dict[str, Dataset] = {"eval": open_dataset(config.data, "eval", runtime, transfer.fields)}

    @property
    def class_names(self) -> Sequence[str]:
        return self.transfer.class_names

    def do(self, piece: str, device: torch.device, shard: Shard, progress: Progress) -> list[dict[str, Any]]:
        self.transfer.model.to(device)
        with torch.no_grad():
            return [self.transfer.evaluate_on(self.sets["eval"], device, shard, progress, self.config.present_only)]
