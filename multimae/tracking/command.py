"""The command `multimae sync`."""

import argparse
import contextlib
import time
from pathlib import Path

from ..config import SIGNATURE_LENGTH
from ..config.settings import nearest, shown
from ..record.folder import RunFolder
from ..record.sharing import share
from ..redact import parse_arguments, redacting
from .store import default_uri
from .syncer import Syncer

SECONDS_BETWEEN_LOOKS = 10.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="multimae sync", description="Send to MLflow what it has missed.")
    parser.add_argument("signature", nargs="*", help="the runs to send (default: all)")
    parser.add_argument("--watch", action="store_true", help="go on until Ctrl-C, and send what comes")
    add_store_arguments(parser)
    args, given = parse_arguments(parser, argv)
    runs = checked_runs(parser, args.runs)
    for signature in args.signature:
        check_begun(parser, runs, signature)
    uri = args.uri or default_uri(runs)
    with redacting(uri, *given):
        syncer = Syncer(runs, uri)
        report = syncer.once(args.signature or None, wait=30.0)
        print(report, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while args.watch:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                before, report = report, syncer.once(args.signature or None)
                if report.metrics or report.files or report.problems != before.problems:
                    print(report, flush=True)
        if report.ok:
            print(f"To look: multimae ui --runs {args.runs}")
    return 0 if report.ok else 1


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders lie (default: %(default)s)")
    parser.add_argument(
        "--uri",
        help="of MLflow (default: MLFLOW_TRACKING_URI, else mlflow.db beside the runs); one with a password belongs in "
        "that variable, because others can see the arguments of a command",
    )


def checked_runs(parser: argparse.ArgumentParser, runs: Path) -> Path:
    if not runs.is_dir():
        parser.error(f"--runs: there is no folder {runs}")
    share(runs)
    return runs


def check_begun(parser: argparse.ArgumentParser, runs: Path, signature: str) -> None:
    named = len(signature) == SIGNATURE_LENGTH
    if not named or not RunFolder.of(runs, signature).journal.path.exists():
        begun = [path.parent.name for path in runs.glob("*/journal.jsonl")]
        parser.error(f"no run {shown(signature)} has begun in {runs}{nearest(signature, begun)}")
