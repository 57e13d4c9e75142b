"""Weights in and out: official checkpoints, timm's ViTs, and this project's own runs.

Three forms are known by their keys. *Ours* is `MultiMAE.state_dict()`. *Official* is that of the authors' checkpoints.
*ViT* is timm's, and what the authors publish for RGB alone. In every form a row of a projection or of an output layer
is ordered channel, patch row, patch column, so that converting renames and reshapes but never computes.
"""

from .checkpoint import fingerprint, read
from .convert import from_timm, load_encoder, load_official, pretrained_vit, rename, to_official, to_timm
