"""A run's folder: atomic files and a single writer."""

import errno
import multiprocessing
import os
import signal

import pytest

from multimae.config import Pretrain
from multimae.files import write_atomic
from multimae.record.folder import RunFolder, RunLocked
from multimae.record.reading import read_json

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.of(tmp_path, Pretrain(epochs=3).signature)


def test_a_config_is_written_once_and_read_back(folder):
    config = Pretrain(epochs=3)
    folder.create(config)
    before = folder.config_file.stat().st_mtime_ns
    folder.create(config)
    assert folder.config() == config and folder.config_file.stat().st_mtime_ns == before


def test_an_atomic_file_is_old_or_new(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def _rewrite_until_killed(path) -> None:
    for number in range(10**9):
        write_atomic(path, f'{{"number": {number}, "rest": "{"x" * 100_000}"}}', durable=False)


def test_a_reader_never_sees_half_a_file_even_of_a_killed_writer(tmp_path):
    path = tmp_path / "file.json"
    for _ in range(3):
        writer = FORK.Process(target=_rewrite_until_killed, args=(path,))
        writer.start()
        while not ((value := read_json(path)) and value["number"] >= 30):
            assert value is None or len(value["rest"]) == 100_000
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert len(read_json(path)["rest"]) == 100_000
        path.unlink()


def _claim(folder, connection) -> None:
    """Hold the claim, with a data worker, until killed."""
    with folder.claim():
        worker = FORK.Process(target=signal.pause)
        worker.start()
        connection.send(worker.pid)
        signal.pause()


@pytest.fixture
def other(folder):
    """(a process that holds the claim, the pid of its worker)"""
    here, there = FORK.Pipe()
    process = FORK.Process(target=_claim, args=(folder, there))
    process.start()
    assert here.poll(60)
    worker = here.recv()
    yield process, worker
    process.kill()
    os.kill(worker, signal.SIGKILL)


def test_one_process_at_a_time_writes_a_run(folder, other):
    with pytest.raises(RunLocked, match=f"process {other[0].pid} of "), folder.claim():
        pass


def test_a_killed_run_can_be_claimed_though_its_workers_live(folder, other):
    process, worker = other
    process.kill()
    process.join()
    os.kill(worker, 0)  # it lives
    with folder.claim():
        pass


def test_a_claim_removes_what_a_killed_writer_left(folder):
    folder.path.mkdir()
    half = folder.path / ".weights.safetensors.elsewhere.123"
    half.write_bytes(b"half")
    with folder.claim():
        assert not half.exists()


def test_done_is_what_the_journal_says_last(folder):
    assert not folder.done
    folder.journal.write("start", step=0)
    assert not folder.done
    folder.journal.write("finished", step=9, seconds=1.0)
    assert folder.done
