"""Whether a job has time to save, between the signal that asks it to and its end: measured, else estimated."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

from multimae.config import ConfigError
from multimae.engine.folder import RunFolder, read_json
from multimae.flops import parameters

from .arrays import stage_of
from .launch import Entry
from .profile import Profile

RUNS, RECORDS = 20, 1000  # that are looked at, of each stage and of each run: the last ones
BYTES = 12  # of a parameter in a checkpoint: itself and AdamW's two moments, in float32


def check(entries: Sequence[Entry], profile: Profile, runs: Path) -> list[str]:
    """What to tell of the lead of these runs, earlier ones among them, whose saves have been measured.

    Raises ConfigError where a save, and the evaluation that it may have to wait for, usually takes longer.
    """
    notes = []
    for stage in dict.fromkeys(stage_of(entry) for entry in entries if entry.action):
        of = [entry for entry in entries if stage_of(entry) == stage and entry.status.state != "refused"]
        saves, evaluations = _measured(entry.folder for entry in of)
        if saves:
            how = f"the median of {len(saves)} saves, with the evaluation that one may wait for"
            seconds = median(saves) + median(evaluations or [0.0])
            longest = max(saves) + max(evaluations, default=0.0)
        else:
            disk = read_json(runs / ".slurm" / f"doctor-{profile.name}.json") or {}
            if not (rate := disk.get("write_bytes_per_second")):
                continue
            how = f"estimated: the doctor wrote {rate / 1e6:,.0f} MB/s to {runs}"
            seconds = longest = max(BYTES * parameters(entry.run.config) / rate for entry in of)
        where = f"profile {profile.name}, stage {stage}"
        mend = f"write `signal_seconds: {10 * math.ceil(longest / 5)}` in the profile"
        lead = f"a job is killed {profile.signal_seconds} s after it is asked to"
        if seconds > profile.signal_seconds:
            raise ConfigError(f"{where}: to save takes {seconds:.0f} s ({how}), and {lead}: {mend}")
        if longest > profile.signal_seconds:
            notes.append(f"{where}: to save once took {longest:.0f} s, and {lead}; if that happens often, {mend}")
    return notes


def _measured(folders: Iterable[RunFolder]) -> tuple[list[float], list[float]]:
    """Seconds of the last saves and of the last evaluations."""
    saves, evaluations = [], []
    for folder in islice((folder for folder in folders if folder.journal.path.exists()), RUNS):
        for record in islice(folder.journal.backwards(), RECORDS):
            if record["kind"] == "checkpoint":
                saves.append(record["seconds"])
            elif record["kind"] == "eval" and "seconds" in record:
                evaluations.append(record["seconds"])
    return saves, evaluations
