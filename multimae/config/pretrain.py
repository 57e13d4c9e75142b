"""Masked multi-modal pre-training (paper Section 3)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ..modalities import MODALITIES, TARGETS
from .base import RunConfig
from .fields import Count, Section, Size, Unbounded
from .sections import Augmentation, Epochs, Sources, Targets


class Decoder(Section):
    """One per target (paper Section 3.2, Fig. 7). `self_attention` is MAE's: visible and mask tokens, no context."""

    kind: Literal["cross_attention", "self_attention"] = "cross_attention"
    dim: Size = 256
    depth: Annotated[Size, Field(le=1000)] = 2
    heads: Size = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads} and of 4 (sin-cos positions)")
        return self


class Masking(Section):
    """Which tokens are visible (paper Section 3.3). `none`: all of them, and the loss is on all.

    The rest of the section then changes nothing, and is the default's: equal experiments are equal."""

    kind: Literal["dirichlet", "none"] = "dirichlet"
    visible_tokens: Count = 98
    alpha: Annotated[Unbounded, Field(gt=0)] = 1.0  # .inf: an equal number of each modality
    mask_tokens_in_encoder: bool = False  # Table 15's "w/ [M]": masked patches enter the encoder as mask tokens

    @field_validator("visible_tokens", "alpha", "mask_tokens_in_encoder")
    @classmethod
    def _where_something_is_masked(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name
        return cls.model_fields[info.field_name].default if info.data.get("kind") == "none" else value


class Pretrain(RunConfig, task="pretrain"):
    """Masked multi-modal pre-training. Defaults: paper Table 5."""

    task: Literal["pretrain"] = "pretrain"
    epochs: Epochs = 1600
    batch_size: Annotated[Count, Field(le=10**6)] = 2048
    inputs: Sources = ("rgb", "depth", "semseg")
    targets: Targets = ("rgb", "rgb_standardized", "depth", "semseg")
    decoder: Decoder = Decoder()
    masking: Masking = Masking()
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        tokens = self.model.tokens * len(self.inputs)
        if self.masking.kind == "dirichlet" and self.masking.visible_tokens >= tokens:
            raise ValueError(
                f"masking.visible_tokens {self.masking.visible_tokens} must be less than the {tokens} tokens of "
                f"{len(self.inputs)} modalities at {self.model.image_size} px in {self.model.patch_size} px patches"
            )
        missing = {TARGETS[t].modality for t in self.targets} - set(self.modalities)
        if missing and self.decoder.kind == "self_attention":
            raise ValueError(f"decoder.kind self_attention can only predict its inputs, but not {sorted(missing)}")
        return self

    @property
    def sources(self) -> dict[str, str]:
        """A target is predicted from the source that is the input; where there is none, from the data set's own."""
        sources = {TARGETS[target].modality: TARGETS[target].modality for target in self.targets} | super().sources
        return {name: sources[name] for name in MODALITIES if name in sources}
