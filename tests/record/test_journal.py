"""The journal: whole records only, whatever happened to its writers."""

import json
import multiprocessing
import os
import signal

import pytest

from multimae.record.journal import CHUNK, Journal
from multimae.record.reading import FolderError


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "run" / "journal.jsonl")


def test_what_is_written_is_read_in_order(journal):
    assert journal.records() == [] and journal.last() is None
    written = [journal.write("tick", step=step, loss=1 / (step + 1)) for step in range(3)]
    written.append(journal.write("epoch", step=3))
    assert journal.records() == written
    assert journal.records("epoch") == written[3:] and journal.last() == written[3]
    assert journal.last("tick") == written[2] and journal.last("failed") is None


def test_a_torn_last_line_is_neither_read_nor_in_the_way(journal):
    whole = journal.write("tick", step=1)
    with open(journal.path, "ab") as file:
        file.write(b'{"time": 1, "kind": "tick", "st')
    assert journal.records() == [whole] and journal.last() == whole
    after = journal.write("tick", step=2)
    assert journal.records() == [whole, after] and journal.last() == after


DAMAGED = [
    *(b"\0\0\0\0\n", b"[1, 2]\n", b"3\n", b'"finished"\n', b'{"step": 3}\n', b"\xff\xfe\n", b"\n"),
    b"[" * 100_000 + b"\n",
    b'{"kind": "tick", "step": 3}\n',  # without a time
    b'{"time": "now", "kind": "tick"}\n',
    b'{"time": 1e999, "kind": "tick"}\n',
    b'{"time": 1' + b"0" * 400 + b', "kind": "tick"}\n',
    b'{"time": 1, "kind": ["tick"]}\n',
    b'{"time": 1, "kind": "finished"}\n',  # without what readers of its kind rely on
    b'{"time": 1, "kind": "failed", "step": 3, "reason": null}\n',
    b'{"time": 1, "kind": "train", "step": "3", "epoch": 1, "loss": 1, "losses": {}}\n',
    b'{"time": 1, "kind": "train", "step": true, "epoch": 1, "loss": 1, "losses": {}}\n',
    b'{"time": 1, "kind": "eval", "step": 3, "split": "val", "n": 4, "fingerprint": "x", "metrics": {"l": "many"}}\n',
    b'{"time": 1, "kind": "submitted", "study": "x"}\n',  # of jobs.jsonl
    b'{"time": 1, "kind": "submitted", "job": "slurm:7; true"}\n',
    b'{"time": 1, "kind": "began", "job": "slurm:7"}\n',
    b'{"time": 1, "kind": "ended", "state": "nonsense", "reason": ""}\n',
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:60].decode(errors="replace"))
def test_a_damaged_line_costs_only_itself(journal, line):
    before = journal.write("tick", step=1)
    with open(journal.path, "ab") as file:
        file.write(line)
    after = journal.write("tick", step=2)
    assert journal.records() == [before, after]


def test_numbers_that_are_not_finite_are_written_as_text(journal):
    metrics = {"loss": float("nan"), "deep": {"list": [float("inf"), (-float("inf"), 1.5)]}}
    journal.write("tick", step=1, metrics=metrics)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (line,) = journal.path.read_text().splitlines()
    written = json.loads(line, parse_constant=refuse)["metrics"]
    assert written == {"loss": "nan", "deep": {"list": ["inf", ["-inf", 1.5]]}}
    assert float(written["deep"]["list"][1][0]) == -float("inf")


def test_a_journal_that_cannot_be_read_is_named_with_the_mend(journal):
    journal.path.mkdir(parents=True)
    with pytest.raises(FolderError, match=r"journal.jsonl: expected a file, found something else. Move it away"):
        journal.last()
    with pytest.raises(FolderError, match="expected a file"):
        journal.records()


def test_reading_continues_where_it_stopped(journal):
    journal.write("tick", step=1)
    ((offset, _),) = journal.read()
    assert list(journal.read(offset)) == []
    with open(journal.path, "ab") as file:  # a line that another process is writing just now
        file.write(b'{"time": 1, "kind": ')
        file.flush()
        assert list(journal.read(offset)) == []
        file.write(b'"tick", "step": 2}\n')
    ((_, record),) = journal.read(offset)
    assert record["step"] == 2


def test_the_last_record_of_a_kind_is_found_far_back(journal):
    start = journal.write("start", step=0)
    line = json.dumps({"time": 0.0, "kind": "tick", "step": 1, "note": "x" * 1000}).encode() + b"\n"
    with open(journal.path, "ab") as file:
        file.write(line * (9 * CHUNK // len(line)))
    assert journal.last("start") == start and journal.last("tick")["step"] == 1


@pytest.mark.parametrize("length", [10, 1000, 3 * CHUNK])
def test_backwards_is_forwards_reversed(journal, length):
    for step in range(30):
        journal.write("tick", step=step, note="x" * (length + 37 * step))
    with open(journal.path, "ab") as file:
        file.write(b'{"time": 1, "kind": "torn')
    assert list(journal.backwards()) == journal.records()[::-1]


def test_a_curve_has_each_step_once_and_the_latest_value(journal):
    for step, loss in ((1, 0.5), (2, 0.4), (3, 0.3), (2, 0.41), (3, 0.31)):
        journal.write("train", step=step, epoch=0.1, loss=loss, losses={})
    assert [(r["step"], r["loss"]) for r in journal.curve("train")] == [(1, 0.5), (2, 0.41), (3, 0.31)]


def _write_until_killed(path, first) -> None:
    for step in range(first, first + 20_000):  # an end, should the test itself be killed
        Journal(path).write("train", step=step, epoch=0.1, loss=1.0, losses={}, note="x" * 3000)


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
