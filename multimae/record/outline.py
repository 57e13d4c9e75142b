"""`runs/studies/<study>/<scale>/table.json`: rows and measures of a study, for who shows runs and knows no study."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomic
from .reading import FolderError, read_json
from .shape import fits, list_of, text

FILE = "table.json"
SHAPE = {"title": text, "rows": list_of(text), "metrics": list_of(text)}


@dataclass(frozen=True)
class Outline:
    title: str = ""
    rows: Sequence[str] = ()
    metrics: Sequence[str] = ()  # its measures, as a row has them in MLflow: `stage/metric`

    @staticmethod
    def path(runs: Path, study: str, scale: str) -> Path:
        return runs / "studies" / study.replace("/", "-") / scale / FILE

    @classmethod
    def of(cls, runs: Path, study: str, scale: str) -> "Outline":
        """An empty one where nothing is written down, or what is there is damaged."""
        values = read_json(cls.path(runs, study, scale))
        return cls(**{key: _frozen(values[key]) for key in SHAPE}) if fits(values, SHAPE) else cls()

    def save(self, runs: Path, study: str, scale: str) -> None:
        """Nothing depends on it but what dashboards look like, so nothing fails by it."""
        file = self.path(runs, study, scale)
        with contextlib.suppress(OSError, FolderError):
            if self != Outline.of(runs, study, scale):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(file, json.dumps(asdict(self)))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
