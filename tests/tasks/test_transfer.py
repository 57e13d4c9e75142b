"""What all transfers share: heads on any layers, evaluation on any data, and the selection of a checkpoint."""

import pytest
import torch
from test_tasks import CLASSIFY, CPU, PRETRAIN, SEGMENT, TINY, task_of

from multimae.config import ConfigError, Model, Runtime, Scenes, build
from multimae.data.datasets import open_dataset
from multimae.model.encoder import Encoder
from multimae.model.heads import Head
from multimae.record.folder import RunFolder
from multimae.run import run
from multimae.shards import Shard
from multimae.tasks.classify import ClassifyTask
from multimae.tasks.segment import SegmentTask
from multimae.tasks.transfer import TransferModel, load_trained

KINDS = {"classify": (ClassifyTask, CLASSIFY), "segment": (SegmentTask, SEGMENT)}
TEST = Scenes(render_size=32, eval_split="test", eval_samples=11)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(runs=tmp_path_factory.mktemp("runs"), threads=1)


# ---- heads


class Layered(Head):
    layers = (1, 3)
    per_pixel = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, first, third, grid):
        self.seen.append((first, third, grid))
        return third


def test_a_head_reads_the_layers_and_the_modality_it_asks_for_in_one_pass():
    model = Model(image_size=32, patch_size=8, dim=16, depth=3, heads=2)
    transfer = TransferModel(Encoder(model, ("rgb", "depth")), Layered()).eval()
    images = {"rgb": torch.randn(2, 3, 32, 16), "depth": torch.randn(2, 1, 32, 16)}
    passes = []
    for block in transfer.encoder.blocks:
        block.register_forward_hook(lambda *_: passes.append(1))
    transfer(images)
    assert len(passes) == 3
    ((first, third, grid),) = transfer.head.seen
    assert grid == (4, 2)
    expected = transfer.encoder.hidden(images, (1, 3))
    torch.testing.assert_close(first, expected[0][:, :8])  # of rgb, without depth and the global token
    torch.testing.assert_close(third, transfer.encoder(images)[:, :8])


# ---- evaluation


def evaluated(task, dataset, shard=Shard(), progress=None):
    task.module.eval()
    with torch.no_grad():
        return task.evaluate_on(dataset, CPU, shard, progress)


@pytest.mark.parametrize("settings", [PRETRAIN, CLASSIFY, SEGMENT], ids=lambda s: s["task"])
def test_workers_change_no_bit_of_an_evaluation(settings, runtime):
    task, results = task_of(settings, runtime), []
    for workers in (0, 1, 3):
        task.runtime = runtime.model_copy(update={"eval_batch_size": 2, "workers": workers})
        with torch.no_grad():
            results += task.evaluate(task.module.eval(), CPU, Shard())
    assert results[0] == results[1] == results[2]


def test_who_watches_an_evaluation_sees_how_far_it_is_and_may_end_it(runtime):
    task, seen = task_of(CLASSIFY, runtime), []
    task.runtime = runtime.model_copy(update={"eval_batch_size": 2})
    evaluated(task, task.eval_set, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]

    def stop(done, total):
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(task, task.eval_set, progress=stop)
    assert seen[5:] == [2, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_transfer_is_evaluated_on_its_own_split_and_on_another(kind, runtime):
    _, settings = KINDS[kind]
    config = build(settings | TINY)
    assert run(config, runtime) == "finished"
    folder = RunFolder.of(runtime.runs, config.signature)
    task = load_trained(config, folder.weights, Runtime(runs=runtime.runs / "elsewhere"))
    journaled = folder.journal.last("eval")
    own = evaluated(task, open_dataset(config.data, "eval", runtime, config.fields))
    assert own == {key: journaled[key] for key in ("dataset", "split", "n", "fingerprint", "metrics")}
    other = evaluated(task, open_dataset(TEST, "eval", runtime, config.fields))
    assert (other["dataset"], other["split"], other["n"]) == ("scenes", "test", 11)
    assert other["fingerprint"] != own["fingerprint"] and other["metrics"] != own["metrics"]


def test_what_is_not_the_weights_of_a_transfer_is_told(runtime):
    config = build(CLASSIFY | TINY).edit({"seed": 3})
    assert run(config, runtime) == "finished"
    weights = RunFolder.of(runtime.runs, config.signature).weights
    for other in (config.edit({"inputs": ["rgb", "depth"]}), config.edit({"model.depth": 1})):
        with pytest.raises(ConfigError, match="weights.safetensors: not the weights of a classify with these settings"):
            load_trained(other, weights, runtime)
    with pytest.raises(ConfigError, match="No such file"):
        load_trained(config, weights.with_name("gone"), runtime)


def test_labels_that_mean_other_classes_are_refused(runtime):
    task = task_of(CLASSIFY, runtime)
    other = open_dataset(TEST, "eval", runtime, task.config.fields)
    other.class_names = (*task.class_names[:-1], "zebra")
    with pytest.raises(ConfigError, match="'scenes' numbers other classes: expected '.*', found 'zebra' in its place"):
        evaluated(task, other)


# ---- selection

SELECTED = {"selection": {"kind": "best", "samples": 10}, "data.eval_split": "test", "eval_every_epochs": 0.5}


@pytest.mark.parametrize("settings", [CLASSIFY, SEGMENT], ids=lambda s: s["task"])
def test_a_checkpoint_is_selected_on_one_split_and_tested_on_another(settings, runtime):
    config = build(settings | TINY).edit(SELECTED | {"epochs": 2, "optimizer.base_lr": 1.0})
    assert run(config, runtime) == "finished"
    folder = RunFolder.of(runtime.runs, config.signature)
    *looks, test = folder.journal.records("eval")
    assert [(r["step"], r["split"], r["n"]) for r in looks] == [(step, "val", 10) for step in (1, 2, 3, 4)]
    assert (test["step"], test["split"], test["n"], test["dataset"]) == (4, "test", 9, "scenes")
    values = [next(iter(look["metrics"].values())) for look in looks]
    assert test["selected_step"] == 1 + values.index(max(values))
    data = folder.journal.last("data")
    assert data["val"] == {"n": 10, "fingerprint": looks[0]["fingerprint"]} and data["eval"]["n"] == 9
    task = load_trained(config, folder.weights, runtime)
    assert evaluated(task, open_dataset(config.data, "eval", runtime, config.fields))["metrics"] == test["metrics"]


def test_without_selection_the_evaluation_split_is_looked_at(runtime):
    task = task_of(CLASSIFY, runtime)
    assert task.selection is None and list(task.sets) == ["train", "eval"]
