"""What fine-tunings share (paper Section 4)."""

from typing import Annotated

from pydantic import Field

from ..modalities import MODALITIES
from .base import SIGNATURE_LENGTH, RunConfig
from .fields import Share
from .sections import Classes, Sources
from .settings import ConfigError


class Transfer(RunConfig):
    """A fine-tuning of the encoder with a new head, without masking (paper Section 4.1)."""

    inputs: Sources = ("rgb",)
    classes: Classes
    # scratch | run:<signature of the pre-training> | official:<name> | timm:<model name>
    # A name is a key of Runtime.weights; a timm name that is not is loaded by timm itself.
    init: Annotated[
        str, Field(pattern=rf"^(scratch|run:[0-9a-f]{{{SIGNATURE_LENGTH}}}|official:[\w.-]+|timm:[\w.-]+)$")
    ] = "scratch"
    drop_path: Share = 0.1  # rises linearly over the blocks, to this

    @property
    def needs(self) -> str | None:
        return self.init.removeprefix("run:") if self.init.startswith("run:") else None

    def check_source(self, source: RunConfig) -> None:
        """Raises ConfigError where the encoder of `source`, which this starts from, is another. Weights would not tell
        of all: the number of heads is not in a shape."""
        same = ["patch_size", "dim", "depth", "heads"]
        for modality in self.modalities:
            if modality in source.modalities and MODALITIES[modality].channels is None:
                same += [f"{modality}_classes", f"{modality}_embedding"]
        for key in same:
            mine, its = getattr(self.model, key), getattr(source.model, key)
            if mine != its:
                raise ConfigError(
                    f"model.{key} is {mine}, but run {source.signature}, which init names, was pre-trained with {its}; "
                    f"set model.{key} alike in both"
                )
