"""What fine-tunings share (paper Section 4)."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..modalities import MODALITIES
from . import flops
from .base import SIGNATURE_LENGTH, RunConfig
from .fields import Count, Share
from .schema import Choice, Section
from .sections import SCENES_SPLITS, Data, LayerwiseOptimizer, Scenes, Sources, SplitName
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


VIT = re.compile(r"vit_(tiny|small|base|large|huge)_patch(\d+)_")  # timm's names
WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}


class LastCheckpoint(Section):
    """The model at the end of training is the one that is tested and kept."""

    kind: Literal["last"] = "last"


class BestCheckpoint(Section):
    """The best model is: by the first metric of the task's measure, on a split that is neither trained nor tested on,
    after every `eval_every_epochs` and at the end. Of equals, the earliest."""

    kind: Literal["best"] = "best"
    split: SplitName = "val"
    samples: Count | None = None  # of that split; None: all, and of the embedded scenes as many as are tested


class Transfer(TrainingConfig):
    """A fine-tuning of the encoder with a new head, without masking (paper Section 4.1)."""

    inputs: Sources = ("rgb",)
    init: Init = "scratch"
    optimizer: LayerwiseOptimizer
    drop_path: Share = 0.1  # rises linearly over the blocks, to this
    selection: Annotated[LastCheckpoint | BestCheckpoint, Choice("kind")] = LastCheckpoint()

    @model_validator(mode="after")
    def _check_inputs(self) -> Self:
        truth = self.truth_field  # the data set's own, so that an input can only be pseudo labels
        if truth in self.inputs:
            mended = ",".join(f"pseudo_{name}" if name == truth else name for name in self.inputs)
            raise ValueError(
                f"inputs: {truth} is what is predicted; as an input there are pseudo labels: set inputs=[{mended}]"
            )
        return self

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
        if isinstance(data, Scenes) and best.split not in SCENES_SPLITS:
            raise ValueError(
                f"selection.split: {data.name} have the splits {', '.join(SCENES_SPLITS)}; found '{best.split}'"
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
        samples = best.samples or (self.data.eval_samples if isinstance(self.data, Scenes) else None)
        return self.data.model_copy(update={"eval_split": best.split, "eval_samples": samples})

    @property
    def fields(self) -> tuple[str, ...]:
        return (*super().fields, self.truth_field)

    @property
    def truth_field(self) -> str:
        """The field of a sample that is predicted."""
        raise NotImplementedError

    @property
    def foreign_weights(self) -> str | None:
        return self.init if self.init.startswith(("official:", "timm:")) else None

    def lacks_weights(self, files: Collection[str]) -> str:
        """As of any run; timm fetches its own, if it can."""
        kind, _, name = self.init.partition(":")
        if kind not in ("official", "timm"):
            return ""
        vit = VIT.match(name) if kind == "timm" else None
        mine, its = (self.model.dim, self.model.patch_size), vit and (WIDTHS[vit[1]], int(vit[2]))
        if its and mine != its:
            return (
                f"{self.init} is {its[0]} wide, of patches of {its[1]} px, and the encoder of this scale {mine[0]}, of "
                f"{mine[1]} px: at --scale paper it can be, with timm's own file or --weights {name}=FILE"
            )
        if kind == "timm" or name in files:
            return ""
        return f"needs the weights '{name}'; give them with --weights {name}=FILE"

    @property
    def reads(self) -> dict[str, tuple[Data, str]]:
        return super().reads | ({"val": (self.validation, "eval")} if self.validation else {})

    def idle(self) -> set[str]:
        return super().idle() | self.model.idle(self.modalities)

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
            for modality in self.modalities:
                if modality in source.modalities and MODALITIES[modality].channels is None:
                    same += [f"{modality}_classes", f"{modality}_embedding"]
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
        tokens = dict.fromkeys(self.modalities, float(self.model.tokens))
        return flops.of_model(self.model, tokens, self.tokens(), self.head_flops())

    def head_parameters(self) -> int:
        raise NotImplementedError

    def parameters(self) -> int:
        return flops.encoder_parameters(self.model, self.modalities) + self.head_parameters()
