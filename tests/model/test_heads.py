import pytest
import torch
import torch.nn.functional as F

from multimae.model.heads import ClassificationHead, ConvNeXtHead


def test_classification_head_averages_all_tokens_with_the_global_one():
    head = ClassificationHead(8, 3)
    tokens = torch.randn(2, 5, 8)
    expected = F.linear(F.layer_norm(tokens.mean(1), (8,), eps=1e-6), head.linear.weight)
    torch.testing.assert_close(head(tokens), expected)


def test_convnext_head_has_the_published_widths():
    head = ConvNeXtHead(dim=768, head_dim=6144, depth=4, classes=150, patch_size=16)
    assert head.widen.weight.shape == (6144, 768)
    assert head.scores.weight.shape[:2] == (150, 384)
    assert head.blocks[0].conv_dw.kernel_size == (7, 7)
    assert len(head.blocks) == 4


@pytest.mark.parametrize("patch, grid", [(16, (2, 3)), (8, (4, 2))])
def test_convnext_head_returns_full_resolution(patch, grid):
    head = ConvNeXtHead(dim=8, head_dim=16 * (patch // 4) ** 2, depth=1, classes=5, patch_size=patch)
    assert head(torch.randn(2, grid[0] * grid[1], 8), grid).shape == (2, 5, grid[0] * patch, grid[1] * patch)


def test_convnext_head_puts_each_token_at_its_place():
    """Without its blocks the head is local: a token changes its own patch and, through bilinear resizing, its rim."""
    head = ConvNeXtHead(dim=8, head_dim=256, depth=0, classes=1, patch_size=16)
    tokens = torch.zeros(1, 6, 8)
    base = head(tokens, (2, 3))
    tokens[0, 4] = 1  # second row, second column
    changed = (head(tokens, (2, 3)) - base)[0, 0].abs() > 1e-6
    rows, columns = changed.nonzero(as_tuple=True)
    assert rows.min() >= 16 - 4 and columns.min() >= 16 - 4 and columns.max() < 32 + 4
    assert changed[16:32, 16:32].float().mean() > 0.9
