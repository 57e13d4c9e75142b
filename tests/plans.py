"""Plans and statuses as the command makes them: SLURM is asked for what it has."""

from pathlib import Path

from multimae.record.folder import RunFolder
from multimae.record.state import Status
from multimae.study import Row, Study, planning, status
from slurm.jobs import Slurm


def wanted(study: Study, rows: tuple[Row, ...], runs: Path, scale: str = "smoke", variant: str = "") -> planning.Wanted:
    return planning.Wanted(study, scale, rows, runs, variant, Slurm())


def read(folder: RunFolder) -> Status:
    return status.read(folder, Slurm())


def read_all(folders, configs=None) -> dict[str, Status]:
    return status.read_all(folders, configs, Slurm())
