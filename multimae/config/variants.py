"""The models of paper Table 15, as edits of a pre-training of MultiMAE at any scale."""

from typing import Any

from .pretrain import Pretrain


def mae(pretrain: Pretrain, deep: bool = True) -> dict[str, Any]:
    """The edits that make of MultiMAE's pre-training MAE's (He et al.): RGB alone, a quarter of its tokens visible,
    standardised pixels predicted by self-attention.

    The decoder has the size of one of MultiMAE's ("D2"), or if `deep` four times its depth, twice its width and twice
    its heads ("D8", He et al.'s): at paper scale 2 x 256 or 8 x 512. The optimizer is left as it is.
    """
    decoder, factor = pretrain.decoder, 2 if deep else 1
    size = {"dim": decoder.dim * factor, "depth": decoder.depth * factor**2, "heads": decoder.heads * factor}
    return {
        "inputs": ["rgb"],
        "targets": ["rgb_standardized"],
        "masking.visible_tokens": pretrain.model.tokens // 4,
        "decoder": {"kind": "self_attention", **size},
    }


def table_15(pretrain: Pretrain) -> dict[str, dict[str, Any]]:
    """{the row's name in paper Table 15: the edits of MultiMAE's pre-training}."""
    return {
        "MAE (D2)": mae(pretrain, deep=False),
        "MAE (D8)": mae(pretrain),
        "MultiMAE": {},
        "MultiMAE, w/ [M]": {"masking.mask_tokens_in_encoder": True},
    }
