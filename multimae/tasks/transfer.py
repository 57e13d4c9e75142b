"""What fine-tunings share: the encoder from where `init` says, a head, and layer-wise learning rates."""

from pathlib import Path

from timm.optim import param_groups_layer_decay
from torch import nn

from ..config import ConfigError, Runtime, Transfer, load
from ..model.encoder import Encoder
from ..weights import load_encoder, pretrained_vit
from .base import ImageTask


class TransferModel(nn.Module):
    """Encoder and head. timm's layer-wise decay reads the depth of each parameter from `group_matcher`."""

    def __init__(self, encoder: Encoder, head: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.head = head

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


class TransferTask(ImageTask):
    """The common part of `ClassifyTask` and `SegmentTask`, which add the head, the batch and the metric."""

    config: Transfer

    def __init__(self, config: Transfer, runtime: Runtime):
        super().__init__(config, runtime)
        self.model = TransferModel(pretrained_encoder(config, runtime), self.make_head())
        self.model.encoder.activation_checkpointing = runtime.activation_checkpointing

    def make_head(self) -> nn.Module:
        raise NotImplementedError

    def parameter_groups(self) -> list[dict]:
        """Weight decay on matrices only; lr x layer_decay^(depth + 1 - i) for layer i, as BEiT and MAE fine-tune."""
        opt, exempt = self.config.optimizer, self.model.no_weight_decay()
        return param_groups_layer_decay(self.model, opt.weight_decay, exempt, layer_decay=opt.layer_decay)


def pretrained_encoder(config: Transfer, runtime: Runtime) -> Encoder:
    """The encoder of `config.init`. Inputs that its source has not seen start fresh (paper Section 4.3)."""
    encoder = Encoder(config.model, config.modalities, config.drop_path)
    if config.init != "scratch":
        source = _source(config, runtime)
        try:
            load_encoder(encoder, source)
        except ValueError as error:
            raise ConfigError(f"init: {config.init}: {error}") from None
    return encoder


def _source(config: Transfer, runtime: Runtime) -> Path | nn.Module:
    kind, _, name = config.init.partition(":")
    if kind == "run":
        weights = runtime.runs / name / "weights.safetensors"
        if not weights.exists():
            raise ConfigError(f"init: run {name} has no weights yet: expected {weights}; run that pre-training first")
        if (source := weights.with_name("config.yaml")).exists():
            config.check_source(load(source))
        return weights
    if name in runtime.weights:
        if not runtime.weights[name].is_file():
            raise ConfigError(f"init: there is no file {runtime.weights[name]}, which --weights gives for '{name}'")
        return runtime.weights[name]
    if kind == "official":
        known = ", ".join(runtime.weights) or "none"
        raise ConfigError(f"init: no file is given for '{name}' (known: {known}); add --weights {name}=FILE")
    return pretrained_vit(name)
