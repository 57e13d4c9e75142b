"""The only place where a task and the engine meet."""

import contextlib
import os
from pathlib import Path

import torch

from .config import Classify, ConfigError, Pretrain, RunConfig, Runtime, Segment, Transfer
from .engine.folder import RunFolder
from .engine.loop import train
from .engine.task import RunFailed, Task


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
                folder.drop_checkpoints()  # of a run that was killed just before it could
            return "finished"
        try:
            if isinstance(config, Transfer) and config.needs:
                _check_source(RunFolder.of(runtime.runs, config.needs))
            torch.manual_seed(config.seed)  # of the initial weights
            task = make_task(config, runtime)
            if writer:
                same_data(task, folder, runtime.data_roots.get(config.data.name))
        except ValueError as error:  # a setting, the data or a checkpoint that cannot be used
            if writer:
                folder.journal.write("failed", step=0, reason=str(error))
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(str(error)) from error
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
    begun = next((record for _, record in folder.journal.read() if record["kind"] == "data"), None)
    if begun is None:
        folder.journal.write("data", root=str(root) if root else None, **now)
    elif differ := [name for name in now if now[name] != begun[name]]:
        raise ConfigError(
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
