"""The tracking server of slurm/tracking_server, run as its users run it, and what it leaves."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from postgres import SERVER_USER, binaries

START = 240  # seconds; it makes a database and MLflow's tables
# PostgreSQL refuses root, which on clusters nobody is. Where the tests are, its programs run as another user.
AS_OTHER = """\
#!/usr/bin/env bash
chown -R {user} "$TMPDIR" {folder}
exec runuser -u {user} -- {program} "$@"
"""


class TrackingServer:
    def __init__(self, folder: Path, *options: str, port: int | None = None, **environment: str):
        self.folder, self.served = folder, folder / "served"
        self.port = port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._options, self._environment = options, environment
        self.process: subprocess.Popen | None = None
        (folder / "tmp").mkdir(exist_ok=True)
        self.served.mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{programs_of(self.folder)}:{os.environ['PATH']}"
        own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        return own | {"PATH": path, "TMPDIR": str(self.folder / "tmp")} | self._environment

    def command(self, *options: str) -> list[str]:
        words = [str(self.served), "--port", str(self.port), "--workers", "2"]
        return [sys.executable, "-m", "slurm.tracking_server", *words, *self._options, *options]

    def refused(self, *options: str) -> str:
        """What it says where it does not start."""
        done = subprocess.run(
            self.command(*options), env=self.environment, capture_output=True, text=True, timeout=START, check=False
        )
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr

    def start(self, *options: str) -> None:
        with open(self.folder / "said", "w") as said:
            self.process = subprocess.Popen(self.command(*options), env=self.environment, stdout=said, stderr=said)
        until = time.monotonic() + START
        while "MLflow is at" not in self.said:  # the address may still be that of one that was killed
            assert self.process.poll() is None and time.monotonic() < until, self.said
            time.sleep(0.1)

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def stop(self) -> int:
        """Its exit code, asked as SLURM and systemd ask."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def processes(self) -> list[psutil.Process]:
        """Its own, MLflow's and PostgreSQL's."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                at_work = process.status() != psutil.STATUS_ZOMBIE
                here = process.cwd().startswith(str(self.folder)) or str(self.served) in process.cmdline()
                if at_work and here:
                    found.append(process)
        return found

    def kill(self) -> None:
        """All at once, as a machine that loses its power."""
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.1)
        if self.process:
            self.process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def programs_of(folder: Path) -> Path:
    """Where PostgreSQL's programs are that may be started here."""
    found = binaries()
    assert found
    if os.geteuid():
        return found
    made = folder / "programs"
    made.mkdir(exist_ok=True)
    for program in ("initdb", "pg_ctl"):
        (made / program).write_text(
            AS_OTHER.format(user=SERVER_USER, folder=folder / "served", program=found / program)
        )
        (made / program).chmod(0o755)
    if not (made / "pg_dump").exists():
        (made / "pg_dump").symlink_to(found / "pg_dump")
    return made


@contextmanager
def tracking_folder() -> Iterator[Path]:
    """None of pytest's, which another user could not enter."""
    folder = Path(tempfile.mkdtemp(prefix="tracking-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def tracking_server(*options: str, **environment: str) -> Iterator[TrackingServer]:
    """One that may be started; what runs of it at the end is killed."""
    with tracking_folder() as folder:
        made = TrackingServer(folder, *options, **environment)
        try:
            yield made
        finally:
            if made.processes():
                made.kill()
