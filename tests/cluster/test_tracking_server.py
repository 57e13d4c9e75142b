"""The tracking server on a real PostgreSQL: it is started, ended, killed, and asked by those who may not."""

import importlib.util
import json
import os
import socket
import urllib.error
import urllib.request

import psutil
import pytest
from postgres import PASSWORD, needs_postgresql, postgres  # noqa: F401 (a fixture)
from tracking_server import free_port, tracking_server
from tracking_store import PRETRAIN, Seen, study_run
from writers import measure

from multimae import tracking
from slurm.tracking_server.database import Cluster, Existing, ServerError, private
from slurm.tracking_server.mlflow_server import MlflowServer, Where

needs_auth = pytest.mark.skipif(
    importlib.util.find_spec("flask_wtf") is None, reason="MLflow's authentication needs: pip install 'mlflow[auth]'"
)
STEPS = list(range(1, 41))


def steps_of(uri: str, runs, row: str = "alpha=1") -> list[int]:
    seen = Seen(runs, uri)
    return seen.steps(seen.runs("ablation/smoke")[f"{row} pretrain"], "train/loss")


def answer(uri: str, *, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """(status, text) of a request to the server."""
    headers = {"Content-Type": "application/json"} | {name.title(): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(uri, body, headers), timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def arguments() -> str:
    """Of all processes of this machine, as `ps` shows them."""
    return "\n".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))


@needs_postgresql
@pytest.mark.slow
def test_what_was_logged_is_there_after_an_end_and_after_a_kill(tmp_path):
    runs = tmp_path / "runs"
    study_run(runs).whole()
    with tracking_server() as server:
        server.start()
        assert (server.served / "address").read_text() == server.uri + "\n"
        assert f"ssh -N -L {server.port}:127.0.0.1:{server.port} {socket.gethostname()}" in server.said
        assert tracking.sync(runs, server.uri).ok
        assert steps_of(server.uri, runs) == STEPS and list((server.served / "artifacts").rglob("config.yaml"))
        # What one cannot see from outside: PostgreSQL is on no network.
        database = [process for process in server.processes() if process.name() == "postgres"]
        assert database and not any(process.net_connections("inet") for process in database)

        said = server.refused("--port", str(free_port()))
        assert f"is served at {server.uri} by process {server.process.pid} of" in said and len(said.splitlines()) == 1
        assert (server.served / "address").exists()

        assert server.stop() == 0
        assert not server.processes() and not list((server.folder / "tmp").iterdir())
        assert {file.name for file in server.served.iterdir()} == {"artifacts", "database", "lock", "log"}

        server.start()
        assert steps_of(server.uri, runs) == STEPS
        server.kill()
        assert (server.served / "database/postmaster.pid").exists() and (server.served / "address").exists()
        server.start()
        assert steps_of(server.uri, runs) == STEPS

        # The supervisor alone: what it leaves running is ended by the next one.
        left = [process for process in server.processes() if process.pid != server.process.pid]
        server.process.kill()
        server.process.wait()
        server.start()
        assert steps_of(server.uri, runs) == STEPS
        assert not {process.pid for process in left} & {process.pid for process in server.processes()}

        # PostgreSQL alone: nothing is served that cannot be kept.
        psutil.Process(int((server.served / "database/postmaster.pid").read_text().split()[0])).kill()
        assert server.process.wait(60) == 1 and "PostgreSQL has ended" in server.said
        server.start()
        assert tracking.sync(runs, server.uri).ok and steps_of(server.uri, runs) == STEPS
        assert server.stop() == 0


@needs_postgresql
@needs_auth
@pytest.mark.slow
def test_with_auth_nobody_writes_without_a_password(tmp_path, monkeypatch):
    runs, word = tmp_path / "runs", "a word of Ada's"
    with tracking_server("--auth", "--host", "127.0.0.2") as server:
        server.start()
        uri = (server.served / "address").read_text().strip()
        assert uri == f"http://127.0.0.2:{server.port}" and "ssh" not in server.said
        secrets = [file for file in (server.served / "auth").iterdir() if file.is_file()]
        assert len(secrets) == 3 and not any(file.stat().st_mode & 0o077 for file in secrets)
        password = (server.served / "auth/admin-password").read_text()
        logs = "".join(file.read_text() for file in (server.served / "log").iterdir())
        assert password not in arguments() + server.said + logs

        study_run(runs).whole()
        for name in ("USERNAME", "PASSWORD"):
            monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
        search = "/api/2.0/mlflow/experiments/search?max_results=1"
        assert answer(uri + search)[0] == 401
        assert not tracking.sync(runs, uri).ok
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not the word at all")
        report = tracking.sync(runs, uri)
        assert not report.ok and "401" in str(report) and "the word" not in str(report)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        assert tracking.sync(runs, uri).ok

        # Another, in the experiment that the first has made.
        from mlflow.server import get_app_client

        get_app_client("basic-auth", uri).create_user("ada", word)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", word)
        others = tmp_path / "others"
        study_run(others, PRETRAIN.edit({"masking.alpha": 0.2}), "alpha=0.2").whole()
        assert tracking.sync(others, uri).ok and steps_of(uri, others, "alpha=0.2") == STEPS

        assert server.stop() == 0
        server.start()  # the password is still what it was, and so are the users
        assert (server.served / "auth/admin-password").read_text() == password
        assert steps_of(uri, runs) == STEPS


@needs_postgresql
@pytest.mark.slow
def test_a_server_of_others_is_used_and_its_password_seen_nowhere(postgres, tmp_path):
    runs = tmp_path / "runs"
    study_run(runs).whole()
    wrong = "another-word"
    with tracking_server(MLFLOW_BACKEND_STORE_URI=postgres.url.replace(PASSWORD, wrong)) as server:
        said = server.refused()
        assert "password authentication failed" in said and wrong not in said and PASSWORD not in said
    with tracking_server("--host", "127.0.0.2", "--allow", "mlflow.lab.org") as server:
        (server.served / "backend-uri").write_text(postgres.url)
        assert "chmod 600" in server.refused()
        (server.served / "backend-uri").chmod(0o600)
        server.start()
        uri = (server.served / "address").read_text().strip()
        assert tracking.sync(runs, uri).ok and steps_of(uri, runs) == STEPS
        assert not (server.served / "database").exists()
        logs = "".join(file.read_text() for file in (server.served / "log").iterdir())
        assert PASSWORD not in arguments() + server.said + logs

        # Who it answers: those who call it by its names, and web pages of its own.
        search = f"{uri}/api/2.0/mlflow/experiments/search"
        body = json.dumps({"max_results": 1}).encode()
        assert answer(search, body=body)[0] == 200
        assert answer(search, body=body, host="mlflow.lab.org", origin="https://mlflow.lab.org")[0] == 200
        assert answer(search, body=body, origin=uri)[0] == 200
        assert answer(search, body=body, host="localhost:8000", origin="http://localhost:8000")[0] == 200  # a tunnel
        assert answer(search, body=body, host="rebound.example.org")[0] == 403
        assert answer(search, body=body, origin="http://elsewhere.example.org")[0] == 403
        assert server.stop() == 0


@needs_postgresql
@pytest.mark.slow
def test_a_database_of_an_older_mlflow_is_saved_and_upgraded_when_told(tmp_path, monkeypatch):
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    with tracking_server() as server:
        monkeypatch.setattr("tempfile.tempdir", server.environment["TMPDIR"])
        for name in ("TMPDIR", "PATH"):
            monkeypatch.setenv(name, server.environment[name])
        (server.served / "log").mkdir()
        cluster = Cluster(server.served / "database", server.served / "log", 20)
        cluster.start()
        try:
            engine = utils.create_sqlalchemy_engine(cluster.uri)
            config = utils._get_alembic_config(cluster.uri)
            head = ScriptDirectory.from_config(config).get_current_head()
            Base.metadata.create_all(engine)
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, f"{head}-1")
            engine.dispose()
        finally:
            cluster.stop()
        assert "is of an older MLflow" in server.refused()
        server.start("--upgrade")
        (saved,) = (server.served / "backups").iterdir()
        assert saved.read_bytes()[:5] == b"PGDMP"
        study_run(tmp_path / "runs").whole()
        assert tracking.sync(tmp_path / "runs", server.uri).ok
        assert server.stop() == 0


@needs_postgresql
def test_what_ran_last_on_another_machine_is_not_started_here():
    """Its PostgreSQL may live there, on the same files."""
    with tracking_server() as server:
        database = server.served / "database"
        database.mkdir()
        (database / "postmaster.pid").write_text(f"{os.getpid()}\n{database}\n1\n5432\n\n\n\n")
        (server.served / "running.json").write_text(json.dumps({"host": "node07", "job": "4711"}))
        said = server.refused()
        assert "ran last on node07 (SLURM job 4711)" in said and "--gone node07" in said
        assert "ran last on node07" in server.refused("--gone", "node08") and (database / "postmaster.pid").exists()
        server.refused("--gone", "node07")  # there is no database in it
        assert not (database / "postmaster.pid").exists()


@needs_postgresql
def test_a_port_that_is_taken_is_told():
    with tracking_server() as server, socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        other.listen()
        said = server.refused()
        assert f"cannot listen at 127.0.0.1, port {server.port}" in said and "--port N" in said
        assert not (server.served / "running.json").exists() and not (server.served / "database").exists()
        assert "cannot listen at no.such.host" in server.refused("--host", "no.such.host")


def test_a_folder_without_a_postgresql_says_where_one_comes_from(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("slurm.tracking_server.database.DEBIAN", tmp_path)
    with pytest.raises(ServerError, match="no PostgreSQL server here.*apt-get install postgresql"):
        Cluster(tmp_path / "database", tmp_path, 20)


def test_auth_without_what_it_needs_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerError, match="pip install 'mlflow\\[auth\\]'"):
        MlflowServer(tmp_path, Where("127.0.0.1", 5000), Existing("postgresql://db/mlflow"), auth=True)


@pytest.mark.parametrize(
    "address, uri, password",
    [
        ("postgresql+psycopg://ada:p%2Fw@db:5433/mlflow", "postgresql+psycopg://ada@db:5433/mlflow", "p/w"),
        ("postgresql://ada@db/mlflow?sslmode=require", "postgresql://ada@db/mlflow?sslmode=require", None),
        ("postgresql+psycopg://db/mlflow", "postgresql+psycopg://db/mlflow", None),
    ],
)
def test_the_password_of_an_address_goes_another_way(address, uri, password):
    database = Existing(address)
    assert database.uri == uri and database.environment.get("PGPASSWORD") == password


@pytest.mark.parametrize(
    "address",
    ["sqlite:///swordfish.db", "postgresql://a:swordfish/x@y/z", "postgresql://h/d?password=swordfish", "swordfish:x"],
)
def test_an_address_that_is_none_is_refused_without_its_secret(address):
    with pytest.raises(ServerError, match=r"expected postgresql\+psycopg://USER:PASSWORD@HOST/DATABASE") as told:
        Existing(address)
    assert "swordfish" not in str(told.value) or address.startswith("sqlite")  # a file may be shown


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    file = tmp_path / "admin-password"
    file.write_text("swordfish\n")
    file.chmod(0o640)
    with pytest.raises(ServerError, match=f"chmod 600 {file}") as told:
        private(file)
    assert "swordfish" not in str(told.value)
    file.chmod(0o600)
    assert private(file) == "swordfish"


def test_it_answers_to_its_names_alone():
    here, everywhere = Where("127.0.0.1", 5000), Where("0.0.0.0", 5000, ("mlflow.lab.org",))
    assert here.loopback and here.address == "http://127.0.0.1:5000"
    assert not everywhere.loopback and everywhere.address == f"http://{socket.getfqdn()}:5000"
    assert everywhere.health == "http://127.0.0.1:5000/health"
    hosts, origins = everywhere.security().values()
    assert {"localhost:*", socket.gethostname(), "mlflow.lab.org", "mlflow.lab.org:*"} <= set(hosts.split(","))
    assert "https://mlflow.lab.org" in origins and not {"*", "0.0.0.0", "0.0.0.0:*"} & set(hosts.split(","))


@needs_postgresql
@pytest.mark.slow
def test_writers_at_the_same_time_lose_nothing_though_the_server_goes_away():
    with tracking_server() as server:
        server.start()
        how = {"steps": 60, "pause": 0.25, "processes": 2, "shared": False, "outage": 5.0}
        outcome = measure(server.folder, server, 8, **how)
        assert outcome.ok and outcome.passes_with_problems, outcome
