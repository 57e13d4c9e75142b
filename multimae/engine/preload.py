"""Importing this imports all that is slow to import, for a fork server whose children then start at once.

It starts no thread and touches no device: `multiprocessing.set_forkserver_preload(["multimae.engine.preload"])`.
"""

import torch._dynamo  # noqa: F401 - which torch imports when it makes an optimizer

from . import loop  # noqa: F401
from .distributed import load_deepspeed

load_deepspeed()
