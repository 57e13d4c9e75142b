"""What a notebook shows of a study: its tables, figures and claims, of the runs that the environment chooses.

MULTIMAE_RUNS is the folder of run folders (default: `../runs`, beside the notebooks), MULTIMAE_SCALE their scale
(default: smoke), MULTIMAE_SEEDS the seeds (`0 1 2`; default: those of the recipes). Imports no torch.
"""

import argparse
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from multimae.config import ConfigError
from multimae.config.settings import shown
from multimae.study import Row, Study, Table
from multimae.study.arguments import all_rows
from multimae.study.results import Results

from . import figures, tables, verdicts
from .sheet import Sheet, sheet


class Page:
    """Raises ConfigError where the environment says what cannot be. What is given here, it is not asked for. `edits`:
    settings that are changed, as `--set` takes them."""

    def __init__(
        self,
        study: Study,
        runs: Path | None = None,
        scale: str = "",
        seeds: Sequence[int] = (),
        edits: Sequence[str] = (),
    ):
        self.study = study
        self.runs = runs or Path(os.environ.get("MULTIMAE_RUNS") or "../runs").expanduser()
        self.scale = scale or os.environ.get("MULTIMAE_SCALE") or "smoke"
        self.seeds, self.edits = tuple(seeds or _seeds()), tuple(edits)
        asked = {"scale": self.scale, "data": [], "set": list(edits), "weights": []}
        self.trials: list[tuple[Row, ...]] = [
            all_rows(study, argparse.Namespace(**asked, seed=seed)) for seed in self.seeds or [None]
        ]

    @cached_property
    def results(self) -> Results:
        return tables.read(self.runs, *self.trials)

    def frame(self, table: Table) -> pd.DataFrame:
        """See `tables.build`."""
        return tables.build(table, self.scale, self.results)

    def sheet(self, table: Table) -> Sheet:
        """Our table beside the paper's."""
        return sheet(table, self.frame(table))

    def bars(self, table: Table) -> Figure:
        return figures.bars(table, self.frame(table))

    def claims(self, table: Table, *others: "Page") -> Sheet:
        """What the paper concludes from it, and whether our runs say so. `others`: with tables that are named there."""
        frames = {each.name: page.frame(each) for page in others for each in page.study.tables}
        return verdicts.sheet(table.name, frames | {table.name: self.frame(table)})

    def curves(self, stage: str = "pretrain") -> Figure:
        return figures.loss_curves(self.trials, self.runs, stage)

    def predictions(self, stage: str = "pretrain") -> Figure:
        return figures.predictions(self.trials[0], self.runs, stage)


def _seeds() -> list[int]:
    """Those that the environment names."""
    words = (os.environ.get("MULTIMAE_SEEDS") or "").replace(",", " ").split()
    if wrong := [word for word in words if not word.isdecimal() or words.count(word) > 1]:
        raise ConfigError(f"MULTIMAE_SEEDS: expected different whole numbers, as in `0 1 2`, found {shown(wrong[0])}")
    return [int(word) for word in words]
