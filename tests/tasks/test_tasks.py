"""Tasks on tiny scenes: what they optimise, what they report, and that the number of processes changes nothing."""

from collections import Counter

import numpy as np
import pytest
import torch
from timm.optim import param_groups_layer_decay

from multimae.config import ConfigError, Runtime, build
from multimae.metrics import MeanLosses
from multimae.modalities import TARGETS
from multimae.model.encoder import Encoder
from multimae.model.heads import ClassificationHead
from multimae.record.folder import RunFolder
from multimae.run import make_task, run, same_data
from multimae.seeds import derive
from multimae.shards import Shard
from multimae.tasks import pretrain
from multimae.tasks.transfer import TransferModel

CPU = torch.device("cpu")
TINY = {
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
    "data": {"name": "scenes", "render_size": 32, "train_samples": 16, "eval_samples": 9},
    "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "semseg_classes": 14},
    "optimizer": {"warmup_epochs": 0},
}
PRETRAIN = {"task": "pretrain", "decoder": {"dim": 16, "depth": 1, "heads": 2}, "masking": {"visible_tokens": 8}}
CLASSIFY = {"task": "classify", "classes": 10, "augmentation": {"rand_augment": None}}
SEGMENT = {"task": "segment", "classes": 14, "zero_is_unlabelled": False, "head": {"dim": 32, "depth": 1}}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(runs=tmp_path_factory.mktemp("runs"), threads=1)


def task_of(settings, runtime, **changes):
    torch.manual_seed(0)
    return make_task(build(settings | TINY).edit(changes), runtime)


@pytest.mark.parametrize("targets", [["rgb", "depth", "semseg"], ["rgb", "depth"]], ids=len)
def test_the_number_of_shards_changes_no_loss(targets, runtime):
    """With a small alpha many samples have no masked token of a modality: the mean is over those that have."""
    task = task_of(PRETRAIN, runtime, **{"masking.alpha": 0.05, "masking.visible_tokens": 20, "targets": targets})

    def losses(step, count):
        shards = [Shard(i, count) for i in range(count)]
        batches = next(task.batches(step, shards, 0))
        parts = [task.module(task.prepare(batch, CPU, step, shard)) for batch, shard in zip(batches, shards)]
        return torch.stack([torch.stack(list(part.values())) for part in parts])

    shards_differ = 0
    for step in range(4):
        whole, shared = losses(step, 1)[0], losses(step, 4)
        shards_differ += int((shared == 0).sum())
        torch.testing.assert_close(shared.mean(0), whole, rtol=1e-5, atol=1e-7)
    assert shards_differ  # a shard without any such sample was among them


def test_layer_wise_decay_is_lr_times_decay_to_the_13_minus_i():
    model = TransferModel(Encoder(build({"task": "classify"}).model, ("rgb",)), ClassificationHead(768, 10))
    names = {id(p): name for name, p in model.named_parameters()}
    scales, decays = {}, {}
    for group in param_groups_layer_decay(model, 0.05, layer_decay=0.65):
        scales |= {names[id(p)]: group["lr_scale"] for p in group["params"]}
        decays |= {names[id(p)]: group["weight_decay"] for p in group["params"]}
    assert scales.keys() == set(names.values())
    assert scales["encoder.tokens.rgb.project.weight"] == pytest.approx(0.65**13)
    assert scales["encoder.global_token"] == pytest.approx(0.65**13)
    for i in range(12):
        assert scales[f"encoder.blocks.{i}.mlp.fc1.weight"] == pytest.approx(0.65 ** (12 - i))
    assert scales["head.linear.weight"] == scales["head.norm.bias"] == 1
    assert decays["head.linear.weight"] == 0.05 and decays["encoder.blocks.3.norm1.weight"] == 0


WITH_SEMSEG = {"inputs": ["rgb", "depth", "semseg"], "augmentation.mixup": 0, "augmentation.cutmix": 0}


@pytest.mark.parametrize(
    "settings, changes, embeddings",
    [(CLASSIFY, WITH_SEMSEG, {"encoder.tokens.semseg.embedding.weight"}), (SEGMENT, {}, set())],
    ids=["classify", "segment"],
)
def test_a_transfer_decays_matrices_and_no_input_of_the_blocks(settings, changes, embeddings, runtime):
    task = task_of(settings, runtime, **changes)
    names = {id(p): name for name, p in task.model.named_parameters()}
    decays = {names[id(p)]: g["weight_decay"] for g in task.parameter_groups() for p in g["params"]}
    assert decays.keys() == set(names.values())
    exempt = {name for name, p in task.model.named_parameters() if p.ndim > 1 and not decays[name]}
    assert exempt == {"encoder.global_token", *embeddings}
    assert {decays[name] for name, p in task.model.named_parameters() if p.ndim < 2} == {0}
    assert {decays[name] for name in decays if name.startswith("head.") and "weight" in name} == {0, 0.05}


def test_pretraining_decays_everything(runtime):
    task = task_of(PRETRAIN, runtime)
    (group,) = task.parameter_groups()
    assert len(group["params"]) == len(list(task.model.parameters())) and group["weight_decay"] == 0.05


@pytest.mark.parametrize("settings", [PRETRAIN, CLASSIFY, SEGMENT], ids=lambda s: s["task"])
def test_the_number_of_shards_changes_no_batch(settings, runtime):
    """The global batch of a step, its masks and its mixup are the same samples however many processes share it."""
    task = task_of(settings, runtime)

    def step(count):
        shards = [Shard(i, count) for i in range(count)]
        batches = next(task.batches(1, shards, 0))
        parts = [task.prepare(batch, CPU, 1, shard) for batch, shard in zip(batches, shards)]
        order = np.argsort(np.concatenate([shard.rows(8) for shard in shards]))
        return [
            {m: torch.cat([part[i][m] for part in parts])[order] for m in parts[0][i]}
            if isinstance(parts[0][i], dict)
            else torch.cat([part[i] for part in parts])[order]
            for i in range(2)
        ]

    for whole, shared in zip(step(1), step(2)):
        torch.testing.assert_close(whole, shared, rtol=0, atol=0)


def test_pretraining_masks_follow_the_config(runtime):
    task = task_of(PRETRAIN, runtime, **{"masking.alpha": float("inf"), "masking.visible_tokens": 8})
    masks = task.masks(64, CPU, "mask", 3)
    counts = torch.stack([mask.sum(1) for mask in masks.values()])
    assert (counts.sum(0) == 8).all() and set(counts.unique().tolist()) == {2, 3}
    assert not all(torch.equal(masks[m], task.masks(64, CPU, "mask", 4)[m]) for m in masks)
    assert task_of(PRETRAIN, runtime, **{"masking.kind": "none"}).masks(64, CPU, "mask", 3) is None


@pytest.mark.parametrize("kind", ["none", "dirichlet"])
def test_a_sample_without_a_label_has_no_loss_in_an_evaluation(kind, runtime, monkeypatch):
    """It once counted as 0: with half of the samples unlabelled, the loss was half of what it is."""
    task = task_of(PRETRAIN, runtime, **{"model.semseg_unlabelled": True, "targets": ["semseg"], "masking.kind": kind})
    masks = task.masks(9, CPU, "eval")

    def measured(unlabelled):
        def images(batch, device):
            out = plain(batch, device)
            for row, index in enumerate(batch["index"].tolist()):
                if index in unlabelled:
                    out["semseg"][row] = task.config.model.semseg_classes
            return out

        monkeypatch.setattr(pretrain, "normalize", images)
        monkeypatch.setattr(task, "masks", lambda *_: masks)
        with torch.no_grad():
            return task.evaluate(task.module, CPU, Shard())[0]["metrics"]["loss_semseg"]

    plain = pretrain.normalize
    alone = [measured(set(range(9)) - {index}) for index in range(9)]
    assert measured({0, 3, 4}) == pytest.approx(np.mean([alone[i] for i in (1, 2, 5, 6, 7, 8)]), rel=1e-5)
    assert measured(()) == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize("settings", [PRETRAIN, CLASSIFY, SEGMENT], ids=lambda s: s["task"])
def test_an_evaluation_counts_the_whole_split_whatever_is_padded(settings, runtime):
    task = task_of(settings, runtime)
    task.module.eval()
    with torch.no_grad():
        (result,) = task.evaluate(task.module, CPU, Shard())
    assert result["n"] == 9 and result["split"] == "val" and result["fingerprint"]
    assert all(np.isfinite(value) for value in result["metrics"].values())


@pytest.mark.parametrize("kind", ["dirichlet", "none"])
def test_an_evaluation_loss_is_the_same_however_the_split_is_cut_up(kind, runtime, monkeypatch):
    """With a small alpha many samples have no masked token of a modality: the mean is over those that have."""
    masking = {"masking.kind": kind} | ({} if kind == "none" else {"masking.alpha": 0.05, "masking.visible_tokens": 20})
    task = task_of(PRETRAIN, runtime, **masking, **{"data.eval_samples": 24})
    task.module.eval()
    visible = task.masks(24, CPU, "eval") or {}
    having = {m: int((~mask).any(1).sum()) for m, mask in visible.items()}
    assert kind == "none" or min(having.values()) < 24  # some samples have none

    def evaluated(batch, shards=1):
        task.runtime = runtime.model_copy(update={"eval_batch_size": batch})
        sums, counts = Counter(), Counter()
        original = MeanLosses.compute

        def added_up(means):
            for name in means.sums:
                sums[name] += means.sums[name].compute().item()
                counts[name] += means.samples[name].compute().item()
            return original(means) | {"loss_of_others": 0.0}  # a process alone may have nothing but padding

        monkeypatch.setattr(MeanLosses, "compute", added_up)
        with torch.no_grad():
            for i in range(shards):
                task.evaluate(task.module, CPU, Shard(i, shards))
        monkeypatch.setattr(MeanLosses, "compute", original)
        assert all(counts[t] == having.get(TARGETS[t].modality, 24) for t in task.config.targets)
        return [sums[name] / counts[name] for name in sums]

    whole = evaluated(24)
    for how in ((64, 1), (7, 1), (1, 1), (24, 4), (3, 5)):
        assert evaluated(*how) == pytest.approx(whole, rel=1e-6), how


def test_segmentation_without_a_labelled_pixel_has_a_finite_loss(runtime):
    task = task_of(SEGMENT, runtime)
    images, target = task.prepare(next(task.batches(0, [Shard()], 0))[0], CPU, 0, Shard())
    loss = task.module((images, torch.full_like(target, 255)))["pixels"]
    assert loss.item() == 0


def test_transfers_start_from_the_pretrained_encoder(runtime):
    pretraining = build(PRETRAIN | TINY)
    assert run(pretraining, runtime) == "finished"
    folder = RunFolder.of(runtime.runs, pretraining.signature)
    assert folder.done and folder.weights.exists() and list(folder.samples.glob("*.png"))
    source = task_of(PRETRAIN, runtime).model  # the same structure, other weights

    from safetensors.torch import load_file

    source.load_state_dict(load_file(folder.weights))
    for inputs in (["rgb", "depth"], ["rgb", "pseudo_depth", "pseudo_semseg"]):
        task = task_of(SEGMENT, runtime, init=f"run:{pretraining.signature}", inputs=inputs)
        for name, parameter in task.model.encoder.named_parameters():
            if not name.endswith("embedding.weight"):  # has one row more, for padding
                torch.testing.assert_close(parameter, source.encoder.get_parameter(name), rtol=0, atol=0)
        (batch,) = next(task.batches(0, [Shard()], 0))
        assert task.module(task.prepare(batch, CPU, 0, Shard()))["pixels"].isfinite()


@pytest.mark.parametrize("settings", [CLASSIFY, SEGMENT], ids=lambda s: s["task"])
def test_a_transfer_runs_to_its_metric(settings, runtime):
    config = build(settings | TINY)
    assert run(config, runtime) == "finished"
    record = RunFolder.of(runtime.runs, config.signature).journal.last("eval")
    assert (record["dataset"], record["n"]) == (config.data.name, 9)
    assert "accuracy" in record["metrics"] or "mIoU" in record["metrics"]


def test_a_run_does_not_continue_on_other_data(runtime):
    config = build(CLASSIFY | TINY).edit({"seed": 7})
    folder = RunFolder.of(runtime.runs, config.signature)
    folder.create(config)
    task = task_of(CLASSIFY, runtime, seed=7)
    same_data(task, folder, None)
    same_data(task, folder, None)
    assert len(folder.journal.records("data")) == 1
    with pytest.raises(ConfigError, match=f"run {config.signature} was begun on other data: its train samples"):
        same_data(task_of(CLASSIFY, runtime, seed=7, **{"data.train_samples": 8}), folder, "elsewhere")


def test_mistakes_are_told_before_training(runtime):
    with pytest.raises(ConfigError, match="has 10 classes, found 7"):
        task_of(CLASSIFY, runtime, classes=7)
    with pytest.raises(ConfigError, match="run 0123456789 has no weights yet"):
        task_of(CLASSIFY, runtime, init="run:0123456789")
    with pytest.raises(ConfigError, match="--weights multimae-b=FILE"):
        task_of(CLASSIFY, runtime, init="official:multimae-b")
    with pytest.raises(ConfigError, match="cannot be mixed"):
        task_of(CLASSIFY, runtime, inputs=["rgb", "semseg"])


def test_seeds_are_the_same_everywhere():
    assert derive(0, "mask", 1) == 8650551468248303789
    assert len({derive(0, "mask", 1), derive(1, "mask", 1), derive(0, "mask", 2), derive(0, "order", 1)}) == 4
