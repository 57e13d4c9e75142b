"""The embedded labellers: small networks that learn from embedded scenes which no other run sees, so that their labels
are wrong as a network's are, and never the truth by another name."""

import functools
from typing import Any

from .base import RunConfig
from .loading import recipe

# Beside the smoke scale's recipes: a minute or two each on one core.
COMMON: dict[str, Any] = {
    "init": "scratch",
    "epochs": 12,
    "data.name": "scenes_labeller",
    "data.train_samples": 2048,
    "data.eval_samples": 512,
    "data.eval_split": "test",
    "model.image_size": 48,
}
# By modality: the recipe, and what is otherwise. Mean and deviation, in metres, are those of the rooms.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "depth": ("depth", {"masked": False, "mean": 3.35, "deviation": 1.45}),
    "semseg": ("segment", {"optimizer.base_lr": 2e-3}),
}


@functools.cache
def embedded(modality: str) -> RunConfig:
    """The run that trains the labeller of a modality, from scratch."""
    name, edits = RECIPES[modality]
    return recipe(name, "smoke").edit(COMMON | edits)
