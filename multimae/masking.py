"""Which tokens are visible (paper Section 3.3), and where each of them stands in the encoder's sequence."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def sample_visible(
    token_counts: Mapping[str, int],
    batch_size: int,
    visible_tokens: int,
    alpha: float,
    generator: torch.Generator,
) -> dict[str, Bool[Tensor, "batch _"]]:
    """Masks of a whole batch, True = visible, with exactly `visible_tokens` in every sample.

    For each sample the proportions of the modalities are drawn from a symmetric Dirichlet(`alpha`), rounded to tokens
    and completed at random to the exact number; within a modality tokens are drawn uniformly without replacement.
    `alpha` = inf gives every modality the same number, the odd ones placed at random.

    Runs on the generator's device with one sort and without a host synchronisation. Raises ValueError where
    `visible_tokens` does not fit, or `alpha` is not positive.
    """
    total = sum(token_counts.values())
    if not 0 <= visible_tokens <= total:
        raise ValueError(f"visible_tokens: expected 0 to {total} (all of {dict(token_counts)}), found {visible_tokens}")
    sizes = _on(generator.device, token_counts.values())
    proportions = sample_proportions(batch_size, len(token_counts), alpha, generator)
    counts = whole_counts(proportions, sizes, visible_tokens, generator)

    longest = max(token_counts.values())
    noise = torch.rand(len(token_counts), batch_size, longest, generator=generator, device=generator.device)
    position = torch.arange(longest, device=generator.device)
    noise = noise.masked_fill(position >= sizes[:, None, None], 2.0)  # places that a smaller modality lacks come last
    # Taking the first `count` of a permutation is exact even where noise ties; comparing noise with a threshold is not.
    chosen = torch.zeros_like(noise, dtype=torch.bool)
    chosen.scatter_(-1, noise.argsort(-1), position < counts.t()[..., None])
    return {modality: mask[:, :size] for mask, (modality, size) in zip(chosen, token_counts.items())}


def sample_proportions(
    batch_size: int, modalities: int, alpha: float, generator: torch.Generator
) -> Float[Tensor, "batch modalities"]:
    """Symmetric Dirichlet(`alpha`) proportions, float64, from gamma draws.

    Logarithms keep a small alpha from underflowing: Gamma(a) is distributed as Gamma(a + 1) U^(1/a).
    """
    if not alpha > 0:
        raise ValueError(f"alpha: expected a positive number or inf, found {alpha}")
    shape, device = (batch_size, modalities), generator.device
    if math.isinf(alpha):
        return torch.full(shape, 1 / modalities, dtype=torch.float64, device=device)
    # torch.distributions takes no generator; this is the operation beneath its Gamma.
    gamma = torch._standard_gamma(torch.full(shape, alpha + 1, dtype=torch.float64, device=device), generator=generator)
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
    return torch.softmax(gamma.log() + (-uniform).log1p() / alpha, dim=-1)


def whole_counts(
    proportions: Float[Tensor, "batch modalities"],
    sizes: Int[Tensor, " modalities"],
    total: int,
    generator: torch.Generator,
) -> Int[Tensor, "batch modalities"]:
    """`proportions` of `total` in whole numbers that add up to it in every row, none above its modality's size."""
    counts = torch.minimum((proportions * total).round().long(), sizes)
    missing = total - counts.sum(-1, keepdim=True)
    room = torch.where(missing > 0, sizes - counts, counts)
    return counts + missing.sign() * _spread(missing.abs(), room, generator)


def _spread(
    amount: Int[Tensor, "batch 1"], room: Int[Tensor, "batch modalities"], generator: torch.Generator
) -> Int[Tensor, "batch modalities"]:
    """Split `amount` at random over places in proportion to their `room`, never more than it (systematic sampling).

    A ruler of `amount` marks, one unit apart and shifted by one uniform draw, is laid over the shares in a line; each
    place gets the marks on its share. Every mark falls somewhere, and a share of s gets floor(s) or ceil(s) of them.
    """
    line = room.cumsum(-1)
    ends = line * amount.double() / line[:, -1:].clamp(min=1)
    # float32 uniforms leave room in float64, so that adding one below 1 to a whole number never reaches the next.
    shift = torch.rand(amount.shape, generator=generator, device=generator.device)
    return torch.diff((ends + shift).floor().long(), dim=-1, prepend=torch.zeros_like(amount))


@dataclass(frozen=True)
class Group:
    """The tokens of one modality over the whole batch. A row is `sample * size + token`."""

    size: int  # tokens of a sample, visible or not
    start: int  # of its first token in the sequence of all tokens
    visible: Int[Tensor, " visible"]  # rows
    slots: Int[Tensor, " visible"]  # where each visible row stands: sample * (length + 1) + position in the sequence
    masked: Int[Tensor, " masked"]  # rows
    weights: Float[Tensor, " masked"]  # of a masked row in the loss; see `loss_weights`


@dataclass(frozen=True)
class Selection:
    """Masks as indices. In the sequence the modalities keep their order, and the global token is last.

    Building one waits for the device once (to read how many tokens are visible); nothing after it depends on the data
    but through the number of rows.
    """

    groups: dict[str, Group]
    tokens: int  # of all modalities together, visible or not
    length: int  # of the sequence without the global token: the largest number of visible tokens in a sample
    slots: Int[Tensor, " visible_and_global"]  # of all visible rows, modality by modality, then of the global tokens
    # Of each slot, the token's place in the sequence of all tokens; `tokens` where it is the global token or padding.
    places: Int[Tensor, " slots"]
    membership: Float[Tensor, "slots modalities"]  # one-hot; zero for the global token and padding
    real: Bool[Tensor, "batch length_and_global"] | None  # None: every sample has `length` tokens, no padding

    def full_slots(self) -> Int[Tensor, " visible"]:
        """Where the visible rows stand in a sequence of all tokens and the global token."""
        groups = self.groups.values()
        return torch.cat([g.visible // g.size * (self.tokens + 1) + g.visible % g.size + g.start for g in groups])


@torch.compiler.disable  # it reads numbers from the device; everything after it compiles into one graph
def select(visible: Mapping[str, Bool[Tensor, "batch _"]]) -> Selection:
    """The indices of `visible`, whose order is the order of the modalities in the sequence."""
    masks = list(visible.values())
    sizes = [mask.shape[1] for mask in masks]
    batch, device = len(masks[0]), masks[0].device
    counts = torch.stack([mask.sum(1) for mask in masks], 1)
    host = counts.tolist()  # the one host synchronisation: every shape below follows from these numbers
    lengths, totals = [sum(sample) for sample in host], [sum(modality) for modality in zip(*host)]
    length = max(lengths)

    # The visible rows of each modality, then the masked rows of each; their number is known, so nothing waits for it.
    flags = torch.cat([mask.flatten() for mask in masks])
    found = torch.nonzero_static(torch.cat([flags, ~flags]), size=len(flags)).flatten()
    found = found.split(totals + [batch * size - total for size, total in zip(sizes, totals)])

    first = torch.arange(0, batch * (length + 1), length + 1, device=device)  # the slot where each sample begins
    # Rows are in the order of samples, so the slots of a sample's rows are consecutive numbers plus a shift of its own.
    shift = first[:, None] + counts.cumsum(1) - counts.cumsum(0)
    on_device = _on(device, sizes)
    weights = loss_weights(on_device - counts)
    groups, standing, start = {}, [], 0
    for i, (modality, size) in enumerate(zip(visible, sizes)):
        rows, masked = found[i] - batch * start, found[len(masks) + i] - (len(flags) + batch * start)
        slots = torch.arange(totals[i], device=device) + shift[:, i].index_select(0, rows // size)
        of_masked = weights[:, i].index_select(0, masked // size)
        groups[modality] = Group(size, start, rows, slots, masked, of_masked)
        standing.append(rows % size + start)
        start += size

    slots = torch.cat([group.slots for group in groups.values()])
    blank = torch.full((batch * (length + 1),), start, device=device)
    places = blank.index_copy(0, slots, torch.cat(standing))
    modality_of = torch.bucketize(places, on_device.cumsum(0), right=True)[:, None]
    membership = (modality_of == torch.arange(len(masks), device=device)).float()
    real = None
    if min(lengths) < length:
        real = torch.arange(length + 1, device=device) < counts.sum(1, keepdim=True)
        real[:, -1] = True
    return Selection(groups, start, length, torch.cat([slots, first + length]), places, membership, real)


def loss_weights(masked: Int[Tensor, "batch *_"]) -> Float[Tensor, "batch *_"]:
    """The weight in the loss of each masked token, from their number in each sample.

    The loss is the mean over a sample's masked tokens, then over the samples that have any.
    """
    return 1 / (masked.clamp(min=1) * (masked > 0).sum(0).clamp(min=1))


def _on(device: torch.device, numbers: Iterable[int]) -> Int[Tensor, " numbers"]:
    """Python numbers on a device; `torch.tensor(..., device=...)` would wait for the device."""
    return torch.tensor(list(numbers)).to(device, non_blocking=True)
