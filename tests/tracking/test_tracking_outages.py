"""MLflow that is not there, hangs or dies; and the process beside a training that keeps it up to date."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracking_store import CLASSIFY, Seen, empty_store, runs, study_run  # noqa: F401 (fixtures)

from multimae import tracking
from multimae.tracking import store, syncer


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def hanging_port():
    """A server that accepts, and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


@pytest.mark.parametrize("server", ["closed_port", "hanging_port"])
def test_a_store_that_is_not_there_is_told_and_what_it_missed_arrives_later(runs, impatient, server, request):
    study_run(runs).whole()
    port = request.getfixturevalue(server)
    report = tracking.sync(runs, f"http://someone:s3cret@127.0.0.1:{port}")
    assert not report.ok and report.metrics == 0
    assert f"127.0.0.1:{port} does not answer" in str(report) and "s3cret" not in str(report)
    assert tracking.sync(runs).ok
    seen = Seen(runs)
    assert seen.steps(seen.runs("ablation/smoke")["alpha=1 pretrain"], "train/loss") == list(range(1, 41))


def test_the_command_tells_what_it_did_and_where_to_look(runs, capsys, closed_port, impatient):
    study_run(runs).whole()
    assert tracking.main(["--runs", str(runs), "--uri", f"http://127.0.0.1:{closed_port}"]) == 1
    assert "not sent: MLflow at" in capsys.readouterr().out
    assert tracking.main(["--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "1 runs; sent" in out and f"multimae ui --runs {runs}" in out


def test_the_state_of_a_row_that_could_not_be_told_is_told_later(runs, monkeypatch):
    study_run(runs).whole()
    ours, status = syncer.Syncer(runs), store.Store.status
    told = []

    def fails_for_the_row(self, *args):
        told.append(args)
        if len(told) == 2:
            raise ConnectionError("the server went away")
        status(self, *args)

    monkeypatch.setattr(store.Store, "status", fails_for_the_row)
    assert ours.once().problems == ["state of the rows: the server went away"]
    assert ours.once().ok
    assert {run.info.status for run in Seen(runs).all()} == {"FINISHED"}


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    report = tracking.sync(tmp_path / "rums")
    assert report.problems == [f"there is no folder {tmp_path / 'rums'}"]
    assert not list(tmp_path.iterdir())


def test_importing_tracking_imports_neither_mlflow_nor_torch():
    code = "import sys, multimae.tracking; print({'mlflow', 'torch', 'pandas'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# ---- the process beside a training


def test_a_follower_sends_the_rest_when_it_is_stopped(runs):
    follower = tracking.start_follower(runs)
    study_run(runs).whole()
    assert follower.stop(timeout=60)
    seen = Seen(runs)
    assert seen.steps(seen.runs("ablation/smoke")["alpha=1 pretrain"], "train/loss") == list(range(1, 41))


def test_a_follower_of_one_run_sends_that_run(runs):
    one, other = study_run(runs).whole(), study_run(runs, CLASSIFY, stage="classify").whole()
    follower = tracking.start_follower(runs, signature=one.folder.signature)
    assert follower.stop(), follower.log.read_text()
    assert follower.log.parent == one.folder.log
    assert {run.data.tags.get("multimae.signature") for run in Seen(runs).all()} == {one.folder.signature, None}
    assert not (other.folder.path / "mlflow.json").exists()


@pytest.mark.parametrize(
    "uri,server", [("http://h:5000", True), ("postgresql://h/db", True), ("sqlite:///m.db", False)]
)
def test_a_server_is_told_from_a_file(uri, server):
    assert tracking.is_server(uri) == server


def test_a_follower_whose_store_hangs_is_stopped_in_time(runs, hanging_port):
    study_run(runs).whole()
    follower = tracking.start_follower(runs, f"http://127.0.0.1:{hanging_port}")
    assert not follower.stop(timeout=0.5)
    assert follower._process.poll() is not None
    assert tracking.sync(runs).ok


@pytest.mark.slow
def test_a_follower_ends_with_its_parent(runs):
    study_run(runs).whole()
    code = (
        "import os, sys\nfrom multimae.tracking import start_follower\n"
        "follower = start_follower(sys.argv[1])\nprint(follower._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True)
    follower = int(parent.stdout)
    until = time.monotonic() + 60
    while os.path.exists(f"/proc/{follower}/fd/0") and time.monotonic() < until:
        time.sleep(0.2)
    assert not os.path.exists(f"/proc/{follower}/fd/0")
    assert Seen(runs).runs("ablation/smoke")["alpha=1"].info.status == "FINISHED"  # after a last sync


class Server:
    """A real `mlflow server` on loopback."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.port = folder, port
        self.uri = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = [sys.executable, "-m", "mlflow", "server", *address, "--workers", "1"]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eleven processes that never rest
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + 90
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.3)
        raise TimeoutError("mlflow server did not start")

    def kill(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_has_everything_once_in_the_end(runs, closed_port, monkeypatch):
    run = study_run(runs)
    run.start()
    run.train(range(1, 21))
    server = Server(runs.parent, closed_port)
    server.start()
    try:
        assert tracking.sync(runs, server.uri).ok
        server.kill()
        run.train(range(21, 41))
        run.evaluate()
        run.finish()
        assert not tracking.sync(runs, server.uri).ok
        server.start()
        monkeypatch.setattr(syncer, "METRICS_AT_ONCE", 50)
        send, sent = store.Store.log, []

        def dies_after_the_first(self, run_id, *args, **kwargs):
            send(self, run_id, *args, **kwargs)
            sent.append(run_id)
            if len(sent) == 3:
                server.kill()

        monkeypatch.setattr(store.Store, "log", dies_after_the_first)
        assert not tracking.sync(runs, server.uri).ok
        monkeypatch.setattr(store.Store, "log", send)
        server.start()
        assert tracking.sync(runs, server.uri).ok
        seen = Seen(runs, server.uri)
        shown = seen.runs("ablation/smoke")
        assert set(shown) == {"alpha=1", "alpha=1 pretrain"} and shown["alpha=1"].info.status == "FINISHED"
        assert seen.steps(shown["alpha=1 pretrain"], "train/loss") == list(range(1, 41))
        assert seen.artifacts(shown["alpha=1 pretrain"]) == ["config.yaml", "environment.json"]
    finally:
        server.kill()
