"""What a consumer at a GPU's pace waits, by a clock of the test's own."""

import types

import pytest

from multimae.data import consumer


@pytest.mark.parametrize("reading, waited, rate", [(0.3, 0.75, 150.0), (0.1, 0.5, 300.0), (0.0, 0.0, 600.0)])
def test_the_share_waited_and_the_rate_that_came(monkeypatch, reading, waited, rate):
    """Of 600 images/s: a batch of 60 is computed in 0.1 s."""
    now, busy = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def next_batch() -> None:
        busy[0] += 0.12
        sleep(reading)

    monkeypatch.setattr(consumer, "time", types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(consumer, "_busy", lambda processes: busy[0])
    fed = consumer._fed(next_batch, workers=2, rate=600)
    assert (fed.waited, fed.rate, fed.seconds) == pytest.approx((waited, rate, 0.002))
    assert fed.cores(2000) == pytest.approx(4.0)
