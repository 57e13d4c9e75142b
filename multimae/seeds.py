"""Every random draw derives from the run's seed and from what it is for, so that a resumed run needs no saved state."""

import hashlib


def derive(seed: int, *key: str | int) -> int:
    """A seed (63 bits) for one purpose: `derive(seed, "mask", step)`. Equal on every machine."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
