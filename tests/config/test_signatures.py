"""Equal experiments have equal signatures, different ones different ones."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_properties import KEYS, base, edits, some

from multimae import config as c
from multimae.config.settings import flatten
from multimae.record.shape import strict

ALL = [(task, key) for task, keys in KEYS.items() for key in sorted(keys)]
FOLDER = {"data.name": "elsewhere", "data.train_samples": 64}
BEST = {"selection.kind": "best", "eval_every_epochs": 1, "data.eval_split": "test"}
STARTS = [
    {},
    FOLDER,
    BEST,
    BEST | FOLDER,
    FOLDER | {"data.eval_split": "train"},
    {"masking.visible_tokens": 3},
    {"decoder.kind": "self_attention"},
    {"conversion.kind": "relative"},
    {"field": "pseudo_semseg", "shards": 2},
]  # where a setting is, and can be another


def idle(config: c.RunConfig) -> set[str]:
    return config.idle()


def effective(config: c.RunConfig) -> dict[str, object]:
    """All settings that can change the result."""
    return {key: value for key, value in flatten(config.resolved()).items() if key not in idle(config)}


@some(400)
@given(st.data())
def test_signatures_are_equal_where_all_that_counts_is(data):
    """Of two configs, a few edits apart."""
    task = data.draw(st.sampled_from(sorted(KEYS)))
    likely = {key: values for key, values in KEYS[task].items() if "." in key or key not in ("data", "model")}
    made = []
    for _ in range(2):
        try:
            made.append(base(task).edit(data.draw(edits(likely, wild=False))))
        except c.ConfigError:
            return
    one, other = made
    assert (one.signature == other.signature) == (effective(one) == effective(other))


@pytest.mark.parametrize("task, key", ALL, ids=[f"{task} {key}" for task, key in ALL])
def test_an_edit_of_a_setting_makes_another_experiment(task, key):
    """Any setting: to some other value that it takes, if it counts here."""
    plain = base(task)
    for chosen in STARTS:
        try:
            start = plain.edit(chosen)
        except c.ConfigError:
            continue
        if key not in flatten(start.resolved()) or key in ("task", "data.name"):
            continue
        now = flatten(start.resolved())[key]
        for other in OTHERS:
            try:
                edited = start.edit({key: other})
            except c.ConfigError:
                continue
            if flatten(edited.resolved())[key] == now:
                assert edited.signature == start.signature
            else:
                counts = key not in idle(start) or key not in idle(edited)
                assert (edited.signature != start.signature) == counts, (start.delta(), other)
                return
    assert key in NEVER_TRIED, f"no other value of {key} was tried"


OTHERS = [1, 2, 3, 16, 0.25, 0.5, True, False, "test", "train", "bf16", "fp32", "x", "none", "linear", "best", "last"]
OTHERS += ["first", "normals", [2, 3, 4, 5], ["rgb", "semseg"]]
OTHERS += ["self_attention", None, ["rgb"], ["rgb", "depth"], [0.5, 0.75], [1.0, 1.5], [0.5, 0.5], "scratch", 64, 96]
OTHERS += ["pseudo_semseg", "pseudo_depth", "relative", "disparity", ["sky: 1"]]  # of labels
OTHERS += ["rand-m9-n2", f"run:{'0' * c.SIGNATURE_LENGTH}"]
# Sections, which are edited by their settings, and what is only there with others that do not go with a small model.
NEVER_TRIED = {
    "data",
    "model",
    "decoder",
    "masking",
    "optimizer",
    "augmentation",
    "head",
    "selection",
    "conversion",
    "task",
    "data.name",
}


@some(100)
@given(st.sampled_from(sorted(KEYS)).flatmap(lambda task: st.tuples(st.just(task), edits(KEYS[task], wild=False))))
def test_a_signature_is_the_same_however_the_settings_are_said(change):
    task, changes = change
    try:
        config = base(task).edit(changes)
    except c.ConfigError:
        return
    said = [
        config.delta(),
        config.resolved(),
        yaml.safe_load(config.to_yaml()),
        flatten(config.resolved()),
        json.loads(json.dumps(strict(flatten(config.resolved())))),  # as the journal has it
        dict(reversed(flatten(config.resolved()).items())),
    ]
    assert {c.build({"task": task} | values).signature for values in said} == {config.signature}


@pytest.mark.parametrize(
    "task, settled, changes",
    [
        ("pretrain", {"inputs": ["rgb"], "targets": ["rgb"], "masking.visible_tokens": 4}, {"model.semseg_classes": 9}),
        ("pretrain", {"inputs": ["rgb", "depth"]}, {"model.semseg_embedding": 9}),
        ("pretrain", {"optimizer.warmup_epochs": 0}, {"optimizer.warmup_lr": 0.5}),
        ("classify", {}, {"model.semseg_classes": 9, "model.semseg_embedding": 9}),
        ("segment", {"augmentation.color_jitter": 0}, {"augmentation.hue": 0.5, "augmentation.contrast": 0}),
        ("segment", {"inputs": ["depth"]}, {"augmentation.color_jitter": 0.1, "augmentation.brightness": 0}),
        ("segment", {}, {"model.semseg_unlabelled": False}),
    ],
)  # fmt: skip
def test_what_is_no_part_of_the_identity_changes_no_step(task, settled, changes, tmp_path):
    import torch

    from multimae.engine.distributed import seed_everything
    from multimae.engine.schedule import learning_rate
    from multimae.run import make_task
    from multimae.shards import Shard

    def step(config: c.RunConfig) -> list[float]:
        torch.manual_seed(config.seed)
        work = make_task(config, c.Runtime(runs=tmp_path))
        (batch,) = next(work.batches(0, [Shard()], workers=0))
        seed_everything(config.seed, 0)
        losses = work.module(work.prepare(batch, torch.device("cpu"), 0, Shard()))
        return [*(loss.item() for loss in losses.values()), *(learning_rate(config, step, 64) for step in range(4))]

    plain = base(task).edit(settled)
    edited = plain.edit(changes)
    assert plain.signature == edited.signature and plain != edited
    assert step(plain) == step(edited)


def test_what_decides_whether_a_run_works_is_part_of_it():
    seen = base("pretrain").edit({"inputs": ["rgb", "depth"], "targets": ["rgb", "semseg"]})
    assert seen.edit({"model.semseg_unlabelled": True}).signature != seen.signature  # unlabelled pixels of the target
    other = base("evaluate").edit({"data.train_split": "test"})  # whose folders number the classes
    assert other.signature != base("evaluate").signature
    assert base("evaluate").edit({"seed": 3}).signature == base("evaluate").signature
    assert base("classify").edit({"eval_every_epochs": 7}).signature == base("classify").signature  # of 2 epochs
