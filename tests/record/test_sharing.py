"""A folder of runs that a group shares: the modes of what is made in it, and what a colleague does not share."""

import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from multimae.config import Pretrain
from multimae.data.scenes.dataset import RenderedScenes
from multimae.engine.checkpoint import Checkpoints
from multimae.files import write_atomic
from multimae.record import heartbeat
from multimae.record.folder import RunFolder, make_runs
from multimae.record.heartbeat import Heartbeat
from multimae.record.sharing import check_shared, share
from multimae.tracking.store import DEFAULT_FILE, _create
from slurm.submission import snapshot
from sweeps.alpha_ablation import study
from sweeps.command import main

NOBODY = 65534


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def folder_of_runs(tmp_path: Path, mode: int) -> Path:
    runs = tmp_path / "runs"
    runs.mkdir()
    runs.chmod(mode)
    return runs


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}


def make_everything(runs: Path) -> None:
    """What commands and jobs make in a folder of runs."""
    make_runs(runs)
    run = RunFolder.of(runs, "0123456789")
    run.create(Pretrain())
    with run.claim():
        run.journal.write("start", step=0)
        run.jobs.write("submitted", job="slurm:1")
        Heartbeat(run)
        write_atomic(run.samples / "a.json", "{}")
        Checkpoints(run.checkpoints).save({"a": torch.zeros(2)}, {"step": 1})
    RenderedScenes("train", 2, 16, runs / ".cache")
    subprocess.run([sys.executable, "-c", f"open({str(runs / 'child')!r}, 'w')"], check=True)


@pytest.mark.parametrize("mode", [0o2775, 0o2770, 0o775], ids=oct)
def test_what_is_made_in_a_shared_folder_the_group_may_write_whatever_the_umask(tmp_path, umask, mode):
    runs = folder_of_runs(tmp_path, mode)
    make_everything(runs)
    made = modes(runs)
    assert len(made) > 15
    for name, of in made.items():
        wanted = 0o070 if (runs / name).is_dir() else 0o060
        assert of & 0o070 == wanted, f"{name}: {of:o}"
        assert of & 0o007 == (0 if umask == 0o077 else 0o005 if (runs / name).is_dir() else 0o004), f"{name}: {of:o}"
        assert not mode & stat.S_ISGID or not (runs / name).is_dir() or of & stat.S_ISGID


def test_in_any_other_folder_the_umask_decides(tmp_path, umask):
    runs = folder_of_runs(tmp_path, 0o755)
    make_everything(runs)
    for name, of in modes(runs).items():
        assert of & 0o777 == (0o777 if (runs / name).is_dir() else 0o666) & ~umask, f"{name}: {of:o}"


def test_a_folder_that_is_not_there_changes_nothing(tmp_path, umask):
    share(tmp_path / "none")
    assert os.umask(umask) == umask


def test_the_snapshot_of_a_private_checkout_is_shared(tmp_path, umask):
    checkout = tmp_path / "checkout"
    (checkout / "multimae").mkdir(parents=True)
    code = checkout / "multimae/a.py"
    code.write_text("")
    code.chmod(0o600)
    runs = folder_of_runs(tmp_path, 0o2775)
    make_runs(runs)
    taken = snapshot.take(runs, checkout)
    assert stat.S_IMODE((taken / "multimae/a.py").stat().st_mode) & 0o060 == 0o060


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o077], indirect=True)
def test_the_store_beside_the_runs_is_shared_too(tmp_path, umask):
    runs = folder_of_runs(tmp_path, 0o2775)
    make_runs(runs)
    _create(tmp_path / DEFAULT_FILE)
    assert stat.S_IMODE((tmp_path / DEFAULT_FILE).stat().st_mode) & 0o060 == 0o060


# ---- what is not shared


@pytest.fixture
def place():
    """A folder that any user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def by_another_user(function) -> str:
    """What a function raises when a user calls it who is neither the owner nor root: `ConfigError: ...`, or nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    here, there = multiprocessing.get_context("fork").Pipe()

    def call() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            function()
            there.send("")
        except Exception as error:
            there.send(f"{type(error).__name__}: {error}")

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    assert here.poll(30)
    process.join()
    return here.recv()


def claim(run: RunFolder) -> None:
    with run.claim():
        pass


def begun(place: Path) -> RunFolder:
    run = RunFolder.of(place, "0123456789")
    run.create(Pretrain())
    run.journal.write("start", step=0)
    with run.claim():
        pass
    return run


def test_a_run_that_a_colleague_does_not_share_is_told_with_what_mends_it(place):
    run = begun(place)
    told = by_another_user(lambda: claim(run))
    assert told.startswith(f"ConfigError: {run.path} belongs to ") and "chmod -R g+rwX DIR" in told
    assert by_another_user(lambda: run.journal.last()["kind"] == "start" or 1 / 0) == ""  # whoever may read, may read
    run.path.chmod(0o777)  # the folder alone
    assert f"{run.path / '.writer'} belongs to" in by_another_user(lambda: claim(run))


def test_whoever_may_only_read_sees_the_status(place, capfd):
    config = study.build("smoke")[0].stages["pretrain"]
    run = RunFolder.of(place, config.signature)
    run.create(config)
    run.journal.write("start", step=0)
    run.journal.write("interrupted", step=3, reason="SIGTERM")
    assert by_another_user(lambda: main(study, ["--status", "--runs", str(place)]) == 0 or 1 / 0) == ""
    assert "interrupted" in capfd.readouterr().out
    told = by_another_user(lambda: main(study, ["--runs", str(place)]) == 2 or 1 / 0)
    assert told == "" and "it is not writable" in capfd.readouterr().err


def test_a_lock_of_a_colleague_holds(place):
    before = os.umask(0)
    try:
        run = begun(place)
        with run.claim():
            told = by_another_user(lambda: claim(run))
        assert told.startswith("RunLocked: ") and f"process {os.getpid()} of " in told
        assert by_another_user(lambda: claim(run)) == ""
    finally:
        os.umask(before)


def test_a_folder_of_runs_that_may_only_be_read(place):
    told = by_another_user(lambda: make_runs(place))
    assert told.startswith(f"ConfigError: --runs: {place} cannot hold run folders (it is not writable)")


def test_a_sticky_bit_is_told(place):
    place.chmod(0o1777)
    assert "its sticky bit keeps users from each other's files; `chmod -t`" in by_another_user(lambda: make_runs(place))
    make_runs(place)  # its owner may go on


def test_scenes_that_cannot_be_rendered_into_a_colleagues_cache(place):
    RenderedScenes("train", 2, 16, place)
    assert by_another_user(lambda: RenderedScenes("train", 2, 16, place)) == ""  # they are there
    told = by_another_user(lambda: RenderedScenes("train", 3, 16, place))
    assert told.startswith("CannotRender: scenes are to be rendered into") and "where you may not write" in told
    assert np.load(next(place.rglob("*.rgb.npy"))).shape == (2, 16, 16, 3)


def test_an_owner_without_an_account_here_is_named_by_number(place):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file away")
    path = place / "theirs"
    path.touch(0o600)
    os.chown(path, 54321, 54321)
    assert f"{path} belongs to user 54321" in by_another_user(lambda: check_shared([path]))


# ---- other users' processes


def test_a_process_that_this_machine_does_not_show_may_live(monkeypatch):
    """/proc mounted with hidepid: a colleague's processes are not there, and yet may not be killed."""

    def hidden(pid):
        raise psutil.NoSuchProcess(pid)

    def refused(pid, signal):
        raise PermissionError

    monkeypatch.setattr(heartbeat.psutil, "Process", hidden)
    host = heartbeat.socket.gethostname()
    monkeypatch.setattr(heartbeat.os, "kill", refused)
    assert heartbeat.alive(4242, host, 0.0) is None
    monkeypatch.undo()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert heartbeat.alive(gone.pid, host, 0.0) is False


def test_a_process_that_says_nothing_of_itself_may_live(monkeypatch):
    def denied(pid):
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(heartbeat.psutil, "Process", denied)
    assert heartbeat.alive(1, heartbeat.socket.gethostname(), 0.0) is None
