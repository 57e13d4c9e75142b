"""A wheel is all that a user needs: installed where no checkout is near, it plans, trains and submits."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[1]
PACKAGES = ("multimae/", "slurm/", "sweeps/", "analysis/")
TINY = {"epochs": 0.5, "data.train_samples": 256, "data.eval_samples": 32, "data.render_size": 64}
STUDY = ("-m", "sweeps.alpha_ablation")
STAGES = ("pretrain", "classify", "segment")
TAKE = (
    "import json; from slurm.submission.snapshot import take; t = take('runs')\n"
    "print(json.dumps([str(t), json.loads((t / 'snapshot.json').read_text())['commit']]))"
)


def python(*words: object, cwd: Path, **environment: str) -> str:
    """What a fresh interpreter prints in `cwd`; it finds this environment's packages, and no checkout by its path."""
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    command = [sys.executable, *map(str, words)]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=cwd, env=own | environment, timeout=600, **output)
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what git tracks, as it is now, and of what a user may have put there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("git tells which files are ours, and this is no checkout")
    folder = tmp_path_factory.mktemp("source")
    for name in listed.stdout.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """Built as `pip install .` builds it, but from what the environment has: no network."""
    (source / "slurm/profiles/ours.yaml").write_text("environment: {TOKEN: swordfish}\n")
    out = tmp_path_factory.mktemp("wheel")
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source, cwd=out)
    (source / "slurm/profiles/ours.yaml").unlink()
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """Where the wheel is installed."""
    folder = tmp_path_factory.mktemp("site")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


def ours(names) -> list[str]:
    return sorted(name for name in names if name.startswith(PACKAGES))


def files(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]


def code(folder: Path) -> list[str]:
    return ours(name for name in files(folder) if "__pycache__" not in name)


def test_a_wheel_has_every_file_of_the_packages_and_nothing_else(source, wheel, tmp_path):
    assert ours(zipfile.ZipFile(wheel).namelist()) == code(source)
    backend = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    python("-c", backend, tmp_path, cwd=source)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[-1] for member in archive if member.isfile()}
    assert set(code(source)) | {"pyproject.toml", "README.md", "tests/lowest.py", "tests/golden/site.sbatch"} <= names
    assert "slurm/profiles/ours.yaml" not in names


def test_what_needs_no_torch_works_from_an_installation(site, tmp_path):
    def run(*words: object) -> str:
        return python(*words, cwd=tmp_path, PYTHONPATH=str(site), COLUMNS="200")

    where = "import multimae, slurm, sweeps, analysis as a; print(multimae.__path__, slurm.__path__, a.__path__)"
    assert run("-c", where).count(str(site)) == 3
    assert run("-c", "from multimae.config import recipes; print(recipes())").count("smoke/") == 9
    assert "python -m sweeps.alpha_ablation --cluster PROFILE" in run(*STUDY, "--help")
    assert "Would run 14 runs" in run(*STUDY, "--dry-run")
    assert "Table 10" in run("-m", "sweeps.alpha_ablation", "--table", "--runs", ".")
    assert "usage: python -m slurm.doctor" in run("-m", "slurm.doctor", "--help")
    assert all(os.access(site / "slurm/devcluster" / name, os.X_OK) for name in ("install", "start", "stop"))

    scripts = run(*STUDY, "--cluster", "site", "--dry-run", "--runs", "runs")
    assert not (tmp_path / "runs").exists()
    path, commit = json.loads(run("-c", TAKE))
    # Profiles are kept to oneself, and no job reads one, nor results.
    kept = [name for name in code(site) if not name.startswith(("slurm/profiles/", "analysis/results/"))]
    assert commit is None and code(Path(path)) == kept
    for name in ("restart.sh", "deadline.sh"):
        assert scripts.count(f"bash {path}/slurm/{name} ") == 3 and (Path(path) / "slurm" / name).exists()


def test_a_script_of_a_checkout_tells_that_it_runs_installed_code(site, source, tmp_path):
    """After `pip install .` without -e, what is edited in the checkout would be without effect, and without a word."""
    script = source / "sweeps/alpha_ablation.py"
    assert f"with the packages in {site}" in python(script, "--dry-run", cwd=tmp_path, PYTHONPATH=str(site))
    assert "with the packages" not in python(script, "--dry-run", cwd=tmp_path, PYTHONPATH=str(source))


def tiny(stages: dict[str, dict[str, object]]) -> list[str]:
    edits = [f"{stage}.{key}={value}" for stage, own in stages.items() for key, value in (TINY | own).items()]
    return [word for edit in edits for word in ("--set", edit)]


@pytest.mark.slow
def test_a_study_trains_from_an_installation(site, tmp_path):
    def run(*words: object) -> str:
        return python(*words, cwd=tmp_path, PYTHONPATH=str(site))

    words = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    run("-m", "multimae", "run", "smoke/pretrain", *words, "--runtime", "threads=1", "--runs", "one")
    (environment,) = tmp_path.glob("one/*/environment.json")
    assert json.loads(environment.read_text())["commit"] is None
    assert list(tmp_path.glob("one/*/weights.safetensors")) and (tmp_path / "mlflow.db").exists()

    said = run(*STUDY, "--only", "alpha=1", *tiny({stage: {} for stage in STAGES}))
    assert re.search(r"alpha=1 +\d", said[said.index("Table 10") :]) and "missing" not in said


@pytest.mark.slurm
@pytest.mark.slow
def test_a_study_is_submitted_from_an_installation_and_queued_again(site, dev_cluster, tmp_path):
    settings = {"device": "cpu", "threads": 1, "log_every_steps": 1, "timeout_minutes": 1, "checkpoint_minutes": 0.05}
    asked = {"nodes": 2, "tasks_per_node": 1, "time_limit": 30, "signal_seconds": 20}
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(asked | {"runs": str(tmp_path / "runs"), "runtime": settings}))
    edits = tiny({"pretrain": {"epochs": 6, "data.train_samples": 1024}, "classify": {}, "segment": {}})
    words = [*STUDY, "--cluster", "ours.yaml", "--only", "alpha=1", *edits]
    conf = dev_cluster.environment["SLURM_CONF"]

    def launcher(*more: str) -> str:
        return python(*words, *more, cwd=tmp_path, PYTHONPATH=str(site), SLURM_CONF=conf)

    def records(name: str, **wanted: str) -> list[dict]:
        """The lines of this file of all runs that say what is wanted."""
        lines = [json.loads(line) for file in tmp_path.glob(f"runs/*/{name}") for line in file.open()]
        return [line for line in lines if wanted.items() <= line.items()]

    assert "submitted" in launcher()
    (submitted,) = records("jobs.jsonl", kind="submitted", stage="pretrain")
    job = submitted["job"].removeprefix("slurm:")
    dev_cluster.wait(lambda: any(r["step"] >= 30 for r in records("journal.jsonl", kind="train")), "step 30", 180)
    victim = next(process for process in dev_cluster.processes_of(job) if process.rank == 1)
    victim.process.kill()
    dev_cluster.wait(lambda: len(records("journal.jsonl", kind="finished")) == 3, "the end of the study", 420)
    dev_cluster.wait_state(job, "COMPLETED")
    assert dev_cluster.job(job)["Restarts"] == "1"
    said = launcher()
    assert re.search(r"alpha=1 +\d", said[said.index("Table 10") :])
