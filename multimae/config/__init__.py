"""What one run is: `RunConfig` (the science, hashed) and `Runtime` (where and how, never hashed).

An experiment is a value. A config is frozen and validated; its *signature* is a hash of what makes it different from
the defaults of its task, and the defaults are the paper's published settings (Tables 5, 6 and 8). One file a kind of
run; every module here is imported, so a new kind is known by its file alone. Imports no torch.
"""

import importlib
import pkgutil

from .base import SIGNATURE_LENGTH, VERSION, RunConfig, build, defaults
from .classify import Classify, ClassifyAugmentation
from .dense import DPT, DenseTransfer
from .depth import Depth, DepthAugmentation
from .evaluate import Evaluate
from .loading import RECIPES, SCALES, load, recipe, recipes
from .pretrain import CrossAttending, Decoder, Dirichlet, NoMasking, Pretrain, SelfAttending
from .regress import Regress
from .runtime import Runtime, weights_of
from .sections import SCENES, SCENES_SPLITS, Augmentation, ColorJitter, Data, Folder, Model, Optimizer, Scenes
from .segment import ConvNeXt, Linear, Segment, SegmentAugmentation
from .settings import ConfigError
from .training import TrainingConfig
from .transfer import BestCheckpoint, LastCheckpoint, Transfer

for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
