"""The encoder: a ViT with one patch projection per modality (paper Section 3.1)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float, Shaped
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import Model
from ..masking import Selection, select
from ..patches import Grid
from .tokens import Tokens, initialize, learned_token, learned_tokens

LayerNorm = cast(type[nn.LayerNorm], partial(nn.LayerNorm, eps=1e-6))  # timm's annotations know no partial
Images = Mapping[str, Shaped[Tensor, "batch ..."]]
Masks = Mapping[str, Bool[Tensor, "batch _"]]


class Encoder(nn.Module):
    """Tokens of any subset of its modalities, a global token after them, and plain transformer blocks.

    There is no norm after the last block and no position on the global token (as in the authors' weights).

    Args:
        model: sizes.
        inputs: modalities, in the order of `MODALITIES`.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        mask_tokens: give masked patches to the blocks too, as a learned token (Table 15, "w/ [M]").
    """

    def __init__(self, model: Model, inputs: Sequence[str], drop_path: float = 0.0, mask_tokens: bool = False):
        super().__init__()
        self.activation_checkpointing = False
        tokens = nn.ModuleDict({modality: Tokens(modality, model) for modality in inputs})
        self.tokens = cast(Mapping[str, Tokens], tokens)  # torch's containers do not say of what
        self.global_token = learned_token(model.dim)
        # One for each modality: like the bias of a projection, it says which modality a token is of.
        self.mask_tokens = learned_tokens(inputs, model.dim) if mask_tokens else None
        rates = [drop_path * i / max(1, model.depth - 1) for i in range(model.depth)]
        self.blocks = nn.ModuleList(
            Block(model.dim, model.heads, qkv_bias=True, norm_layer=LayerNorm, drop_path=rate) for rate in rates
        )
        initialize(self)

    def forward(
        self, images: Images, visible: Masks | Selection | None = None
    ) -> Float[Tensor, "batch tokens_and_global dim"]:
        """Encoded tokens of the modalities in `images`, in their fixed order, the global token last.

        `visible`: masks of those modalities, True = visible, or their indices; only visible tokens are encoded (all,
        with mask tokens). Where samples have different numbers of visible tokens, zeros fill the shorter up, before the
        global token. Raises ValueError for masks or images of the wrong shape.
        """
        images = self.present(images)
        selection = visible if visible is None or isinstance(visible, Selection) else self.select(images, visible)
        real = None if selection is None or self.mask_tokens is not None else selection.real
        mask = None if real is None else real[:, None, None]
        tokens = self.embed(images, selection)
        for block in self.blocks:
            tokens = self._run(block, tokens, mask)
        return tokens if real is None else tokens * real[..., None]

    def hidden(self, images: Images, layers: Iterable[int]) -> list[Float[Tensor, "batch tokens_and_global dim"]]:
        """The tokens after each of `layers` (1 = after the first block), all patches visible."""
        tokens, hidden = self.embed(self.present(images), None), {}
        for i, block in enumerate(self.blocks, start=1):
            hidden[i] = tokens = self._run(block, tokens, None)
        return [hidden[layer] for layer in layers]

    def present(self, images: Images) -> dict[str, Tensor]:
        """The modalities of `images` that this encoder sees, in order."""
        images = {modality: images[modality] for modality in self.tokens if modality in images}
        if not images:
            raise ValueError(f"images: expected one or more of {list(self.tokens)}, found none of them")
        return images

    def grids(self, images: Images) -> dict[str, Grid]:
        """Patches down and across of each modality."""
        return {modality: self.tokens[modality].patches.grid(image) for modality, image in images.items()}

    def select(self, images: Images, visible: Masks) -> Selection:
        """The indices of `visible`, after a look at its shapes."""
        wanted = {m: (len(images[m]), down * across) for m, (down, across) in self.grids(images).items()}
        found = {modality: tuple(mask.shape) for modality, mask in visible.items()}
        if wanted != found:
            raise ValueError(f"visible: expected masks (batch, tokens) {wanted} for these images, found {found}")
        return select({modality: visible[modality] for modality in wanted})

    def embed(self, images: Images, selection: Selection | None) -> Float[Tensor, "batch tokens_and_global dim"]:
        """Tokens with positions, before the first block. Only visible patches are projected."""
        batch = len(next(iter(images.values())))
        tables = [self.tokens[modality].positions_at(grid) for modality, grid in self.grids(images).items()]
        positions = torch.cat([*tables, torch.zeros_like(tables[0][:1])])  # the global token has none
        rows = {modality: self.tokens[modality].patches.rows(image) for modality, image in images.items()}
        if selection is None:
            parts = [self.tokens[modality](r).unflatten(0, (batch, -1)) for modality, r in rows.items()]
            return torch.cat([*parts, self.global_token.expand(batch, -1, -1)], 1) + positions

        groups = selection.groups
        parts = [self.tokens[modality](r.index_select(0, groups[modality].visible)) for modality, r in rows.items()]
        if self.mask_tokens is None:
            tokens = torch.cat([*parts, self.global_token.flatten(0, 1).expand(batch, -1)])
            sequence = tokens.new_zeros(batch * (selection.length + 1), tokens.shape[1])
            sequence = sequence.index_copy_(0, selection.slots, tokens) + positions.index_select(0, selection.places)
            return sequence.unflatten(0, (batch, -1))
        tokens = torch.cat(parts)
        blank = [self.mask_tokens[modality].flatten(0, 1).expand(group.size, -1) for modality, group in groups.items()]
        sequence = torch.cat([*blank, self.global_token.flatten(0, 1)]).repeat(batch, 1)
        sequence = sequence.index_copy_(0, selection.full_slots(), tokens.to(sequence.dtype))
        return sequence.unflatten(0, (batch, -1)) + positions

    def _run(self, block: nn.Module, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, mask, use_reentrant=False)
        return block(tokens, mask)
