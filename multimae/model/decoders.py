"""Decoders: one per target, from the encoder's tokens to the patches of that target (paper Section 3.2, Fig. 7)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .. import config
from ..masking import Selection
from ..modalities import MODALITIES, TARGETS
from ..patches import Grid, Patches
from .encoder import LayerNorm
from .tokens import initialize, learned_token, learned_tokens, position_rows, sincos_positions

INTERPOLATION = "bilinear"  # of the position table of every decoder, whatever its modality


class TargetDecoder(nn.Module):
    """What both kinds share: queries and context out of the encoder's tokens, blocks, and a linear layer to patches.

    The queries are the target modality's tokens: those that are visible encoded, the others a learned mask token.
    Queries and context carry positions and a learned embedding of their modality, the global token neither.
    """

    positions: Tensor

    def __init__(self, target: str, inputs: Sequence[str], model: config.Model, decoder: config.Decoder):
        super().__init__()
        self.modality = TARGETS[target].modality
        self.patches = Patches(self.modality, model.patch_size)
        channels = MODALITIES[self.modality].predicted(model)
        grid = (model.image_size // model.patch_size,) * 2
        self.project: nn.Module = nn.Linear(model.dim, decoder.dim)
        self.mask_token = learned_token(decoder.dim)
        self.register_buffer("positions", sincos_positions(decoder.dim, grid))
        # A target that is no input has only mask tokens for queries; they need no embedding beside themselves.
        self.modality_embeddings = learned_tokens(inputs, decoder.dim)
        self.blocks = nn.ModuleList(
            Block(decoder.dim, decoder.heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(decoder.depth)
        )
        self.output = nn.Linear(decoder.dim, channels * self.patches.side**2)

    def forward(
        self,
        encoded: Float[Tensor, "batch tokens_and_global dim"],
        grids: Mapping[str, Grid],
        grid: Grid,
        selection: Selection | None,
    ) -> Float[Tensor, "rows decoder_dim"]:
        """Features of every patch of the target, one row each; `output` turns a row into the patch.

        `grids` of the encoded modalities, `grid` of the target; `selection`: which tokens were encoded (None: all).
        """
        batch = len(encoded)
        context = self.project(encoded) + self._embeddings(grids, selection)
        if selection is None and self.modality in grids:
            sizes = [down * across for down, across in grids.values()]
            queries = context.split([*sizes, 1], 1)[list(grids).index(self.modality)]
        else:
            queries = self.mask_token.flatten(0, 1) + self._positions(grid)
            if self.modality in self.modality_embeddings:
                queries = queries + self.modality_embeddings[self.modality].flatten(0, 1)
            queries = queries.to(context.dtype).repeat(batch, 1)
            if selection is not None and self.modality in selection.groups:
                group = selection.groups[self.modality]
                queries = queries.index_copy_(0, group.visible, context.flatten(0, 1).index_select(0, group.slots))
            queries = queries.unflatten(0, (batch, -1))
        mask = None if selection is None or selection.real is None else selection.real[:, None, None]
        return self.decode(queries, context, mask).flatten(0, 1)

    def decode(self, queries: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _positions(self, grid: Grid) -> Float[Tensor, "tokens dim"]:
        return position_rows(self.positions, grid, INTERPOLATION)

    def _embeddings(self, grids: Mapping[str, Grid], selection: Selection | None) -> Tensor:
        """Positions and modality embeddings of the context."""
        positions = [self._positions(grid) for grid in grids.values()]
        nothing = torch.zeros_like(positions[0][:1])  # of the global token
        names = [self.modality_embeddings[modality].flatten(0, 1) for modality in grids]
        if selection is None:
            return torch.cat([*(p + name for p, name in zip(positions, names)), nothing])
        # A product with a one-hot matrix, because the gradient of a lookup is a scatter onto three rows.
        named = selection.membership.to(nothing.dtype) @ torch.cat(names)
        embeddings = torch.cat([*positions, nothing]).index_select(0, selection.places) + named
        return embeddings.unflatten(0, (-1, selection.length + 1))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a context."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        queries: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch keys dim"],
        mask: Bool[Tensor, "batch 1 1 keys"] | None,
    ) -> Float[Tensor, "batch queries dim"]:
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class CrossAttentionDecoder(TargetDecoder):
    """MultiMAE's: one cross-attention to all encoded tokens, an MLP, then blocks."""

    def __init__(self, target: str, inputs: Sequence[str], model: config.Model, decoder: config.Decoder):
        super().__init__(target, inputs, model, decoder)
        self.query_norm = LayerNorm(decoder.dim)
        self.context_norm = LayerNorm(decoder.dim)
        self.attention = CrossAttention(decoder.dim, decoder.heads)
        self.mlp_norm = LayerNorm(decoder.dim)
        self.mlp = Mlp(decoder.dim, 4 * decoder.dim)
        initialize(self)

    def decode(self, queries: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        # No residual around the cross-attention, as in the authors' code.
        x = self.attention(self.query_norm(queries), self.context_norm(context), mask)
        x = x + self.mlp(self.mlp_norm(x))
        for block in self.blocks:
            x = block(x)
        return x


class SelfAttentionDecoder(TargetDecoder):
    """MAE's (He et al.): blocks over the target modality's visible and mask tokens and the global token; a norm."""

    def __init__(self, target: str, inputs: Sequence[str], model: config.Model, decoder: config.Decoder):
        super().__init__(target, inputs, model, decoder)
        if isinstance(decoder, config.SelfAttending) and decoder.input_norm:
            self.project = nn.Sequential(LayerNorm(model.dim), self.project)
        self.norm = LayerNorm(decoder.dim)
        initialize(self)

    def decode(self, queries: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        x = torch.cat([queries, context[:, -1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, :-1])


DECODERS = {"cross_attention": CrossAttentionDecoder, "self_attention": SelfAttentionDecoder}
