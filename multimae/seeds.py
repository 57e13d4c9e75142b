"""Every random draw derives from the run's seed and from what it is for, so that a resumed run needs no saved state."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *key: str | int) -> int:
    """A seed (63 bits) for one purpose: `derive(seed, "mask", step)`. Equal on every machine."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: "torch.device | str", seed: int, *key: str | int) -> "torch.Generator":
    import torch  # not for planning, which derives seeds too

    return torch.Generator(device).manual_seed(derive(seed, *key))
