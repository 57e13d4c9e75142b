"""How a study of runs is declared, compared with what there is, and carried out. Imports no torch."""

from .measures import (
    BusyCores,
    EpochTime,
    Evaluation,
    ImageFlops,
    Mean,
    Measure,
    PeakMemory,
    Rank,
    Setting,
    Table,
    Throughput,
    Utilization,
)
from .study import Row, Run, Study, named, only, runs_of, stages_of, together, twins
