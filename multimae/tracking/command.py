"""The command `multimae sync`."""

import argparse
from pathlib import Path

from ..engine.sharing import share
from .store import ui_command
from .syncer import sync


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="multimae sync", description="Send to MLflow what it has missed.")
    parser.add_argument("signature", nargs="*", help="the runs to send (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders lie (default: %(default)s)")
    parser.add_argument("--uri", help="of MLflow (default: MLFLOW_TRACKING_URI, else mlflow.db beside the runs)")
    args = parser.parse_args(argv)
    share(args.runs)
    report = sync(args.runs, args.uri, args.signature or None)
    print(report)
    print(f"To look: {ui_command(report.uri, args.runs)} (and choose 'Model training' there)")
    return 0 if report.ok else 1
