import pytest
import torch
import torch.nn.functional as F

from multimae.config import Regress
from multimae.model.heads import ClassificationHead, ConvNeXtHead, DPTHead


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


def test_dpt_head_has_the_published_sizes():
    """Section B.3 and Ranftl et al.: layers 3, 6, 9, 12; widths 96 to 768; fused at 256."""
    head = Regress().head
    dpt = DPTHead(768, head.layers, head.widths, head.dim, 3, 16)
    assert dpt.layers == (3, 6, 9, 12)
    assert [layer[0].weight.shape[:2] for layer in dpt.maps] == [(96, 768), (192, 768), (384, 768), (768, 768)]
    assert [layer[2].weight.shape[:2] for layer in dpt.maps] == [(256, 96), (256, 192), (256, 384), (256, 768)]
    shapes = []
    for layer in dpt.maps:
        layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[-2:])))
    out = dpt(*[torch.randn(1, 4 * 6, 768) for _ in range(4)], grid=(4, 6))
    assert shapes == [(16, 24), (8, 12), (4, 6), (2, 3)] and out.shape == (1, 3, 64, 96)


@pytest.mark.parametrize("patch, grid", [(16, (2, 3)), (8, (5, 5)), (8, (4, 2)), (4, (3, 3))])
def test_dpt_head_returns_full_resolution_and_uses_all_of_itself(patch, grid):
    head = DPTHead(8, (1, 2, 3, 4), (4, 6, 8, 10), 6, 2, patch)
    out = head(*[torch.randn(2, grid[0] * grid[1], 8) for _ in range(4)], grid=grid)
    assert out.shape == (2, 2, grid[0] * patch, grid[1] * patch)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_dpt_head_against_its_parts_by_hand():
    """From the coarsest layer on: enlarge, add the next, mix."""
    torch.manual_seed(0)
    head = DPTHead(8, (1, 2, 3, 4), (4, 6, 8, 10), 6, 1, 16).double()
    tokens = [torch.randn(1, 4, 8, dtype=torch.float64) for _ in range(4)]
    maps = [layer(x.transpose(1, 2).reshape(1, 8, 2, 2)) for layer, x in zip(head.maps, tokens)]

    def residual(block, x):
        first, second = block.layers[1], block.layers[3]
        return x + second(first(x.relu()).relu())

    def twice(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    x = 0
    for i in (3, 2, 1, 0):
        x = x + (maps[i] if i == 3 else residual(head.fusions[i].before, maps[i]))
        x = head.fusions[i].mix(twice(residual(head.fusions[i].after, x)))
    expected = head.output(twice(head.halve(x)))
    torch.testing.assert_close(head(*tokens, grid=(2, 2)), expected)
