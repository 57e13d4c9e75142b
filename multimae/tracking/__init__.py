"""Journal -> MLflow, idempotent: training writes its journal and never calls MLflow.

`sync` sends what is new in each run's journal. How far it came is in the run folder's `mlflow.json`; a run is found
again by its tag `multimae.signature`, so that losing that file costs a repeated send and never a second MLflow run.

A study at a scale is an MLflow experiment ("alpha_ablation/smoke"). A row of its table is a parent run ("alpha=1") with
the results of its stages, which are nested in it. Runs that belong to no study are in the experiment "runs".

Imports neither torch nor, until something is sent, mlflow.
"""

from .command import main
from .follower import Follower, following, start_follower
from .store import default_uri, is_server, set_patience, tell
from .syncer import SyncReport, mend, sync
from .ui import main as ui
