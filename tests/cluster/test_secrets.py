"""No piece of a password is printed or lies in a file of the runs that others can read, whatever is done."""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import yaml
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)
from submitit.core import job_environment, utils
from test_cli import TINY
from test_cluster import FIRST, fake_sbatch, plan_of, profile, site  # noqa: F401 (site is a fixture)
from test_snapshot import git
from tracking_store import study_run

from multimae import cli, files, tracking
from multimae.config import Runtime
from multimae.files import write_atomic
from multimae.record import environment
from multimae.redact import PIECE
from multimae.study.display import print_scripts
from slurm.doctor import command as doctor
from slurm.doctor import probe
from slurm.doctor.diagnosis import Diagnosis
from slurm.submission import snapshot
from slurm.submission.cluster import Cluster
from slurm.submission.delayed import DelayedSubmission
from slurm.submission.script import hidden

PASSWORD = "s3cr3t/@#?%:wörd"
TOKEN = "t0k3n 'q7z9x' $HQM3"
ADDRESSES = {
    "raw": f"http://user:{PASSWORD}@127.0.0.1:{{port}}/mlflow",
    "encoded": f"http://user:{quote(PASSWORD, safe='')}@127.0.0.1:{{port}}/mlflow",
    "in the query": f"http://127.0.0.1:{{port}}/mlflow?token={quote(PASSWORD)}",
    "user alone": f"http://{quote(PASSWORD, safe='')}@127.0.0.1:{{port}}",
    "a database": f"postgresql+psycopg2://user:{PASSWORD}@127.0.0.1:{{port}}/mlflow",
    "a database, encoded": f"mysql+pymysql://user:{quote(PASSWORD, safe='')}@127.0.0.1:{{port}}/mlflow",
    "brackets": f"http://[{PASSWORD}@127.0.0.1:{{port}}",
    "a port": f"http://127.0.0.1:{PASSWORD}",
    "two hosts": f"postgresql://user:{PASSWORD}@a,b:1/mlflow",
    "a newline": f"http://user:{PASSWORD}\n@127.0.0.1:{{port}}",
}


def left_of(secret: str, text: str) -> list[str]:
    """The pieces of a secret, raw or encoded, that stand in a text."""
    forms = {secret, quote(secret), quote(secret, safe=""), secret.encode().decode("latin-1"), json.dumps(secret)[1:-1]}
    return [form[i : i + PIECE] for form in forms for i in range(len(form) - PIECE + 1) if form[i : i + PIECE] in text]


def assert_kept(runs: Path, *printed: str) -> None:
    """Nothing that others can read, of files or of what was printed, holds a piece of a secret."""
    for file in (file for file in runs.rglob("*") if file.is_file() and file.stat().st_mode & 0o077):
        printed += (f"{file.name}: {file.read_bytes().decode(errors='replace')}",)
    for text in printed:
        assert not left_of(PASSWORD, text) and not left_of(TOKEN, text), text


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = os.umask(0)  # so that a file is private by intention only
    yield
    os.umask(before)


# ---- tracking


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_a_store_that_fails_tells_no_secret(tmp_path, capfd, closed_port, address, monkeypatch):
    runs, uri = tmp_path / "runs", address.format(port=closed_port)
    study_run(runs).whole()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert cli.main(["sync", "--runs", str(runs)]) == 1
    assert cli.main(["sync", "--runs", str(runs), "--uri", uri]) == 1
    with pytest.raises(SystemExit):
        cli.main(["sync", "--runs", str(runs), "--url", uri])
    with pytest.raises(SystemExit):
        cli.main(["run", "smoke/pretrain", f"--track={uri}"])
    assert cli.main(["run", "smoke/pretrain", "--runtime", f"tracking_uri {uri}"]) == 2
    report = tracking.sync(runs, uri)
    seen = probe._tracking(uri)
    shown = "".join(capfd.readouterr())
    assert "not sent: " in shown and not report.ok and seen["error"]
    assert_kept(tmp_path, shown, str(report), repr(report), json.dumps(seen))


@pytest.mark.slow
@pytest.mark.parametrize("address", ["raw", "encoded", "a database"])
def test_a_run_beside_a_dead_server_tells_no_secret(tmp_path, closed_port, address):
    """The whole command, its follower too: what both print, what they write, and what `ps` shows meanwhile."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    uri = ADDRESSES[address].format(port=closed_port)
    command = [sys.executable, "-m", "multimae", "run", "tiny.yaml", "--runtime", "device=cpu"]
    seen = set()
    with open(tmp_path / "printed", "wb") as printed:
        # Without git: this file may be changed, and the diff of a test is no secret.
        own = {"GIT_DIR": "/nowhere", "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stdout=printed, stderr=printed)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                ours = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                seen |= {" ".join(one.cmdline()) for one in ours}
            time.sleep(0.05)
    said = (tmp_path / "printed").read_text()
    assert process.returncode == 0 and "multimae sync" in said, said
    assert any("multimae.tracking" in words for words in seen)
    assert "not sent" in (tmp_path / "runs/.mlflow.log").read_text()
    assert_kept(tmp_path, *seen)


def test_a_follower_tells_no_secret_when_it_fails(tmp_path, monkeypatch, closed_port):
    """What nobody foresaw, in the process beside a training."""
    runs = tmp_path / "runs"
    (runs / ".mlflow.lock").mkdir(parents=True)  # no file
    study_run(runs).whole()
    follower = tracking.start_follower(runs, ADDRESSES["encoded"].format(port=closed_port))
    assert not follower.stop(timeout=60)
    assert_kept(tmp_path)


# ---- a profile


def secret_profile(**changes):
    how = {"environment": {"TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}, "tracking_uri": ADDRESSES["raw"].format(port=1)}
    setup = ["set -x", f"export TOKEN={shlex.quote(TOKEN)}", f"curl https://{quote(PASSWORD, safe='')}@host/x | bash"]
    return profile(**{**how, "setup": setup, "python": f"env A={shlex.quote(TOKEN)} python"} | changes)


def test_a_submission_keeps_its_secrets_in_private_files(tmp_path, monkeypatch, capfd):
    sent = fake_sbatch(monkeypatch)
    runs, modes = tmp_path / "runs", []
    replace = os.replace

    def looking(source, target):
        modes.append(os.stat(source).st_mode & 0o777 if ".pkl" in str(target) or ".sh" in str(target) else 0o600)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", looking)
    cluster = Cluster(secret_profile(), runs)
    list(cluster.work(plan_of(runs)))
    assert set(modes) == {0o600}
    assert all(f"export TOKEN={shlex.quote(TOKEN)}" in script for script in sent)
    assert all(f"export MLFLOW_TRACKING_URI={shlex.quote(cluster.profile.tracking_uri)}" in script for script in sent)
    kept = [*runs.glob(".slurm/*/*_submission.sh"), *runs.glob(".slurm/*/*.pkl")]
    assert len(kept) == 3 + 6 and {file.stat().st_mode & 0o777 for file in kept} == {0o600}
    pickled = [file.read_bytes().decode(errors="replace") for file in kept if file.suffix == ".pkl"]
    assert not any(left_of(PASSWORD, text) for text in pickled)
    assert_kept(runs, *capfd.readouterr(), repr(secret_profile(python=None)), repr(cluster.profile.runtime("pretrain")))


def test_what_exports_a_secret_is_not_traced_into_the_log(tmp_path):
    cluster = Cluster(secret_profile(setup=["set -x", "shopt -s extglob"]), tmp_path)
    script = cluster.scripts(plan_of(tmp_path), hide=False)[0][1]
    setup = script.partition("# setup\n")[2].partition("export PYTHONPATH")[0]
    done = subprocess.run(["bash", "-c", f"{setup}\necho $TOKEN"], capture_output=True, text=True, check=True)
    assert "+ shopt -s extglob" in done.stderr and TOKEN in done.stdout
    assert_kept(tmp_path, done.stderr)


def test_scripts_are_shown_without_values(tmp_path, capsys):
    from rich.console import Console

    cluster = Cluster(secret_profile(), tmp_path / "runs")
    print_scripts(Console(width=120), cluster.scripts(plan_of(tmp_path)))
    shown = capsys.readouterr().out
    assert_kept(tmp_path, shown)
    assert "export TOKEN='***'" in shown and "export OMP_NUM_THREADS='***'" in shown and "sbatch gets them" in shown
    assert "export MLFLOW_TRACKING_URI='http://***'" in shown and "curl https://***@host/x | bash" in shown
    print_scripts(Console(width=120), Cluster(profile(), tmp_path / "runs").scripts(plan_of(tmp_path)))
    assert "***" not in capsys.readouterr().out
    assert hidden(profile()) == profile()


@pytest.mark.parametrize(
    "text",
    [
        f"tracking_uri: ['{PASSWORD}']",
        f"tracking_uri: {{'{PASSWORD}': 1}}",
        f"environment: '{PASSWORD}'",
        f"environment: ['{PASSWORD}']",
        f"environment: {{TOKEN: ['{PASSWORD}']}}",
        f"environment: {{TOKEN: {{A: '{PASSWORD}'}}}}",
        f"setup: \"export TOKEN='{PASSWORD}'\"",
        f"tracking_uri: http://user:x: {PASSWORD}",
        f"tracking_uri: *{PASSWORD}",
        f"environment: {{TOKEN: !{PASSWORD}}}",
        f"environment: {{TOKEN: !!int '{PASSWORD}'}}",
        f"enviroment: {{TOKEN: '{PASSWORD}'}}",
        f"tracking_url: '{PASSWORD}'",
        f"stages: {{pretrain: {{environment: {{TOKEN: '{PASSWORD}'}}}}}}",
        f"runtime: {{tracking_uri: '{PASSWORD}'}}",
    ],
)
def test_a_profile_that_is_wrong_tells_no_secret(tmp_path, capsys, text):
    (tmp_path / "mine.yaml").write_text(text)
    assert doctor.main([str(tmp_path / "mine.yaml")]) == 2
    printed = "".join(capsys.readouterr())
    assert "mine.yaml" in printed and not left_of(PASSWORD, printed)


def test_the_doctors_job_carries_no_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.scheduler, "sbatch", lambda *_: subprocess.CompletedProcess([], 0, "7\n", ""))
    mine = secret_profile()
    runtime = mine.runtime("", runs=tmp_path / "runs")
    script = doctor._script(mine, "", runtime, tmp_path)
    job = doctor.DoctorJob.submit(script, runtime)
    (pickled,) = job.folder.glob("*.pkl")
    assert pickled.stat().st_mode & 0o777 == 0o600
    assert not left_of(PASSWORD, pickled.read_bytes().decode(errors="replace"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mine.tracking_uri)
    report = probe.ProcessReport(job.folder, probe.JobProcess(0, 0, 1, "7", 0))
    carried = utils.DelayedSubmission.load(pickled).function.runtime.tracking_uri
    report.look("tracking", lambda: probe._tracking(carried))
    report.look("data", lambda: open(f"/{mine.tracking_uri}"))
    found = list(Diagnosis(mine, mine.resources(""), runtime, tmp_path, job.reports()).checks())
    assert any("percent-encoded" in str(check) for check in found)
    assert_kept(tmp_path, *map(str, found))


def test_a_job_that_is_queued_again_has_a_private_pickle(tmp_path, monkeypatch):
    """submitit writes it anew, in the job."""
    file = tmp_path / "7_submitted.pkl"
    DelayedSubmission(probe.Probe(Runtime())).dump(file)
    loaded = utils.DelayedSubmission.load(file)
    loaded.function = Requeued()
    assert job_environment._checkpoint(loaded, file, 3) == ""
    assert file.stat().st_mode & 0o777 == 0o600
    again = utils.DelayedSubmission.load(file)
    assert type(again) is DelayedSubmission and again._timeout_countdown == 3 and list(tmp_path.iterdir()) == [file]


class Requeued:
    def checkpoint(self):
        return DelayedSubmission(probe.Probe(Runtime()))


def test_a_private_file_that_cannot_be_written_leaves_none(tmp_path):
    with pytest.raises(OSError):
        (tmp_path / "there").mkdir()
        (tmp_path / "there/x").touch()
        write_atomic(tmp_path / "there", "", private=True)
    (tmp_path / f".new.{socket.gethostname()}.{os.getpid()}").write_text(
        "of a process that was killed, and open to all"
    )
    write_atomic(tmp_path / "new", "ours", private=True)
    assert sorted(os.listdir(tmp_path)) == ["new", "there"] and (tmp_path / "new").stat().st_mode & 0o777 == 0o600


# ---- the checkout


@pytest.fixture
def checkout(tmp_path) -> Path:
    """One whose tracked files have all been given a password since."""
    root = tmp_path / "checkout"
    files = ["slurm/profiles/site.yaml", "slurm/profiles/local.py", "multimae/ignored.py", "multimae/.env", "key.pem"]
    files += ["own/kept.py"]
    files += ["mine.yaml", "multimae/code.py", "multimae/recipes/a.yaml", "pyproject.toml", "a\nb*.yaml", ".netrc"]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("first\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / ".gitignore").write_text("ignored.py\nuntracked.py\nown/\n")
    git(root, "add", ".gitignore")
    git(root, "commit", "-qm", "second")
    for name in files:
        secret = not name.endswith(("code.py", "recipes/a.yaml", "pyproject.toml"))
        (root / name).write_text(f"password = '{PASSWORD}'\n" if secret else "second\n")
    for name in ("multimae/untracked.py", "slurm/profiles/mine.yaml", "sweeps/id_rsa", "sweeps/new.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("new\n" if name.endswith("new.py") else PASSWORD)
    return root


def test_the_diff_leaves_out_what_may_be_secret_and_says_so(checkout):
    seen = environment.checkout(checkout / "multimae")
    assert seen["dirty"] and not left_of(PASSWORD, json.dumps(seen))
    out = {"slurm/profiles/site.yaml", "slurm/profiles/local.py", "multimae/ignored.py", "multimae/.env", "key.pem"}
    assert set(seen["left_out"]) == out | {"own/kept.py", "mine.yaml", "a\nb*.yaml", ".netrc"}
    for name in ("multimae/code.py", "multimae/recipes/a.yaml", "pyproject.toml"):
        assert f"+++ b/{name}\n" in seen["diff"]
    assert "../sweeps/new.py" in seen["untracked"]


def test_an_address_in_the_diff_is_redacted(checkout):
    encoded = quote(PASSWORD, safe="")
    (checkout / "multimae/code.py").write_text(f"a = 'http://me:{PASSWORD}@host'\nb = 'https://me:{encoded}@host/x'\n")
    (checkout / "pyproject.toml").write_text("x" * environment.DIFF_BYTES)
    seen = environment.checkout(checkout)
    assert "+a = 'http://***'\n+b = 'https://***@host/x'\n" in seen["diff"] and not left_of(PASSWORD, seen["diff"])


def test_a_git_that_is_set_to_show_more_shows_no_more(checkout):
    settings = {"diff.external": "cat", "color.ui": "always", "diff.relative": "true", "diff.renames": "copies"}
    for key, value in settings.items():
        git(checkout, "config", key, value)
    (checkout / "slurm/profiles/site.yaml").rename(checkout / "slurm/profiles/other.yaml")
    git(checkout, "add", "--intent-to-add", "slurm/profiles/other.yaml")
    seen = environment.checkout(checkout / "multimae")
    assert not left_of(PASSWORD, json.dumps(seen)) and "slurm/profiles/other.yaml" in seen["left_out"]
    assert "+second" in seen["diff"] and "\x1b" not in seen["diff"]


def test_where_git_is_stopped_half_way_no_diff_is_told(checkout, monkeypatch):
    git_ = environment._git
    monkeypatch.setattr(environment, "_git", lambda folder, *a: None if a[0] == "ls-files" else git_(folder, *a))
    assert environment.checkout(checkout)["diff"] is None


@pytest.mark.parametrize("installed", [False, True], ids=["checkout", "installed"])
def test_a_snapshot_has_no_profile_and_no_key(checkout, tmp_path, installed):
    if installed:
        (checkout / ".git").rename(tmp_path / "elsewhere")
        (checkout / "multimae/ignored.py").unlink()
        (checkout / "multimae/untracked.py").unlink()
    taken = snapshot.take(tmp_path / "runs", checkout)
    files = {str(file.relative_to(taken)) for file in taken.rglob("*") if file.is_file()}
    code = {"multimae/code.py", "multimae/recipes/a.yaml", "pyproject.toml", "sweeps/new.py", "snapshot.json"}
    assert files == code
    for name in files:
        assert not left_of(PASSWORD, (taken / name).read_text())


# ---- the dev cluster


@pytest.mark.slurm
@pytest.mark.parametrize("nodes", [1, 2])
def test_the_doctor_tells_no_secret(dev_cluster, tmp_path, closed_port, nodes):
    values = {"partition": "main", "nodes": nodes, "tasks_per_node": 2, "signal_seconds": 30, "time_limit": "30"}
    values |= {"runtime": {"device": "cpu", "threads": 1}, "runs": str(tmp_path / "runs")}
    values |= {"environment": {"TOKEN": TOKEN}, "tracking_uri": ADDRESSES["encoded"].format(port=closed_port)}
    (tmp_path / "mine.yaml").write_text(json.dumps(values))
    (tmp_path / "mine.yaml").chmod(0o600)
    command = [sys.executable, "-m", "slurm.doctor", str(tmp_path / "mine.yaml")]
    own = dev_cluster.environment | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=own, capture_output=True, text=True, timeout=300)
    assert f"http://127.0.0.1:{closed_port}: [Errno 111] Connection refused" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0 and f"{2 * nodes} processes met" in done.stdout
    assert_kept(tmp_path, done.stdout, done.stderr)


@pytest.mark.slurm
@pytest.mark.slow
def test_a_study_on_a_cluster_tells_no_secret(site, closed_port):
    """Its jobs know the address all the same: they try it."""
    changes = {"environment": {"TOKEN": TOKEN}, "tracking_uri": ADDRESSES["encoded"].format(port=closed_port)}
    site.profile = site.profile.model_copy(update=changes)
    site.submit()
    site.wait(pretrain_0="done", pretrain_1="done", classify_0="done", classify_1="done")
    told = [log.read_text() for log in site.runs.glob("*/log/mlflow.log")]  # a job gives MLflow five seconds at its end
    assert any(f"http://***@127.0.0.1:{closed_port}/mlflow does not answer" in text for text in told)
    assert_kept(site.runs)
