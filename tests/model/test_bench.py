"""The benchmark's counts, which do not move with load."""

import pytest
import torch

from multimae import bench
from multimae.config import build

CPU = torch.device("cpu")
TINY = {"model.image_size": 64, "model.dim": 32, "model.depth": 2, "model.heads": 2, "decoder.dim": 16}
TINY |= {"decoder.heads": 2}


def variant(name, **changes):
    changes = {"masking.visible_tokens": 4 if name.startswith("MAE") else 8} | changes
    return bench.Variant(name, build({"task": "pretrain"}).edit(bench.VARIANTS[name] | TINY | changes), 2, CPU)


@pytest.mark.parametrize("name", bench.VARIANTS)
def test_a_step_sorts_once_and_waits_for_the_device_at_most_twice(name):
    ops, syncs = variant(name).count()
    assert ops.of(bench.SORTS) == 1
    assert 1 <= syncs.total <= 2


def test_the_published_model_stays_near_a_thousand_operations():
    """The authors' step has 1,742 (forward and backward, views not counted)."""
    ops, _ = variant("MultiMAE", **{"model.depth": 12, "decoder.dim": 16}).count()
    assert ops.ops.total() < 1100


@pytest.mark.parametrize("name", bench.VARIANTS)
def test_counted_flops_agree_with_the_formula(name):
    v = variant(name)
    expected = v.config.edit({"epochs": 1, "batch_size": 1, "data.train_samples": 1}).operations({})
    assert v.flops() == pytest.approx(expected, rel=0.02)


def test_products_of_a_step_hold_its_flops():
    """Every matrix product is seen: their operations are the counted FLOPs."""
    # As many masked patches of each modality in every draw, so that two steps have the same products.
    v = variant("MultiMAE", **{"masking.alpha": float("inf"), "masking.visible_tokens": 9})
    total = 0
    for (a, b, _, _), count in v.products().items():
        assert a[-1] == b[-2]
        total += 2 * count * torch.Size(a).numel() * b[-1]
    assert total == pytest.approx(v.flops() * v.batch, rel=1e-6)


def test_waits_for_the_device_are_seen_in_python():
    with bench.CountSyncs() as syncs:
        torch.ones(3).sum().item()
        torch.ones(3).tolist()
        torch.ones(3).add_(1)
    assert syncs.total == 2
