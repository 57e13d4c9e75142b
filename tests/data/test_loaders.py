"""Batches: a function of the seed, the epoch and the sample, whatever the workers, shards and interruptions."""

from itertools import islice

import numpy as np
import pytest
import torch

from multimae.config import ConfigError, Dirichlet, Model, Pretrain, Runtime, Scenes
from multimae.data import loaders
from multimae.data.datasets import open_dataset
from multimae.data.loaders import epoch_order, eval_batches, normalize, train_batches
from multimae.data.transforms import PretrainTransform
from multimae.modalities import RGB_MEAN, RGB_STD
from multimae.shards import Shard

BATCH = 8
CONFIG = Pretrain(
    batch_size=BATCH,
    seed=3,
    data=Scenes(train_samples=21, eval_samples=13, render_size=24),
    model=Model(image_size=16, patch_size=8, semseg_classes=14),
    masking=Dirichlet(visible_tokens=4),
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    runtime = Runtime(runs=tmp_path_factory.mktemp("runs"))
    return {split: open_dataset(CONFIG.data, split, runtime) for split in ("train", "eval")}


def code_of(sample) -> int:
    return int(sample["rgb"].long().sum() * 7 + sample["semseg"].long().sum())


class Coded(PretrainTransform):
    """Tells a row's sample by what it held before it was augmented."""

    def __call__(self, sample, rng=None):
        return super().__call__(sample, rng) | {"code": torch.tensor(code_of(sample))}


def steps(datasets, count, first=0, shards=(Shard(),), workers=0, config=CONFIG):
    batches = train_batches(datasets["train"], Coded(config, True), config, list(shards), first, workers)
    return list(islice(batches, count))


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_shapes_and_types(datasets):
    (batch,) = steps(datasets, 1)[0]
    assert batch["rgb"].shape == (BATCH, 3, 16, 16) and batch["rgb"].dtype == torch.uint8
    assert batch["depth"].shape == (BATCH, 1, 16, 16) and batch["depth"].dtype == torch.float32
    assert batch["semseg"].shape == (BATCH, 4, 4) and batch["semseg"].dtype == torch.uint8


@pytest.mark.parametrize("first", [1, 2, 3, 5])
def test_a_start_at_step_k_is_the_tail(datasets, first):
    whole = steps(datasets, 8)
    for a, b in zip(whole[first:], steps(datasets, 8 - first, first), strict=True):
        assert same(a[0], b[0])


@pytest.mark.parametrize("count", [2, 4])
def test_shards_together_are_the_global_batch(datasets, count):
    shards = [Shard(i, count) for i in range(count)]
    for (whole,), parts in zip(steps(datasets, 3), steps(datasets, 3, shards=shards), strict=True):
        assert len(parts) == count
        rows = np.concatenate([shard.rows(BATCH) for shard in shards])
        assert sorted(rows) == list(range(BATCH))
        together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        assert same(together, {name: values[torch.from_numpy(rows)] for name, values in whole.items()})


def test_a_process_reads_only_its_own_shards(datasets):
    both = steps(datasets, 3, shards=[Shard(0, 2), Shard(1, 2)])
    second = steps(datasets, 3, shards=[Shard(1, 2)])
    assert all(same(a[1], b[0]) for a, b in zip(both, second, strict=True))


def test_workers_change_nothing(datasets):
    for a, b in zip(steps(datasets, 4), steps(datasets, 4, workers=2), strict=True):
        assert same(a[0], b[0])


def test_an_epoch_sees_each_sample_at_most_once_and_epochs_differ(datasets):
    codes = [batch["code"].tolist() for (batch,) in steps(datasets, 4)]
    first, second = codes[0] + codes[1], codes[2] + codes[3]
    assert len(set(first)) == len(set(second)) == 2 * BATCH, "2 steps of 8; the incomplete third is dropped"
    assert first != second
    assert sorted(epoch_order(3, 0, 21)) == list(range(21))
    assert list(epoch_order(3, 0, 21)) != list(epoch_order(4, 0, 21)) != list(epoch_order(3, 1, 21))


def test_a_batch_names_its_samples(datasets):
    fields = ("rgb", "semseg")
    for shards in ([Shard()], [Shard(0, 2), Shard(1, 2)]):
        for batches in steps(datasets, 3, shards=shards):
            for batch in batches:
                assert batch["index"].dtype == torch.int64 and "real" not in batch
                codes = [code_of(datasets["train"].sample(index, fields)) for index in batch["index"].tolist()]
                assert codes == batch["code"].tolist()


def test_a_sample_is_augmented_anew_in_each_epoch(datasets):
    config = CONFIG.edit({"batch_size": 21})
    first, second = (batch for (batch,) in steps(datasets, 2, config=config))
    a = first["rgb"][first["code"].argsort()]
    b = second["rgb"][second["code"].argsort()]
    assert sorted(first["code"]) == sorted(second["code"])
    assert (a != b).flatten(1).any(1).float().mean() > 0.9


def test_global_random_state_plays_no_part(datasets):
    torch.manual_seed(0), np.random.seed(0)
    first = steps(datasets, 2)
    torch.manual_seed(1), np.random.seed(1)
    assert all(same(a[0], b[0]) for a, b in zip(first, steps(datasets, 2), strict=True))


def test_a_batch_larger_than_the_data_is_refused(datasets):
    with pytest.raises(ConfigError, match="22 is more than the 21"):
        steps(datasets, 1, config=CONFIG.edit({"batch_size": 22}))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 16])
def test_evaluation_sees_every_sample_once(datasets, processes, batch_size):
    transform = PretrainTransform(CONFIG, train=False)
    counts, seen = [], []
    for rank in range(processes):
        batches = list(eval_batches(datasets["eval"], transform, batch_size, Shard(rank, processes)))
        counts.append(len(batches))
        for batch in batches:
            assert len(batch["rgb"]) == len(batch["real"]) == batch_size and batch["real"].dtype == torch.bool
            seen += batch["index"][batch["real"]].tolist()
    assert len(set(counts)) == 1 and sorted(seen) == list(range(13))


def test_evaluation_is_the_same_with_workers(datasets):
    transform = PretrainTransform(CONFIG, train=False)
    inline, workers = (list(eval_batches(datasets["eval"], transform, 4, Shard(), n)) for n in (0, 2))
    assert all(same(a, b) for a, b in zip(inline, workers, strict=True))


@pytest.mark.parametrize("batch_size, workers", [(16, 0), (5, 1), (4, 2), (1, 4)])
def test_an_evaluation_starts_no_worker_that_would_not_read_two_batches(datasets, monkeypatch, batch_size, workers):
    asked = []
    original = loaders.data.DataLoader

    def loader(*arguments, num_workers, **options):
        asked.append(num_workers)
        return original(*arguments, num_workers=0, **options)

    monkeypatch.setattr(loaders.data, "DataLoader", loader)
    list(eval_batches(datasets["eval"], PretrainTransform(CONFIG, train=False), batch_size, Shard(), 4))
    assert asked == [workers]


def test_normalisation_is_that_of_imagenet(datasets):
    (batch,) = steps(datasets, 1)[0]
    images = normalize(batch)
    expected = (batch["rgb"].double() / 255 - torch.tensor(RGB_MEAN).double().view(3, 1, 1)) / torch.tensor(
        RGB_STD
    ).double().view(3, 1, 1)
    torch.testing.assert_close(images["rgb"].double(), expected, rtol=1e-5, atol=1e-5)
    assert images["rgb"].dtype == torch.float32 and images["semseg"].dtype == torch.int64
    assert torch.equal(images["depth"], batch["depth"]) and set(images) == {"rgb", "depth", "semseg"}
