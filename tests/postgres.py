"""A PostgreSQL server of one's own on loopback, of Debian's package or whatever is on the PATH; it may be killed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "multimae", "mot-de-passe"
SERVER_USER = "postgres"  # for whom it runs where the tests are root's, whom it refuses


def binaries() -> Path | None:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).parent if found else None


needs_postgresql = pytest.mark.skipif(
    binaries() is None, reason="no PostgreSQL server here: apt-get install postgresql (.ci/run does)"
)


class Server:
    def __init__(self, folder: Path):
        self.folder, self.data = folder, folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        words = folder / "password"
        words.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, words):
                shutil.chown(path, SERVER_USER)
        self._run("initdb", "-D", self.data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={words}", "--no-sync")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-l", self.folder / "log", "-o", options, "-w", "start")

    def stop(self, how: str = "fast") -> None:
        """`immediate`: as if it were killed."""
        self._run("pg_ctl", "-D", self.data, "-m", how, "-w", "stop")

    @property
    def runs(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def _run(self, program: str, *words: object) -> None:
        found = binaries()
        assert found
        as_other = ["runuser", "-u", SERVER_USER, "--"] if os.geteuid() == 0 else []
        command = [*as_other, str(found / program), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@contextmanager
def server() -> Iterator[Server]:
    """Runs within. Its folder is none of pytest's, which another user could not enter."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        made = Server(Path(folder))
        made.start()
        try:
            yield made
        finally:
            if made.runs:
                made.stop("immediate")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as made:
        yield made
