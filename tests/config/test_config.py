"""The config of a run: identity, validation, errors that help, and the paper's numbers."""

import contextlib
import math

import pytest
import yaml

from multimae import config as c
from multimae.config.settings import parse_yaml, read_mapping
from multimae.engine.schedule import learning_rate

ONE = {"inputs": ["rgb"], "masking.visible_tokens": 49}


def pretrain(**changes):
    return c.build({"task": "pretrain"}).edit(changes)


def test_a_run_has_a_step():
    assert pretrain(epochs=0.3).total_steps(4096) == 1  # of 2 batches
    with pytest.raises(c.ConfigError, match=r"epochs: 1e-09 is less than one step .an epoch has 2.; set epochs=0.5 or"):
        pretrain(epochs=1e-9).total_steps(4096)


def test_defaults_have_an_empty_delta_and_a_stable_signature():
    assert pretrain().delta() == {"task": "pretrain"}
    assert pretrain().signature == "97c755caf3"  # a change here re-points every stored run: do it knowingly


def test_every_default_is_in_the_signature_of_a_change():
    signatures = {
        pretrain(**{key: value}).signature
        for key, value in {"seed": 1, "batch_size": 1024, "masking.alpha": 0.2, "optimizer.base_lr": 2e-4}.items()
    }
    assert len(signatures | {pretrain().signature}) == 5


def test_the_spelling_of_a_setting_does_not_change_the_signature():
    assert pretrain(inputs=["semseg", "rgb"]).signature == pretrain(inputs=["rgb", "semseg"]).signature
    assert pretrain(epochs="400").signature == pretrain(epochs=400.0).signature
    assert pretrain(**{"masking.alpha": 1}).signature == pretrain().signature


def test_runtime_is_not_part_of_the_identity():
    assert not set(c.Runtime.model_fields) & set(c.Pretrain.model_fields)


@pytest.mark.parametrize(
    "changes",
    [{"masking.alpha": math.inf}, {"inputs": ["rgb"], "masking.visible_tokens": 49}, {"data.name": "1e3"}]
    + [{"data.name": name} for name in ("010", "no", "2024-01-02", "~", "1:30", "é")],
)
def test_a_config_survives_yaml_and_its_own_delta(changes):
    config = pretrain(**changes)
    assert c.build(yaml.safe_load(config.to_yaml())) == config
    assert c.build(parse_yaml(config.to_yaml())) == config
    assert c.build(config.delta()) == config


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"masking.alfa": 1}, ["masking.alfa", "'alpha'"]),
        ({"maskin.alpha": 1}, ["maskin", "'masking'"]),
        ({"masking.alpha": -1}, ["masking.alpha", "greater than 0", "-1"]),
        ({"masking.alpha": math.nan}, ["masking.alpha"]),
        ({"masking.visible_tokens": 588}, ["588", "less than"]),
        ({"inputs": ["rgbd"]}, ["inputs", "rgbd", "depth"]),
        ({"model.patch_size": 10}, ["patch_size"]),
        ({"model.dim": 100}, ["dim 100", "heads 12"]),
        (
            {"inputs": ["rgb"], "targets": ["depth"], "decoder.kind": "self_attention", "masking.visible_tokens": 49},
            ["self_attention", "depth"],
        ),
    ],
)
def test_errors_name_the_key_and_what_would_do(changes, words):
    with pytest.raises(c.ConfigError) as error:
        pretrain(**changes)
    for word in words:
        assert word in str(error.value)


def test_an_unknown_nested_key_in_a_file_is_named_with_its_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("task: pretrain\nmodel: {dimm: 3}\n")
    with pytest.raises(c.ConfigError, match=r"mine.yaml: unknown key 'model.dimm'; did you mean 'dim'"):
        c.load(path)


def test_a_transfer_names_its_pretraining_by_signature_never_by_a_path():
    transfer = c.build({"task": "classify", "init": f"run:{pretrain().signature}"})
    assert transfer.needs == (pretrain().signature,)
    with pytest.raises(c.ConfigError, match="init"):
        transfer.edit({"init": "runs/abc/weights.safetensors"})


def test_paper_learning_rates_and_durations():
    recipe = c.recipe("pretrain", "paper")
    assert recipe.lr == pytest.approx(8e-4)
    assert recipe.steps_per_epoch(1281167) == 625
    assert recipe.total_steps(1281167) == 1_000_000
    assert c.recipe("classify", "paper").lr == pytest.approx(2e-3)
    assert c.recipe("segment", "paper").lr == pytest.approx(1e-4)
    assert recipe.model.tokens == 196


def test_paper_recipes_say_what_the_defaults_are():
    """A published setting is readable in its recipe, and equal to the default: only the data's size is a difference."""
    for name in ("pretrain", "classify", "segment"):
        assert set(c.recipe(name, "paper").delta()) <= {"task", "data"}


@pytest.mark.parametrize("name", c.recipes())
def test_every_recipe_loads_and_its_head_gives_command_cost_and_number(name):
    scale, _, file = name.partition("/")
    text = (c.RECIPES / f"{file}.yaml").read_text()
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert f"multimae run paper/{file}" in head and "number" in head and "Cost" in head
    assert c.load(name) == c.recipe(file, scale)


def test_a_scale_is_an_overlay_that_leaves_the_rest_as_published():
    paper, smoke, laptop = (c.recipe("pretrain", scale) for scale in ("paper", "smoke", "laptop"))
    assert (smoke.targets, smoke.optimizer.betas, smoke.augmentation.flip) == (
        paper.targets, paper.optimizer.betas, paper.augmentation.flip
    )  # fmt: skip
    assert laptop.edit({"epochs": smoke.epochs, "data.train_samples": smoke.data.train_samples}) == smoke
    assert c.recipe("segment_nyuv2", "smoke").model.dim == smoke.model.dim


def test_a_recipe_may_be_copied_with_the_scales_in_it(tmp_path):
    copy = tmp_path / "mine.yaml"
    copy.write_text((c.RECIPES / "classify.yaml").read_text())
    assert c.load(copy) == c.recipe("classify", "paper")


def test_overlays_name_scales_and_settings_that_there_are():
    """What all recipes have otherwise is laid over those that have the setting; a misspelt one would be over none."""
    known = {key for kind in c.RunConfig.tasks.values() for key in kind.model_fields} | {"over"}
    for file in c.RECIPES.glob("scales/*.yaml"):
        assert file.stem in c.SCALES and set(read_mapping(file)) <= known
    for file in c.RECIPES.glob("*.yaml"):
        assert set(read_mapping(file).get("scales", {})) <= set(c.SCALES)


def test_a_file_of_weights_under_a_name_that_nothing_starts_from_is_refused():
    classify = c.Classify().edit({"init": "official:theirs"})
    assert c.weights_of(["theirs=a.pth"], [pretrain(), classify]) == {"theirs": "a.pth"}
    with pytest.raises(c.ConfigError, match="no run here starts from 'thiers'; did you mean 'theirs'"):
        c.weights_of(["thiers=a.pth"], [classify])


def test_too_few_samples_for_one_batch_is_an_error():
    with pytest.raises(c.ConfigError, match="batch_size: 2048 is more than the 100"):
        pretrain().steps_per_epoch(100)


def test_a_setting_of_another_choice_is_refused_with_those_that_there_are():
    with pytest.raises(c.ConfigError, match="unknown key 'masking.alpha'. Valid with masking.kind=none: kind"):
        pretrain(**{"masking.kind": "none", "masking.alpha": 0.2})
    with pytest.raises(c.ConfigError, match="'data.rendersize'.*'render_size'.*Valid with data.name=scenes: name"):
        pretrain(**{"data.name": "scenes", "data.rendersize": 32})
    with pytest.raises(c.ConfigError, match="masking.kind: expected one of dirichlet, none, found 'non'; did you mean"):
        pretrain(**{"masking.kind": "non"})


def test_another_choice_starts_from_its_own_defaults():
    scenes = pretrain(**{"data.name": "scenes", "data.train_samples": 64})
    assert scenes.edit({"data.name": "imagenet"}).data == c.Folder()
    assert scenes.edit({"data.name": "scenes"}) == scenes  # which is no other
    assert pretrain(**{"data.name": "a", "data.train_samples": 3}).edit({"data.name": "b"}).data.train_samples == 3
    mae = pretrain(decoder={"kind": "self_attention", "depth": 2})
    assert mae.decoder == c.SelfAttending(depth=2) and mae.delta()["decoder"] == {"kind": "self_attention", "depth": 2}
    assert c.build({"task": "segment"}).data.name == "ade20k"


@pytest.mark.parametrize(
    "task, settled, changes",
    [
        (
            "pretrain",
            {"inputs": ["rgb"], "targets": ["rgb"], "masking.visible_tokens": 49},
            {"model.semseg_classes": 9},
        ),
        ("pretrain", {"inputs": ["rgb", "depth"]}, {"model.semseg_embedding": 9}),
        ("pretrain", {"optimizer.warmup_epochs": 0}, {"optimizer.warmup_lr": 0.5}),
        ("classify", {}, {"model.semseg_classes": 9, "model.semseg_embedding": 9}),
        ("segment", {"augmentation.color_jitter": 0}, {"augmentation.hue": 0.5, "augmentation.contrast": 0}),
        ("segment", {"inputs": ["depth"]}, {"augmentation.color_jitter": 0.1, "augmentation.brightness": 0}),
        ("segment", {}, {"model.semseg_unlabelled": False}),
    ],
)
def test_what_changes_nothing_is_not_in_the_signature(task, settled, changes):
    plain = c.build({"task": task}).edit(settled)
    edited = plain.edit(changes)
    assert edited.signature == plain.signature and c.build(edited.delta()).signature == plain.signature
    assert edited != plain  # what was given is kept, for an edit by which it counts


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"inputs": ["rgb"], "targets": ["rgb"]}, "visible_tokens 98 must be less than half of the 196 tokens.* 49"),
        (
            {"inputs": ["rgb"], "masking.visible_tokens": 49, "masking.alpha": 0.5},
            "rgb is the only one.*masking.alpha=1",
        ),
        (
            {"inputs": ["rgb"], "masking.visible_tokens": 49, "decoder.kind": "self_attention"},
            "can only predict its inp",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes, words):
    with pytest.raises(c.ConfigError, match=words):
        pretrain(**changes)


def test_weights_of_timm_are_named_with_their_tag():
    with pytest.raises(c.ConfigError, match="init: expected timm:MODEL.TAG.*vit_base_patch16_224.mae.*list_pretrained"):
        c.build({"task": "classify", "init": "timm:vit_base_patch16_224"})
    assert c.build({"task": "classify", "init": "timm:vit_base_patch16_224.mae"}).needs == ()


def test_an_edit_of_a_section_changes_what_it_names():
    small = pretrain(**{"model.dim": 96, "model.heads": 4})
    assert small.edit({"model": {"depth": 2}}) == small.edit({"model.depth": 2})


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e3", 1000.0), ("1_000", "1_000"), ("0123", "0123"), ("0x10", "0x10"), ("1:30", "1:30"), ("no", "no"),
        ("2024-01-02", "2024-01-02"), (".5", 0.5), ("-.inf", -math.inf), ("1e-9", 1e-9), ("3.", 3.0), ("~", None),
        ("true", True), ("'3'", "3"), ("{1: 2, on: 3}", {"1": 2, "on": 3}), ("9" * 200, "9" * 200), ("", None),
    ],
)  # fmt: skip
def test_yaml_means_what_it_looks_like(text, value):
    assert parse_yaml(text) == value


@pytest.mark.parametrize("spelling", [400, 400.0, "400", "4e2", "+400", " 400 ", "4_00", "400."])
def test_numbers_may_be_spelt_as_people_do(spelling):
    assert pretrain(epochs=spelling) == pretrain(epochs=400)


def test_a_warm_up_that_leaves_nothing_is_told_with_what_happens():
    config = pretrain(epochs=20)
    (note,) = config.notes()
    assert "warmup_epochs 40 leaves nothing of epochs 20" in note and "before the cosine begins" in note
    total = config.total_steps(4096)
    rates = [learning_rate(config, step, 4096) for step in range(total)]
    assert rates == sorted(rates) and rates[-1] < config.lr
    assert pretrain(epochs=41).notes() == []


def test_a_transfer_starts_from_the_encoder_that_it_has():
    transfer = c.build({"task": "classify", "init": f"run:{pretrain().signature}"})
    needed = {pretrain().signature: pretrain()}
    transfer.check_needs(needed)
    with pytest.raises(c.ConfigError, match="model.heads is 6, but run .* was pre-trained with 12"):
        transfer.edit({"model.heads": 6}).check_needs(needed)


def test_an_evaluation_reads_the_data_of_a_transfer_in_its_unit():
    transfer = c.build({"task": "depth", "data": {"name": "rooms", "depth_unit": 0.001}})
    evaluate = c.build({"task": "evaluate", "init": f"run:{transfer.signature}", "data": {"name": "rooms"}})
    needed = {transfer.signature: transfer}
    with pytest.raises(c.ConfigError, match="read 'rooms' with 0.001: give --set data.depth_unit=0.001"):
        evaluate.check_needs(needed)
    for good in ({"data.depth_unit": 0.001}, {"data.name": "halls"}):
        evaluate.edit(good).check_needs(needed)
    needed = {transfer.signature: c.build({"task": "classify", "data": {"name": "rooms", "depth_unit": 0.001}})}
    evaluate.check_needs(needed)  # which reads no depth


def test_only_a_classifier_chooses_among_the_classes_that_are_there():
    for task, good in (("classify", True), ("segment", False), ("depth", False)):
        transfer = c.build({"task": task})
        evaluate = c.build({"task": "evaluate", "init": f"run:{transfer.signature}", "data": {"name": "rooms"}})
        chosen = evaluate.edit({"present_only": True})
        assert chosen.signature != evaluate.signature == evaluate.edit({"present_only": False}).signature
        with (
            contextlib.nullcontext() if good else pytest.raises(c.ConfigError, match=f"is of the task {task}; leave it")
        ):
            chosen.check_needs({transfer.signature: transfer})


BEST = {"selection": {"kind": "best"}, "eval_every_epochs": 1}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, "selection.split is 'val', and so is data.eval_split: what is trained or tested on chooses no checkpoint"),
        ({"selection": {"kind": "best", "split": "train"}}, "selection.split is 'train', and so is data.train_split"),
        ({"selection": {"kind": "best", "split": "a/../train"}}, "expected a folder within the data's own"),
        ({"data.eval_split": "test", "eval_every_epochs": None}, "set eval_every_epochs, such as 1"),
        ({"data.name": "scenes", "selection": {"kind": "best", "split": "dev"}}, "scenes have the splits train, val"),
    ],
)
def test_a_checkpoint_is_selected_on_a_split_of_its_own(changes, message):
    with pytest.raises(c.ConfigError, match=message):
        c.Classify().edit(BEST | changes)


def test_selecting_is_identity_and_not_selecting_is_the_default():
    classify = c.Classify()
    assert (
        classify.edit({"selection": {"kind": "last"}}).signature == classify.signature and classify.validation is None
    )
    best = classify.edit(BEST | {"data.eval_split": "test"})
    assert best.signature != classify.edit({"eval_every_epochs": 1, "data.eval_split": "test"}).signature
    assert c.build(best.delta()) == best
    assert best.edit({"selection": {"kind": "best", "samples": 9}}).signature != best.signature
    assert (best.validation.eval_split, best.validation.eval_samples, best.data.eval_split) == ("val", None, "test")
