"""The search for a transfer's settings: Optuna over ordinary runs.

One coordinator asks and tells; runs never open the storage. A trial is a run of a signature that follows from its
parameters, and its result is what the run has recorded: so whatever happened while no coordinator was there, one that
is started again sees it. Imports no torch, and optuna where a storage is opened.
"""

from .coordinator import Coordinator, Launcher
from .space import DIMENSIONS, Dimension, Search, dimensions, make_search
from .trials import StorageLost, Trials, storage_at
