"""`--data DIR`: every stage of a study turned to a folder of one's own, and what is told of that folder beforehand."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from multimae.config import SCENES, Classify, ConfigError, RunConfig, Segment
from multimae.listing import class_names, count_images, images_folder, lacking, shown

from .study import Row


def own_folder(given: Iterable[str], recipes: Collection[str] = ()) -> Path | None:
    """The folder of the one word of `--data` that names no data set; raises ConfigError.

    `recipes`: the names of the data that the study reads without it.
    """
    given = list(given)
    folders = [Path(os.path.realpath(text)) for text in given if "=" not in text]
    if not folders:
        return None
    folder, name = folders[0], folders[0].name
    if len(folders) > 1:
        raise ConfigError(f"--data: one folder for all stages, found {len(folders)}; NAME=DIR places single datasets")
    if shown(folder) != str(folder):
        raise ConfigError(f"--data: {shown(folder)} is not UTF-8; rename the folder")
    if lack := lacking(folder / "train"):
        raise ConfigError(f"--data: expected {folder}/train/rgb/<class>/<image>, but {folder / 'train'} {lack}")
    if name == SCENES or name in recipes or not name:
        what = f"the recipes' own '{name}'" if name else "a data set's name"
        hint = "" if name == SCENES or not name else f" (or --data {name}={folder}, if it is that data set)"
        raise ConfigError(
            f"--data: runs are told apart by the folder's name, and '{name}' is not to be told from {what}; "
            f"rename the folder, or reach it by another: mkdir mine && ln -s {folder}/* mine/{hint}"
        )
    if any(text.startswith(f"{name}=") for text in given):
        raise ConfigError(f"--data: '{name}' is the folder {folder} for all stages, so {name}=DIR has no meaning beside it")
    return folder


def own_data(folder: Path, stages: Mapping[str, RunConfig]) -> dict[str, dict[str, Any]]:
    """The edits that turn stages to a folder in the layout `<split>/<modality>/<class>/<image>`; raises ConfigError."""
    return {stage: _edits(folder, config) for stage, config in stages.items()}


def _edits(folder: Path, config: RunConfig) -> dict[str, Any]:
    edits = {"data.name": folder.name, "model.semseg_classes": 133}  # COCO's ids, as in the authors' pseudo labels
    # The recipe's number of images where there are as many, else all of them, however many can be read.
    for split in ("train", "eval"):
        name, limit = config.data.split(split)
        images = _images(folder / name)
        if limit:
            edits[f"data.{split}_samples"] = limit if count_images(images, limit) == limit else None
    if isinstance(config, Classify):
        train = images_folder(folder / config.data.train_split)
        classes = class_names(folder / config.data.train_split)
        if len(classes) < 2:
            raise ConfigError(
                f"--data: classification needs at least two class folders with images in {train}, found {len(classes)}"
            )
        edits["classes"] = len(classes)
    if isinstance(config, Segment):
        edits |= {"classes": 133, "zero_is_unlabelled": False}
    return edits


def _images(split: Path) -> Path:
    """The folder of a split's class folders; raises ConfigError where it has no image."""
    images = images_folder(split)
    lack = lacking(split) or ("" if count_images(images, 1) else "has no image")
    if lack:
        raise ConfigError(f"--data: expected {split}/rgb/<class>/<image>, but {images} {lack}")
    return images


def check_sizes(folder: Path, rows: Iterable[Row]) -> None:
    """Raises ConfigError that tells what to set where the images are too few, for a batch or for what is asked for."""
    problems: dict[str, None] = {}
    for stage, config in (item for row in rows for item in row.stages.items() if item[1].data.name == folder.name):
        for split in ("train", "eval"):
            name, asked = config.data.split(split)
            images = _images(folder / name)
            if asked and (there := count_images(images, asked)) < asked:
                problems[f"{stage}.data.{split}_samples={there} ({asked} are asked for, and there are {there})"] = None
            classes = class_names(folder / name)
            if asked and asked < len(classes):
                few = f"{asked} samples cannot show all {len(classes)} classes"
                problems[f"{stage}.data.{split}_samples={len(classes)} or more ({few})"] = None
        train = config.data.train_samples or count_images(_images(folder / config.data.train_split), config.batch_size)
        if train < config.batch_size:
            problems[f"{stage}.batch_size={train} or less ({config.batch_size} are more than the {train} images)"] = None
    if problems:
        raise ConfigError(f"--data {folder}: set " + "; ".join(f"--set {problem}" for problem in problems))
