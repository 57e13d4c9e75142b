"""The command that keeps the server: one at a time in a folder, ended in order."""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from multimae.files import Locked, locked, write_atomic
from multimae.record.reading import read_json
from multimae.redact import parse_arguments

from .database import FILE, VARIABLE, Database, ServerError, database_of
from .mlflow_server import ADMIN, MlflowServer, Where, end_left

LOOK = 1.0  # seconds between two looks at whether all still runs
# Of a worker: MLflow's pool of connections, and the users' (5 each, 10 more when busy); and some for people.
CONNECTIONS_OF_A_WORKER, CONNECTIONS_BESIDES = 30, 20
TEXT = f"""\
Serves MLflow from FOLDER, on a file system that the machines share, until it is told to stop (SIGTERM, Ctrl-C). What it
needs is there after the first start: nothing to install but PostgreSQL and `pip install -e '.[postgresql]'`.

  FOLDER/address      where runs find it, while it runs:  export MLFLOW_TRACKING_URI=$(cat FOLDER/address)
  FOLDER/artifacts/   files of the runs; users get and send them through the server
  FOLDER/database/    a PostgreSQL cluster of its own, with no password and on no network
  FOLDER/auth/        with --auth: the password of `{ADMIN}` and the key of sessions, for its user's eyes alone
  FOLDER/log/         what MLflow and PostgreSQL say

ways to run it
  python -m slurm.tracking_server FOLDER                       in a terminal of a service node
  sbatch slurm/tracking_server/job.sh FOLDER --auth            as a job; its first lines say what it asks for
  slurm/tracking_server/mlflow.service                         as a unit of systemd, also without root; it says how

who reaches it
  By default this machine alone, from elsewhere through ssh: the command prints the line. On a machine that others use,
  too, whoever is logged in there reaches it: use --auth. `--host $(hostname)` is for compute nodes; then use --auth, in
  a network that you trust: a password goes over http as it is. --auth is MLflow's own (pip install 'mlflow[auth]').
  Sign in as `{ADMIN}` with the password in FOLDER/auth/admin-password, which may be put there before the first start
  (12 characters or more), and make users at ADDRESS/signup. Runs take name and password from MLFLOW_TRACKING_USERNAME
  and MLFLOW_TRACKING_PASSWORD, or from ~/.mlflow/credentials.

another PostgreSQL server
  Its address comes by {VARIABLE} or in FOLDER/{FILE} (chmod 600), never as an argument, which
  all can read: postgresql+psycopg://HOST/DATABASE, with USER:PASSWORD@ before HOST.

when something died
  The same command on the same machine goes on: PostgreSQL recovers by itself, and what was left running is ended first.
  On another machine it is refused, until you say that the old one no longer runs it (--gone HOST).
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m slurm.tracking_server",
        description="A group's MLflow server on PostgreSQL.",
        epilog=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="all that it keeps; made if need be")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=5000, help="(default: %(default)s)")
    parser.add_argument("--workers", type=_number, default=4, help="processes that answer (default: %(default)s)")
    parser.add_argument("--auth", action="store_true", help="ask for name and password")
    parser.add_argument("--allow", action="append", default=[], metavar="NAME", help="another name of it: of a proxy")
    parser.add_argument(
        "--database", type=Path, metavar="DIR", help="where PostgreSQL's files lie, such as a local disk"
    )
    parser.add_argument("--upgrade", action="store_true", help="save the database, then change it for a newer MLflow")
    parser.add_argument("--gone", metavar="HOST", help="that machine, where it ran last, has ended it, or is off")
    args, _ = parse_arguments(parser, argv)
    folder = args.folder.resolve()
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            connections = CONNECTIONS_BESIDES + CONNECTIONS_OF_A_WORKER * args.workers
            cluster = (args.database or folder / "database").resolve()
            database = database_of(folder, cluster, connections, os.environ)
            where = Where(args.host, args.port, tuple(args.allow))
            server = MlflowServer(folder, where, database, args.auth)
            Supervisor(folder, database, server, args.gone).run(args.workers, args.upgrade)
            return 0
    except Locked as error:
        address = folder / "address"
        where_it_is = f" at {address.read_text().strip()}" if address.exists() else ""
        print(f"tracking_server: {folder} is served{where_it_is} by {error.holder}; end that first", file=sys.stderr)
    except (ServerError, OSError) as error:
        print(f"tracking_server: {error}", file=sys.stderr)
    return 1


class Supervisor:
    """Starts the database, then MLflow; ends them the other way round, whatever happens."""

    def __init__(self, folder: Path, database: Database, server: MlflowServer, gone: str | None):
        self._address, self._state = folder / "address", folder / "running.json"
        self._folder, self._database, self._server, self._gone = folder, database, server, gone
        self._told = threading.Event()

    def run(self, workers: int, upgrade: bool) -> None:
        """Returns once it was told to stop. Raises ServerError where it cannot start, or something dies."""
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, lambda *_: self._told.set())
        self._end_left()
        self._server.where.check_free()
        self._note({})
        self._database.start()
        try:
            if upgrade:
                self._database.back_up(self._folder / "backups" / f"{time.strftime('%F-%H%M%S')}.dump")
                self._server.upgrade()
            self._server.check_schema()
            self._note(self._server.start(workers))
            self._server.wait_ready(self._told.is_set)
            if not self._told.is_set():
                write_atomic(self._address, self._server.where.address + "\n")
                self._say()
            while not self._told.wait(LOOK):
                self._server.check()
                if not self._database.alive():
                    raise ServerError(f"PostgreSQL has ended; {self._folder / 'log' / 'postgresql.log'} may say why")
        finally:
            self._address.unlink(missing_ok=True)
            self._server.stop()
            self._database.stop()
            self._state.unlink(missing_ok=True)
        print("stopped", flush=True)

    def _end_left(self) -> None:
        """End what a supervisor that was killed has left. Two PostgreSQL servers on one folder would destroy it, and
        only on the machine itself can be seen whether one still runs there."""
        self._address.unlink(missing_ok=True)
        last = read_json(self._state)
        if not last:
            return
        host, here = last["host"], socket.gethostname()
        if host == here and "pid" in last:
            end_left(last["pid"], last["created"])
        if host not in (here, self._gone) and self._database.left():
            job = f" (SLURM job {last['job']})" if last.get("job") else ""
            raise ServerError(
                f"it ran last on {host}{job}, and was not ended there; two at once would destroy the database. Start "
                f"it on {host}, or see that nothing of it runs there (pgrep -a postgres) and add: --gone {host}"
            )
        self._database.end_left()

    def _note(self, process: dict[str, object]) -> None:
        what = {"host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID")} | process
        write_atomic(self._state, json.dumps(what))

    def _say(self) -> None:
        where = self._server.where
        print(f"MLflow is at {where.address} ({self._address}) on {socket.gethostname()}; Ctrl-C or SIGTERM ends it.")
        if where.loopback:
            print(f"From another machine: {where.tunnel}    # then open, or track to, {where.address}")
        sys.stdout.flush()


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 64:
        raise argparse.ArgumentTypeError(f"expected 1 to 64, found {text}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"expected 1 to 65535, found {text}")
    return int(text)
