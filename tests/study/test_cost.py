"""What a study needs of a disk."""

import re

from multimae.config import Pretrain, recipe
from multimae.study.cost import disk_text
from multimae.units import size


def test_weights_stay_and_three_checkpoints_are_there_while_runs_train():
    config = Pretrain()
    weights = config.parameters() * 4
    text = disk_text([config] * 3, 2)
    assert f"about {size(3 * weights)} of disk in 42 files" in text  # the number of samples is not known: no journal
    assert f"and {size(2 * 3 * 3 * weights)} more while 2 runs train (3 checkpoints each)" in text
    assert "scenes" not in text


def test_scenes_are_rendered_once_for_all_that_read_them():
    def scenes(*configs) -> str:
        return re.search("; (.*) of rendered scenes", disk_text(configs, 1))[1]

    pretrain = recipe("pretrain", "smoke")
    assert scenes(pretrain) == scenes(pretrain, pretrain.edit({"data.train_samples": 512}))


def test_dense_targets_are_rendered_beside_what_is_usual():
    config = recipe("regress", "smoke").edit({"selection": {"kind": "last"}})
    data = config.data
    pixels = (data.train_samples + data.eval_samples) * data.render_size**2
    for several in ([config], [config, config.edit({"target": "normals"})], [config, config.edit({"target": "depth"})]):
        assert f"; {size((6 + 15) * pixels)} of rendered scenes" in disk_text(several, 1)
