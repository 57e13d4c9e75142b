"""What one run is: `RunConfig` (the science, hashed) and `Runtime` (where and how, never hashed).

An experiment is a value. A config is frozen and validated; its *signature* is a hash of what makes it different from
the defaults of its task, and the defaults are the paper's published settings (Tables 5, 6 and 8). One file a kind of
run. Imports no torch.
"""

from .base import SIGNATURE_LENGTH, RunConfig, build, defaults
from .classify import Classify, ClassifyAugmentation
from .loading import RECIPES, SCALES, load, recipe, recipes
from .pretrain import Decoder, Masking, Pretrain
from .runtime import Runtime
from .sections import SCENES, SCENES_SPLITS, Augmentation, Data, Model, Optimizer
from .segment import Segment, SegmentAugmentation
from .settings import ConfigError
from .transfer import BestCheckpoint, LastCheckpoint, Transfer
