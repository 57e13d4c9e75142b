"""Masked multi-modal pre-training (paper Section 3)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..modalities import MODALITIES, TARGETS
from . import flops
from .fields import Count, Size, Unbounded
from .schema import Choice, Section
from .sections import Augmentation, Epochs, Optimizer, Sources, Targets
from .training import BatchSize, TrainingConfig


class Decoder(Section):
    """One per target (paper Section 3.2, Fig. 7): MultiMAE's or MAE's."""

    kind: str
    dim: Size = 256
    depth: Annotated[Size, Field(le=1000)] = 2
    heads: Size = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads} and of 4 (sin-cos positions)")
        return self


class CrossAttending(Decoder):
    """MultiMAE's: one cross-attention to all encoded tokens, then `depth` blocks over the target's tokens."""

    kind: Literal["cross_attention"] = "cross_attention"


class SelfAttending(Decoder):
    """MAE's (He et al.): blocks over visible and mask tokens of the target, no context. Defaults: theirs."""

    kind: Literal["self_attention"] = "self_attention"
    dim: Size = 512
    depth: Annotated[Size, Field(le=1000)] = 8
    heads: Size = 16
    input_norm: bool = False  # of the encoded tokens: that which ends their encoder; a transfer goes without


class PretrainOptimizer(Optimizer):
    """Of a pre-training."""

    decay_all: bool = True  # biases and norms too, as the authors' code does; He et al.'s MAE leaves them out


class Dirichlet(Section):
    """Tokens are visible in proportions of the modalities that are drawn anew for each sample (paper Section 3.3)."""

    kind: Literal["dirichlet"] = "dirichlet"
    visible_tokens: Count = 98
    alpha: Annotated[Unbounded, Field(gt=0)] = 1.0  # .inf: an equal number of each modality
    mask_tokens_in_encoder: bool = False  # Table 15's "w/ [M]": masked patches enter the encoder as mask tokens


class NoMasking(Section):
    """All tokens are visible, and the loss is on all (paper Section 4.4)."""

    kind: Literal["none"] = "none"


class Pretrain(TrainingConfig, task="pretrain", runs="multimae.tasks.pretrain:PretrainTask"):
    """Masked multi-modal pre-training. Defaults: paper Table 5."""

    task: Literal["pretrain"] = "pretrain"
    epochs: Epochs = 1600
    batch_size: BatchSize = 2048
    inputs: Sources = ("rgb", "depth", "semseg")
    targets: Targets = ("rgb", "rgb_standardized", "depth", "semseg")
    optimizer: PretrainOptimizer = PretrainOptimizer()
    decoder: Annotated[CrossAttending | SelfAttending, Choice("kind")] = CrossAttending()
    masking: Annotated[Dirichlet | NoMasking, Choice("kind")] = Dirichlet()
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.masking, Dirichlet):
            self._check_masking(self.masking)
        missing = {TARGETS[t].modality for t in self.targets} - set(self.modalities)
        if missing and isinstance(self.decoder, SelfAttending):
            raise ValueError(f"decoder.kind self_attention can only predict its inputs, but not {sorted(missing)}")
        return self

    def _check_masking(self, masking: Dirichlet) -> None:
        tokens = self.tokens()
        if masking.visible_tokens * 2 >= tokens:
            usual = tokens // (6 if len(self.inputs) > 2 else 4)
            raise ValueError(
                f"masking.visible_tokens {masking.visible_tokens} must be less than half of the {tokens} tokens of "
                f"{', '.join(self.inputs)} at {self.model.image_size} px in {self.model.patch_size} px patches: most "
                f"of an image is masked (paper Section 3.3; its share would be {usual}); or set masking.kind=none"
            )
        if len(self.inputs) == 1 and masking.alpha != 1:
            raise ValueError(
                f"masking.alpha {masking.alpha:g} spreads the visible tokens over several inputs, and {self.inputs[0]} "
                "is the only one: it changes nothing; set masking.alpha=1"
            )

    def idle(self) -> set[str]:
        predicted = {TARGETS[target].modality for target in self.targets}
        return super().idle() | self.model.idle(self.modalities, predicted)

    @property
    def sources(self) -> dict[str, str]:
        """A target is predicted from the source that is the input; where there is none, from the data set's own."""
        sources = {TARGETS[target].modality: TARGETS[target].modality for target in self.targets} | super().sources
        return {name: sources[name] for name in MODALITIES if name in sources}

    @property
    def mask_tokens_in_encoder(self) -> bool:
        return isinstance(self.masking, Dirichlet) and self.masking.mask_tokens_in_encoder

    # ---- cost

    def flops(self, every_patch: bool = False) -> flops.Flops:
        """`every_patch` counts as the authors' code computes: all patches are projected and decoded. Here only visible
        patches are projected and only masked ones decoded, which at paper scale is 2.6 % less."""
        model, masking, all_tokens = self.model, self.masking, self.tokens()
        visible = masking.visible_tokens if isinstance(masking, Dirichlet) else all_tokens
        share = visible / all_tokens  # every alpha shows each modality equally often
        projected = dict.fromkeys(self.modalities, model.tokens * (1.0 if every_patch else share))
        compared = model.tokens * (1.0 if every_patch or visible == all_tokens else 1 - share)
        encoded = all_tokens if self.mask_tokens_in_encoder else visible
        heads = {target: self._decoder(target, encoded, compared) for target in self.targets}
        return flops.of_model(model, projected, encoded, heads)

    def _decoder(self, target: str, encoded: float, compared: float) -> float:
        model, dim, depth = self.model, self.decoder.dim, self.decoder.depth
        values = flops.predicted_values(model, TARGETS[target].modality)
        context, queries = encoded + 1, model.tokens
        embed, output = flops.linear(context, model.dim, dim), flops.linear(compared, dim, values)
        if isinstance(self.decoder, SelfAttending):
            return embed + depth * flops.block(queries + 1, dim) + output
        cross = 2 * flops.linear(queries, dim, dim) + 2 * flops.linear(context, dim, dim)
        cross += flops.attention(queries, context, dim) + flops.linear(queries, dim, 8 * dim)
        return embed + cross + depth * flops.block(queries, dim) + output

    def parameters(self) -> int:
        dim, cross = self.decoder.dim, 12 * isinstance(self.decoder, CrossAttending)
        values = (flops.predicted_values(self.model, TARGETS[target].modality) for target in self.targets)
        decoders = ((self.model.dim + (12 * self.decoder.depth + cross) * dim + v) * dim for v in values)
        return flops.encoder_parameters(self.model, self.modalities) + sum(decoders)
