"""The server of `multimae ui` is told from a stranger's that took its port while it started."""

import contextlib
import http.server
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from tracking_store import empty_store  # noqa: F401 (a fixture)

from multimae.tracking import listening

ui = importlib.import_module("multimae.tracking.ui")  # `tracking.ui` is its `main`
SERVES = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *words):
        pass


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of somebody else's server, which answers to everything."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_stranger_at_the_port_is_not_ours(stranger):
    with started("-c", "import time; time.sleep(60)") as ours:
        assert not listening.answers(ours, f"http://127.0.0.1:{stranger}/health")


def test_what_speaks_no_http_is_not_ours():
    with socket.create_server(("127.0.0.1", 0)) as server, started("-c", "import time; time.sleep(60)") as ours:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        assert not listening.answers(ours, f"http://127.0.0.1:{server.getsockname()[1]}/health")


@pytest.mark.parametrize("by", ["itself", "a child"])
def test_ours_is_also_where_a_proxy_is_set(by, monkeypatch):
    port = ui._free(0)
    monkeypatch.setattr(urllib.request, "_opener", None)  # which urlopen makes once, of what is set
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{ui._free(0)}")  # as on many clusters; this one is not there
    words = ["-c", SERVES, str(port)]
    if by == "a child":
        words = ["-c", f"import subprocess, sys; subprocess.run([sys.executable, *{words}])"]
    with started(*words) as ours:
        until = time.monotonic() + 30
        while not listening.answers(ours, f"http://127.0.0.1:{port}/") and time.monotonic() < until:
            time.sleep(0.05)
        assert listening.answers(ours, f"http://127.0.0.1:{port}/")
        assert not listening.answers(ours, f"http://127.0.0.1:{ui._free(0)}/"), "nothing listens there"


@pytest.mark.slow
def test_where_the_port_is_taken_while_it_starts_another_is_had(tmp_path, stranger, monkeypatch, empty_store):
    free = ui._free
    # The stranger's is free when it is looked at, as it was a moment ago.
    monkeypatch.setattr(ui, "PORT", stranger)
    looks: list[int] = []

    def as_before(port: int) -> int:
        looks.append(port)
        return port if looks == [stranger] else free(port)

    monkeypatch.setattr(ui, "_free", as_before)
    (runs := tmp_path / "runs").mkdir()
    with ui._server(f"sqlite:///{empty_store}", runs, None) as (process, address):
        assert address != f"http://127.0.0.1:{stranger}"
        assert listening.answers(process, f"{address}/health")
    assert process.poll() is not None, "it goes on after its end"


def test_a_port_that_was_asked_for_and_is_taken_is_refused(tmp_path, stranger, capsys):
    (runs := tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit):
        ui.main(["--runs", str(runs), "--port", str(stranger), "--no-browser"])
    assert f"another process has 127.0.0.1:{stranger}" in capsys.readouterr().err
