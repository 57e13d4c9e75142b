"""The data of a study: every stage turned to a folder of one's own, and what is told of folders beforehand."""

import contextlib
import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import SCENES, ConfigError, RunConfig, TrainingConfig, Transfer
from ..data import about
from ..data.listing import count_images, fields_of, images_folder, listed
from ..data.subsets import contents, differing, folder_reads
from ..data.walking import lacking, printable
from ..files import sha256
from ..modalities import PSEUDO
from .lacks import classes
from .planning import Plan
from .study import Run

MOST_TOLD = 5  # runs that a message lists
VAL = "val"  # what a folder of one's own has beside `train`


def own_folder(given: Iterable[str], recipes: Collection[str] = ()) -> Path | None:
    """The folder of the one word of `--data` that names no data set; raises ConfigError.

    `recipes`: the names of the data that the study reads without it.
    """
    given = list(given)
    folders = [Path(os.path.realpath(os.path.expanduser(text))) for text in given if "=" not in text]
    if not folders:
        return None
    if "" in given:
        raise ConfigError("--data: expected DIR or NAME=DIR, found ''")
    folder, name = folders[0], folders[0].name
    if len(folders) > 1:
        raise ConfigError(f"--data: one folder for all stages, found {len(folders)}; NAME=DIR places single datasets")
    if printable(folder) != str(folder):
        raise ConfigError(f"--data: {printable(folder)} is not UTF-8; rename the folder")
    if lack := lacking(folder / "train"):
        raise ConfigError(f"--data: expected {folder / 'train'}/rgb/<class>/<image>, but no such folder: it {lack}")
    if name in SCENES or name in recipes or not name:
        what = f"the recipes' own '{name}'" if name else "a data set's name"
        hint = "" if name in SCENES or not name else f" (or --data {name}={folder}, if it is that data set)"
        raise ConfigError(
            f"--data: runs are told apart by the folder's name, and '{name}' is not to be told from {what}; "
            f"rename the folder, or reach it by another: mkdir mine && ln -s {folder}/* mine/{hint}"
        )
    if any(text.startswith(f"{name}=") for text in given):
        raise ConfigError(f"--data: '{name}' is {folder} for all stages; {name}=DIR means nothing beside it")
    return folder


def own_data(folder: Path, stages: Mapping[str, RunConfig]) -> dict[str, dict[str, Any]]:
    """The edits that turn stages to a folder in the layout `<split>/<modality>/<class>/<image>`; raises ConfigError."""
    with _telling():
        return {stage: _edits(folder, config) for stage, config in stages.items()}


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """What cannot be listed is a mistake in the words that say where to look."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"--data: {error}") from error


def _edits(folder: Path, config: RunConfig) -> dict[str, Any]:
    if lacks_truth(folder, config):
        return {}
    edits: dict[str, Any] = {"data.name": folder.name}
    if (inputs := _there(folder, config)) != getattr(config, "inputs", ()):
        edits["inputs"] = list(inputs)
        config = config.edit({"inputs": list(inputs)})
    # The recipe's number of images where there are as many, else all of them, however many can be read.
    for what, (data, split) in config.reads.items():
        name, limit = data.split(split)
        if what == "eval" and lacking(folder / name) and "val" not in config.reads:
            name = VAL
        # A third split, where weights are selected on a second one: a run lacks it where it is not there.
        images = None if name not in (data.train_split, VAL) and lacking(folder / name) else _images(folder / name)
        edits[_setting(what, "split")] = name
        edits[_setting(what, "samples")] = limit if limit and images and count_images(images, limit) == limit else None
    edits |= config.own_data(classes(folder / config.data.train_split))
    said, turned = about.About.of(folder), config.edit(edits)  # from embedded scenes, perhaps, which have no units
    return edits | (about.settings(said, turned) if said and isinstance(turned, TrainingConfig) else {})


def _there(folder: Path, config: RunConfig) -> tuple[str, ...]:
    """Its inputs, from a network's predictions where the folder has those and no others."""
    there = fields_of(folder / config.data.train_split)
    pseudo = {name: field for name, field in PSEUDO.items() if name not in there and field in there}
    return tuple(pseudo.get(source, source) for source in getattr(config, "inputs", ()))


def lacks_truth(folder: Path, config: RunConfig) -> str:
    """What a transfer would predict, where a folder has pseudo labels and no truth to learn from: the transfer stays on
    its recipe's data, as the paper's do. Empty: it has, or is to be told what it lacks."""
    train = folder / config.data.train_split
    there = set(fields_of(train))
    if not isinstance(config, Transfer) or there.isdisjoint(PSEUDO.values()):
        return ""
    truth = config.truth_field
    if truth not in there and PSEUDO.get(truth) in there:
        return truth
    return "class folders" if truth == "label" and not classes(train) else ""


def _setting(what: str, of: str) -> str:
    return f"selection.{of}" if what == "val" else f"data.{what}_{of}"


def _images(split: Path) -> Path:
    """The folder of a split's class folders; raises ConfigError where it has no image."""
    images = images_folder(split)
    if lack := lacking(split) or ("" if count_images(images, 1) else "has no image"):
        raise ConfigError(f"--data: expected {split}/rgb/<class>/<image>, but {images} {lack}")
    return images


def check_sizes(folder: Path, stages: Iterable[tuple[str, Run]]) -> None:
    """Raises ConfigError that tells what to set where the images are too few, for a batch or for what is asked for; and
    where files or modalities are missing, for which every file is listed."""
    stages = [(stage, run) for stage, run in stages if run.config.data.name == folder.name]
    told: dict[str, str] = {}
    with _telling():
        for stage, config in ((stage, run.config) for stage, run in stages):
            for what, (data, split) in config.reads.items():
                name, asked = data.split(split)
                there, kinds = count_images(_images(folder / name), asked or 1), len(classes(folder / name))
                if asked and there < asked:
                    told[f"{stage}.{_setting(what, 'samples')}={there}"] = f"not {asked}: there are no more"
                elif asked and asked < kinds:
                    told[f"{stage}.{_setting(what, 'samples')}={kinds}"] = f"at least: {asked} leave out classes"
            if not isinstance(config, TrainingConfig):
                continue
            batch, (name, asked) = config.batch_size, config.data.split("train")
            samples = count_images(_images(folder / name), asked or batch)
            if samples < batch:
                told[f"{stage}.batch_size={samples}"] = f"at most: {batch} are more than the training samples"
    if told:
        edits = "; ".join(f"--set {edit} ({why})" for edit, why in told.items())
        raise ConfigError(f"--data: what is asked for does not fit the images in {folder}; give {edits}")
    with _telling():
        for _, run in stages:
            reads = folder_reads(run.config)
            if reads[0][1].allow_missing:
                for _, data, split in reads:
                    listed(folder / data.split(split)[0], run.fields)  # which tells of a modality that is not there
            else:
                contents(folder, reads, run.fields)


# ---- what a plan's runs learnt from, and are to read


def other_data(plan: Plan, roots: Mapping[str, Path]) -> list[str]:
    """Raises ConfigError for runs that learnt from other samples than those in the folder that is given now under the
    same name. Returns what to tell where that cannot be said from here.

    The same path says nothing: files in it may have changed. So this lists every folder, and asks for the size of every
    file, once in a process for each set of fields that runs read: seconds for a million files on a local disk, minutes
    on a slow network file system.
    """
    told, wrong = {}, {}
    for entry in plan.entries.values():
        data = entry.run.config.data
        if entry.status.state == "refused":
            continue
        begun = entry.folder.learnt_from or {}
        before = begun.get("root")
        if data.name not in roots or before is None:
            continue
        now = roots[data.name]
        absent = lacking(now)
        if absent and os.path.realpath(before) == os.path.realpath(now):  # its data were cleared away
            continue
        try:
            differ = None if absent else differing(begun, now, entry.run.config)
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"{entry.run.label} learnt from what was {before}, and {now} is not that now: {error}"
            ) from None
        if differ is None:
            told[before] = (
                f"{entry.run.label} learnt from {before}, and --data is {now} now. Whether it holds the same cannot be "
                "said from here; if it does not, rename the folder"
            )
        elif differ:
            wrong[entry.run.label] = f"{entry.folder.signature}: {' and '.join(differ)} samples from {before}"
    if wrong:
        lines = "; ".join(f"{label} (run {what})" for label, what in list(wrong.items())[:MOST_TOLD])
        raise ConfigError(
            f"--data: {len(wrong)} runs learnt from other images than those in {now}: {lines}. Rename this folder, so "
            "that its runs are others; or remove the folders of those runs"
        )
    return list(told.values())


_sha256 = functools.cache(sha256)  # many runs start from one file


def other_weights(plan: Plan, files: Mapping[str, Path]) -> None:
    """Raises ConfigError for runs that started from other weights than those in the file that is given now under the
    same name."""
    for entry in plan.entries.values():
        config, run = entry.run.config, f"{entry.run.label} (run {entry.folder.signature})"
        file = files.get((config.foreign_weights or "").partition(":")[2])
        if not file or not file.is_file() or entry.status.state == "refused":
            continue
        learnt = dict((entry.folder.learnt_from or {}).get("learnt") or [])
        then = learnt.get(f"weights {config.foreign_weights}")
        if then and then != (now := _sha256(file)):
            raise ConfigError(
                f"--weights: {run} started from a file with the SHA-256 {then}, and that of {file} is {now}. Give that "
                "file, or this one another name"
            )


def other_settings(plan: Plan, roots: Mapping[str, Path]) -> None:
    """Raises ConfigError for a run, done or not, whose settings say other than the data set that it reads says of
    itself."""
    for entry in plan.entries.values():
        config = entry.run.config
        if isinstance(config, TrainingConfig) and config.data.name in roots and entry.status.state != "refused":
            try:
                about.check(config, Path(roots[config.data.name]))
            except ConfigError as error:
                raise ConfigError(f"{entry.run.label}: {error}") from None


def unknown_data(plan: Plan, roots: Mapping[str, Path]) -> list[str]:
    """What to tell of data that are still to be read and for which no folder is given."""
    return [f"no folder is known for '{n}'; give it with --data {n}=DIR" for n in _read(plan) if n not in roots]


def absent_data(plan: Plan, roots: Mapping[str, Path]) -> list[str]:
    """What to tell of folders that are still to be read and are not on this machine."""
    lacks = {name: lacking(Path(roots[name])) for name in _read(plan) if name in roots}
    return [f"--data {name}={roots[name]}: the folder {lack}" for name, lack in lacks.items() if lack]


def assumed_sizes(plan: Plan) -> list[str]:
    """What to tell of data that are taken whole, and of which costs are counted by a usual number."""
    taken = {e.run.config.data.name: e.run.config.data.planned for e in plan.todo if not e.run.config.data.trained}
    return [f"costs are counted for {n:,} training images of '{name}', all there are" for name, n in taken.items() if n]


def _read(plan: Plan) -> list[str]:
    return [name for name in dict.fromkeys(e.run.config.data.name for e in plan.todo) if name not in SCENES]
