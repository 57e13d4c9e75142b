"""The only place where a task and the engine meet."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .config import Classify, ConfigError, Pretrain, RunConfig, Runtime, Segment, Transfer
from .engine.folder import RunFolder
from .engine.loop import train
from .engine.task import RunFailed, Task
from .flops import check_size
from .listing import differing


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
    root = runtime.data_roots.get(config.data.name)
    with folder.claim() if writer else contextlib.nullcontext():
        if writer:
            folder.create(config)
        else:
            folder.check(config)  # so that no process waits for one that refuses
        if folder.done:
            if writer and root:
                learnt_from(config, folder, root)
            if writer:
                folder.drop_checkpoints()  # of a run that was killed just before it could
            return "finished"
        if writer:
            for note in config.notes():
                print(f"note: {note}", file=sys.stderr, flush=True)
        try:
            check_size(config, runtime)
            if isinstance(config, Transfer) and config.needs:
                _check_source(RunFolder.of(runtime.runs, config.needs))
            torch.manual_seed(config.seed)  # of the initial weights
            task = make_task(config, runtime)
            config.steps_per_epoch(task.train_samples)  # there is one
            if writer:
                same_data(task, folder, root)
        except ValueError as error:  # a setting, the data or a checkpoint that cannot be used
            if writer:
                folder.journal.write("failed", step=0, reason=str(error))
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(str(error)) from error
        except OSError as error:  # of the file system that holds them: it may do better the next time
            if writer:
                folder.journal.write("failed", step=0, reason=str(error))
            raise RunFailed(str(error)) from error
        return train(task, config, runtime, folder)


def _check_source(folder: RunFolder) -> None:
    """Raises ConfigError where a transfer cannot start from this run."""
    try:
        folder.check()
    except ConfigError as error:
        raise ConfigError(f"init: {error}") from None
    if problem := folder.weights_problem:
        raise ConfigError(f"init: {problem}")


def same_data(task: Task, folder: RunFolder, root: Path | None) -> None:
    """Journal what a run learns from; refuse to continue on anything else. Two folders may have one name."""
    sets = {"train": task.train_set, "eval": task.eval_set}
    now = {name: {"n": len(data), "fingerprint": data.fingerprint} for name, data in sets.items()}
    classes = list(task.class_names)
    begun = begun_on(folder)
    if begun is None:
        where = str(Path(root).absolute()) if root else None
        more = {"before": _before(task.config, folder), "fields": list(task.train_set.fields), "classes": classes}
        folder.journal.write("data", root=where, **now, **more)
    elif differ := [name for name in now if now[name] != begun[name]]:
        raise _other_data(folder, begun, root, differ)
    elif begun.get("classes", classes) != classes:
        raise ConfigError(
            f"run {folder.signature} numbers its classes {', '.join(begun['classes'])}, and {root} gives "
            f"{', '.join(classes)} now. Give the folder it was begun on, or remove {folder.path} to begin anew"
        )


def learnt_from(config: RunConfig, folder: RunFolder, root: Path) -> None:
    """Refuse to take a run that is done for one that learnt from `root`, where that holds other samples."""
    begun = begun_on(folder)
    try:
        if begun and (differ := differing(begun, root, config.data)):
            raise _other_data(folder, begun, root, differ)
    except (ValueError, OSError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def _before(config: RunConfig, folder: RunFolder) -> list[str]:
    """Fingerprints of what the run was trained on that this one starts from, and of what that one started from."""
    needed = config.needs if isinstance(config, Transfer) else None
    said = begun_on(RunFolder.of(folder.path.parent, needed)) if needed else None
    return [said["train"]["fingerprint"], *said.get("before", [])] if said else []


def begun_on(folder: RunFolder) -> Mapping[str, Any] | None:
    """What a run's journal says of its data."""
    return next((record for _, record in folder.journal.read() if record["kind"] == "data"), None)


def _other_data(folder: RunFolder, begun: Mapping[str, Any], root: Path | None, differ: list[str]) -> ConfigError:
    return ConfigError(
        f"run {folder.signature} was begun on other data: its {' and '.join(differ)} samples were those of "
        f"{begun['root']}, and {root} differs (number, names or sizes of files). Give other data another name, or "
        f"remove {folder.path} to begin anew"
    )


def make_task(config: RunConfig, runtime: Runtime) -> Task:
    match config:
        case Pretrain():
            from .tasks.pretrain import PretrainTask

            return PretrainTask(config, runtime)
        case Classify():
            from .tasks.classify import ClassifyTask

            return ClassifyTask(config, runtime)
        case Segment():
            from .tasks.segment import SegmentTask

            return SegmentTask(config, runtime)
    raise ConfigError(f"task: nothing runs '{config.task}'")


__all__ = ["RunFailed", "make_task", "run"]
