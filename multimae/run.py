"""The only place where a task and the engine meet."""

import contextlib
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from .config import ConfigError, Folder, RunConfig, Runtime, TrainingConfig
from .data import about
from .data.datasets import Dataset
from .data.imagefolder import FolderDataset
from .data.listing import SHOWN
from .data.walking import lacking
from .engine.distributed import Processes
from .engine.loop import train
from .engine.task import RunFailed
from .engine.work import work
from .files import sha256
from .record.folder import RunFolder


class DataTask(Protocol):
    """A `Task` or a `Work`, and what is journalled of it."""

    sets: Mapping[str, Dataset]  # `train`, `eval`, `val`, or some of them: what it reads
    weights: tuple[str, str] | None  # (name, SHA-256) of the file that it starts from

    @property
    def class_names(self) -> Sequence[str]: ...

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
            runtime.check_size(config)
            _check_needs(config, runtime)
            if int(os.environ.get("WORLD_SIZE", 1)) > 1:
                Processes.join(runtime)  # of which the first looks at a folder, for all
            torch.manual_seed(config.seed)  # of the initial weights
            task = make_task(config, runtime)
            if isinstance(config, TrainingConfig):
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
        if isinstance(config, TrainingConfig):
            return train(task, config, runtime, folder)
        return work(task, config, runtime, folder)


def _check_needs(config: RunConfig, runtime: Runtime) -> None:
    """Raises ConfigError where a run cannot start from those that it names."""
    needed = {}
    for signature in config.needs:
        folder = RunFolder.of(runtime.runs, signature)
        try:
            folder.check()
            if problem := folder.weights_problem:
                raise ConfigError(problem)
            folder.check_weights()
            needed[signature] = folder.config()
        except ConfigError as error:
            raise ConfigError(f"init: {error}") from None
    config.check_needs(needed)


def same_data(task: DataTask, folder: RunFolder, root: Path | None) -> None:
    """Journal what a run learns from; refuse to continue on anything else. Two folders may have one name."""
    sets, classes = task.sets, list(task.class_names)
    begun = folder.learnt_from
    lacks = list(sets["eval"].lacks) if classes and "eval" in sets else []
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
        more: dict[str, Any] = {"fields": list(next(iter(sets.values())).fields), "classes": classes}
        more |= {"eval_lacks": lacks} if lacks else {}
        folder.journal.write("data", root=where, **_samples(sets), learnt=_learnt(task, folder), **more)
        return
    _refuse_others(sets, begun, folder, root)
    _refuse_other_learning(_learnt(task, folder), begun, folder)
    if begun.get("classes") not in (None, classes):
        raise ConfigError(
            f"run {folder.signature} numbers its classes {', '.join(begun['classes'])}, and {root} gives "
            f"{', '.join(classes)} now. Give the folder it was begun on, or remove {folder.path} to begin anew"
        )


def learnt_from(config: RunConfig, runtime: Runtime, folder: RunFolder) -> None:
    """Refuse to take a run that is done for one that learnt from the folder, or started from the file, given now, where
    that holds others."""
    root, begun = runtime.data_roots.get(config.data.name), folder.learnt_from
    file = runtime.weights.get((config.foreign_weights or "").partition(":")[2])
    if begun and file and file.is_file():
        _refuse_other_learning([[f"weights {config.foreign_weights}", sha256(file)]], begun, folder)
    if not root or not begun or begun.get("fields") is None:  # none is given, or an older version said less
        return
    if lacking(Path(root)) and str(Path(root).absolute()) == begun.get("root"):  # its data were cleared away
        return
    if isinstance(config, TrainingConfig):
        about.check(config, Path(root))  # which may have come to say it since
    try:
        sets = {
            what: FolderDataset(Path(root), data, split, runtime, begun["fields"])
            for what, (data, split) in config.reads.items()
            if isinstance(data, Folder)
        }
    except (ValueError, OSError) as error:
        raise ConfigError(f"run {folder.signature} is done and learnt from {begun.get('root')}; {error}") from error
    _refuse_others(sets, begun, folder, root)


def _samples(sets: Mapping[str, Dataset]) -> dict[str, dict[str, Any]]:
    return {split: {"n": len(data), "fingerprint": data.fingerprint} for split, data in sets.items()}


def _refuse_others(sets: Mapping[str, Dataset], begun: Mapping[str, Any], folder: RunFolder, root: Path | None) -> None:
    if differ := [split for split, samples in _samples(sets).items() if samples != begun.get(split)]:
        raise ConfigError(
            f"run {folder.signature} was begun on other data: its {' and '.join(differ)} samples were those of "
            f"{begun.get('root')}, and {root} differs (number, names or sizes of files). Give other data another name, "
            f"or remove {folder.path} to begin anew"
        )


def _learnt(task: DataTask, folder: RunFolder) -> list[list[str]]:
    """[what, which] of all that the result follows from: samples by their settings and fingerprint, weights by their
    name and hash; then what the runs followed from that this one starts from."""
    config = task.config
    learnt = [
        [f"{what}: {data.said(split, config.fields)}", task.sets[what].fingerprint]
        for what, (data, split) in config.reads.items()
        if what != "eval"
    ]
    learnt += [list(task.weights)] if task.weights else []
    for needed in (RunFolder.of(folder.path.parent, signature) for signature in config.needs):
        made = needed.journal.last("finished") or {}
        learnt += [[f"weights run:{needed.signature}", made["weights_sha256"]]] if made.get("weights_sha256") else []
        learnt += (needed.learnt_from or {}).get("learnt") or []
    return learnt


def _refuse_other_learning(now: list[list[str]], begun: Mapping[str, Any], folder: RunFolder) -> None:
    """Two files may be given under one name, and a run that this one starts from may have been made anew."""
    then = dict(begun.get("learnt") or [])
    for what, which in now:
        if then.get(what, which) != which:
            raise ConfigError(
                f"run {folder.signature} was begun from other {what}: it was {then[what]} (hash or fingerprint), and "
                f"what is there now is {which}. Give what it was begun from, give this another name, or remove "
                f"{folder.path} to begin anew"
            )


def make_task(config: RunConfig, runtime: Runtime) -> Any:
    """What carries out a run: a `Task` of the engine where it trains, else a `Work`."""
    return pkgutil.resolve_name(config.runs)(config, runtime)
