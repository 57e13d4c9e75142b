"""Scenes are rendered once on a machine, and somewhere else where that folder cannot take them."""

import errno
import os
import stat

import pytest

from multimae.config import Runtime, Scenes
from multimae.data.datasets import open_dataset
from multimae.data.scenes import dataset
from multimae.data.scenes.dataset import RenderedScenes

DATA = Scenes(eval_samples=3, render_size=8)
NAME = "scenes-v4-8px"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder of one's own, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/.cache"))
    return tmp_path / "home/.cache/multimae/scenes"


def opened(runs, **more) -> RenderedScenes:
    return open_dataset(DATA, "eval", Runtime(runs=runs, **more))


def test_all_folders_of_runs_share_them(home, tmp_path, capsys):
    assert opened(tmp_path / "one").folder == home / NAME / "val"
    assert f"rendering scenes (val, 8 px): done; {home} holds " in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*.npy")}
    assert opened(tmp_path / "two").sample(2, ("rgb",))["rgb"].shape == (3, 8, 8)
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*.npy")} and len(before) == 4
    assert not capsys.readouterr().err and not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


def test_a_runtime_may_name_another(home, tmp_path):
    assert opened(tmp_path / "runs", cache=tmp_path / "cache").folder == tmp_path / "cache" / NAME / "val"
    assert not home.exists()


def test_a_relative_cache_home_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened(tmp_path / "runs").folder == tmp_path / ".cache/multimae/scenes" / NAME / "val"


@pytest.mark.parametrize("why", ["a file", "no home", "read-only"])
def test_where_there_is_no_room_in_the_home_they_go_beside_the_runs(home, tmp_path, monkeypatch, capsys, why):
    if why == "a file":
        (tmp_path / "home").touch()
    elif why == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "nowhere")
    else:
        monkeypatch.setattr(dataset.os, "access", lambda path, mode: not str(path).startswith(str(home)))
    assert opened(tmp_path / "runs").folder == tmp_path / "runs/.cache" / NAME / "val"
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith(f"note: scenes are rendered into {tmp_path}/runs/.cache, because ")


def test_a_disk_that_fills_up_meanwhile(home, tmp_path, monkeypatch, capsys):
    written = []

    def full(path, data):
        if path.is_relative_to(home):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write(path, data)

    write = dataset.write_atomic
    monkeypatch.setattr(dataset, "write_atomic", full)
    for times in (1, 2):
        assert opened(tmp_path / "runs").sample(0, ("label",))["label"] >= 0
        assert len(written) == 4, "the second time they are there"
        told = capsys.readouterr().err
        assert told.count("No space left on device") == 2 - times


def test_scenes_that_already_lie_beside_the_runs_are_read_there(home, tmp_path, capsys):
    RenderedScenes("val", 3, 8, tmp_path / "runs/.cache")
    capsys.readouterr()
    opened(tmp_path / "runs")
    assert not home.exists() and not capsys.readouterr().err


def test_older_versions_are_told_once(home, tmp_path, capsys):
    for name in ("scenes-v3-8px", "scenes_nyuv2-v999-8px", "mine-v1-8px", "scenes-v4-9px"):
        (home / name / "val").mkdir(parents=True)
        (home / name / "val/0.npy").write_bytes(bytes(2_000_000))
    opened(tmp_path / "runs")
    assert f"take 2.0 MB: rm -r {home / 'scenes-v3-8px'}\n" in capsys.readouterr().err
    opened(tmp_path / "runs")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o2770, 0o700])
def test_what_is_rendered_into_a_groups_folder_the_group_may_write(tmp_path, mode):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    before = os.umask(0o077)
    try:
        RenderedScenes("train", 2, 8, tmp_path / "cache")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    for path in (tmp_path / "cache").rglob("*"):
        wanted = (0o070 if path.is_dir() else 0o060) if mode & stat.S_IWGRP else 0
        assert path.stat().st_mode & 0o070 == wanted, path
