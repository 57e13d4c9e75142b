"""The PostgreSQL behind the tracking server: a cluster of its own, which no network and no other user reaches, or one
that is there already."""

import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlunsplit

import psutil

from multimae.files import user
from multimae.redact import FIX, parse, public

VARIABLE = "MLFLOW_BACKEND_STORE_URI"  # MLflow's own
FILE = "backend-uri"  # in the server's folder; instead of the variable
DEBIAN = Path("/usr/lib/postgresql")  # not on the PATH there
SOCKETS = "multimae-mlflow-"
READY = 300  # seconds; after a crash it repeats what it had logged
STOPPED = 60


class ServerError(RuntimeError):
    """Why the server does not run, and what mends it; without secrets."""


class Database(Protocol):
    uri: str  # without the password: it is seen in arguments and in MLflow's messages
    environment: dict[str, str]  # with which a process may open it

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def alive(self) -> bool: ...

    def left(self) -> bool:
        """Whether it was not ended, on whatever machine."""

    def end_left(self) -> None:
        """End on this machine what was not."""

    def back_up(self, file: Path) -> None: ...


def database_of(folder: Path, cluster: Path, connections: int, environment: Mapping[str, str]) -> Database:
    """The one whose address stands in the environment, or in a private file of `folder`; else its own in `cluster`."""
    if address := environment.get(VARIABLE):
        return Existing(address)
    file = folder / FILE
    return Existing(private(file)) if file.exists() else Cluster(cluster, folder / "log", connections)


def private(file: Path) -> str:
    """What is in a file that nobody else may read."""
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ServerError(f"others may read {file}, which holds a password: chmod 600 {file}")
    return file.read_text().strip()


class Existing:
    """A database of a PostgreSQL server that others look after."""

    def __init__(self, address: str):
        parts = parse(address)
        if parts is None or not parts.scheme.startswith("postgresql") or "password" in parts.query:
            raise ServerError(
                f"{VARIABLE}: expected postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, found {public(address)}; {FIX}"
            )
        password = unquote(parts.password or "")
        self.environment = {"PGPASSWORD": password} if password else {}  # libpq's own
        name, _, host = parts.netloc.rpartition("@")
        self.uri = urlunsplit(parts._replace(netloc=f"{name.partition(':')[0]}@{host}" if name else host))

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def alive(self) -> bool:
        return True  # MLflow says so where it is not, and asks again

    def left(self) -> bool:
        return False

    def end_left(self) -> None:
        pass

    def back_up(self, file: Path) -> None:
        print(f"Nothing was saved of {public(self.uri)} before its schema is changed: that is up to who runs it.")


class Cluster:
    """A cluster of its own: it has no password and listens to no network. Who reaches the socket, in a folder of this
    machine that is its user's alone, is told by the system (`peer`)."""

    def __init__(self, folder: Path, logs: Path, connections: int):
        self.folder, self._log, self._connections = folder, logs / "postgresql.log", connections
        self._pid_file = folder / "postmaster.pid"
        self._programs = programs(folder)
        self._socket = Path()
        self.environment: dict[str, str] = {}

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg://{quote(user())}@/postgres?host={quote(str(self._socket))}"

    def start(self) -> None:
        """Raises ServerError where it does not come up."""
        if self.alive():
            raise ServerError(
                f"PostgreSQL runs already on {self.folder}, and not by this command. To end it: "
                f"{self._programs / 'pg_ctl'} -D {self.folder} stop"
            )
        if not self.folder.exists():
            self._make()
        self._socket = Path(tempfile.mkdtemp(prefix=SOCKETS))  # short, and on a disk of this machine
        settings = f"-c listen_addresses= -c unix_socket_directories={self._socket}"
        settings += f" -c max_connections={self._connections}"
        self._run("pg_ctl", "-D", self.folder, "-l", self._log, "-o", settings, "-t", READY, "-w", "start")

    def stop(self) -> None:
        """At once, but in order: transactions that are not over are undone."""
        sockets = {*self._lines()[4:5], str(self._socket)}
        if self.alive():
            self._run("pg_ctl", "-D", self.folder, "-m", "fast", "-t", STOPPED, "-w", "stop")
        for folder in sockets:
            if Path(folder).name.startswith(SOCKETS):
                shutil.rmtree(folder, ignore_errors=True)

    def alive(self) -> bool:
        """On this machine. What the file names may be dead and not yet buried, or by now another process."""
        try:
            process = psutil.Process(int(self._lines()[0]))
            return process.cwd() == str(self.folder)  # PostgreSQL's processes are in their cluster
        except (IndexError, psutil.Error):
            return False

    def left(self) -> bool:
        return self._pid_file.exists()

    def end_left(self) -> None:
        pid = int((self._lines() or ["0"])[0])
        killed = not self.alive()
        self.stop()
        if killed and psutil.pid_exists(pid):  # PostgreSQL would take that process for its own; else it knows better
            self._pid_file.unlink(missing_ok=True)

    def back_up(self, file: Path) -> None:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        self._run("pg_dump", "--format=custom", f"--file={file}", "-h", self._socket, "-U", user(), "postgres")

    def _make(self) -> None:
        """Beside, then renamed: half of a cluster would never start."""
        beside = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        how = ("--encoding=UTF8", "--locale=C", "--data-checksums", "--auth-local=peer", "--auth-host=reject")
        self._run("initdb", "-D", beside, "-U", user(), *how)
        beside.rename(self.folder)

    def _lines(self) -> list[str]:
        """Of postmaster.pid: process, folder, begin, port, folder of the socket, ..."""
        try:
            return self._pid_file.read_text().splitlines()
        except FileNotFoundError:
            return []

    def _run(self, program: str, *words: object) -> None:
        done = self._do(program, *words)
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise ServerError(f"{program} failed: {' '.join(said) or done.returncode}\n{last_lines(self._log)}")

    def _do(self, program: str, *words: object) -> subprocess.CompletedProcess[str]:
        command = [str(self._programs / program), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def programs(cluster: Path) -> Path:
    """The folder of initdb and pg_ctl: on the PATH, else Debian's, of the version that made the cluster if any."""
    if found := shutil.which("pg_ctl"):
        return Path(found).parent
    made = cluster / "PG_VERSION"
    version = made.read_text().strip() if made.exists() else "*"
    here = sorted(DEBIAN.glob(f"{version}/bin/pg_ctl"), key=lambda file: int(file.parts[-3]))
    if here:
        return here[-1].parent
    raise ServerError(
        f"no PostgreSQL {'server' if version == '*' else version} here: pg_ctl is neither on the PATH nor in "
        f"{DEBIAN}/*/bin. Try: module load postgresql, conda install -c conda-forge postgresql, or "
        f"apt-get install postgresql; or give the address of a server by {VARIABLE}"
    )


def last_lines(log: Path, number: int = 8) -> str:
    """What a log says last, and where it lies."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"{log}:", *(f"  {line}" for line in lines[-number:])])
