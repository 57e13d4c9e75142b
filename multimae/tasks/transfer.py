"""The base of all fine-tunings: the encoder from where `init` says and a head, trained, evaluated and drawn."""

import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from ..config import ConfigError, Runtime, Transfer
from ..data.datasets import Dataset, open_dataset
from ..data.loaders import normalize
from ..metrics import SplitMetric, Unmeasured
from ..model.encoder import Encoder, Images
from ..model.heads import Head
from ..shards import Batch, Shard
from ..weights import fingerprint, load_encoder, pretrained_vit, read
from .base import ImageTask, Progress, result


class TransferModel(nn.Module):
    """Encoder and head. timm's layer-wise decay reads the depth of each parameter from `group_matcher`."""

    def __init__(self, encoder: Encoder, head: Head):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Images) -> Tensor:
        """What the head predicts, samples first.

        Per pixel, it sees the tokens of one modality, the first of the inputs: the others reach it through attention.
        """
        encoder, head = self.encoder, self.head
        tokens = encoder.hidden(images, head.layers) if head.layers else [encoder(images)]
        if not head.per_pixel:
            return head(*tokens)
        grid = next(iter(encoder.grids(encoder.present(images)).values()))
        return head(*(layer[:, : grid[0] * grid[1]] for layer in tokens), grid=grid)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Projections and the global token are layer 0, the blocks 1 to depth, the head comes after them."""
        return {"stem": r"^encoder\.(?:tokens|global_token)", "blocks": [(r"^encoder\.blocks\.(\d+)", None)]}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are no matrix and yet have more than one dimension, by which timm tells them.

        The global token and the class embedding are inputs of the blocks, like a bias: decay would pull the token, and
        the rows of classes that are seldom seen, to zero. The authors' fine-tuning lists both; there only the token
        is matched, as the name of the embedding's parameter ends in `.weight`. Position tables are fixed, so they are
        no parameters, and the encoder of a transfer has no mask tokens. All else decays if it has two dimensions.
        """
        embeddings = (f"encoder.tokens.{m}.embedding.weight" for m, t in self.encoder.tokens.items() if t.embedding)
        return {"encoder.global_token", *embeddings}


class TrainingModule(nn.Module):
    """What is optimised: the losses of what the model predicts for a batch (images, truth)."""

    def __init__(self, model: TransferModel, loss: Callable[[Tensor, Tensor], dict[str, Tensor]]):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: tuple[Batch, Tensor]) -> dict[str, Tensor]:
        images, truth = batch
        return self.loss(self.model(images), truth)


class TransferTask(ImageTask, ABC):
    """A fine-tuning. Each kind gives its `transform`, the name of its `truth` in a batch and the abstract methods;
    maybe classes to `check`, and a `prepare` for training batches that are more than images and truth."""

    config: Transfer
    truth: str
    pictured = 6  # samples in the picture
    answers = "what the head predicts"

    def __init__(self, config: Transfer, runtime: Runtime, trains: bool = True):
        super().__init__(config, runtime, trains)
        if trains:
            if config.validation:
                self.sets["val"] = open_dataset(config.validation, "eval", runtime, config.fields)
                self.selection = next(iter(self.make_metric(torch.device("cpu")).better.items()))
            self.check(self.train_set)
            encoder, self.weights = pretrained_encoder(config, runtime)
        else:
            encoder = Encoder(config.model, config.modalities, config.drop_path)
        self.model = TransferModel(encoder, self.make_head())
        self.model.encoder.activation_checkpointing = runtime.activation_checkpointing
        self.module = TrainingModule(self.model, self.loss)

    @abstractmethod
    def make_head(self) -> Head: ...

    @abstractmethod
    def loss(self, predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """{name: scalar}; their sum is minimised."""

    @abstractmethod
    def make_metric(self, device: torch.device) -> SplitMetric:
        """A new one for each evaluation."""

    def answer(self, predicted: Tensor) -> Tensor:
        """What a user is told of what the model predicts, as `answers` says: samples first, then channels."""
        return predicted

    @abstractmethod
    def picture(self, images: Batch, predicted: Tensor, truth: Tensor) -> Image.Image: ...

    def check(self, dataset: Dataset) -> None:
        """Raises ConfigError for data with other classes than those of the head."""

    def advice(self, dataset: Dataset) -> str:
        """What mends a split in which nothing can be measured."""
        return "choose another data.eval_split"

    def parameter_groups(self) -> list[dict]:
        """Weight decay on matrices only; lr x layer_decay^(depth + 1 - i) for layer i, as BEiT and MAE fine-tune."""
        opt, exempt = self.config.optimizer, self.model.no_weight_decay()
        return param_groups_layer_decay(self.model, opt.weight_decay, exempt, layer_decay=opt.layer_decay)

    def prepare(self, batch: Batch, device: torch.device, step: int, shard: Shard) -> tuple[Batch, Tensor]:
        return self.images_and_truth(batch, device)

    def images_and_truth(self, batch: Batch, device: torch.device) -> tuple[Batch, Tensor]:
        return normalize(batch, device), batch[self.truth].to(device)

    def evaluate(
        self,
        module: nn.Module,
        device: torch.device,
        shard: Shard,
        split: str = "eval",
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        return [self.evaluate_on(self.sets[split], device, shard, progress)]

    def evaluate_on(
        self,
        dataset: Dataset,
        device: torch.device,
        shard: Shard = Shard(),
        progress: Progress | None = None,
        present_only: bool = False,
    ) -> dict[str, Any]:
        """The result on all samples of any data set whose classes are those of the head. Every process calls this, in
        eval mode, without gradients, and in the precision of the run.

        `progress` is called after each batch; what it raises ends the evaluation. `present_only`: classes of which the
        split has no sample are not predicted, and the fingerprint says how many there are then. Raises ConfigError as
        `check`, ValueError where nothing counts.
        """
        self.check(dataset)
        absent = [n for n, name in enumerate(dataset.class_names) if present_only and name in dataset.lacks]
        measure = self.make_metric(device)
        for batch, count in self.eval_batches(dataset, shard, progress):
            images, truth = self.images_and_truth(batch, device)
            predicted = self.model(images)[:count]
            if absent:  # the lowest number, but of what is not finite NaN, so that a broken model is still told
                predicted[:, absent] = predicted[:, absent] * 0 + torch.finfo(predicted.dtype).min
            measure.update(predicted, truth[:count])
        try:
            told = result(dataset, measure.compute())
        except Unmeasured as error:
            where = f"'{dataset.split}' of '{dataset.source}'"
            raise ValueError(f"{error} in {where}: {self.advice(dataset)}") from None
        among = f"-among{len(dataset.class_names) - len(absent)}" * bool(absent)
        return told | {"fingerprint": told["fingerprint"] + among}

    def pictures(self, module: nn.Module, device: torch.device) -> dict[str, Image.Image]:
        images, truth = self.images_and_truth(self.examples(self.pictured), device)
        return {"predictions": self.picture(images, self.model(images), truth)}


def load_trained(config: Transfer, weights: Path, runtime: Runtime) -> "TransferTask":
    """A finished transfer, to be evaluated on any data set: no split is opened, and `init` is not asked for.

    `config` is that of the run and `weights` its weights.safetensors, which must have every tensor of the model and no
    other. The model is on the CPU, in eval mode: move `task.model` to the device, then call `task.evaluate_on`. Raises
    ConfigError for weights that are not those of such a model.
    """
    task = pkgutil.resolve_name(config.runs)(config, runtime, trains=False)
    try:
        task.model.load_state_dict(read(weights))
        with safe_open(weights, "pt") as file:
            about = json.loads((file.metadata() or {}).get("run", "{}"))
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:  # torch's RuntimeError lists tensors
        raise ConfigError(f"{weights}: not the weights of a {config.task} with these settings: {error}") from None
    task.class_names = tuple(about.get("classes", ()))
    task.module.eval()
    return task


def pretrained_encoder(config: Transfer, runtime: Runtime) -> tuple[Encoder, tuple[str, str] | None]:
    """The encoder of `config.init`, and (name, SHA-256) of the weights where they are no run's. Inputs that its source
    has not seen start fresh (paper Section 4.3)."""
    encoder = Encoder(config.model, config.modalities, config.drop_path)
    if config.init == "scratch":
        return encoder, None
    source = _source(config, runtime)
    try:
        load_encoder(encoder, source)
    except ValueError as error:
        raise ConfigError(f"init: {config.init}: {error}") from None
    return encoder, None if config.needs else (f"weights {config.foreign_weights}", fingerprint(source))


def _source(config: Transfer, runtime: Runtime) -> Path | nn.Module:
    kind, _, name = config.init.partition(":")
    if kind == "run":
        weights = runtime.runs / name / "weights.safetensors"
        if not weights.exists():
            raise ConfigError(f"init: run {name} has no weights yet: expected {weights}; do that run first")
        return weights
    if name in runtime.weights:
        if not runtime.weights[name].is_file():
            raise ConfigError(f"init: there is no file {runtime.weights[name]}, which --weights gives for '{name}'")
        return runtime.weights[name]
    if kind == "official":
        known = ", ".join(runtime.weights) or "none"
        raise ConfigError(f"init: no file is given for '{name}' (known: {known}); add --weights {name}=FILE")
    return pretrained_vit(name)
