import pytest
import torch
import torch.nn.functional as F

from multimae.losses import masked_losses, standardize_patches


def test_mean_of_masked_pixels_then_of_samples():
    """Two samples with 1 and 3 masked patches of 4: each sample counts the same."""
    image = torch.zeros(2, 1, 4, 4)
    prediction = image.clone()
    visible = torch.tensor([[True, True, True, False], [False, False, True, False]])
    prediction[0, :, 2:, 2:] = 3.0  # the masked patch of the first
    prediction[0, :, :2, :2] = 100.0  # visible: not counted
    prediction[1, :, :2, :2] = -1.0  # one of three masked patches of the second
    losses = masked_losses({"depth": prediction}, {"depth": image}, {"depth": visible})
    assert losses["depth"].item() == pytest.approx((3 + 1 / 3) / 2)


def test_samples_without_masked_tokens_do_not_count():
    image, prediction = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    prediction[0] = 7.0
    visible = torch.tensor([[True] * 4, [False, True, True, True]])
    assert masked_losses({"rgb": prediction}, {"rgb": image}, {"rgb": visible})["rgb"] == 1
    assert masked_losses({"rgb": prediction}, {"rgb": image}, {"rgb": torch.ones(2, 4, dtype=torch.bool)})["rgb"] == 0


def test_everything_counts_without_a_mask():
    g = torch.Generator().manual_seed(0)
    images = {"rgb": torch.randn(2, 3, 32, 32, generator=g), "semseg": torch.randint(5, (2, 8, 8), generator=g)}
    predictions = {"rgb": torch.randn(2, 3, 32, 32, generator=g), "semseg": torch.randn(2, 5, 8, 8, generator=g)}
    for visible in (None, {"depth": torch.ones(2, 4, dtype=torch.bool)}):
        given = images | ({"depth": torch.zeros(2, 1, 32, 32)} if visible else {})
        losses = masked_losses(predictions, given, visible)
        torch.testing.assert_close(losses["rgb"], F.mse_loss(predictions["rgb"], images["rgb"]))
        torch.testing.assert_close(losses["semseg"], F.cross_entropy(predictions["semseg"], images["semseg"]))


def test_patch_size_is_read_off_the_masks():
    g = torch.Generator().manual_seed(0)
    image, prediction = torch.randn(1, 3, 16, 16, generator=g), torch.randn(1, 3, 16, 16, generator=g)
    visible = torch.zeros(1, 4, dtype=torch.bool)  # 2 x 2 patches of 8 px
    inferred = masked_losses({"rgb_standardized": prediction}, {"rgb": image}, {"rgb": visible})
    given = masked_losses({"rgb_standardized": prediction}, {"rgb": image}, None, patch_size=8)
    default = masked_losses({"rgb_standardized": prediction}, {"rgb": image}, None)  # one patch of 16 px
    torch.testing.assert_close(inferred, given)
    assert not torch.isclose(inferred["rgb_standardized"], default["rgb_standardized"], rtol=1e-4)


def test_standardized_patches():
    rows = torch.randn(5, 768, generator=torch.Generator().manual_seed(0)) * 3 + 2
    rows[4] = 0.25  # a flat patch stays finite
    result = standardize_patches(rows)
    expected = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=True, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(result[:4].std(1), torch.ones(4))
    assert result[4].abs().max() == 0


def test_losses_are_float32_under_autocast():
    prediction = torch.full((1, 1, 4, 4), 1.001, dtype=torch.bfloat16)
    losses = masked_losses({"depth": prediction}, {"depth": torch.zeros(1, 1, 4, 4)}, {"depth": torch.zeros(1, 4) > 0})
    assert losses["depth"].dtype == torch.float32


def test_unlabelled_pixels_count_zero():
    """Those of the class after the last, into which padding is turned: their scores get no gradient."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (2, 4, 4), generator=g)
    scores = torch.randn(2, 5, 4, 4, generator=g).requires_grad_()
    labels[0, :2] = 5
    loss = masked_losses({"semseg": scores}, {"semseg": labels}, None)["semseg"]
    torch.testing.assert_close(loss, F.cross_entropy(scores, labels, ignore_index=5, reduction="sum") / labels.numel())
    loss.backward()
    assert scores.grad[0, :, :2].abs().max() == 0 and scores.grad[0, :, 2:].abs().min() > 0
