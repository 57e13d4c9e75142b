"""What fine-tunings share (paper Section 4)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .base import SIGNATURE_LENGTH, RunConfig
from .fields import Count, Section, Share
from .sections import SCENES, SCENES_SPLITS, Data, Modalities, SplitName
from .settings import ConfigError


class LastCheckpoint(Section):
    """The model at the end of training is the one that is tested and kept."""

    kind: Literal["last"] = "last"


class BestCheckpoint(Section):
    """The best model is: by the first metric of the task's measure, on a split that is neither trained nor tested on,
    after every `eval_every_epochs` and at the end. Of equals, the earliest."""

    kind: Literal["best"] = "best"
    split: SplitName = "val"
    samples: Count | None = None  # of that split; None: all


class Transfer(RunConfig):
    """A fine-tuning of the encoder with a new head, without masking (paper Section 4.1)."""

    inputs: Modalities = ("rgb",)
    # scratch | run:<signature of the pre-training> | official:<name> | timm:<model name>
    # A name is a key of Runtime.weights; a timm name that is not is loaded by timm itself.
    init: Annotated[
        str, Field(pattern=rf"^(scratch|run:[0-9a-f]{{{SIGNATURE_LENGTH}}}|official:[\w.-]+|timm:[\w.-]+)$")
    ] = "scratch"
    drop_path: Share = 0.1  # rises linearly over the blocks, to this
    selection: Annotated[LastCheckpoint | BestCheckpoint, Field(discriminator="kind")] = LastCheckpoint()

    @model_validator(mode="after")
    def _check_selection(self) -> Self:
        best, data = self.selection, self.data
        if isinstance(best, LastCheckpoint):
            return self
        if used := [key for key in ("train_split", "eval_split") if getattr(data, key) == best.split]:
            raise ValueError(
                f"selection.split is '{best.split}', and so is data.{used[0]}: what is trained or tested on chooses no "
                f"checkpoint; set data.{used[0]} or selection.split to another split"
            )
        if ".." in best.split.split("/"):
            raise ValueError(f"selection.split: expected a folder within the data's own, found '{best.split}'")
        if data.name == SCENES and best.split not in SCENES_SPLITS:
            raise ValueError(
                f"selection.split: {SCENES} have the splits {', '.join(SCENES_SPLITS)}; found '{best.split}'"
            )
        if self.eval_every_epochs is None:
            raise ValueError(
                "selection.kind best chooses among the checkpoints of a training: set eval_every_epochs, such as 1"
            )
        return self

    @property
    def validation(self) -> Data | None:
        """Whose "eval" split chooses the checkpoint; None: nothing does."""
        best = self.selection
        if isinstance(best, LastCheckpoint):
            return None
        return self.data.model_copy(update={"eval_split": best.split, "eval_samples": best.samples})

    @property
    def needs(self) -> str | None:
        return self.init.removeprefix("run:") if self.init.startswith("run:") else None

    def check_source(self, source: RunConfig) -> None:
        """Raises ConfigError where the encoder of `source`, which this starts from, is another. Weights would not tell
        of all: the number of heads is not in a shape."""
        same = ["patch_size", "dim", "depth", "heads"]
        if "semseg" in self.inputs and "semseg" in source.inputs:
            same += ["semseg_classes", "semseg_embedding"]
        for key in same:
            mine, its = getattr(self.model, key), getattr(source.model, key)
            if mine != its:
                raise ConfigError(
                    f"model.{key} is {mine}, but run {source.signature}, which init names, was pre-trained with {its}; "
                    f"set model.{key} alike in both"
                )
