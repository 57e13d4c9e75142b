"""How a study of runs is declared, compared with what there is, and carried out. Imports no torch."""

from .measures import Evaluation, Mean, Measure, Rank, Setting, Table
from .study import Row, Run, Study, named, only, runs_of, stages_of, together, twins
from .timing import BusyCores, EpochTime, ImageFlops, PeakMemory, Throughput, Utilization, Waiting
