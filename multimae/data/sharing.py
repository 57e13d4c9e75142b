"""What one process finds out for all that train together."""

import itertools
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")

LONGEST = timedelta(days=2)  # a first look at millions of files takes as long as it takes
_counter = itertools.count()


def of_first(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them, or what it raises (ValueError, OSError); every process calls this,
    in the same order. One that is in no group makes it itself.

    Through the group's store, which has no time limit of its own: the others wait there, not in a collective.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return make()
    store, key = dist.distributed_c10d._get_default_store(), f"of_first/{next(_counter)}"
    if dist.get_rank():
        store.wait([key], LONGEST)
        made, error = pickle.loads(store.get(key))  # of the first process of this run, never of a file
        if error:
            raise error
        return made
    try:
        made = make()
    except (ValueError, OSError) as error:
        store.set(key, pickle.dumps((None, error)))  # type: ignore[arg-type]  # bytes will do
        raise
    store.set(key, pickle.dumps((made, None)))  # type: ignore[arg-type]
    return made
