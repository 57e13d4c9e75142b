"""What fine-tunings share (paper Section 4)."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from . import flops
from .base import SIGNATURE_LENGTH, RunConfig
from .fields import Share
from .sections import Classes, LayerwiseOptimizer, Modalities
from .settings import ConfigError
from .training import TrainingConfig


def _with_its_tag(init: Any) -> Any:
    """timm's name of a model without the tag of its weights is whichever timm takes by default that day."""
    if isinstance(init, str) and init.startswith("timm:") and "." not in init:
        raise ValueError(
            f"expected timm:MODEL.TAG, which says which weights are meant, such as {init}.mae; "
            f"python -c \"import timm; print(timm.list_pretrained('{init.removeprefix('timm:')}*'))\" lists them"
        )
    return init


# scratch | run:<signature of the pre-training> | official:<name> | timm:<model>.<tag>
# A name is a key of Runtime.weights; a timm name that is not is loaded by timm itself.
Init = Annotated[
    str,
    Field(pattern=rf"^(scratch|run:[0-9a-f]{{{SIGNATURE_LENGTH}}}|official:[\w.-]+|timm:[\w.-]+)$"),
    BeforeValidator(_with_its_tag),
]


class Transfer(TrainingConfig):
    """A fine-tuning of the encoder with a new head, without masking (paper Section 4.1)."""

    inputs: Modalities = ("rgb",)
    classes: Classes
    init: Init = "scratch"
    optimizer: LayerwiseOptimizer
    drop_path: Share = 0.1  # rises linearly over the blocks, to this

    def idle(self) -> dict[str, Collection[str]]:
        return super().idle() | {"model": self.model.idle(self.inputs)}

    def check_needs(self, needed: Mapping[str, RunConfig]) -> None:
        """The encoder of the run that this starts from must be the same. Weights would not tell of all: the number of
        heads is not in a shape."""
        for source in needed.values():
            if not isinstance(source, TrainingConfig):
                raise ConfigError(
                    f"init: run {source.signature} is of the task {source.task}, and has no weights to start from; "
                    "name a pre-training, or another run that trains"
                )
            same = ["patch_size", "dim", "depth", "heads"]
            if "semseg" in self.inputs and "semseg" in source.inputs:
                same += ["semseg_classes", "semseg_embedding"]
            for key in same:
                mine, its = getattr(self.model, key), getattr(source.model, key)
                if mine != its:
                    raise ConfigError(
                        f"model.{key} is {mine}, but run {source.signature}, which init names, was pre-trained with "
                        f"{its}; set model.{key} alike in both"
                    )

    # ---- cost

    def head_flops(self) -> dict[str, float]:
        """Of one image, forward."""
        raise NotImplementedError

    def flops(self) -> flops.Flops:
        tokens = dict.fromkeys(self.inputs, float(self.model.tokens))
        return flops.of_model(self.model, tokens, self.tokens(), self.head_flops())

    def head_parameters(self) -> int:
        raise NotImplementedError

    def parameters(self) -> int:
        return flops.encoder_parameters(self.model, self.inputs) + self.head_parameters()
