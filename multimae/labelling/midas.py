"""DPT-Hybrid's weights as its makers name them, and Omnidata's, which are of the same network: to transformers' names.

https://github.com/isl-org/DPT (dpt/models.py, dpt/vit.py): a ViT of timm, and the convolutions of MiDaS.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..weights import rename

MARK = "pretrained.model.blocks.0.attn.qkv.weight"
LIGHTNING = "model."  # before every name, where Lightning kept the checkpoint
UNUSED = ("pretrained.model.head.", "auxlayer.")  # of what the ViT was trained for
QKV = re.compile(r"pretrained\.model\.blocks\.(\d+)\.attn\.qkv\.(\w+)")
BIT = "dpt.embeddings.backbone.bit."
NAMES = (
    (r"^pretrained\.model\.cls_token$", "dpt.embeddings.cls_token"),
    (r"^pretrained\.model\.pos_embed$", "dpt.embeddings.position_embeddings"),
    (r"^pretrained\.model\.patch_embed\.proj\.", "dpt.embeddings.projection."),
    (r"^pretrained\.model\.patch_embed\.backbone\.stem\.conv\.", f"{BIT}embedder.convolution."),
    (r"^pretrained\.model\.patch_embed\.backbone\.stem\.", f"{BIT}embedder."),
    (r"^pretrained\.model\.patch_embed\.backbone\.stages\.(\d+)\.blocks\.", rf"{BIT}encoder.stages.\1.layers."),
    (r"^pretrained\.model\.norm\.", "dpt.layernorm."),
    (r"^pretrained\.model\.blocks\.(\d+)\.norm1\.", r"dpt.encoder.layer.\1.layernorm_before."),
    (r"^pretrained\.model\.blocks\.(\d+)\.norm2\.", r"dpt.encoder.layer.\1.layernorm_after."),
    (r"^pretrained\.model\.blocks\.(\d+)\.attn\.proj\.", r"dpt.encoder.layer.\1.attention.output.dense."),
    (r"^pretrained\.model\.blocks\.(\d+)\.mlp\.fc1\.", r"dpt.encoder.layer.\1.intermediate.dense."),
    (r"^pretrained\.model\.blocks\.(\d+)\.mlp\.fc2\.", r"dpt.encoder.layer.\1.output.dense."),
    (r"^scratch\.output_conv\.", "head.head."),
    (r"\.resConfUnit(\d)\.conv(\d)\.", r".residual_layer\1.convolution\2."),
    (r"\.out_conv\.", ".projection."),
)


def _from_one(number: int) -> int:
    return number - 1


def _backwards(number: int) -> int:
    return 4 - number


# Numbers that count from one, or backwards.
LAYER = "neck.reassemble_stage.layers.{}."
COUNTED = (
    (r"^pretrained\.act_postprocess(\d)\.0\.project\.0\.", "neck.reassemble_stage.readout_projects.{}.0.", _from_one),
    (r"^pretrained\.act_postprocess(\d)\.3\.", f"{LAYER}projection.", _from_one),
    (r"^pretrained\.act_postprocess(\d)\.4\.", f"{LAYER}resize.", _from_one),
    (r"^scratch\.layer(\d)_rn\.", "neck.convs.{}.", _from_one),
    (r"^scratch\.refinenet(\d)\.", "neck.fusion_stage.layers.{}.", _backwards),
)


def from_midas(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With transformers' names; a state dict that is not MiDaS's stays as it is."""
    state = dict(state)
    if LIGHTNING + MARK in state:
        state = {name.removeprefix(LIGHTNING): value for name, value in state.items()}
    if MARK not in state:
        return state
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if found := QKV.fullmatch(name):
            for part, third in zip(("query", "key", "value"), torch.chunk(value, 3)):
                renamed[f"dpt.encoder.layer.{found[1]}.attention.attention.{part}.{found[2]}"] = third
        elif not name.startswith(UNUSED):
            renamed[_renamed(name)] = value
    return renamed


def _renamed(name: str) -> str:
    for pattern, form, count in COUNTED:
        if found := re.match(pattern, name):
            name = form.format(count(int(found[1]))) + name[found.end() :]
    return rename(name, NAMES)
