"""Whatever is written into a config, a command line, a YAML file or a profile: a sentence with the key, or it works.

`MULTIMAE_EXAMPLES=20000 python -m pytest tests/test_properties.py` tries as many of each kind as one has time for.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training import tiny_study

from multimae import config as c
from multimae.config.schema import Section, choice_of, validate
from multimae.config.settings import flatten, parse_overrides, parse_yaml
from multimae.engine.schedule import evaluation_steps, learning_rate
from slurm.profile import PROFILES, Other, Profile, load_profile

EXAMPLES = int(os.environ.get("MULTIMAE_EXAMPLES", 0))
SECONDS = 2.0  # of processor time, for one example

BASES = {
    "pretrain": {"masking.visible_tokens": 8},
    "classify": {"augmentation.rand_augment": None, "classes": 10},
    "segment": {"head.dim": 32, "head.depth": 1, "classes": 14, "zero_is_unlabelled": False},
    "depth": {"head": {"layers": [1, 2, 3, 4], "widths": [4, 4, 4, 4], "dim": 4}, "model.depth": 5},
    "regress": {
        "head": {"layers": [1, 2, 3, 4], "widths": [4, 4, 4, 4], "dim": 4},
        "model.depth": 5,
        "data.eval_split": "test",
    },
    "evaluate": {"init": "run:0123456789"},
    "label": {"network": "run:0123456789"},
}
SMALL = {
    "model.image_size": 32, "model.patch_size": 8, "model.dim": 16, "model.depth": 2, "model.heads": 2,
    "model.semseg_classes": 14, "model.semseg_embedding": 8, "batch_size": 8, "epochs": 2, "precision": "fp32",
    "data.name": "scenes", "data.train_samples": 64, "data.eval_samples": 8, "data.render_size": 32,
}  # fmt: skip


def base(task: str) -> c.RunConfig:
    usual = c.build({"task": task})
    there = flatten(usual.edit({"data.name": "scenes", "data.eval_split": "test"}).resolved())
    return usual.edit({key: value for key, value in SMALL.items() if key in there} | BASES[task])


# ---- what is written


def some(default: int):
    """As many examples as are asked for; the same ones every time."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=EXAMPLES or default, derandomize=not EXAMPLES, deadline=None, database=None,
                    suppress_health_check=slow)  # fmt: skip


WORDS = st.sampled_from(
    ["", "x", "none", "null", "true", "1e3", "3.0", ".inf", "-1", "٣", "0x10", "1_000", "a/b", "../x", "~", "$HOME"]
    + ["a=b", "rgb", "semseg", "dirichlet", "bf16", "cuda", "rand-m9-n2", "timm:vit_base_patch16_224", "scratch"]
    + ["a\nb", "\0", "24:00:00", "9-00", "--wrap=ls", "; ls", "a b", "'", "#", "{", "x" * 3000, "9" * 5000]
)
INTEGERS = st.integers(0, 70) | st.sampled_from([-1, 100, 254, 255, 256, 1000, 2**31, 2**32, 2**63, 10**26, 10**400])
FLOATS = st.floats() | st.floats(0, 1) | st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 1e-320, 1e-9, 1e300])
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | WORDS | st.text(max_size=8)
NAMES_OF_KEYS = WORDS | st.text(max_size=5) | st.integers()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES_OF_KEYS, inner, max_size=3),
    max_leaves=5,
)
RANGES = st.tuples(st.floats(0.05, 2), st.floats(0.05, 2)).map(list)
MODALITIES = st.lists(st.sampled_from(["rgb", "depth", "semseg", "rgb_standardized"]), max_size=3)


def likely(value: object) -> st.SearchStrategy:
    """Values that may well be right, where `value` is."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        multiples = st.integers(1, 40).map(lambda n: 8 * n)
        return multiples | st.integers(0, 300) | st.sampled_from([float(value), str(value)])
    if isinstance(value, float):
        return st.floats(0, 2) | st.integers(0, 3) | st.just(f"{value:e}")
    if isinstance(value, list):
        return RANGES if value and isinstance(value[0], float) else MODALITIES
    return st.just(str(value) if isinstance(value, Path) else value) | WORDS


def keys_of(cls: type[Section], prefix: str = "") -> dict[str, st.SearchStrategy]:
    """Every setting of a model, sections too, with values that may be right."""
    keys = {}
    for name, field in cls.model_fields.items():
        key = prefix + (field.alias or name)
        if sections := choice_of(cls, name)[1]:
            keys[key] = VALUES
            for section in sections:
                keys |= {k: v | keys[k] if k in keys else v for k, v in keys_of(section, f"{key}.").items()}
        else:
            default = field.get_default(call_default_factory=True) if not field.is_required() else None
            keys[key] = likely(list(default) if isinstance(default, tuple) else default)
    return keys


KEYS = {task: keys_of(cls) for task, cls in c.RunConfig.tasks.items()}
NAMES = {part for keys in KEYS.values() for key in keys for part in key.split(".")}
WRONG = WORDS | st.text(max_size=10) | st.sampled_from(["seed.x", "model..dim", "model.", ".model", "modle.dim"])
ANY_KEY = {task: st.sampled_from(sorted(keys)) | WRONG for task, keys in KEYS.items()}


@st.composite
def edits(draw, keys: Mapping[str, st.SearchStrategy], wild: bool = True) -> dict[str, object]:
    """One to four settings; `wild`: of any kind, and now and then no setting at all."""
    changes = {}
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from(sorted(keys)))
        changes[key] = draw(keys[key] | keys[key] | VALUES if wild else keys[key])
        if wild and draw(st.integers(0, 19)) == 0:
            changes[draw(WRONG)] = draw(VALUES)
    return changes


TASKS = st.sampled_from(sorted(BASES))
CHANGES = TASKS.flatmap(lambda task: st.tuples(st.just(task), edits(KEYS[task])))


# ---- what must come of it


@contextmanager
def soon():
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


def is_told(error: c.ConfigError, *names: str) -> None:
    """A sentence that names a key, or what was written."""
    text = str(error)
    assert text.strip() and len(text) < 5000
    shown = {*NAMES, *(repr(name)[1:-1] for name in names)}
    assert any(name in text for name in shown if name) or "key=value" in text or "twice" in text, text


def can_be_planned(config: c.RunConfig) -> None:
    assert len(config.signature) == c.SIGNATURE_LENGTH
    assert c.build(config.delta()).signature == config.signature
    assert c.build(parse_yaml(config.to_yaml())) == config
    assert c.build(yaml.safe_load(config.to_yaml())).signature == config.signature
    json.dumps(config.delta())
    if not isinstance(config, c.TrainingConfig):
        assert config.operations({}) is None or math.isfinite(config.operations({}))
        return
    assert math.isfinite(config.flops().training) and math.isfinite(config.parameters())
    assert all(isinstance(note, str) for note in config.notes())
    try:
        c.Runtime().check_size(config)
    except c.ConfigError as error:
        is_told(error)
    for samples in (1, 100, 5000):
        try:
            total = config.total_steps(samples)
        except c.ConfigError as error:
            is_told(error)
            continue
        rates = [learning_rate(config, step, samples) for step in {0, 1, total // 2, total - 1}]
        assert all(0 <= rate < math.inf for rate in rates)
        if total < 10**6:
            assert evaluation_steps(config, samples) <= set(range(1, total))
    if config.data.train_samples:
        with contextlib.suppress(c.ConfigError):  # not one step
            assert math.isfinite(config.operations({}))


@some(150)
@given(CHANGES)
def test_a_config_is_refused_with_a_sentence_or_can_be_planned(change):
    task, changes = change
    start = base(task)
    with soon():
        try:
            config = start.edit(changes)
        except c.ConfigError as error:
            is_told(error, *(key[:20] for key in changes))
        else:
            can_be_planned(config)


@some(100)
@given(TASKS.flatmap(lambda task: st.tuples(st.just(task), st.dictionaries(ANY_KEY[task], VALUES, max_size=5))))
def test_a_mapping_is_refused_with_a_sentence_or_is_a_config(given_):
    task, values = given_
    with soon():
        try:
            can_be_planned(c.build({"task": task} | values))
        except c.ConfigError as error:
            is_told(error, *(key[:20] for key in values))


WRITTEN = VALUES.map(lambda value: yaml.safe_dump(value).removesuffix("...\n").strip()) | st.text(max_size=30) | WORDS


@some(100)
@given(TASKS.flatmap(lambda task: st.tuples(st.just(task), st.lists(st.tuples(ANY_KEY[task], WRITTEN), max_size=4))))
def test_a_command_line_is_refused_with_a_sentence_or_is_a_config(given_):
    task, words = given_
    with soon():
        try:
            can_be_planned(base(task).edit(parse_overrides(f"{key}={value}" for key, value in words)))
        except c.ConfigError as error:
            is_told(error, *(key.strip()[:20] for key, _ in words))


SIGNS = [*"\t:{}[]&*!#|>'\"%@`-? \n\0", "- ", ": ", "&a ", "*a", "<<: ", "é", "\ufeff"]
NOISE = st.sampled_from(SIGNS) | st.text(max_size=3)


@st.composite
def damaged(draw, texts: list[str]) -> str:
    """Text of a file, a little changed."""
    lines = draw(st.sampled_from(texts)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        line, place = lines[at], draw(st.integers(0, len(lines[at])))
        before, after = line[:place], line[place:]
        lines[at] = draw(st.sampled_from([before + draw(NOISE) + after, before + after[1:], f"{line}\n{line}"]))
    return "\n".join(lines)


RECIPES = [c.recipe(name, "smoke").to_yaml() for name in ("pretrain", "classify", "segment")]
SITES = [path.read_text() for path in sorted(PROFILES.glob("*.yaml"))]


@some(100)
@given(text=damaged(RECIPES) | st.text(max_size=60) | st.binary(max_size=40) | VALUES.map(yaml.safe_dump))
def test_a_file_is_refused_with_its_name_or_is_a_config(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with soon():
        try:
            can_be_planned(c.load(path))
        except c.ConfigError as error:
            assert "mine.yaml" in str(error)


PROFILE_KEYS = keys_of(Profile) | {f"kinds.pretrain.{key}": value for key, value in keys_of(Other).items()}
PROFILE_KEYS |= {f"runtime.{key}": value for key, value in keys_of(c.Runtime).items()}
FREE_KEYS = ("X", "nice", "a b", "--x", "")
PROFILE_KEYS |= {f"{name}.{key}": WORDS for name in ("environment", "sbatch") for key in FREE_KEYS}


def nested(flat: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        here = values
        for parent in parents:
            here = here.setdefault(parent, {})
            if not isinstance(here, dict):
                break
        else:
            here[last] = value
    return values


def can_be_used(profile: Profile) -> None:
    for stage, config in next(iter(tiny_study.rows("smoke"))).stages.items():
        resources, runtime = profile.resources(config.task, stage), profile.runtime(config.task, stage)
        assert 0 < resources.minutes < 10**7 and 1 <= resources.processes < 10**9
        assert runtime.runs.is_absolute()
        try:
            profile.check(config, stage, resources)
        except c.ConfigError as error:
            is_told(error, "stage")
    for text in filter(None, [profile.partition, profile.account, profile.qos, profile.constraint, *profile.sbatch]):
        assert not set(text) & set(" \n\t;'\"`$#\\") and not text.startswith("-")
    assert all(name.isidentifier() and name.isascii() for name in profile.environment)


@some(150)
@given(text=edits(PROFILE_KEYS).map(nested).map(yaml.safe_dump) | damaged(SITES) | st.text(max_size=40))
def test_a_profile_is_refused_with_its_name_or_can_be_used(text, tmp_path):
    path = tmp_path / "here.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with soon():
        try:
            can_be_used(load_profile(path))
        except c.ConfigError as error:
            assert "here.yaml" in str(error)


@some(100)
@given(st.lists(st.tuples(st.sampled_from(["pretrain", "classify", "segment", "x"]), CHANGES), max_size=2))
def test_edits_of_a_study_are_refused_with_a_sentence_or_keep_its_rows_apart(changes):
    given_ = {stage: values for stage, (_, values) in changes}
    before = tiny_study.build("smoke")
    with soon():
        try:
            rows = tiny_study.build("smoke", given_)
        except c.ConfigError as error:
            is_told(error, *given_, *(key[:20] for values in given_.values() for key in values))
            return
    for stage in before[0].stages:
        runs = [len({row.stages[stage].signature for row in table}) for table in (before, rows)]
        assert runs[0] == runs[1]


def test_every_number_has_a_kind_that_refuses_a_yes():
    """A field declared as a plain int or float would take `true` for 1."""
    for cls in (*c.RunConfig.tasks.values(), c.Runtime, Profile):
        for key, value in flatten(defaults_of(cls)).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                with pytest.raises(c.ConfigError, match="expected a number, found True"):
                    if issubclass(cls, c.RunConfig):
                        c.build({"task": cls().task, key: True})
                    validate(cls, nested({key: True} | ({"name": "x"} if cls is Profile else {})))


def defaults_of(cls: type[Section]) -> dict[str, object]:
    return (cls(name="x") if cls is Profile else cls()).model_dump()


# ---- a few are carried out

BUILT = {
    "pretrain": ["inputs", "targets", "decoder.kind", "decoder.depth", "masking.kind", "masking.visible_tokens"]
    + ["masking.alpha", "masking.mask_tokens_in_encoder", "augmentation.crop_scale", "augmentation.crop_ratio"]
    + ["model.semseg_unlabelled"],
    "classify": ["inputs", "drop_path", "optimizer.layer_decay"]
    + ["augmentation.mixup", "augmentation.cutmix", "augmentation.label_smoothing"]
    + ["augmentation.crop_scale", "augmentation.crop_ratio", "augmentation.flip", "batch_size", "eval_resize"],
    "segment": ["inputs", "drop_path", "augmentation.jitter_scale", "augmentation.brightness", "augmentation.hue"]
    + ["augmentation.color_jitter", "head.kind", "head.depth", "model.semseg_unlabelled"],
}  # fmt: skip
COMMON = [f"optimizer.{key}" for key in ("betas", "weight_decay", "base_lr", "clip_grad")]
FEW = st.sampled_from(sorted(BUILT)).flatmap(
    lambda task: st.tuples(st.just(task), edits({key: KEYS[task][key] for key in BUILT[task] + COMMON}, wild=False))
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Path]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at these sizes several only wait for each other
    yield tmp_path_factory.mktemp("runs")
    torch.set_num_threads(threads)


@settings(some(12), max_examples=min(EXAMPLES, 1000) or 12)
@given(change=FEW)
def test_a_valid_config_takes_a_step(change, runs):
    import torch

    from multimae.run import make_task
    from multimae.shards import Shard

    task, changes = change
    try:
        config = base(task).edit({"seed": 1, **changes})
        if config.batch_size > 64 or config.model.depth > 4 or getattr(getattr(config, "head", None), "depth", 1) > 4:
            return
        if task == "pretrain" and config.decoder.depth > 4:
            return
        work = make_task(config, c.Runtime(runs=runs))
    except c.ConfigError:
        return
    (batch,) = next(work.batches(0, [Shard()], workers=0))
    losses = work.module(work.prepare(batch, torch.device("cpu"), 0, Shard()))
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    groups = [{key: value for key, value in group.items() if key != "lr_scale"} for group in work.parameter_groups()]
    torch.optim.AdamW(groups, lr=config.lr, betas=config.optimizer.betas).step()
