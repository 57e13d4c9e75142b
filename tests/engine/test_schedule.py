"""The learning rate of paper Section A."""

import math

import pytest

from multimae.config import Classify, Pretrain
from multimae.engine.schedule import evaluation_steps, learning_rate

IMAGENET = 1_281_167


def test_the_paper_s_pre_training():
    """Table 5: 40 epochs of warm-up from 1e-6 to 8e-4, then a cosine to zero; 625 steps an epoch."""
    config = Pretrain()
    assert config.steps_per_epoch(IMAGENET) == 625 and config.total_steps(IMAGENET) == 1_000_000

    def lr(step):
        return learning_rate(config, step, IMAGENET)

    assert lr(0) == 1e-6
    assert lr(12_500) == pytest.approx((8e-4 + 1e-6) / 2)
    assert lr(25_000) == 8e-4
    assert lr(25_000 + 975_000 // 2) == pytest.approx(4e-4)
    assert 0 < lr(999_999) < 1e-11 and lr(1_000_000) == pytest.approx(0, abs=1e-18)


def test_it_rises_then_falls():
    config = Classify(epochs=10)
    values = [learning_rate(config, step, 10_240) for step in range(config.total_steps(10_240))]
    peak = values.index(max(values))
    assert peak == 50 and max(values) == config.lr
    assert values[: peak + 1] == sorted(values[: peak + 1]) and values[peak:] == sorted(values[peak:], reverse=True)


@pytest.mark.parametrize("warmup", [0, 0.5, 3, 10])
def test_any_warm_up_fits_any_length(warmup):
    config = Pretrain(epochs=3, batch_size=8).edit({"optimizer.warmup_epochs": warmup})
    values = [learning_rate(config, step, 64) for step in range(config.total_steps(64))]
    assert all(math.isfinite(value) and 0 < value <= config.lr for value in values)
    assert values[0] == (config.optimizer.warmup_lr if warmup else config.lr)


@pytest.mark.parametrize(
    "every,steps", [(None, set()), (1, {8, 16}), (1.5, {12}), (0.05, set(range(1, 24))), (3, set()), (7, set())]
)
def test_evaluations_are_spread_and_the_last_is_not_among_them(every, steps):
    config = Pretrain(epochs=3, batch_size=8, eval_every_epochs=every)
    assert evaluation_steps(config, 64) == steps
