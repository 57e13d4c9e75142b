"""What a run needs and is not given: weights from elsewhere; in a folder of one's own, labels, modalities and splits.
Imports no torch."""

import functools
import re
from collections.abc import Collection
from pathlib import Path

from ..config.sections import Folder
from ..data.listing import ENDINGS, class_names, fields_of, images_folder
from ..data.walking import lacking
from .study import Run

MOST_TOLD = 3  # folders that a reason lists
SHORT = re.compile(r"(needs \w+)[\w ,]*: expected ")

classes = functools.cache(class_names)  # all stages of a study ask


def lacks(run: Run, files: Collection[str], own: Path | None) -> str:
    """Why a run can never begin as things are; empty where it can. `files`: names of weights that are given; `own`: the
    folder of one's own that all stages read."""
    if reason := run.config.lacks_weights(files):
        return reason
    data = run.config.data
    return _lacks_data(run, own) if own and isinstance(data, Folder) and data.name == own.name else ""


def short(reason: str) -> str:
    """What is lacking in a folder, or the first of it, in the two words that a cell has room for: `needs labels`. Empty
    of any other reason."""
    found = SHORT.match(reason)
    return found[1] if found else ""


def _lacks_data(run: Run, own: Path) -> str:
    splits = list(dict.fromkeys(data.split(split)[0] for data, split in run.config.reads.values()))
    absent = [split for split in splits if lacking(own / split)]
    there = [split for split in splits if split not in absent]
    fields = [field for field in ENDINGS if field in run.fields]
    missing = {field: [split for split in there if field not in fields_of(own / split)] for field in fields}
    if names := [field for field, its in missing.items() if its] + absent:
        paths = [own / split / field for field, its in missing.items() for split in its]
        paths += [own / split for split in absent]
        return f"needs {', '.join(names)}: expected {_listed(paths)}, not there"
    train = own / run.config.data.train_split
    if "label" in run.fields and (found := len(classes(train))) < 2:
        where = images_folder(train)
        return f"needs labels: expected at least two class folders with images in {where}, found {found}"
    return ""


def _listed(paths: list[Path]) -> str:
    more = f" and {len(paths) - MOST_TOLD} more" if len(paths) > MOST_TOLD else ""
    return f"{', '.join(map(str, paths[:MOST_TOLD]))}{more}"
