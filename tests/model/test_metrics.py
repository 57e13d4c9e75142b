from math import isfinite, isnan, log10, sqrt

import pytest
import torch

from multimae.metrics import Accuracy, DepthErrors, MeanAbsoluteError, MeanIoU, MeanLosses, Unmeasured
from multimae.modalities import IGNORE

CPU = torch.device("cpu")


def test_accuracy_is_over_all_samples_not_the_mean_of_batches():
    accuracy = Accuracy(3, CPU)
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 2]))
    accuracy.update(torch.eye(3)[:1], torch.tensor([1]))
    assert accuracy.compute()["accuracy"] == pytest.approx(75.0)


def test_mean_iou_against_a_count_by_hand():
    truth = torch.tensor([[[0, 0, 1, 1], [0, 2, IGNORE, IGNORE]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [0, 0, 2, 0]]])
    iou = MeanIoU(4, CPU)  # class 3 occurs nowhere and does not count
    iou.update(torch.nn.functional.one_hot(predicted, 4).permute(0, 3, 1, 2).float(), truth)
    measured = iou.compute()
    assert measured["mIoU"] == pytest.approx(100 * (2 / 4 + 2 / 3 + 0 / 1) / 3)
    assert measured["pixel_accuracy"] == pytest.approx(100 * 4 / 6)


def test_labels_of_nothing_are_told():
    iou = MeanIoU(3, CPU)
    iou.update(torch.rand(1, 3, 2, 2), torch.full((1, 2, 2), IGNORE))
    with pytest.raises(Unmeasured, match="no labelled pixel"):
        iou.compute()
    iou.update(torch.rand(1, 3, 2, 2), torch.tensor([[[IGNORE, 1], [IGNORE, IGNORE]]]))
    assert isfinite(iou.compute()["mIoU"])


@pytest.mark.parametrize("measure", [Accuracy(2, CPU), MeanIoU(2, CPU), MeanAbsoluteError(2, CPU), DepthErrors(CPU)])
def test_a_measure_says_of_each_metric_which_way_is_better(measure):
    truth = torch.ones(2, 2) if "accuracy" not in measure.better and "mIoU" not in measure.better else torch.arange(2)
    measure.update(torch.eye(2), truth)
    metrics = measure.compute()
    assert metrics.keys() - measure.better == {key for key in metrics if key.endswith("_constant")}
    assert measure.better.keys() < metrics.keys() or measure.better.keys() == {"accuracy"}


def some_depth() -> tuple[torch.Tensor, torch.Tensor]:
    """(predicted, truth) in metres, (2, 1, 8, 9), of which a third holds no value."""
    generator = torch.Generator().manual_seed(0)
    truth = 0.5 + 9 * torch.rand(2, 1, 8, 9, generator=generator)
    predicted = truth * (0.4 + 1.2 * torch.rand(2, 1, 8, 9, generator=generator))
    return predicted, truth.masked_fill(torch.rand(2, 1, 8, 9, generator=generator) < 1 / 3, torch.nan)


def test_depth_errors_against_a_count_by_hand():
    """Batches of different numbers of valid pixels: each pixel counts once, no mean is taken of means."""
    predicted, truth = some_depth()
    errors = DepthErrors(CPU, lambda values: 2 * values + 1)
    for one in (slice(0, 1), slice(1, 2), slice(2, 2)):  # the last is a process without samples
        errors.update((predicted[one] - 1) / 2, truth[one])
    pairs = [(p, t) for p, t in zip(predicted.flatten().tolist(), truth.flatten().tolist()) if isfinite(t)]
    measured = errors.compute()
    assert measured["delta1"] == pytest.approx(100 * sum(max(p / t, t / p) < 1.25 for p, t in pairs) / len(pairs))
    assert measured["rmse"] == pytest.approx(sqrt(sum((p - t) ** 2 for p, t in pairs) / len(pairs)), rel=1e-5)
    assert measured["abs_rel"] == pytest.approx(sum(abs(p - t) / t for p, t in pairs) / len(pairs), rel=1e-5)
    assert measured["log10"] == pytest.approx(sum(abs(log10(p / t)) for p, t in pairs) / len(pairs), rel=1e-5)
    depths = [t for _, t in pairs]
    best = max(sum(max(c / 1000 / t, 1000 * t / c) < 1.25 for t in depths) for c in range(400, 12_000)) / len(depths)
    assert measured["delta1_constant"] == pytest.approx(100 * best, abs=100 / len(depths) + 1e-6)


def test_a_depth_that_is_not_positive_is_wrong_and_no_error():
    errors = DepthErrors(CPU)
    errors.update(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([1.0, 1.0, 2.0]))
    assert errors.compute()["delta1"] == pytest.approx(100 / 3) and isfinite(errors.compute()["log10"])


def test_the_mean_absolute_error_against_a_count_by_hand():
    generator = torch.Generator().manual_seed(1)
    predicted, truth = (torch.rand(3, 2, 5, 4, generator=generator) for _ in range(2))
    truth[:, :, 0] = torch.nan
    error = MeanAbsoluteError(2, CPU)
    for one in (slice(0, 1), slice(1, 3), slice(3, 3)):
        error.update(predicted[one], truth[one])
    known = truth[:, :, 1:]
    medians = known.transpose(0, 1).flatten(1).median(1).values.view(2, 1, 1)
    measured = error.compute()
    assert measured["l1"] == pytest.approx((predicted[:, :, 1:] - known).abs().mean().item(), rel=1e-6)
    assert measured["l1_constant"] == pytest.approx((known - medians).abs().mean().item(), abs=2 / error.BINS)


@pytest.mark.parametrize("measure", [DepthErrors(CPU), MeanAbsoluteError(1, CPU)])
def test_a_split_without_values_has_no_number(measure):
    measure.update(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), torch.nan))
    with pytest.raises(Unmeasured, match="no pixel"):
        measure.compute()
    measure.update(torch.full((1, 1, 2, 2), torch.nan), torch.full((1, 1, 2, 2), 0.5))
    assert all(isnan(value) for value in measure.compute().values())


def test_the_best_constant_class_against_trying_all():
    truth = torch.tensor([[[0, 0, 1, 1], [0, 2, IGNORE, IGNORE]]])
    found = []
    for k in range(4):
        iou = MeanIoU(4, CPU)
        iou.update(torch.nn.functional.one_hot(torch.full_like(truth, k), 4).permute(0, 3, 1, 2).float(), truth)
        found.append(iou.compute())
    assert found[0]["mIoU_constant"] == pytest.approx(max(each["mIoU"] for each in found))


def test_losses_are_weighted_by_the_samples_that_have_them():
    means = MeanLosses(("rgb", "depth"), CPU)
    means.update({"rgb": torch.tensor(1.0), "depth": torch.tensor(2.0)}, {"rgb": 3, "depth": 1})
    means.update({"rgb": torch.tensor(5.0), "depth": torch.tensor(4.0)}, {"rgb": torch.tensor(1), "depth": 3})
    means.update({"rgb": torch.tensor(99.0), "depth": torch.tensor(torch.nan)}, {"rgb": 0, "depth": 0})  # padding
    assert means.compute() == pytest.approx({"loss": 5.5, "loss_rgb": 2.0, "loss_depth": 3.5})


def test_a_loss_that_no_sample_has_is_left_out():
    means = MeanLosses(("rgb", "depth"), CPU)
    means.update({"rgb": torch.tensor(1.0), "depth": torch.tensor(0.0)}, {"rgb": 3, "depth": 0})
    assert means.compute() == {"loss": 1.0, "loss_rgb": 1.0}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_computed_from_values_that_are_not_finite_is_no_number(bad):
    means = MeanLosses(("rgb", "depth"), CPU)
    means.update({"rgb": torch.tensor(bad), "depth": torch.tensor(2.0)}, {"rgb": 3, "depth": 3})
    means.update({"rgb": torch.tensor(1.0), "depth": torch.tensor(2.0)}, {"rgb": 3, "depth": 3})
    measured = means.compute()
    assert not isfinite(measured["loss"]) and not isfinite(measured["loss_rgb"]) and measured["loss_depth"] == 2
    accuracy, iou = Accuracy(3, CPU), MeanIoU(3, CPU)
    scores = torch.eye(3)
    scores[1, 2] = bad
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 2]))
    accuracy.update(scores, torch.tensor([0, 1, 2]))
    iou.update(scores.T[None, :, :, None], torch.tensor([[[0], [1], [2]]]))
    assert all(isnan(value) for value in (accuracy.compute() | iou.compute()).values())


def test_a_process_without_samples_adds_nothing():
    accuracy = Accuracy(3, torch.device("cpu"))
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 1]))
    accuracy.update(torch.empty(0, 3), torch.empty(0, dtype=torch.long))
    assert accuracy.compute()["accuracy"] == pytest.approx(200 / 3)
