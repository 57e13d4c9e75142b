"""Searches whose runs are written, not trained: what a run reaches follows from its learning rate."""

import functools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from synthetic_runs import SyntheticRun, finish

from multimae.config import recipe
from multimae.search import Coordinator, Search, Trials, dimensions, make_search, storage_at
from multimae.study import Evaluation, planning

BEST = 1e-3  # rate
MEASURE = Evaluation("segment_ade20k", stage="segment", metric="mIoU")


def search(**options) -> Search:
    """Over the learning rate of a segmentation; `options`: of `make_search`, `searched` and the transfer's `edits`."""
    config = recipe("segment", "smoke").edit(options.pop("edits", {}))
    searched = dimensions(config, options.pop("searched", ["lr"]), options.pop("ranges", {}))
    return make_search("segment", config, MEASURE, searched, title="a segmentation", **options)


def mean_iou(config, share: float = 1.0) -> float:
    """Best at a rate of 1e-3, worse by 10 with each factor of ten, and rising with the share of the training."""
    return 50 * share - 10 * abs(math.log10(config.optimizer.base_lr / BEST))


@dataclass
class Scripted:
    """A `Launcher` whose runs come a quarter further with each wait. `acts`: {number of a start: what its run does
    then}: fail, diverge or die."""

    acts: dict[int, str] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    at_work: dict[str, SyntheticRun] = field(default_factory=dict)
    doomed: dict[str, str] = field(default_factory=dict)
    on_wait: Callable[[], None] = lambda: None

    def start(self, plan: planning.Plan) -> None:
        for entry in plan.todo:
            planning.submit(entry, plan.wanted, "local:1")
            run = SyntheticRun(plan.wanted.runs, entry.run.config)
            if act := self.acts.get(len(self.starts)):
                self.doomed[run.folder.signature] = act
            self.starts.append(run.folder.signature)
            run.start(step=len(run.journal.records("eval")))
            run.beat("training")
            self.at_work[run.folder.signature] = run

    def stop(self, plan: planning.Plan) -> None:
        for signature in plan.entries:
            self.stopped.append(signature)
            self.at_work.pop(signature).end("interrupted", 1, "SIGTERM")

    def wait(self) -> bool:
        for signature, run in list(self.at_work.items()):
            if act := self.doomed.pop(signature, ""):
                del self.at_work[signature]
                if act == "die":
                    run.folder.jobs.write("ended", state="dead", reason="killed by SIGKILL")
                    run.beat("dead")
                else:
                    why = {"reason": act} | ({"diverged": True} if act == "diverge" else {})
                    run.journal.write("failed", step=1, **why)
                    run.beat("failed")
                continue
            self.advance(run)
        self.on_wait()
        return True

    def advance(self, run: SyntheticRun) -> None:
        quarters = len(run.journal.records("eval")) + 1
        evaluate(run, quarters / 4)
        if quarters == 4:
            finish(run.folder, step=4)
            run.beat("finished")
            del self.at_work[run.folder.signature]
        else:
            run.journal.write("checkpoint", step=quarters, seconds=0.1)


def evaluate(run: SyntheticRun, share: float) -> None:
    config = run.config
    run.journal.write(
        "eval",
        step=round(4 * share),
        epoch=share * config.epochs,
        seconds=0.1,
        dataset=config.data.name,
        split=config.data.eval_split,
        n=64,
        fingerprint="abc",
        metrics={"mIoU": mean_iou(config, share)},
    )


@functools.cache
def empty_storage() -> bytes:
    """What SQLite's file holds of a storage in which nothing is yet: to make one takes a while."""
    with tempfile.TemporaryDirectory() as folder:
        storage_at(f"sqlite:///{folder}/optuna.db").engine.dispose()
        return Path(folder, "optuna.db").read_bytes()


def coordinator(runs: Path, searches: list[Search], launcher, number: int = 8, parallel: int = 1, **options):
    runs.mkdir(exist_ok=True)
    if not (runs / "optuna.db").exists():
        (runs / "optuna.db").write_bytes(empty_storage())
    storage = storage_at(f"sqlite:///{runs}/optuna.db")
    trials = [Trials(each, storage) for each in searches]
    return Coordinator(trials, runs, "smoke", launcher, number=number, parallel=parallel, **options)


def carry_out(runs: Path, *searches: Search, launcher: Scripted | None = None, **options) -> Coordinator:
    """To the end."""
    launcher = launcher or Scripted()
    made = coordinator(runs, list(searches), launcher, **options)
    for _ in range(1000):
        if not made.look():
            return made
        launcher.wait()
    raise AssertionError("the search does not end")


def trials_of(made: Coordinator) -> list[tuple]:
    """What there is to know of its trials."""
    (trials,) = made.searches
    return [(t.number, t.params, t.state.name, t.value, t.intermediate_values, t.user_attrs) for t in trials.all()]
