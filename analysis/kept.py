"""What is kept of runs beside the code: of each a line of JSON, cut to what tables, curves and verdicts read.

A file holds the runs of one study with one seed: `<folder>/<study>-<seed>.jsonl`. Unpacked, a line is a run's folder
again, so that what was kept is read as runs are. Imports no torch.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from multimae.config import SIGNATURE_LENGTH, ConfigError
from multimae.files import write_atomic
from multimae.record.folder import RunFolder
from multimae.record.journal import KINDS, RECORD
from multimae.record.reading import read_json
from multimae.record.shape import fits, strict
from multimae.study import Row

# Of the journal's records, what is kept: no host, no folder.
FIELDS: dict[str, tuple[str, ...]] = {
    "data": ("train", "eval", "val", "learnt", "fields", "classes"),
    "start": ("step", "processes", "threads", "device", "commit"),
    "train": ("step", "epoch", "loss", "losses"),
    "eval": ("step", "epoch", "dataset", "split", "n", "fingerprint", "metrics"),
    "nonfinite": ("step",),
    "interrupted": ("step", "reason"),
    "failed": ("step", "reason"),
    "finished": ("step", "seconds", "selected_step", "weights_sha256"),
}
ENDED = ("finished", "failed")
ENVIRONMENT = ("commit", "dirty", "python", "packages", "cpu", "gpu")
PACKAGES = ("torch", "timm", "deepspeed", "numpy")
PATH = re.compile(r"(?<![\w.])~?(/[\w.+~-]+)+/?")
CORE_SECONDS = "core_seconds"  # kind and field of the record by which an unpacked run knows them
NO_TENSORS = len(b"{}").to_bytes(8, "little") + b"{}"  # a safetensors file


@dataclass(frozen=True)
class Kept:
    """A run, as a line of a file has it."""

    run: str  # its signature
    row: str
    stage: str
    config: str  # YAML, as in its folder
    environment: Mapping[str, Any]
    core_seconds: float  # CPU time of its completed epochs, those too that a restart repeated
    records: tuple[dict[str, Any], ...]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] in kinds]

    @property
    def began(self) -> float:
        """Tells two makings of a run apart; seconds since the epoch."""
        return self.records[0]["time"]

    @property
    def finished(self) -> bool:
        return self.records[-1]["kind"] == "finished"

    @property
    def outcome(self) -> dict[str, Any]:
        """What the same config gives again on the same machine, to the last digit. Losses only where they are kept."""
        curve = {r["step"]: (r["loss"], r["losses"]) for r in self.of("train")}
        evaluations = {(r.get("dataset"), r["split"], r["step"]): (r["n"], r["metrics"]) for r in self.of("eval")}
        weights = [record.get("weights_sha256") for record in self.of("finished")]
        return {"losses": curve, "evaluations": evaluations, "weights": weights}

    @property
    def commits(self) -> list[str]:
        """That it was computed at; `-dirty` where there were uncommitted changes at its first start."""
        first = str(self.environment.get("commit") or "?")
        told = dict.fromkeys(record["commit"] for record in self.of("start") if record.get("commit"))
        return [f"{first}-dirty" if self.environment.get("dirty") else first, *(c for c in told if c != first)]

    @property
    def restarts(self) -> int:
        return max(0, len(self.of("start")) - 1)

    @property
    def killed(self) -> int:
        """Restarts after an end without a word."""
        kinds = [record["kind"] for record in self.of("start", "interrupted", "failed")]
        return sum(pair == ("start", "start") for pair in pairwise(kinds))


def differences(one: Kept, other: Kept) -> list[str]:
    """In what two results of one run differ."""
    return [what for what, value in one.outcome.items() if value != other.outcome[what]]


# ---- from a folder


def cut(folder: RunFolder, row: str, stage: str, curve: bool) -> Kept | None:
    """What is kept of a run that has ended; None of another. `curve`: with the loss of each epoch. Raises ConfigError
    where its config is lost."""
    last = folder.journal.last()
    if last is None or last["kind"] not in ENDED:
        return None
    records = folder.journal.records(*FIELDS)
    means = _means([record for record in records if record["kind"] == "train"]) if curve else {}
    records = [means.get(id(r), r) for r in records if r["kind"] != "train" or id(r) in means]
    environment = _only(read_json(folder.environment) or {}, ENVIRONMENT)
    environment["packages"] = _only(environment.get("packages", {}), PACKAGES)
    text = folder.config_file.read_text() if folder.config_file.exists() else folder.config().to_yaml()
    cut = tuple(_only(record, ("time", "kind", *FIELDS[record["kind"]])) for record in records)
    return Kept(folder.signature, row, stage, text, environment, round(_core_seconds(folder), 1), cut)


def _core_seconds(folder: RunFolder) -> float:
    if known := folder.journal.last(CORE_SECONDS):
        return known[CORE_SECONDS]
    start = folder.journal.last("start") or {}
    epochs = folder.journal.records("epoch")
    each = sum(r.get("seconds", 0.0) * r.get("cores", start.get("threads") or 1) for r in epochs)
    return each * (start.get("processes") or 1)


def _only(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Without what says nothing, and without paths."""
    kept = {name: fields[name] for name in names if fields.get(name) not in (None, [], {})}
    return kept | ({"reason": PATH.sub("(path)", kept["reason"])} if "reason" in kept else {})


def _means(records: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """{id of the last train record of an epoch: the same with the means of the epoch's losses}. Of steps that a restart
    repeated the last counts."""
    epochs: dict[int, list[dict[str, Any]]] = {}
    for _, record in sorted({record["step"]: record for record in records}.items()):
        epochs.setdefault(math.ceil(record["epoch"]), []).append(record)
    means = {}
    for its in epochs.values():
        names = dict.fromkeys(name for record in its for name in record["losses"])
        losses = {n: statistics.fmean(float(r["losses"][n]) for r in its if n in r["losses"]) for n in names}
        loss = statistics.fmean(float(record["loss"]) for record in its)
        means[id(its[-1])] = {**its[-1], "loss": loss, "losses": losses}
    return means


# ---- files


def file_of(folder: Path, study: str, seed: int) -> Path:
    return folder / f"{study}-{seed}.jsonl"


def keep(runs: Path, rows: Sequence[Row], file: Path, others: Path | None = None) -> int:
    """Take into the file what has ended of these rows' runs, and return how many that were. What it has of others
    stays, and so does what it has of these: the first making of a run, but that one without uncommitted changes is
    preferred. `others`: a file whose makings are left out. Raises ConfigError for a file that is damaged, and where a
    run has other results than those kept."""
    lines = {kept.run: kept for kept in read(file)} if file.exists() else {}
    before = dict(lines)
    theirs = {(kept.run, kept.began) for kept in read(others)} if others else set()
    places = {config.signature: (row.name, stage) for row in rows for stage, config in row.stages.items()}
    needed = {need for row in rows for config in row.stages.values() for need in config.needs}
    found = 0
    for signature, place in places.items():
        new = cut(RunFolder.of(runs, signature), *place, curve=signature in needed)
        if new is None or (new.run, new.began) in theirs:
            continue
        found += 1
        old = lines.get(signature)
        if old and old.finished and new.finished and (what := differences(old, new)):
            raise ConfigError(
                f"{file}: run {signature} ({' '.join(place)}) has another {what[0]} in {runs}; to take that instead, "
                "delete its line"
            )
        if not old or (new.finished and (not old.finished or old.environment.get("dirty"))):
            lines[signature] = new
    if lines != before:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, "".join(json.dumps(strict(vars(kept)), allow_nan=False) + "\n" for kept in lines.values()))
    return found


def read(file: Path) -> Iterator[Kept]:
    """Raises ConfigError for a line that is none of these."""
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        try:
            yield _parsed(json.loads(line))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ConfigError(f"{file}, line {number}: expected what is kept of a run, found {error}") from None


def _parsed(fields: dict[str, Any]) -> Kept:
    kept = Kept(**fields)
    kept = Kept(**vars(kept) | {"records": tuple(kept.records), "core_seconds": float(kept.core_seconds)})
    if not re.fullmatch(rf"[0-9a-f]{{{SIGNATURE_LENGTH}}}", kept.run):
        raise ValueError(f"a run that is called {kept.run}")
    for record in kept.records:
        if not fits(record, RECORD) or record["kind"] not in FIELDS or not fits(record, KINDS[record["kind"]]):
            raise ValueError(f"the record {json.dumps(record)[:80]}")
    if not isinstance(kept.environment, dict) or kept.records[-1]["kind"] not in ENDED:
        raise ValueError(f"a run without its environment, or without its end: {kept.run}")
    return kept


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
        known = {"time": kept.records[0]["time"], "kind": CORE_SECONDS, CORE_SECONDS: kept.core_seconds}
        folder.journal.path.write_text("".join(json.dumps(record) + "\n" for record in (known, *kept.records)))
        folder.environment.write_text(json.dumps(dict(kept.environment)))
        if started_from:
            folder.weights.write_bytes(NO_TENSORS)
    return unpacked
