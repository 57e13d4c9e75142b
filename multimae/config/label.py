"""Pseudo labels: what a network predicts from photographs, written beside them (paper Section 3.4)."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ..modalities import FIELDS, IGNORE, PSEUDO
from .base import SIGNATURE_LENGTH, RunConfig
from .dense import DenseTransfer
from .fields import Count, Positive, Text, Whole
from .schema import Choice, Section
from .sections import AnyData, Data, Folder
from .segment import Segment
from .settings import ConfigError

BLOCK = 64  # photographs of a piece, which a run that continues does again or not at all
SHORT = 12  # digits of a network's hash by which it is called


class Disparity(Section):
    """The network gives one over depth, of unknown scale: the nearest pixel of an image is put at `nearest`, and what
    would be beyond `farthest` is put there. Depth is standardised per image, so `nearest` changes no training."""

    kind: Literal["disparity"] = "disparity"
    nearest: Positive = 1.0  # metres, likewise
    farthest: Positive = 100.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nearest >= self.farthest:
            raise ValueError(f"nearest {self.nearest:g} m is not nearer than farthest {self.farthest:g} m")
        return self


class Relative(Section):
    """The network gives depth of unknown scale, 0 to 1; what is beyond is cut off."""

    kind: Literal["relative"] = "relative"
    scale: Positive = 8000 / 512  # metres of 1. Omnidata's networks: where Taskonomy's depth is cut off


class Metres(Section):
    """The network gives metres."""

    kind: Literal["metres"] = "metres"


def _pseudo(field: str) -> str:
    if field not in PSEUDO.values():
        raise ValueError(f"expected one of {', '.join(PSEUDO.values())}")
    return field


class Label(RunConfig, task="label", runs="multimae.tasks.label:LabelTask"):
    """Trains nothing: predicts one field of the samples of one split, `data.eval_split`, or a part of them."""

    task: Literal["label"] = "label"
    precision: Literal["fp32", "bf16"] = "fp32"
    data: AnyData = Folder(name="imagenet", eval_split="train")
    field: Annotated[str, AfterValidator(_pseudo)] = next(iter(PSEUDO.values()))
    # The SHA-256 of a network's folder (`labelling.models`), or run:SIGNATURE of a transfer.
    network: Annotated[str, Field(pattern=rf"^([0-9a-f]{{64}}|run:[0-9a-f]{{{SIGNATURE_LENGTH}}})$")] | None = None
    called: Text = "unknown"  # the network's name, for a person
    photographs: Text | None = None  # their fingerprint, so that a folder that has grown is another run
    conversion: Annotated[Disparity | Relative | Metres, Choice("kind")] = Disparity()  # of numbers
    # Of a class map, `name: number`: the network's name of a class, and its number in files; a class that is not named
    # is unlabelled. Empty: its own numbers.
    classes: tuple[Annotated[Text, Field(pattern=r"^.+: [0-9]{1,3}$")], ...] = ()
    shard: Annotated[Whole, Field(ge=0)] = 0
    shards: Count = 1  # the split's blocks of photographs are dealt out to so many runs

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shard >= self.shards:
            raise ValueError(f"shard {self.shard}: expected 0 to {self.shards - 1}, of shards={self.shards}")
        if self.numbering and max(self.numbering.values()) > IGNORE:
            raise ValueError(f"classes: expected numbers of 0 to {IGNORE}, found {max(self.numbering.values())}")
        return self

    @property
    def numbering(self) -> dict[str, int]:
        """`classes`, by name."""
        pairs = (text.rpartition(": ") for text in self.classes)
        return {name: int(number) for name, _, number in pairs}

    @property
    def modality(self) -> str:
        return next(modality for modality, field in PSEUDO.items() if field == self.field)

    @property
    def fields(self) -> tuple[str, ...]:
        return (next(field for field, kind in FIELDS.items() if kind.photograph),)

    @property
    def reads(self) -> dict[str, tuple[Data, str]]:
        return {"eval": (self.data, "eval")}

    def blocks(self, samples: int) -> list[range]:
        """The samples of each piece of this run, of so many in the split."""
        starts = range(self.shard * BLOCK, samples, self.shards * BLOCK)
        return [range(start, min(start + BLOCK, samples)) for start in starts]

    def idle(self) -> set[str]:
        idle, data = super().idle() | {"seed", "called", "data.train_split"}, self.data
        if isinstance(data, Folder):
            idle |= {"data.depth_unit"} | ({"data.subset_seed"} if not (data.held_out or data.eval_samples) else set())
        if not (isinstance(data, Folder) and data.held_out):
            idle.add("data.train_samples")
        return idle | ({"conversion"} if FIELDS[self.field].channels is None else {"classes"})

    @property
    def foreign_weights(self) -> str | None:
        return f"network:{self.network[:SHORT]}" if self.network and not self.needs else None

    def lacks_weights(self, files: Collection[str]) -> str:
        if not self.foreign_weights or self.foreign_weights.partition(":")[2] in files:
            return ""
        return f"the folder of the network {self.called} ({self.foreign_weights}) is not given"

    def check_needs(self, needed: Mapping[str, RunConfig]) -> None:
        if self.network is None:
            raise ConfigError("network: expected the hash of a network's folder; `multimae data label` finds it")
        for source in needed.values():
            predicts = source.truth_field if isinstance(source, DenseTransfer | Segment) else "nothing of each pixel"
            if predicts != self.modality:
                raise ConfigError(
                    f"network: run {source.signature} is of the task {source.task}: expected one that predicts "
                    f"{self.modality}, found {predicts}"
                )

    def images(self) -> int | None:
        samples = self.data.eval_samples
        return sum(map(len, self.blocks(samples))) if samples else None

    def operations(self, needed: Mapping[str, RunConfig]) -> float | None:
        return None

    def settings(self) -> dict[str, Any]:
        """What its labels follow from, the photographs aside: labels of others are never mixed with them."""
        own = self.resolved()
        number = FIELDS[self.field].channels is not None
        return {key: own[key] for key in ("field", "network", "precision", "conversion" if number else "classes")}
