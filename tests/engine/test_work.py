"""The loop of runs that train nothing: each piece is done once, whatever stops the run."""

import os
import signal

import pytest

from multimae.config import Evaluate, Runtime
from multimae.engine.task import RunFailed
from multimae.engine.work import work
from multimae.record.folder import RunFolder
from multimae.record.heartbeat import last_beat
from multimae.record.state import Traces

CONFIG = Evaluate()


class Pieces:
    """Three pieces, of which `act` may do something to one."""

    pieces = ("a", "b", "c")

    def __init__(self, act=lambda piece: None):
        self.act, self.done = act, []

    def do(self, piece, device, shard, progress):
        for i in range(3):
            progress(i, 3)
            if i == 1:
                self.act(piece)
        self.done.append(piece)
        return [{"split": piece, "n": 1, "fingerprint": "f", "metrics": {"accuracy": float(len(piece))}}]


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.of(tmp_path, CONFIG.signature)
    folder.create(CONFIG)
    return folder


def carry_out(folder, task) -> str:
    return work(task, CONFIG, Runtime(runs=folder.path.parent, device="cpu", threads=1), folder)


def test_every_piece_is_done_and_journalled(folder):
    task = Pieces()
    assert carry_out(folder, task) == "finished" and task.done == ["a", "b", "c"]
    assert [record["piece"] for record in folder.journal.records("piece")] == ["a", "b", "c"]
    assert [record["split"] for record in folder.journal.records("eval")] == ["a", "b", "c"]
    assert Traces(folder).status.state == "done" and folder.weights_problem is None
    assert carry_out(folder, again := Pieces()) == "finished" and again.done == []


def test_a_signal_stops_it_and_the_piece_is_done_again(folder):
    task = Pieces(lambda piece: os.kill(os.getpid(), signal.SIGTERM) if piece == "b" else None)
    assert carry_out(folder, task) == "interrupted" and task.done == ["a"]
    assert Traces(folder).status.state == "interrupted" and last_beat(folder)["step"] == 1
    assert folder.saved_step == 1  # a start that came further is not in vain
    assert carry_out(folder, again := Pieces()) == "finished" and again.done == ["b", "c"]
    starts = folder.journal.records("start")
    assert [(start["step"], start["total_steps"]) for start in starts] == [(0, 3), (1, 3)]
    assert folder.journal.last("finished")["seconds"] == sum(r["seconds"] for r in folder.journal.records("piece"))


def test_an_error_is_told_and_leaves_what_was_done(folder):
    def act(piece):
        if piece == "c":
            raise ValueError("the data is on fire")

    with pytest.raises(RunFailed, match="the data is on fire"):
        carry_out(folder, Pieces(act))
    assert Traces(folder).status.reason == "ValueError: the data is on fire"
    assert carry_out(folder, again := Pieces()) == "finished" and again.done == ["c"]
