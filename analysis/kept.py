"""What is kept of runs beside the code: of each a line of JSON, cut to what tables, curves and verdicts read.

A file holds the runs of one study with one seed: `<folder>/<study>-<seed>.jsonl`. Unpacked, a line is a run's folder
again, so that what was kept is read as runs are. Imports no torch.
"""

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimae.config import ConfigError
from multimae.files import write_atomic
from multimae.record.folder import RunFolder
from multimae.record.journal import strict
from multimae.record.reading import read_json
from multimae.study import Row

# Of the journal's records, what is kept. No host, no folder.
FIELDS: dict[str, tuple[str, ...]] = {
    "data": ("train", "eval", "val", "learnt", "fields", "classes"),
    "start": ("step", "processes", "threads", "device", "commit", "damaged_checkpoints"),
    "train": ("step", "epoch", "loss", "losses"),
    "eval": ("step", "epoch", "dataset", "split", "n", "fingerprint", "metrics"),
    "nonfinite": ("step",),
    "interrupted": ("step", "reason"),
    "failed": ("step", "reason"),
    "finished": ("step", "seconds", "weights_sha256"),
}
ENVIRONMENT = ("commit", "dirty", "python", "packages", "cpu", "gpu")
PACKAGES = ("torch", "timm", "deepspeed", "numpy")
ENDED = ("finished", "failed")
NO_TENSORS = len(b"{}").to_bytes(8, "little") + b"{}"  # a safetensors file


@dataclass(frozen=True)
class Kept:
    """A run, as a line of a file has it."""

    run: str  # its signature
    row: str
    stage: str
    config: str  # YAML, as in its folder
    environment: Mapping[str, Any]
    core_seconds: float  # that its epochs computed for, those too that a restart repeated
    records: tuple[dict[str, Any], ...]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] in kinds]

    @property
    def outcome(self) -> dict[str, Any]:
        """What the same config gives again on the same machine, to the last digit."""
        ends = self.of(*ENDED)[-1:]
        curve = {r["step"]: (r["loss"], r["losses"]) for r in self.of("train")}
        evaluations = {(r.get("dataset"), r["split"], r["step"]): (r["n"], r["metrics"]) for r in self.of("eval")}
        weights = [end.get("weights_sha256") for end in ends]
        return {"loss curve": curve, "evaluations": evaluations, "weights": weights}

    @property
    def restarts(self) -> int:
        return len(self.of("start")) - 1

    @property
    def killed(self) -> int:
        """Restarts after an end without a word."""
        return self.restarts - len(self.of("interrupted")) - len(self.of("failed")[: self.restarts])


def cut(folder: RunFolder, row: str, stage: str, curve: bool) -> Kept | None:
    """What is kept of a run that has ended; None of another. `curve`: with the loss of each epoch."""
    last = folder.journal.last()
    if last is None or last["kind"] not in ENDED:
        return None
    start, epochs = folder.journal.last("start"), folder.journal.records("epoch")
    cores = start["threads"] * start["processes"] if start else 1
    seconds = sum(record["seconds"] * record.get("cores", cores) for record in epochs)
    records = folder.journal.records(*(kind for kind in FIELDS if kind != "train"))
    if curve:
        records = sorted([*records, *_means(folder.journal.curve("train"))], key=lambda record: record["time"])
    kept = tuple(_only(record, ("time", "kind", *FIELDS[record["kind"]])) for record in records)
    environment = _only(read_json(folder.environment) or {}, ENVIRONMENT)
    environment["packages"] = _only(environment.get("packages", {}), PACKAGES)
    return Kept(folder.signature, row, stage, folder.config_file.read_text(), environment, round(seconds, 1), kept)


def _only(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: fields[name] for name in names if fields.get(name) not in (None, [], {})}


def _means(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The train records of an epoch as one: its last, with the means of its losses."""
    epochs: dict[int, list[Mapping[str, Any]]] = {}
    for record in curve:
        epochs.setdefault(math.ceil(record["epoch"]), []).append(record)
    return [
        {
            **its[-1],
            "loss": statistics.fmean(float(r["loss"]) for r in its),
            "losses": {name: statistics.fmean(float(r["losses"][name]) for r in its) for name in its[-1]["losses"]},
        }
        for its in epochs.values()
    ]


# ---- files


def file_of(folder: Path, study: str, seed: int) -> Path:
    return folder / f"{study}-{seed}.jsonl"


def keep(runs: Path, rows: Sequence[Row], file: Path) -> tuple[int, int]:
    """Write what has ended of these rows' runs; what the file has of others stays. Returns (runs that the file has of
    these rows, of how many). Raises ConfigError for a file that is damaged."""
    lines = {kept.run: kept for kept in read(file)} if file.exists() else {}
    places = {config.signature: (row.name, stage) for row in rows for stage, config in row.stages.items()}
    needed = {need for row in rows for config in row.stages.values() for need in config.needs}
    for signature, place in places.items():
        if kept := cut(RunFolder.of(runs, signature), *place, curve=signature in needed):
            lines[signature] = kept
    if lines:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, "".join(json.dumps(strict(vars(kept)), allow_nan=False) + "\n" for kept in lines.values()))
    return sum(signature in lines for signature in places), len(places)


def read(file: Path) -> Iterator[Kept]:
    """Raises ConfigError for a line that is none of these."""
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            kept = Kept(**json.loads(line))
            yield Kept(**vars(kept) | {"records": tuple(kept.records)})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{file}, line {number}: expected what is kept of a run, found {error}") from None


def unpack(files: Iterable[Path], runs: Path, started_from: bool = False) -> dict[str, Kept]:
    """Make the folders of what was kept. Nothing can start from them, as weights are not kept; `started_from`: they
    look as if it could, so that what is not there counts as missing, not as blocked. Raises ConfigError where two files
    have one run with other results: then the numbers do not follow from the config."""
    unpacked: dict[str, Kept] = {}
    for file in files:
        for kept in read(file):
            if different := differences(unpacked.setdefault(kept.run, kept), kept):
                raise ConfigError(
                    f"{file}: run {kept.run} ({kept.row} {kept.stage}) has another {different[0]} elsewhere"
                )
    for kept in unpacked.values():
        folder = RunFolder.of(runs, kept.run)
        folder.path.mkdir(parents=True)
        folder.config_file.write_text(kept.config)
        folder.journal.path.write_text("".join(json.dumps(record) + "\n" for record in kept.records))
        folder.environment.write_text(json.dumps(dict(kept.environment)))
        if started_from:
            folder.weights.write_bytes(NO_TENSORS)
    return unpacked


def differences(one: Kept, other: Kept) -> list[str]:
    """In what two results of one run differ."""
    return [what for what, value in one.outcome.items() if value != other.outcome[what]]
