"""Whatever happens to the files of a run's folder: each command says so in a sentence, or works. Never a traceback.

MULTIMAE_EXAMPLES=2000 python -m pytest tests/test_folder_properties.py    # more than the default run has time for
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inputs.folders import TINY
from PIL import Image
from plans import wanted
from rich.console import Console
from synthetic_runs import SyntheticRun
from training import tiny_study, tiny_table

from analysis import figures as pictures
from analysis import tables
from multimae import cli
from multimae.config import ConfigError, RunConfig, build
from multimae.engine.checkpoint import Checkpoints
from multimae.record.folder import RunFolder
from multimae.record.journal import Journal
from multimae.study import planning, status
from multimae.study.display import MARKS, print_plan, print_status
from slurm import scheduler

EXAMPLES = int(os.environ.get("MULTIMAE_EXAMPLES", "0"))
FILES = ("config.yaml", "environment.json", "heartbeat.json", "journal.jsonl", "jobs.jsonl", "weights.safetensors")
FILES += ("samples/predictions.png", "mlflow.json", "checkpoints/step-00000040/progress.json")
FILES += ("checkpoints/step-00000040/tensors.safetensors", "system/node.jsonl")
ROWS = tiny_study.build("smoke")

# ---- what may happen to a file

NUMBERS = st.integers() | st.floats() | st.sampled_from([-1, 0, 1, 2**31, 10**400])
WORDS = st.text(max_size=8) | st.sampled_from(["nan", "training", "done", "local:1", "slurm:7_1", "scenes", "pretrain"])
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS
NAMES = "time kind step reason seconds job host study state pid params task epochs data"
KEYS = st.text(max_size=5) | st.sampled_from(NAMES.split())
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=8
)
KINDS = ("data", "start", "train", "epoch", "eval", "sample", "checkpoint", "nonfinite", "interrupted", "failed")
KINDS += ("finished", "submitted", "began", "released", "ended")
FIELDS = st.dictionaries(KEYS, JSON, max_size=5)
RECORDS = st.tuples(FIELDS, st.sampled_from(KINDS)).map(lambda record: record[0] | {"kind": record[1]})

Damage = Callable[[Path], None]


def truncated(share: float) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def replaced(contents: bytes) -> Damage:
    return lambda path: path.write_bytes(contents)


def flipped(place: float, noise: bytes) -> Damage:
    def damage(path: Path) -> None:
        contents = bytearray(path.read_bytes())
        at = int(place * len(contents))
        contents[at : at + len(noise)] = noise
        path.write_bytes(contents)

    return damage


def changed(key: int, value: object) -> Damage:
    """One value of a record, a mapping or a list of records, which stay what they are."""

    def damage(path: Path) -> None:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        index = key % max(1, len(lines))
        parsed = yaml.safe_load(lines[index]) if lines and path.suffix == ".yaml" else json.loads(lines[index] or "0")
        if isinstance(parsed, dict) and parsed:
            name = sorted(parsed, key=str)[key % len(parsed)]
            parsed[name] = value
            lines[index] = yaml.safe_dump(parsed) if path.suffix == ".yaml" else json.dumps(parsed)
            path.write_text("\n".join(lines) + "\n")

    return lambda path: damage(path) if path.suffix in (".yaml", ".json", ".jsonl") else None


def appended(record: object) -> Damage:
    def damage(path: Path) -> None:
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")

    return damage


def gone(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = st.one_of(
    st.builds(truncated, st.floats(0, 0.99)),
    st.builds(replaced, st.binary(max_size=40)),
    st.builds(replaced, JSON.map(lambda value: json.dumps(value).encode())),
    st.builds(flipped, st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    st.builds(changed, st.integers(0, 200), JSON),
    st.builds(appended, RECORDS | JSON),
    st.just(gone),
    st.just(a_folder),
)
HAPPENED = st.lists(st.tuples(st.sampled_from(FILES), DAMAGES), min_size=1, max_size=3)


def befall(folder: RunFolder, happened: list[tuple[str, Damage]]) -> None:
    for name, damage in happened:
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):  # an earlier one leaves nothing to damage
            damage(folder.path / name)


def often(examples: int):
    """Fast in the default run, the same examples every time."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=EXAMPLES or examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks
    )


# ---- the launcher's side


def checkpoint(folder: RunFolder) -> None:
    """As a training leaves it."""
    import torch

    clock = {"steps": 1, "samples": 8, "seconds": 1.0, "data_seconds": 0.1}
    meter = {"clocks": dict.fromkeys(("window", "epoch", "run"), clock), "sums": [], "summed": 0}
    progress = {"run": folder.signature, "step": 40, "nonfinite": 0, "meter": meter}
    Checkpoints(folder.checkpoints).save({"updates": torch.ones(())}, progress)


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Path:
    """All stages of a row are done, those of the other have begun."""
    runs = tmp_path_factory.mktemp("studied") / "runs"
    for row in ROWS:
        for stage, config in row.stages.items():
            run = SyntheticRun(runs, config)
            run.submit("tiny", row.name, stage)
            run.folder.samples.mkdir()
            Image.new("RGB", (4, 4)).save(run.folder.samples / "predictions.png")
            run.journal.write("sample", step=40, file="samples/predictions.png")
            run.whole() if row is ROWS[0] else run.start(pid=2**22 - 1)
            beat = {"time": 1.0, "pid": 2**22 - 1, "host": "elsewhere", "state": "training"}
            run.folder.heartbeat.write_text(json.dumps(beat | {"step": 3, "total_steps": 9}))
            (run.folder.path / "mlflow.json").write_text("{}")
            checkpoint(run.folder)
            metrics = {"cpu_utilization_percentage": 50.0}
            Journal(run.folder.system / "node.jsonl").write("system", node=0, nodes=1, metrics=metrics)
    return runs


@contextlib.contextmanager
def befallen(studied: Path, config: RunConfig, happened: list[tuple[str, Damage]]) -> Iterator[RunFolder]:
    """The folder of that run, damaged; it is made whole again after."""
    folder = RunFolder.of(studied, config.signature)
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(folder.path, kept, dirs_exist_ok=True)
        befall(folder, happened)
        yield folder
        shutil.rmtree(folder.path)
        shutil.copytree(kept, folder.path)


CONFIGS = st.sampled_from([config for row in ROWS for config in row.stages.values()])


@often(100)
@given(config=CONFIGS, happened=HAPPENED)
def test_status_plan_and_table_say_it_or_work(studied, monkeypatch, config, happened):
    monkeypatch.setattr(scheduler, "query", lambda ids: None)
    with befallen(studied, config, happened) as folder:
        console = Console(file=io.StringIO(), width=120)
        extras = planning.extras(wanted(tiny_study, (), studied), [])
        print_status(console, planning.status(wanted(tiny_study, ROWS, studied)), extras)
        plan = planning.plan(wanted(tiny_study, ROWS, studied), retry_failed=True)
        print_plan(console, plan, "")
        entry = plan.entries[folder.signature]
        assert entry.status.state in MARKS and (entry.status.state != "refused" or entry.status.reason)
        with contextlib.suppress(ConfigError, tables.Incomparable):
            tables.text(tiny_table, tables.build(tiny_table, "smoke", tables.read(studied, ROWS)))
        try:
            found = folder.config()
        except ConfigError:
            assert entry.status.state not in status.SETTLED or entry.status.state == "missing"
        else:
            assert found == config  # whatever happened, never another experiment's
        assert folder.saved_step in (40, -1)


@often(10)
@given(config=CONFIGS, happened=HAPPENED)
def test_pictures_are_drawn_or_it_is_said_why_not(studied, config, happened):
    with befallen(studied, config, happened), contextlib.suppress(ConfigError):
        pictures.loss_curves([ROWS], studied)
        pictures.predictions(ROWS, studied)


# ---- one run


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A folder with a run that was trained, and then killed before it could remove its checkpoints."""
    place = tmp_path_factory.mktemp("ran")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    drop, RunFolder.drop_checkpoints = RunFolder.drop_checkpoints, lambda folder: None
    try:
        assert command(place)[0] == 0
    finally:
        RunFolder.drop_checkpoints = drop
    return place


def command(place: Path) -> tuple[int, str]:
    printed = io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = cli.main(["run", "tiny.yaml", "--no-track", "--runtime", "threads=1"])
    return code, printed.getvalue()


@often(25)
@given(unfinished=st.booleans(), happened=HAPPENED)
def test_a_run_goes_on_or_says_why_not(ran, unfinished, happened):
    with tempfile.TemporaryDirectory() as place:
        place = Path(shutil.copytree(ran, Path(place) / "ran"))
        folder = RunFolder.of(place / "runs", build(TINY).signature)
        before = folder.weights.read_bytes()
        if unfinished:
            folder.weights.unlink()
            lines = folder.journal.path.read_text().splitlines()
            folder.journal.path.write_text("\n".join(line for line in lines if '"finished"' not in line) + "\n")
        steps = sorted(path.name for path in folder.checkpoints.iterdir())
        befall(folder, [(name.replace("step-00000040", steps[-1]), damage) for name, damage in happened])
        code, printed = command(place)
        assert "Traceback" not in printed
        if code == 0:
            assert folder.done
            if unfinished and folder.weights.is_file():
                assert folder.weights.read_bytes() == before  # as if nothing had happened
        else:
            assert code in (1, 2) and printed.splitlines()[-1].startswith("multimae: ")
