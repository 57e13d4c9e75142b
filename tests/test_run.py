"""`multimae run` on folders that something happened to, with real trainings: what a message advises helps."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from inputs.folders import TINY

from multimae.cli import main
from multimae.config import build
from multimae.engine.checkpoint import Checkpoints
from multimae.engine.loop import Training
from multimae.record.folder import RunFolder

SOURCE = {name: value for name, value in TINY.items() if name not in ("classes", "augmentation")} | {
    "task": "pretrain",
    "decoder": {"dim": 16, "depth": 1, "heads": 2},
    "masking": {"visible_tokens": 8},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A place with a pre-training that is done."""
    place = tmp_path_factory.mktemp("place")
    (place / "source.yaml").write_text(yaml.safe_dump(SOURCE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run("source.yaml") == 0
    return place


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> RunFolder:
    """A copy to stand in, with a transfer from that pre-training, whose folder this is."""
    subprocess.run(["cp", "-r", f"{trained}/.", tmp_path], check=True)
    folder = RunFolder.of(Path("runs"), build(SOURCE).signature)
    (tmp_path / "transfer.yaml").write_text(yaml.safe_dump(TINY | {"init": f"run:{folder.signature}"}))
    monkeypatch.chdir(tmp_path)
    return folder


def run(*words: str) -> int:
    return main(["run", "--no-track", "--runtime", "threads=1", *words])


def told(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multimae: ")]
    return line


def test_weights_that_are_gone_are_made_again_as_the_message_says(here, capsys):
    before = here.weights.read_bytes()
    here.weights.unlink()
    assert run("source.yaml") == 0 and not here.weights.exists()  # it is done: numbers need no weights
    assert run("transfer.yaml") == 2
    advice = re.search(r"to make them again: (mv .*) && multimae run (\S+) ", told(capsys))
    subprocess.run(advice[1], shell=True, check=True)
    assert run(*shlex.split(advice[2])) == 0 and here.weights.read_bytes() == before
    assert run("transfer.yaml") == 0


def test_weights_with_a_flipped_bit_are_told_and_those_of_an_older_version_are_taken(here, capsys):
    contents = bytearray(here.weights.read_bytes())
    contents[-1] ^= 1
    here.weights.write_bytes(contents)
    assert run("transfer.yaml") == 2
    assert re.search("init: .*weights.safetensors is not what was written; to make them again: mv", told(capsys))
    here.journal.path.write_text(re.sub(', "weights_sha256": "[0-9a-f]{64}"', "", here.journal.path.read_text()))
    assert run("transfer.yaml") == 0


def test_a_transfer_takes_no_weights_of_a_run_that_is_not_what_its_name_says(here, capsys):
    values = yaml.safe_load(here.config_file.read_text())
    here.config_file.write_text(yaml.safe_dump(values | {"epochs": 7.0}))
    assert run("transfer.yaml") == 2
    message = told(capsys)
    assert re.search(r"init: runs/.* is refused: .*epochs: found 7.0, expected 1.0.*edited after", message)
    subprocess.run(message.rpartition(": ")[2], shell=True, check=True)
    assert run("transfer.yaml") == 0


def test_a_transfer_of_another_shape_is_told(here, capsys):
    assert run("transfer.yaml", "--set", "model.dim=32") == 2
    assert "model.dim is 32, but run" in (line := told(capsys)) and "set model.dim alike in both" in line


def test_checkpoints_of_a_run_that_is_done_go_with_the_next_command(here):
    (here.checkpoints / "step-00000002").mkdir(parents=True)
    assert run("source.yaml") == 0 and not here.checkpoints.exists()


def test_a_run_with_checkpoints_whose_journal_is_gone_is_not_continued(here, capsys):
    """It may have been begun on other data."""
    clock = {"steps": 1, "samples": 8, "seconds": 1.0, "data_seconds": 0.1}
    meter = {"clocks": dict.fromkeys(("window", "epoch", "run"), clock), "sums": [], "summed": 0}
    progress = {"run": here.signature, "step": 1, "nonfinite": 0, "meter": meter}
    Checkpoints(here.checkpoints).save({"updates": torch.ones(())}, progress)
    here.journal.path.unlink()
    assert run("source.yaml") == 2
    message = told(capsys)
    assert re.search(
        "has checkpoints, and no record of what it learnt from: its journal .*journal.jsonl is gone", message
    )
    subprocess.run(message.rpartition(": ")[2], shell=True, check=True)
    assert run("source.yaml") == 0


def test_a_run_whose_lines_were_deleted_is_refused_before_it_trains(here, capsys, monkeypatch):
    monkeypatch.setattr(Training, "run", None)
    text = here.config_file.read_text()
    here.config_file.write_text(re.sub(r"^ *(visible_tokens|epochs):.*\n", "", text, flags=re.MULTILINE))
    assert run("source.yaml") == 2
    assert re.search("unknown key|visible_tokens|epochs: found 1600.0, expected 1.0", told(capsys)) and here.done
