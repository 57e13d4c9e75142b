"""A run learns the same from a folder and from its pack, to the bit, also where it was begun on the one, was killed in
the middle of an epoch, and goes on with the other."""

import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from image_files import rooms
from toy_task import curve, in_children

from multimae.cli import main
from multimae.data import packing
from multimae.engine.loop import Training
from multimae.record.folder import RunFolder

CONFIG = {
    "task": "pretrain", "epochs": 2, "batch_size": 4, "precision": "fp32", "optimizer": {"warmup_epochs": 0.5},
    "data": {"name": "rooms", "depth_unit": 0.001},
    "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "semseg_classes": 4},
    "decoder": {"dim": 16, "depth": 1, "heads": 2}, "masking": {"visible_tokens": 8},
}  # fmt: skip
STEPS = 6  # of an epoch
KILLED = STEPS + 2  # after so many steps


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """With `folder/rooms`, `pack/rooms`, and a config that reads `rooms`."""
    place = tmp_path_factory.mktemp("place")
    rooms(place / "folder" / "rooms", each=2 * STEPS)
    assert packing.main([str(place / "folder" / "rooms"), str(place / "pack" / "rooms"), "--jobs", "1"]) == 0
    (place / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return place


def words(place: Path, data: str, runs: str, *settings: str) -> list[str]:
    runtime = ("threads=1", "log_every_steps=1", "device=cpu", *settings)
    said = ["run", str(place / "config.yaml"), "--no-track", "--data", f"rooms={place / data / 'rooms'}"]
    return [*said, "--runs", str(place / runs), *(word for setting in runtime for word in ("--runtime", setting))]


def learnt(place: Path, runs: str) -> tuple[list[dict], bytes]:
    """(the curve, what is in the weights) of the one run there."""
    (folder,) = RunFolder.all(place / runs)
    found = curve(folder)
    assert folder.done and [r["step"] for r in found if "loss" in r] == list(range(1, 2 * STEPS + 1))
    return found, folder.weights.read_bytes()


def test_a_run_from_a_pack_is_that_from_its_folder(place):
    for data in ("folder", "pack"):
        assert main(words(place, data, f"runs-{data}")) == 0
    assert learnt(place, "runs-folder") == learnt(place, "runs-pack")


def multimae(rank: int, last: int, words: list[str]) -> None:
    """Killed after so many steps; 0: never. In a child."""
    train_step = Training.train_step

    def killed(self, batches):
        if self.step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(self, batches)

    if last:
        Training.train_step = killed
    sys.exit(main(words))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_killed_run_goes_on_from_folder_or_pack_to_the_bit(place, processes):
    def launch(data: str, name: str, last: int = 0, workers: int = 0) -> list[int]:
        said = words(place, data, f"{name}-{processes}", f"workers={workers}", "checkpoint_minutes=0.0001")
        return in_children(multimae, last, said, processes=processes)

    assert launch("folder", "undisturbed") == [0] * processes
    expected = learnt(place, f"undisturbed-{processes}")
    for name, first, then, workers in (("other", "folder", "pack", 0), ("same", "pack", "pack", 1)):
        assert launch(first, name, KILLED, workers) == [-signal.SIGKILL] * processes
        assert launch(then, name, workers=workers) == [0] * processes
        (folder,) = RunFolder.all(place / f"{name}-{processes}")
        assert [record["step"] for record in folder.journal.records("start")] == [0, KILLED]
        assert learnt(place, f"{name}-{processes}") == expected
