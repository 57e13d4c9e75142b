import math

import numpy as np
import pytest
import torch
from scipy import stats

from multimae.masking import loss_weights, sample_proportions, sample_visible, select, whole_counts

PAPER = {"rgb": 196, "depth": 196, "semseg": 196}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def counts_of(visible):
    return torch.stack([mask.sum(1) for mask in visible.values()], 1)


# ---- exactly so many, always


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.2, 1.0, 1e3, 1e9, math.inf])
@pytest.mark.parametrize(
    "sizes, total",
    [
        ((196, 196, 196), 98),
        ((196,), 49),
        ((196, 196), 98),
        ((16, 16, 16), 40),  # more than two modalities hold
        ((4, 16, 9), 20),  # unequal, and more than any holds
        ((16, 16, 16), 0),
        ((16, 16, 16), 48),
        ((1, 1, 1), 1),
    ],
)
def test_counts_are_exact(alpha, sizes, total):
    token_counts = dict(zip(("rgb", "depth", "semseg"), sizes))
    visible = sample_visible(token_counts, 500, total, alpha, generator())
    assert {m: (mask.dtype, tuple(mask.shape)) for m, mask in visible.items()} == {
        m: (torch.bool, (500, size)) for m, size in token_counts.items()
    }
    assert set(counts_of(visible).sum(1).tolist()) == {total}


def test_counts_are_exact_where_noise_ties(monkeypatch):
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *a, **k: (rand(*a, **k) * 4).floor() / 4)  # four different values
    assert set(counts_of(sample_visible(PAPER, 500, 98, 1.0, generator())).sum(1).tolist()) == {98}


def test_whole_counts_never_exceed_a_modality():
    proportions = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.98, 0.01, 0.01]], dtype=torch.float64).repeat(200, 1)
    sizes = torch.tensor([10, 40, 40])
    counts = whole_counts(proportions, sizes, 30, generator())
    assert (counts <= sizes).all() and (counts >= 0).all() and (counts.sum(1) == 30).all()
    assert (counts[::3, 0] == 10).all() and (counts[1::3, 0] == 10).all(), "the first is full; the others take the rest"


# ---- alpha


def test_infinite_alpha_is_an_equal_split_with_odd_ones_at_random():
    counts = counts_of(sample_visible(PAPER, 3000, 98, math.inf, generator()))
    assert set(map(tuple, counts.sort(1).values.tolist())) == {(32, 33, 33)}
    smaller = (counts == 32).sum(0).numpy()
    assert stats.chisquare(smaller).pvalue > 1e-3
    two = counts_of(sample_visible({"rgb": 196, "depth": 196}, 1000, 97, math.inf, generator()))
    assert set(map(tuple, two.tolist())) == {(48, 49), (49, 48)}


@pytest.mark.parametrize("alpha", [1e-3, 1e-6, 1e-12])
def test_small_alpha_takes_one_modality(alpha):
    proportions = sample_proportions(3000, 3, alpha, generator())
    assert torch.isfinite(proportions).all()
    counts = counts_of(sample_visible(PAPER, 3000, 98, alpha, generator()))
    assert (counts.max(1).values == 98).float().mean() > 0.97
    assert stats.chisquare(np.bincount(counts.argmax(1), minlength=3)).pvalue > 1e-3, "each as often as the others"


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("modalities", [2, 3])
def test_proportions_are_dirichlet(alpha, modalities):
    """Marginals are Beta(alpha, (K - 1) alpha); sums of two are Beta too, which ties the marginals together."""
    proportions = sample_proportions(20_000, modalities, alpha, generator(7)).numpy()
    np.testing.assert_allclose(proportions.sum(1), 1)
    for share in proportions.T:
        assert stats.kstest(share, stats.beta(alpha, (modalities - 1) * alpha).cdf).pvalue > 1e-3
    if modalities == 3:
        pairs = proportions[:, 0] + proportions[:, 1]
        assert stats.kstest(pairs, stats.beta(2 * alpha, alpha).cdf).pvalue > 1e-3
        # The share of the first within the first two is Beta(alpha, alpha) and independent of the third.
        within = proportions[:, 0] / pairs.clip(1e-300)
        assert stats.kstest(within[pairs > 1e-12], stats.beta(alpha, alpha).cdf).pvalue > 1e-3
        assert abs(stats.spearmanr(within, proportions[:, 2]).statistic) < 0.03


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_counts_follow_the_proportions(alpha):
    counts = counts_of(sample_visible(PAPER, 20_000, 98, alpha, generator(3))).numpy()
    rounded = np.round(98 * np.random.default_rng(0).dirichlet([alpha] * 3, size=20_000))
    beta = stats.beta(alpha, 2 * alpha)
    for column, reference in zip(counts.T, rounded.T):
        assert stats.ks_2samp(column, reference).pvalue > 1e-3
        # A count is within a token and a half of its exact proportion: half from rounding, one from completing.
        assert stats.kstest((column + 1.5) / 98, beta.cdf, alternative="greater").pvalue > 1e-3
        assert stats.kstest((column - 1.5) / 98, beta.cdf, alternative="less").pvalue > 1e-3
    np.testing.assert_allclose(counts.mean(0), 98 / 3, atol=0.7)
    np.testing.assert_allclose(counts.std(0), 98 * np.sqrt(2 / 9 / (3 * alpha + 1)), rtol=0.02)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match="alpha: expected a positive number or inf"):
        sample_visible(PAPER, 2, 98, alpha, generator())


def test_visible_tokens_must_fit():
    with pytest.raises(ValueError, match="visible_tokens: expected 0 to 588 .* found 589"):
        sample_visible(PAPER, 2, 589, 1.0, generator())


# ---- which tokens


def test_tokens_are_uniform_within_a_modality():
    visible = sample_visible({"rgb": 10, "depth": 10}, 20_000, 8, 1.0, generator(1))
    for mask in visible.values():
        assert stats.chisquare(mask.sum(0).numpy()).pvalue > 1e-3
        pairs = mask.double().T @ mask.double()
        off = pairs[~torch.eye(10, dtype=torch.bool)].numpy()
        assert off.std() / off.mean() < 0.02, "every pair of tokens is seen together equally often"


def test_the_generator_alone_decides():
    first = sample_visible(PAPER, 4, 98, 1.0, generator(5))
    torch.manual_seed(99)
    g = generator(5)
    again, state = sample_visible(PAPER, 4, 98, 1.0, g), g.get_state()
    assert all(torch.equal(first[m], again[m]) for m in PAPER)
    later = sample_visible(PAPER, 4, 98, 1.0, g)
    g.set_state(state)
    resumed = sample_visible(PAPER, 4, 98, 1.0, g)
    assert all(torch.equal(later[m], resumed[m]) for m in PAPER)
    assert not all(torch.equal(first[m], later[m]) for m in PAPER)


# ---- masks as indices


@pytest.mark.parametrize("equal", [True, False])
def test_selection(equal):
    visible = sample_visible({"rgb": 6, "depth": 4, "semseg": 6}, 5, 7, 1.0, generator(2))
    if not equal:
        visible["rgb"][0] = True
        visible["depth"][3] = False
    selection = select(visible)
    joined = torch.cat(list(visible.values()), 1)
    lengths = joined.sum(1)
    assert selection.tokens == 16 and selection.length == lengths.max()
    assert (selection.real is None) == equal
    places = selection.places.reshape(5, -1)
    for b in range(5):
        n = lengths[b]
        assert places[b, :n].tolist() == joined[b].nonzero().flatten().tolist(), "in the order of the sequence"
        assert set(places[b, n:].tolist()) == {16}, "padding and the global token have no place"
        if not equal:
            assert selection.real[b].tolist() == [True] * n + [False] * (selection.length - n) + [True]
    start = 0
    for i, (modality, mask) in enumerate(visible.items()):
        group = selection.groups[modality]
        assert group.visible.tolist() == mask.flatten().nonzero().flatten().tolist()
        assert group.masked.tolist() == (~mask).flatten().nonzero().flatten().tolist()
        size = mask.shape[1]
        assert (group.size, group.start) == (size, start)
        assert selection.places[group.slots].tolist() == (group.visible % size + start).tolist()
        assert (group.slots // (selection.length + 1)).tolist() == (group.visible // size).tolist()
        of_modality = (selection.places >= start) & (selection.places < start + size)
        assert torch.equal(selection.membership[:, i] == 1, of_modality)
        start += size


def test_loss_weights_average_samples_then_batch():
    """Samples with 2, 0 and 4 masked tokens: two samples count, each with its own mean."""
    assert loss_weights(torch.tensor([2, 0, 4])).tolist() == [1 / 4, 1 / 2, 1 / 8]  # the second has no token to weigh
    assert torch.isfinite(loss_weights(torch.zeros(3, dtype=torch.long))).all()
