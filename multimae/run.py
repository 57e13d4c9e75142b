"""The only place where a task and the engine meet."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from .config import Classify, ConfigError, Pretrain, RunConfig, Runtime, Segment
from .data.datasets import Dataset, open_dataset
from .data.listing import SHOWN, lacking
from .engine.loop import train
from .engine.task import RunFailed, Task
from .flops import check_size
from .record.folder import RunFolder
from .tasks.classify import ClassifyTask
from .tasks.pretrain import PretrainTask
from .tasks.segment import SegmentTask


class DataTask(Task, Protocol):
    """A task, and what is journalled of it."""

    sets: dict[str, Dataset]
    train_set: Dataset
    eval_set: Dataset

    @property
    def config(self) -> RunConfig: ...


def run(config: RunConfig, runtime: Runtime) -> str:
    """Do one run, or what is left of it, in `runtime.runs/<signature>/`.

    Returns "finished", or "interrupted" when a signal stopped it and calling again will continue it. Every process of a
    distributed run calls this. Raises ConfigError for what the user can mend (a folder that is not what its name says
    is refused), RunFailed when the training failed, RunLocked when another process is writing the run.
    """
    folder = RunFolder.of(runtime.runs, config.signature)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    writer = int(os.environ.get("RANK", 0)) == 0
    with folder.claim() if writer else contextlib.nullcontext():
        if writer:
            folder.create(config)
        else:
            folder.check(config)  # so that no process waits for one that refuses
        if folder.done:
            if writer:
                learnt_from(config, runtime, folder)
                folder.drop_checkpoints()  # of a run that was killed just before it could
            return "finished"
        if writer:
            for note in config.notes():
                print(f"note: {note}", file=sys.stderr, flush=True)
        try:
            check_size(config, runtime)
            if config.needs:
                _check_source(RunFolder.of(runtime.runs, config.needs))
            torch.manual_seed(config.seed)  # of the initial weights
            task = make_task(config, runtime)
            config.total_steps(task.train_samples)  # there is one
            if writer:
                same_data(task, folder, runtime.data_roots.get(config.data.name))
        except (ValueError, OSError) as error:  # a setting, the data or a checkpoint that cannot be used
            if writer:
                folder.journal.write("failed", step=0, reason=str(error))
            if isinstance(error, ConfigError):
                raise
            # A file system may do better the next time.
            raise (RunFailed if isinstance(error, OSError) else ConfigError)(str(error)) from error
        return train(task, config, runtime, folder)


def _check_source(folder: RunFolder) -> None:
    """Raises ConfigError where a transfer cannot start from this run."""
    try:
        folder.check()
        if problem := folder.weights_problem:
            raise ConfigError(problem)
        folder.check_weights()
    except ConfigError as error:
        raise ConfigError(f"init: {error}") from None


def same_data(task: DataTask, folder: RunFolder, root: Path | None) -> None:
    """Journal what a run learns from; refuse to continue on anything else. Two folders may have one name."""
    sets, classes = task.sets, list(task.class_names)
    begun = folder.learnt_from
    lacks = list(task.eval_set.lacks) if classes else []
    if lacks:
        print(
            f"note: the evaluation split has no sample of {len(lacks)} of {len(classes)} classes: "
            f"{', '.join(lacks[:SHOWN])}; the accuracy is of the others",
            file=sys.stderr,
            flush=True,
        )
    if begun is None:
        if folder.saved_step >= 0:
            raise ConfigError(
                f"run {folder.signature} has checkpoints, and no record of what it learnt from: its journal "
                f"{folder.journal.path} is gone or damaged. Put it back, or begin anew: rm -r {folder.path}"
            )
        where = str(Path(root).absolute()) if root else None
        more = {"before": _before(task.config, folder), "fields": list(task.train_set.fields), "classes": classes}
        more |= {"eval_lacks": lacks} if lacks else {}
        folder.journal.write("data", root=where, **_samples(sets), **more)
        return
    _refuse_others(sets, begun, folder, root)
    if begun.get("classes") not in (None, classes):
        raise ConfigError(
            f"run {folder.signature} numbers its classes {', '.join(begun['classes'])}, and {root} gives "
            f"{', '.join(classes)} now. Give the folder it was begun on, or remove {folder.path} to begin anew"
        )


def learnt_from(config: RunConfig, runtime: Runtime, folder: RunFolder) -> None:
    """Refuse to take a run that is done for one that learnt from the folder given now, where that holds others."""
    root, begun = runtime.data_roots.get(config.data.name), folder.learnt_from
    if not root or not begun or begun.get("fields") is None:  # none is given, or an older version said less
        return
    if lacking(Path(root)) and str(Path(root).absolute()) == begun.get("root"):  # its data were cleared away
        return
    try:
        sets = {split: open_dataset(config.data, split, runtime, begun["fields"]) for split in ("train", "eval")}
    except (ValueError, OSError) as error:
        raise ConfigError(f"run {folder.signature} is done and learnt from {begun.get('root')}; {error}") from error
    _refuse_others(sets, begun, folder, root)


def _samples(sets: Mapping[str, Dataset]) -> dict[str, dict[str, Any]]:
    return {split: {"n": len(data), "fingerprint": data.fingerprint} for split, data in sets.items()}


def _refuse_others(sets: Mapping[str, Dataset], begun: Mapping[str, Any], folder: RunFolder, root: Path | None) -> None:
    if differ := [split for split, samples in _samples(sets).items() if samples != begun[split]]:
        raise ConfigError(
            f"run {folder.signature} was begun on other data: its {' and '.join(differ)} samples were those of "
            f"{begun.get('root')}, and {root} differs (number, names or sizes of files). Give other data another name, "
            f"or remove {folder.path} to begin anew"
        )


def _before(config: RunConfig, folder: RunFolder) -> list[str]:
    """Fingerprints of what the run was trained on that this one starts from, and of what that one started from."""
    said = RunFolder.of(folder.path.parent, config.needs).learnt_from if config.needs else None
    return [said["train"]["fingerprint"], *(said.get("before") or [])] if said else []


def make_task(config: RunConfig, runtime: Runtime) -> DataTask:
    match config:
        case Pretrain():
            return PretrainTask(config, runtime)
        case Classify():
            return ClassifyTask(config, runtime)
        case Segment():
            return SegmentTask(config, runtime)
    raise ConfigError(f"task: nothing runs '{config.task}'")
