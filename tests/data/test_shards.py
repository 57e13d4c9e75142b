import numpy as np
import pytest

from multimae.shards import Shard


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_shards_share_out_a_batch(count):
    rows = [Shard(i, count).rows(16) for i in range(count)]
    assert sorted(np.concatenate(rows)) == list(range(16))
    assert {len(r) for r in rows} == {16 // count}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_mirror_images_in_a_shard_are_mirror_images_in_the_batch(count):
    for i in range(count):
        rows = Shard(i, count).rows(16)
        assert (rows[::-1] == 15 - rows).all()


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="cannot be split into 3"):
        Shard(0, 3).rows(16)
