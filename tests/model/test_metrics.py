from math import isfinite, isnan

import pytest
import torch

from multimae.metrics import Accuracy, MeanIoU, MeanLosses, Unmeasured
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


@pytest.mark.parametrize("measure", [Accuracy(2, CPU), MeanIoU(2, CPU)])
def test_a_measure_says_of_each_metric_which_way_is_better(measure):
    measure.update(torch.eye(2), torch.tensor([0, 1]))
    assert measure.better.keys() == measure.compute().keys()


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
