"""The command `multimae ui`: MLflow's own server over the right store, on loopback, opened where the studies are."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..record.outline import Outline
from ..redact import parse_arguments, public, redacting
from . import dashboards
from .command import add_store_arguments, checked_runs
from .follower import SECONDS_BETWEEN
from .listening import answers
from .store import Store, StoreUnavailable, default_uri
from .syncer import Syncer

HOST, PORT = "127.0.0.1", 5000
LOG = ".ui.log"
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
    if args.port and not uri.startswith("http") and not _free(args.port):
        parser.error(f"--port: another process has {HOST}:{args.port}; choose another, or leave --port out")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server would outlive this
    syncer = Syncer(runs, uri)
    with redacting(uri, *given):
        print(syncer.once(wait=30.0), flush=True)
        pages = _pages(uri, runs)
    if uri.startswith("http"):
        _open(pages, public(uri), args.no_browser)
        return 0
    with contextlib.suppress(KeyboardInterrupt), _server(uri, runs, args.port) as (process, address):
        _open(pages, address, args.no_browser)
        print("Ctrl-C ends it.", flush=True)
        with redacting(uri, *given):
            while process.poll() is None:
                time.sleep(SECONDS_BETWEEN)
                syncer.once()
        print(f"MLflow's server has ended; {runs / LOG} says why", file=sys.stderr)
        return 1
    return 0


def _pages(uri: str, runs: Path) -> dict[str, str]:
    """{experiment that has dashboards: its id}; raises SystemExit where the store cannot be had."""
    try:
        return {name: id for name, (id, tags) in Store(uri, runs).pages().items() if dashboards.NOTE in tags}
    except StoreUnavailable as error:
        raise SystemExit(f"multimae ui: {error}") from None


@contextlib.contextmanager
def _server(uri: str, runs: Path, wanted: int | None) -> Iterator[tuple[subprocess.Popen, str]]:
    """(the process, its address), once it answers, at a free port where none is `wanted`. Raises SystemExit, with the
    place of its log, where it does not begin to."""
    log = runs / LOG
    print("MLflow starts ...", flush=True)
    for number in [wanted] if wanted else [PORT, 0]:
        if not (port := _free(number)):
            continue
        address = f"http://{HOST}:{port}"
        process = _start(uri, runs, port, log)
        try:
            if _begins(process, f"{address}/health"):
                yield process, address
                return
            if process.poll() is None or _free(port):
                break  # it was not for the port, which another server may take before ours has it
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    raise SystemExit(f"multimae ui: MLflow's server does not start; {log} says why")


def _start(uri: str, runs: Path, port: int, log: Path) -> subprocess.Popen:
    with open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"],
            # Not in the arguments, which anyone can read: the address may hold a password.
            env=os.environ | {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=runs.resolve().parent,  # where the artifacts of the default store are
            stdout=output,
            stderr=output,
            start_new_session=True,  # its workers end with it
        )


def _begins(process: subprocess.Popen, health: str) -> bool:
    until = time.monotonic() + STARTS
    while time.monotonic() < until and process.poll() is None:
        if answers(process, health):
            return True
        time.sleep(0.3)
    return False


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
