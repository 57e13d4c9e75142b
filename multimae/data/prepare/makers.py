"""The data sets that `multimae data prepare` knows. Each is imported when it is asked for. No torch."""

import pkgutil

from ...config import ConfigError
from ...config.settings import nearest, shown
from .pieces import Maker

MAKERS = {
    "imagenet": "multimae.data.prepare.imagenet:IMAGENET",
    "ade20k": "multimae.data.prepare.ade20k:ADE20K",
    "nyuv2": "multimae.data.prepare.nyuv2:NYUV2",
    "hypersim": "multimae.data.prepare.hypersim:HYPERSIM",
    "taskonomy": "multimae.data.prepare.taskonomy:TASKONOMY",
    "imagenet-a": "multimae.data.prepare.variants:IMAGENET_A",
    "imagenet-r": "multimae.data.prepare.variants:IMAGENET_R",
    "imagenet-sketch": "multimae.data.prepare.variants:IMAGENET_SKETCH",
    "imagenet-c": "multimae.data.prepare.variants:IMAGENET_C",
}


def maker(name: str) -> Maker:
    """Raises ConfigError for a name that is none."""
    if name not in MAKERS:
        close = nearest(name, list(MAKERS))
        raise ConfigError(f"no data set that can be prepared is {shown(name)}{close} There are: {', '.join(MAKERS)}")
    return pkgutil.resolve_name(MAKERS[name])
