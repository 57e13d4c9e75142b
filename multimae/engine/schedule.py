"""What depends on the optimizer step alone, so that a resume needs no state for it."""

import math

from ..config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, samples: int) -> float:
    """The lr of optimizer step `step` (0 is the first): linear warm-up, then a cosine to zero (paper Section A).

    `samples` is the number of training samples, by which epochs are turned into steps.
    """
    total = config.total_steps(samples)
    warmup = min(total, round(config.optimizer.warmup_epochs * config.steps_per_epoch(samples)))
    if step < warmup:
        start = config.optimizer.warmup_lr
        return start + (config.lr - start) * step / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def evaluation_steps(config: TrainingConfig, samples: int) -> set[int]:
    """After which steps to evaluate, besides the last one, after which a run always does."""
    if config.eval_every_epochs is None:
        return set()
    total, interval = config.total_steps(samples), config.eval_every_epochs * config.steps_per_epoch(samples)
    return {round(i * interval) for i in range(1, int(total / interval) + 1)} - {0, total}
