"""What a study needs of a disk."""

import re

from multimae.config import Pretrain, recipe
from multimae.study.cost import disk_text
from multimae.units import size


def test_weights_stay_and_three_checkpoints_are_there_while_runs_train():
    config = Pretrain()
    weights = config.parameters() * 4
    text = disk_text([config] * 3, 2)
    assert f"about {size(3 * weights)} of disk in 39 files" in text  # the number of samples is not known: no journal
    assert f"and {size(2 * 3 * 3 * weights)} more while 2 runs train (3 checkpoints each)" in text
    assert "scenes" not in text


def test_scenes_are_rendered_once_for_all_that_read_them():
    def scenes(*configs) -> str:
        return re.search("; (.*) of rendered scenes", disk_text(configs, 1))[1]

    pretrain = recipe("pretrain", "smoke")
    assert scenes(pretrain) == scenes(pretrain, pretrain.edit({"data.train_samples": 512}))
