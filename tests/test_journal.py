"""The journal: whole records only, whatever happened to its writers."""

import json
import multiprocessing
import os
import signal

import pytest

from multimae.engine.journal import CHUNK, Journal


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "run" / "journal.jsonl")


def test_what_is_written_is_read_in_order(journal):
    assert journal.records() == [] and journal.last() is None
    written = [journal.write("train", step=step, loss=1 / (step + 1)) for step in range(3)]
    written.append(journal.write("epoch", step=3))
    assert journal.records() == written
    assert journal.records("epoch") == written[3:] and journal.last() == written[3]
    assert journal.last("train") == written[2] and journal.last("failed") is None


def test_a_torn_last_line_is_neither_read_nor_in_the_way(journal):
    whole = journal.write("train", step=1)
    with open(journal.path, "ab") as file:
        file.write(b'{"time": 1, "kind": "train", "st')
    assert journal.records() == [whole] and journal.last() == whole
    after = journal.write("train", step=2)
    assert journal.records() == [whole, after] and journal.last() == after


@pytest.mark.parametrize("line", [b"\0\0\0\0\n", b"[1, 2]\n", b'{"step": 3}\n', b"\xff\xfe\n", b"\n"])
def test_a_damaged_line_costs_only_itself(journal, line):
    before = journal.write("train", step=1)
    with open(journal.path, "ab") as file:
        file.write(line)
    after = journal.write("train", step=2)
    assert journal.records() == [before, after]


def test_reading_continues_where_it_stopped(journal):
    journal.write("train", step=1)
    ((offset, _),) = journal.read()
    assert list(journal.read(offset)) == []
    with open(journal.path, "ab") as file:  # a line that another process is writing just now
        file.write(b'{"time": 1, "kind": ')
        file.flush()
        assert list(journal.read(offset)) == []
        file.write(b'"train", "step": 2}\n')
    ((_, record),) = journal.read(offset)
    assert record["step"] == 2


def test_the_last_record_of_a_kind_is_found_far_back(journal):
    start = journal.write("start", step=0)
    line = json.dumps({"time": 0.0, "kind": "train", "step": 1, "note": "x" * 1000}).encode() + b"\n"
    with open(journal.path, "ab") as file:
        file.write(line * (9 * CHUNK // len(line)))
    assert journal.last("start") == start and journal.last("train")["step"] == 1


@pytest.mark.parametrize("length", [10, 1000, 3 * CHUNK])
def test_backwards_is_forwards_reversed(journal, length):
    for step in range(30):
        journal.write("train", step=step, note="x" * (length + 37 * step))
    with open(journal.path, "ab") as file:
        file.write(b'{"time": 1, "kind": "torn')
    assert list(journal.backwards()) == journal.records()[::-1]


def test_a_curve_has_each_step_once_and_the_latest_value(journal):
    for step, loss in ((1, 0.5), (2, 0.4), (3, 0.3), (2, 0.41), (3, 0.31)):
        journal.write("train", step=step, loss=loss)
    assert [(r["step"], r["loss"]) for r in journal.curve("train")] == [(1, 0.5), (2, 0.41), (3, 0.31)]


def _write_until_killed(path, first) -> None:
    for step in range(first, 10**9):
        Journal(path).write("train", step=step, note="x" * 3000)


def test_a_writer_killed_while_writing_loses_at_most_its_last_record(journal):
    first = 0
    for _ in range(4):
        writer = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(journal.path, first))
        writer.start()
        while not ((last := journal.last()) and last["step"] > first + 20):
            pass
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        steps = [record["step"] for record in journal.records()]
        assert steps == list(range(len(steps)))
        first = len(steps)
