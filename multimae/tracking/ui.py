"""The command `multimae ui`: MLflow's own server over the right store, on loopback, opened where the studies are."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..record.outline import Outline
from ..redact import parse_arguments, public, redacting
from . import dashboards
from .command import add_store_arguments, checked_runs
from .follower import SECONDS_BETWEEN
from .store import Store, StoreUnavailable, default_uri
from .syncer import Syncer

HOST, PORT = "127.0.0.1", 5000
STARTS = 120.0  # seconds that a server may take to answer
START = "#/experiments?workflowType=machine_learning"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="multimae ui",
        description="Open MLflow's page with a dashboard of each study; sends what MLflow has missed, for as long as "
        "it is open. Where MLFLOW_TRACKING_URI is a server, that is opened, and none is started.",
    )
    add_store_arguments(parser)
    parser.add_argument("--port", type=int, help=f"of loopback (default: {PORT}, or a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the addresses only")
    args, given = parse_arguments(parser, argv)
    runs = checked_runs(parser, args.runs)
    uri = args.uri or default_uri(runs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server would outlive this
    syncer = Syncer(runs, uri)
    with redacting(uri, *given):
        print(syncer.once(wait=30.0), flush=True)
        pages = _pages(uri, runs)
    if uri.startswith("http"):
        _open(pages, public(uri), args.no_browser)
        return 0
    port = args.port or _free(PORT) or _free(0)
    if not _free(port):
        parser.error(f"--port: another process has {HOST}:{port}; choose another, or leave --port out")
    with contextlib.suppress(KeyboardInterrupt), _server(uri, runs, port) as process:
        _open(pages, f"http://{HOST}:{port}", args.no_browser)
        print("Ctrl-C ends it.", flush=True)
        with redacting(uri, *given):
            while process.poll() is None:
                time.sleep(SECONDS_BETWEEN)
                syncer.once()
    return 0


def _pages(uri: str, runs: Path) -> dict[str, str]:
    """{experiment that has dashboards: its id}; raises SystemExit where the store cannot be had."""
    try:
        return {name: id for name, (id, tags) in Store(uri, runs).pages().items() if dashboards.NOTE in tags}
    except StoreUnavailable as error:
        raise SystemExit(f"multimae ui: {error}") from None


@contextlib.contextmanager
def _server(uri: str, runs: Path, port: int) -> Iterator[subprocess.Popen]:
    """Answers within. Raises SystemExit, with the place of its log, where it does not begin to."""
    log = runs / ".ui.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"],
            # Not in the arguments, which anyone can read: the address may hold a password.
            env=os.environ | {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=runs.resolve().parent,  # where the artifacts of the default store are
            stdout=output,
            stderr=output,
            start_new_session=True,  # its workers end with it
        )
    try:
        print("MLflow starts ...", flush=True)
        _wait(process, port, log)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    until = time.monotonic() + STARTS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
            return
        time.sleep(0.3)
    raise SystemExit(f"multimae ui: MLflow's server does not start; {log} says why")


def _open(pages: Mapping[str, str], address: str, no_browser: bool) -> None:
    for name, id in pages.items():
        print(f"\n{name}")
        for dashboard in dashboards.dashboards(Outline(), ()):
            print(f"  {dashboard.title:<26}{address}/{dashboard.link(id)}")
    print(f"\nMLflow: {address}/{START}", flush=True)
    if not no_browser:
        webbrowser.open(f"{address}/{START}")


def _free(port: int) -> int:
    """The port, if it is free; one that is, for 0; else 0."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError:
            return 0
        return tried.getsockname()[1]
