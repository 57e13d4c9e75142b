"""The processes of `mlflow server`: how they are started, told secrets, asked for and ended."""

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from multimae.files import write_atomic
from multimae.tracking.listening import answers

from . import schema
from .database import Database, ServerError, last_lines, private

READY = 180.0  # seconds; a first start makes MLflow's tables
GRACE = 10.0  # seconds to end in; SLURM kills 30 s after it has asked
ADMIN = "admin"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
# What no process of the server shall have from whoever starts it.
OTHERS = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# In a study's experiment colleagues write what each has trained: with READ, MLflow's default, only who made it may.
AUTH = """\
[mlflow]
default_permission = EDIT
database_uri = {uri}
admin_username = {admin}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True)
class Where:
    """Where it listens, and by which names it is reached."""

    host: str
    port: int
    also: tuple[str, ...] = ()  # names that users give it besides: an alias, a proxy

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def address(self) -> str:
        return f"http://{_bracketed(socket.getfqdn() if self.host in EVERYWHERE else self.host)}:{self.port}"

    @property
    def health(self) -> str:
        return f"http://{_bracketed('127.0.0.1' if self.host in EVERYWHERE else self.host)}:{self.port}/health"

    @property
    def tunnel(self) -> str:
        return f"ssh -N -L {self.port}:{_bracketed(self.host)}:{self.port} {socket.gethostname()}"

    def security(self) -> dict[str, str]:
        """MLflow refuses requests to other names than these, and those of web pages from elsewhere than these."""
        own = {self.host, socket.gethostname(), socket.getfqdn()}
        with contextlib.suppress(OSError):
            own.add(socket.gethostbyname(self.host))
        names = sorted({_bracketed(name) for name in {*LOOPBACK, *own, *self.also} - {*EVERYWHERE}})
        # `[` begins a set of characters in a pattern.
        hosts = [form for name in names for form in (name, f"{name.replace('[', '[[]')}:*")]
        origins = [f"http://{name}:{self.port}" for name in names]
        origins += [f"{scheme}://{name}" for name in self.also for scheme in ("https", "http")]
        return {
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        }

    def check_free(self) -> None:
        kind = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            with socket.socket(kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self.host, self.port))
        except OSError as error:
            raise ServerError(
                f"cannot listen at {self.host}, port {self.port} of {socket.gethostname()}: {error.strerror or error}. "
                "Another port: --port N; a node's own address: --host $(hostname)"
            ) from None


class MlflowServer:
    """`mlflow server`, with its workers a process group of its own."""

    def __init__(self, folder: Path, where: Where, database: Database, auth: bool):
        if auth and importlib.util.find_spec("flask_wtf") is None:
            raise ServerError("--auth needs what MLflow does not bring by itself: pip install 'mlflow[auth]'")
        self.folder, self.where, self._database, self._auth = folder, where, database, auth
        self.log = folder / "log" / "mlflow.log"
        self._process: subprocess.Popen | None = None

    def check_schema(self) -> None:
        """Raises ServerError where the tables are not those of the installed MLflow."""
        found = json.loads(self._python("-P", str(Path(schema.__file__))))
        if found["state"] == schema.OLDER:
            raise ServerError(
                f"the database is of an older MLflow than {found['mlflow']}, which is installed. If it may be changed, "
                "add --upgrade: it saves the database, then does `mlflow db upgrade`"
            )
        if found["state"] == schema.NEWER:
            raise ServerError(
                f"the database is of a newer MLflow than {found['mlflow']}, which is installed; install it"
            )

    def upgrade(self) -> None:
        """Bring the tables to what the installed MLflow expects."""
        self._python("-m", "mlflow", "db", "upgrade", self._database.uri)

    def start(self, workers: int) -> dict[str, object]:
        """Returns by what `end_left` knows it."""
        more = ["--app-name", "basic-auth"] if self._auth else []
        if self._auth:
            self._write_auth()
            self._python(
                "-m", "mlflow.server.auth", "db", "upgrade", "--url", self._database.uri
            )  # else each worker would
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.where.host, "--port", str(self.where.port)]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", str(workers), *more]
        command += ["--uvicorn-opts", "--no-access-log"]
        with open(self.log, "ab", opener=_private) as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends it first
            )
        return {"pid": self._process.pid, "created": psutil.Process(self._process.pid).create_time()}

    def wait_ready(self, stopped: Callable[[], bool]) -> None:
        """Until it answers, or `stopped`. Raises ServerError where it ends, or takes too long."""
        assert self._process
        until = time.monotonic() + READY
        while not stopped():
            self.check()
            if answers(self._process, self.where.health):
                return
            if time.monotonic() > until:
                raise ServerError(f"mlflow server does not answer after {READY:.0f} s\n{last_lines(self.log)}")
            time.sleep(0.3)

    def check(self) -> None:
        assert self._process
        if (code := self._process.poll()) is not None:
            raise ServerError(f"mlflow server has ended (exit code {code})\n{last_lines(self.log)}")

    def stop(self) -> None:
        if self._process:
            _end_group(self._process.pid, self._process.wait)

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in OTHERS}
        own |= self._database.environment | self.where.security()
        own |= {
            "MLFLOW_BACKEND_STORE_URI": self._database.uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of language models' judges; it starts eleven processes
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        if self._auth:
            own["MLFLOW_AUTH_CONFIG_PATH"] = str(self.folder / "auth" / "basic_auth.ini")
            own["MLFLOW_FLASK_SERVER_SECRET_KEY"] = _secret(self.folder / "auth" / "session-key")
        return own

    def _write_auth(self) -> None:
        password = _secret(self.folder / "auth" / "admin-password")
        said = {"uri": self._database.uri, "admin": ADMIN, "password": password}
        text = AUTH.format(**{name: value.replace("%", "%%") for name, value in said.items()})  # configparser's
        write_atomic(self.folder / "auth" / "basic_auth.ini", text, private=True)

    def _python(self, *words: str) -> str:
        """What Python prints, given these words; what it complains of goes to the log."""
        command = [sys.executable, *words]
        with open(self.log, "ab", opener=_private) as log:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
            )
        if done.returncode:
            raise ServerError(f"python {' '.join(words[:4])} failed\n{last_lines(self.log)}")
        return done.stdout


def end_left(pid: int, created: float) -> None:
    """End what a supervisor that was killed has left of its server, on this machine."""
    try:
        left = psutil.Process(pid)
        if abs(left.create_time() - created) < 1:
            _end_group(pid, left.wait if left.status() != psutil.STATUS_ZOMBIE else lambda timeout: None)
    except psutil.NoSuchProcess:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # its workers


def _end_group(pid: int, wait: Callable[..., object]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)  # it tells its workers
        with contextlib.suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            wait(timeout=GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _secret(file: Path) -> str:
    """The secret in a private file, which is made where there is none."""
    if not file.exists():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(file, secrets.token_urlsafe(24), private=True)
    return private(file)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
