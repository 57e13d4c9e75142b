"""Many runs that grow at the same time, sent by as many followers through the tracking server on PostgreSQL: is every
point there once?

    python tests/writers.py                     # 64 runs, for a minute, and as long as it takes until all is there
    python tests/writers.py --outage 60         # the server is stopped for a minute in the middle
    python tests/writers.py --shared            # all runs in one folder, whose lock one follower holds at a time

On a cluster each job has a follower, a process of its own (multimae/tracking/follower.py). Here they are threads of a
few processes, because each that imports MLflow takes 300 MB; each has a Syncer of its own, and does what a follower
does every five seconds. With --shared they are threads of one process, which keep each other out by the same lock.
"""

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synthetic_runs import SyntheticRun
from tracking_server import TrackingServer, tracking_server
from tracking_store import PRETRAIN, Seen, study_run

from multimae.tracking.follower import SECONDS_BETWEEN
from multimae.tracking.syncer import Syncer

LAST_SECONDS = 600  # for what is left, once the runs have ended
KEYS = (
    "loss",
    "loss_rgb",
    "loss_depth",
    "epoch",
    "lr",
    "grad_norm",
    "images_per_second",
    "data_seconds",
    "step_seconds",
)


@dataclass
class Outcome:
    runs: int
    points_expected: int
    points_found: int = 0
    points_missing: int = 0
    duplicates: int = 0  # points that are there more than once
    wrong: int = 0  # with another value than the journal's
    mlflow_runs_expected: int = 0
    mlflow_runs_found: int = 0
    finished: int = 0  # of those
    passes: int = 0
    passes_with_problems: int = 0
    longest_pass: float = 0.0  # seconds
    writing: float = 0.0  # seconds that the runs grew
    rest: float = 0.0  # seconds from their end until all was sent

    @property
    def ok(self) -> bool:
        exact = self.points_found == self.points_expected and not (self.points_missing or self.duplicates or self.wrong)
        return exact and self.mlflow_runs_found == self.mlflow_runs_expected == self.finished


def follow(folders: list[tuple[Path, str | None]], uri: str, over: Any, told: Any) -> None:
    """Sync these (runs folder, a signature in it) side by side until `over` is set; then what is left."""
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    passes: list[tuple[float, list[str]]] = []

    def one(runs: Path, signature: str | None, number: int) -> None:
        syncer, signatures = Syncer(runs, uri), [signature] if signature else None
        time.sleep(SECONDS_BETWEEN * number / len(folders))  # jobs do not start at the same moment
        until, arrived = None, False
        while not arrived and (until is None or time.monotonic() < until):
            last = over.is_set()
            until = until or (time.monotonic() + LAST_SECONDS if last else None)
            began = time.monotonic()
            report = syncer.once(signatures, wait=60.0 if last else 0.0)
            passes.append((time.monotonic() - began, report.problems))
            arrived = last and report.ok
            if not arrived:
                over.wait(SECONDS_BETWEEN) if not last else time.sleep(1)

    threads = [threading.Thread(target=one, args=(*place, number)) for number, place in enumerate(folders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put(passes)


def grow(runs: list[SyntheticRun], steps: int, pause: float, server: TrackingServer, outage: float) -> None:
    """Write all journals, step by step; the server is away for `outage` seconds, from a third of them on."""

    def leave() -> None:
        server.stop()
        time.sleep(outage)
        server.start()

    away = threading.Thread(target=leave)
    for run in runs:
        run.start()
    for step in range(1, steps + 1):
        began = time.monotonic()
        for run in runs:
            run.train([step])
        if outage and step == steps // 3:
            away.start()
        time.sleep(max(0.0, pause - (time.monotonic() - began)))
    for run in runs:
        run.epoch(steps // 10)
        run.finish()
    if outage:
        away.join()


def measure(
    folder: Path,
    server: TrackingServer,
    number: int,
    *,
    steps: int,
    pause: float,
    processes: int,
    shared: bool,
    outage: float,
) -> Outcome:
    configs = [PRETRAIN.edit({"seed": seed}) for seed in range(number)]
    places = [folder / "runs" if shared else folder / f"runs{seed}" for seed in range(number)]
    runs = [study_run(place, config, f"seed {config.seed}") for place, config in zip(places, configs, strict=True)]
    context = multiprocessing.get_context("spawn")
    over, told = context.Event(), context.Queue()
    todo = [(run.folder.path.parent, run.folder.signature if shared else None) for run in runs]
    followers = [
        context.Process(target=follow, args=(part, server.uri, over, told))
        for part in (todo[i::processes] for i in range(processes))
        if part
    ]
    for process in followers:
        process.start()
    began = time.monotonic()
    grow(runs, steps, pause, server, outage)
    ended = time.monotonic()
    over.set()
    passes = [one for _ in followers for one in told.get(timeout=LAST_SECONDS + 120)]
    outcome = Outcome(number, number * steps * len(KEYS), mlflow_runs_expected=2 * number)
    outcome.writing, outcome.rest = round(ended - began, 1), round(time.monotonic() - ended, 1)
    outcome.passes, outcome.longest_pass = len(passes), round(max(seconds for seconds, _ in passes), 1)
    outcome.passes_with_problems = sum(bool(problems) for _, problems in passes)
    for process in followers:
        process.join()
    for problem, times in Counter(text[:100] for _, problems in passes for text in problems).most_common(5):
        print(f"{times:5d} x {problem}", file=sys.stderr)
    count(runs, steps, server.uri, outcome)
    return outcome


def count(runs: list[SyntheticRun], steps: int, uri: str, outcome: Outcome) -> None:
    """What MLflow has, beside what the journals say."""
    seen = Seen(runs[0].folder.path.parent, uri)
    shown = seen.all()
    outcome.mlflow_runs_found, outcome.finished = len(shown), sum(run.info.status == "FINISHED" for run in shown)
    ids = {run.data.tags.get("multimae.signature"): run.info.run_id for run in shown}
    for run in runs:
        records = {record["step"]: record for record in run.journal.records("train")}
        assert len(records) == steps
        for key in KEYS:
            target = key.removeprefix("loss_") if key.startswith("loss_") else None
            wanted = {step: r["losses"][target] if target else r[key] for step, r in records.items()}
            run_id = ids.get(run.folder.signature)
            history = seen.client.get_metric_history(run_id, f"train/{key}") if run_id else []
            found = Counter(metric.step for metric in history)
            outcome.points_found += len(history)
            outcome.points_missing += len(wanted.keys() - found.keys())
            outcome.duplicates += sum(times - 1 for times in found.values())
            outcome.wrong += sum(metric.value != wanted.get(metric.step) for metric in history)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=64, help="that grow at the same time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="for which they do (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two steps (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="that the followers share (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="of the server (default: %(default)s)")
    parser.add_argument(
        "--outage", type=float, default=0, help="seconds that the server is away (default: %(default)s)"
    )
    parser.add_argument("--shared", action="store_true", help="all runs in one folder")
    args = parser.parse_args()
    with tracking_server("--workers", str(args.workers)) as server:
        server.start()
        how = {"steps": round(args.seconds / args.pause), "pause": args.pause, "outage": args.outage}
        processes = 1 if args.shared else args.processes
        outcome = measure(server.folder, server, args.runs, processes=processes, shared=args.shared, **how)
    print(json.dumps(asdict(outcome), indent=1))
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
