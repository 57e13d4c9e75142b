"""The code that jobs run: as it was when they were submitted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from multimae.record import environment
from slurm.submission import snapshot


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A small one, with something that git ignores."""
    root = tmp_path / "checkout"
    (root / "multimae").mkdir(parents=True)
    (root / "multimae/__init__.py").write_text("value = 1\n")
    (root / "multimae/big.bin").write_text("ignored")
    (root / "pyproject.toml").write_text("")
    (root / "README.md").write_text("")
    (root / ".gitignore").write_text("*.bin\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def test_a_clean_checkout_is_named_by_its_commit(tmp_path, checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "README.md").write_text("what is not code makes no difference")
    taken = snapshot.take(tmp_path / "runs", checkout)
    assert taken == tmp_path / "runs/.code" / commit[:12]
    record = json.loads((taken / "snapshot.json").read_text())
    assert (record["commit"], record["dirty"]) == (commit, False)
    files = sorted(str(f.relative_to(taken)) for f in taken.rglob("*") if f.is_file())
    assert files == ["multimae/__init__.py", "pyproject.toml", "snapshot.json"]
    assert snapshot.take(tmp_path / "runs", checkout) == taken  # shared


def test_what_is_not_committed_is_in_it_and_in_its_name(tmp_path, checkout):
    (checkout / "multimae/__init__.py").write_text("value = 2\n")
    (checkout / "multimae/new.py").write_text("")
    first = snapshot.take(tmp_path, checkout)
    assert (first / "multimae/__init__.py").read_text() == "value = 2\n"
    assert (first / "multimae/new.py").exists()
    record = json.loads((first / "snapshot.json").read_text())
    assert record["commit"] == git(checkout, "rev-parse", "HEAD") and record["dirty"] and "+value = 2" in record["diff"]
    (checkout / "multimae/new.py").write_text("more = 3\n")
    second = snapshot.take(tmp_path, checkout)
    assert second != first and (first / "multimae/new.py").read_text() == ""


def test_a_file_that_was_deleted_is_not_in_it(tmp_path, checkout):
    (checkout / "pyproject.toml").unlink()
    assert not (snapshot.take(tmp_path, checkout) / "pyproject.toml").exists()


def test_outside_of_git_the_installed_packages_are_copied(tmp_path, checkout):
    (checkout / ".git").rename(tmp_path / "elsewhere")
    taken = snapshot.take(tmp_path / "runs", checkout)
    assert taken.name.startswith("installed-")
    assert json.loads((taken / "snapshot.json").read_text())["commit"] is None
    assert (taken / "multimae/__init__.py").exists()


def test_an_installation_in_somebody_elses_checkout_is_none_of_it(tmp_path, checkout):
    """An environment that nobody told git to ignore: its files are untracked, the commit is another project's."""
    site = checkout / "env/site-packages"
    shutil.copytree(checkout / "multimae", site / "multimae")
    taken = snapshot.take(tmp_path / "runs", site)
    assert taken.name.startswith("installed-")
    record = json.loads((taken / "snapshot.json").read_text())
    assert (record["commit"], record["dirty"]) == (None, None)
    assert (taken / "multimae/__init__.py").exists()
    assert environment.checkout(site / "multimae")["commit"] is None


def test_a_snapshot_that_was_begun_and_not_ended_is_not_seen(tmp_path, checkout, monkeypatch):
    monkeypatch.setattr(snapshot, "write_atomic", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        snapshot.take(tmp_path / "runs", checkout)
    assert list((tmp_path / "runs/.code").iterdir()) == []


def test_a_job_runs_the_snapshot_and_names_its_commit(tmp_path):
    """As a job's script starts Python: the editable install of the checkout would win without it."""
    taken = snapshot.take(tmp_path)
    code = (
        "import json, multimae, slurm, analysis\n"
        "from multimae.record import environment\n"
        "files = [multimae.__file__, slurm.__file__, analysis.__file__]\n"
        "print(json.dumps([files, environment.capture()['commit']]))\n"
    )
    own = os.environ | {"PYTHONPATH": str(taken)}
    words = subprocess.run([sys.executable, "-c", code], cwd=taken, env=own, check=True, capture_output=True)
    files, commit = json.loads(words.stdout)
    assert all(Path(file).is_relative_to(taken) for file in files)
    assert commit == json.loads((taken / "snapshot.json").read_text())["commit"]
