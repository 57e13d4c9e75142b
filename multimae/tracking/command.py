"""The command `multimae sync`."""

import argparse
from pathlib import Path

from ..config import SIGNATURE_LENGTH
from ..config.settings import nearest, shown
from ..record.folder import RunFolder
from ..record.sharing import share
from ..redact import parse_arguments, redacting
from .store import default_uri, ui_command
from .syncer import sync


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="multimae sync", description="Send to MLflow what it has missed.")
    parser.add_argument("signature", nargs="*", help="the runs to send (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders lie (default: %(default)s)")
    parser.add_argument(
        "--uri",
        help="of MLflow (default: MLFLOW_TRACKING_URI, else mlflow.db beside the runs); one with a password belongs in "
        "that variable, because others can see the arguments of a command",
    )
    args, given = parse_arguments(parser, argv)
    if not args.runs.is_dir():
        parser.error(f"--runs: there is no folder {args.runs}")
    for signature in args.signature:
        named = len(signature) == SIGNATURE_LENGTH
        if not named or not RunFolder.of(args.runs, signature).journal.path.exists():
            runs = [path.parent.name for path in args.runs.glob("*/journal.jsonl")]
            parser.error(f"no run {shown(signature)} has begun in {args.runs}{nearest(signature, runs)}")
    share(args.runs)
    uri = args.uri or default_uri(args.runs)
    with redacting(uri, *given):
        report = sync(args.runs, uri, args.signature or None)
        print(report)
        if report.ok:
            print(f"To look: {ui_command(uri, args.runs)} (and choose 'Model training' there)")
    return 0 if report.ok else 1
