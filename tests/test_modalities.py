"""One declaration for each modality: complete, nowhere else told apart, and enough for a new one."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from multimae.config import Classify, ConfigError, Pretrain, Segment
from multimae.modalities import MODALITIES, SOURCES, TARGETS, named

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("kind", MODALITIES.values(), ids=MODALITIES)
def test_a_declaration_is_complete(kind):
    functions = [kind.files.read, kind.loss, kind.draw, kind.valid, kind.standardize, kind.normalize]
    assert all(callable(named(function)) for function in functions if function)
    assert MODALITIES[kind.name] is kind and TARGETS[kind.name].modality == kind.name
    if kind.channels is None:  # classes cannot be mixed, nor standardised
        assert kind.filter == "nearest-exact" and not (kind.valid or kind.standardize or kind.mirrored)
    else:
        assert (
            kind.stride == 1
            and len(kind.padding) in (1, kind.channels)
            and max(kind.mirrored, default=0) < kind.channels
        )


def test_orders_that_are_signatures_and_weights():
    assert list(MODALITIES) == ["rgb", "depth", "semseg"]
    assert list(TARGETS) == ["rgb", "rgb_standardized", "depth", "semseg"]
    assert list(SOURCES) == ["rgb", "depth", "pseudo_depth", "semseg", "pseudo_semseg"]


# What has a name for a reason: the authors' files, what is rendered, timed or published, and the defaults of settings.
TOLD_APART = (
    "modalities.py",
    "weights/convert.py",
    "bench.py",
    "data/benchmark.py",
    "data/decoders.py",  # what a decoder calls colours
    "data/scenes/",
    "data/prepare/",
    "config/",
)


def test_no_modality_is_a_special_case():
    """Its name is a text in no code but that of `TOLD_APART`, and compared with nothing in a config."""
    found = []
    for file in sorted((ROOT / "multimae").rglob("*.py")):
        place, tree = str(file.relative_to(ROOT / "multimae")), ast.parse(file.read_text())
        nodes = list(ast.walk(tree))
        if place.startswith("config/"):
            nodes = [inner for node in nodes if isinstance(node, ast.Compare) for inner in ast.walk(node)]
        elif place.startswith(TOLD_APART):
            continue
        names = [node for node in nodes if isinstance(node, ast.Constant) and node.value in SOURCES]
        found += [f"{place}:{node.lineno}: {node.value}" for node in names]
    assert not found


# ---- sources


def pretrain(*inputs: str, targets: tuple[str, ...] = ("rgb",)) -> Pretrain:
    return Pretrain().edit({"inputs": inputs, "targets": targets, "masking.visible_tokens": 9})


def test_true_and_pseudo_labels_are_two_experiments_of_one_modality():
    true, pseudo = pretrain("rgb", "depth"), pretrain("pseudo_depth", "rgb")
    assert true.signature != pseudo.signature
    assert true.modalities == pseudo.modalities == ("rgb", "depth")
    assert true.fields == ("rgb", "depth") and pseudo.fields == ("rgb", "pseudo_depth")
    with pytest.raises(ConfigError, match="depth and pseudo_depth are two sources of one modality, depth; give one"):
        pretrain("rgb", "depth", "pseudo_depth")


def test_a_target_is_of_the_source_that_is_the_input():
    assert pretrain("rgb", "pseudo_depth", targets=("depth", "semseg")).sources == {
        "rgb": "rgb", "depth": "pseudo_depth", "semseg": "semseg",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="targets: expected one or more of"):
        pretrain("rgb", targets=("pseudo_depth",))


def test_what_transfers_read():
    plain = {"augmentation.rand_augment": None, "augmentation.mixup": 0, "augmentation.cutmix": 0}
    classify = Classify().edit({"inputs": ["pseudo_semseg", "rgb"]} | plain)
    assert classify.modalities == ("rgb", "semseg") and classify.fields == ("rgb", "pseudo_semseg", "label")
    segment = Segment().edit({"inputs": ["rgb", "pseudo_depth", "pseudo_semseg"]})
    assert segment.modalities == ("rgb", "depth", "semseg")
    assert segment.fields == ("rgb", "pseudo_depth", "pseudo_semseg", "semseg")
    with pytest.raises(ConfigError, match=r"semseg is what is predicted.*set inputs=\[rgb,pseudo_semseg\]"):
        Segment().edit({"inputs": ["rgb", "semseg"]})


# ---- a new one

DECLARED = """
    Modality(
        "normals",
        channels=3,
        files=NUMBERS_8,
        unit=1 / 255,
        filter="bilinear",
        valid="normals:known",
        standardize="normals:unit_length",
        loss="normals:cosine",
        draw="normals:colours",
    ),
"""
FUNCTIONS = """
import torch.nn.functional as F


def known(image):
    return ((2 * image - 1).norm(dim=0, keepdim=True) - 1).abs() < 0.5


def unit_length(image, valid):
    return F.normalize(2 * image - 1, dim=0)


def cosine(predicted, truth):
    return 1 - F.cosine_similarity(predicted, truth, dim=1)


def colours(value, truth):
    return ((F.normalize(value, dim=0) + 1) / 2).permute(1, 2, 0).numpy()
"""


@pytest.mark.slow
def test_a_new_modality_is_an_entry_and_the_functions_that_it_names(tmp_path):
    """Surface normals, which scenes have as numbers from 0 to 1: an input and a target of pre-training."""
    shutil.copytree(ROOT / "multimae", tmp_path / "multimae")
    table, end = tmp_path / "multimae/modalities.py", "    ),\n)\n"
    declared = table.read_text()
    assert declared.count(end) == 1
    table.write_text(declared.replace(end, f"    ),{DECLARED})\n"))
    (tmp_path / "multimae/normals.py").write_text(FUNCTIONS)
    words = "run smoke/pretrain --no-track --set inputs=[rgb,depth,normals] --set targets=[rgb,normals] --runs runs"
    words += " --set data.train_samples=64 --set data.eval_samples=16 --set epochs=1"
    command = [sys.executable, "-m", "multimae", *words.split()]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (journal,) = tmp_path.glob("runs/*/journal.jsonl")
    assert '"loss_normals"' in journal.read_text()
