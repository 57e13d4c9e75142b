"""Bound by data or by compute: what a run's records say."""

import pytest

from multimae.record.epochs import DATA_BOUND, bound_by, waited

START, FINISHED = {"kind": "start"}, {"kind": "finished"}


def epoch(step: int, share: float | None, seconds: float = 1.0) -> dict:
    return {"kind": "epoch", "step": step, "seconds": seconds, "data_share": share}


@pytest.mark.parametrize(
    ("records", "share"),
    [
        ([], None),
        ([START, FINISHED], None),  # trains less than an epoch, or nothing
        ([START, epoch(1, 0.9)], None),  # the first waits for workers that begin
        ([START, epoch(1, 0.9), FINISHED], 0.9),  # and is all there will be
        ([START, epoch(1, 0.9), epoch(2, 0.1)], 0.1),
        ([START, epoch(1, 0.9), epoch(2, 0.2, 30.0), epoch(3, 0.6, 10.0), FINISHED], 0.3),  # weighted by time
        ([START, epoch(1, 0.9), epoch(2, 0.2), START, epoch(3, 0.9), epoch(4, 0.4)], 0.3),  # of each attempt
        ([START, epoch(1, 0.9), epoch(2, 0.2), epoch(3, 0.8), START, epoch(2, 0.9), epoch(3, 0.4)], 0.4),  # again
        ([START, epoch(1, None), epoch(2, None), FINISHED], None),  # of an older version
        ([START, epoch(1, 0.5, 0.0), epoch(2, 0.5, 0.0)], None),  # took no time
    ],
)
def test_the_share_that_was_waited(records, share):
    assert waited(records) == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("share", "verdict"), [(None, "unknown"), (0.0, "compute"), (0.099, "compute"), (DATA_BOUND, "data"), (1.0, "data")]
)
def test_the_verdict(share, verdict):
    assert bound_by(share) == verdict
