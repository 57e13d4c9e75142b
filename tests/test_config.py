"""The config of a run: identity, validation, errors that help, and the paper's numbers."""

import math

import pytest
import yaml

from multimae import config as c


def pretrain(**changes):
    return c.build({"task": "pretrain"}).edit(changes)


def test_defaults_have_an_empty_delta_and_a_stable_signature():
    assert pretrain().delta() == {"task": "pretrain"}
    assert pretrain().signature == "724a116c20"  # a change here re-points every stored run: do it knowingly


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


@pytest.mark.parametrize("changes", [{"masking.alpha": math.inf}, {"inputs": ["rgb"], "masking.visible_tokens": 49}])
def test_a_config_survives_yaml_and_its_own_delta(changes):
    config = pretrain(**changes)
    assert c.build(yaml.safe_load(config.to_yaml())) == config
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
        ({"inputs": ["rgb"], "targets": ["depth"], "decoder.kind": "self_attention"}, ["self_attention", "depth"]),
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
    assert transfer.needs == pretrain().signature
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
    path = c.RECIPES / f"{name}.yaml"
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "multimae run " + name in head and "number" in head
    c.load(path)


def test_too_few_samples_for_one_batch_is_an_error():
    with pytest.raises(c.ConfigError, match="batch_size: 2048 is more than the 100"):
        pretrain().steps_per_epoch(100)
