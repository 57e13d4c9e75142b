"""The learning rate: a pure function of the optimizer step, so that a resume needs no scheduler state."""

import math

from ..config import RunConfig


def learning_rate(config: RunConfig, step: int, samples: int) -> float:
    """The lr of optimizer step `step` (0 is the first): linear warm-up, then a cosine to zero (paper Section A).

    `samples` is the number of training samples, by which epochs are turned into steps.
    """
    total = config.total_steps(samples)
    warmup = min(total, round(config.optimizer.warmup_epochs * config.steps_per_epoch(samples)))
    if step < warmup:
        start = config.optimizer.warmup_lr
        return start + (config.lr - start) * step / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
