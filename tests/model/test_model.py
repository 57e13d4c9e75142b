import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference_model import Reference, random_checkpoint

from multimae.config import Model, build
from multimae.losses import masked_losses
from multimae.masking import sample_visible
from multimae.model.encoder import Encoder
from multimae.model.multimae import MultiMAE
from multimae.model.tokens import sincos_positions
from multimae.patches import patchify, unpatchify
from multimae.weights import load_official

MODALITIES = ("rgb", "depth", "semseg")
SMALL = {
    "task": "pretrain",
    "model": {"image_size": 64, "dim": 32, "depth": 2, "heads": 4, "semseg_classes": 11, "semseg_embedding": 6},
    "decoder": {"dim": 16, "depth": 2, "heads": 4},
    "masking": {"visible_tokens": 8},
}

MAE_DECODER = {"kind": "self_attention", "dim": 16, "depth": 2, "heads": 4}


def small(**changes):
    torch.manual_seed(0)
    return MultiMAE(build(SMALL).edit(changes))


def random_images(batch=3, height=64, width=64, classes=11, seed=1):
    g = torch.Generator().manual_seed(seed)
    return {
        "rgb": torch.randn(batch, 3, height, width, generator=g),
        "depth": torch.randn(batch, 1, height, width, generator=g),
        "semseg": torch.randint(classes, (batch, height // 4, width // 4), generator=g),
    }


def random_masks(batch=3, tokens=16, visible=8, alpha=1.0, modalities=MODALITIES, seed=2):
    return sample_visible(dict.fromkeys(modalities, tokens), batch, visible, alpha, torch.Generator().manual_seed(seed))


def same_mask(value, *modalities):
    return {modality: torch.full((3, 16), value) for modality in modalities}


def relative_error(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def assert_equal_to_reference(state, images, visible, heads=(4, 4), tolerance=1e-5):
    """Features, predictions and both ways to the losses."""
    model = load_official(state, *heads).eval()
    reference = Reference(state, encoder_heads=heads[0], decoder_heads=heads[1])
    with torch.no_grad():
        features = reference.encode(images, visible)
        encoded = model.encode(images, visible)
        for ours, theirs in zip(encoded, features):
            tokens = len(theirs) - 1
            assert relative_error(torch.cat([ours[:tokens], ours[-1:]]), theirs) < tolerance
            assert ours[tokens:-1].abs().sum() == 0, "padding comes before the global token, and is zero"
        predictions = reference.predict(images, visible)
        ours = model(images, visible)
        assert list(ours) == list(predictions)
        for target, prediction in predictions.items():
            assert ours[target].shape == prediction.shape
            assert relative_error(ours[target], prediction) < tolerance, target
        losses = reference.losses(predictions, images, visible)
        for computed in (masked_losses(ours, images, visible), model.training_losses(images, visible)):
            assert list(computed) == list(losses)
            for target, loss in losses.items():
                assert relative_error(computed[target], loss) < tolerance, target


# ---- equal to an independent computation


def one_modality_unmasked():
    """Sample 1 sees all of depth and samples differ in what they see of the others; 20 visible tokens each."""
    masks = random_masks(visible=20, seed=3)
    masks["depth"][1] = True
    masks["rgb"][1], masks["semseg"][1] = torch.arange(16) < 3, torch.arange(16) == 9
    return masks


def different_totals():
    g = torch.Generator().manual_seed(5)
    return {modality: torch.rand(3, 16, generator=g) < 0.4 for modality in MODALITIES}


MASKS = {
    "everything": lambda: None,
    "dirichlet": random_masks,
    "one modality only": lambda: random_masks(alpha=1e-3),
    "a sample without masked tokens": one_modality_unmasked,
    "nothing masked but semseg": lambda: same_mask(True, "rgb", "depth") | {"semseg": torch.eye(3, 16) > 0},
    "different totals": different_totals,
}


@pytest.mark.parametrize("masks", MASKS)
def test_equals_the_reference(masks):
    visible = MASKS[masks]()
    if masks == "nothing masked but semseg":  # the others have nothing to average
        state = random_checkpoint(targets=("semseg",))
    else:
        state = random_checkpoint()
    assert_equal_to_reference(state, random_images(), visible)


@pytest.mark.parametrize("size", [(96, 96), (32, 32), (48, 80)])
def test_other_sizes_interpolate_positions(size):
    tokens = size[0] // 16 * (size[1] // 16)
    state, images = random_checkpoint(), random_images(height=size[0], width=size[1])
    assert_equal_to_reference(state, images, None)
    assert_equal_to_reference(state, images, random_masks(tokens=tokens, visible=tokens))


def test_modalities_of_different_sizes():
    images = random_images()
    images["depth"] = random_images(height=96, width=32)["depth"]
    counts = {"rgb": 16, "depth": 12, "semseg": 16}
    visible = sample_visible(counts, 3, 10, 1.0, torch.Generator().manual_seed(0))
    assert_equal_to_reference(random_checkpoint(), images, visible)
    assert_equal_to_reference(random_checkpoint(), images, None)


def test_padding_class_of_semseg():
    state, images = random_checkpoint(class_rows=12), random_images()
    images["semseg"][:, :4] = 11  # the class for padding
    model = load_official(state, 4, 4)
    assert model.config.model.semseg_unlabelled and model.config.model.semseg_classes == 11
    reference = Reference(state, encoder_heads=4, decoder_heads=4)
    with torch.no_grad():
        for ours, theirs in zip(model.encode(images), reference.encode(images, None)):
            assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("inputs", [("rgb",), ("rgb", "semseg")])
def test_targets_that_are_no_input(inputs):
    state = random_checkpoint(inputs=inputs)
    assert_equal_to_reference(state, random_images(), None)
    assert_equal_to_reference(state, random_images(), random_masks(modalities=inputs, visible=6))


@pytest.mark.slow
def test_equals_the_reference_at_paper_size():
    state = random_checkpoint(768, 12, 256, 2, grid=14, classes=133, class_dim=64)
    images = random_images(2, 224, 224, 133)
    for visible in (random_masks(2, 196, 98), None):
        assert_equal_to_reference(state, images, visible, heads=(12, 8))


# ---- the paper's numbers


def test_paper_scale():
    model = MultiMAE(build({"task": "pretrain"}))
    assert round(sum(value.numel() for value in model.state_dict().values()) / 1e6, 2) == 98.57
    assert model.encoder.tokens["semseg"].project.weight.numel() == 786_432
    images = random_images(1, 224, 224)
    grids = model.encoder.grids(images)
    assert [down * across for down, across in grids.values()] == [196, 196, 196]
    masks = random_masks(1, 196, 98)
    with torch.no_grad():
        assert model.encode(images, masks).shape == (1, 98 + 1, 768)


def test_fresh_weights():
    model = small()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 2 + 4 * (3 + 2 * 2), "no norm after the encoder"
    assert {norm.eps for norm in norms} == {1e-6}
    qkv = model.encoder.blocks[0].attn.qkv.weight
    bound = (6 / (32 + 32)) ** 0.5  # query, key and value on their own
    assert 0.95 * bound < qkv.abs().max() <= bound
    assert model.encoder.blocks[0].attn.qkv.bias.abs().max() == 0
    assert 0.01 < model.encoder.global_token.std() < 0.03


def test_sincos_positions():
    table = sincos_positions(16, (3, 5))
    row, column = 2, 4
    frequencies = 10000 ** -(torch.arange(4) / 4)
    expected = [f(n * frequencies) for n in (row, column) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(table[0, :, row, column], torch.cat(expected))
    square = sincos_positions(16, (4, 4))[0]
    torch.testing.assert_close(square[:8], square[8:].transpose(1, 2))


def test_patches_are_ordered_channel_row_column():
    image = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    rows = patchify(image, 2)
    assert rows.shape == (2 * 2 * 3, 12)
    assert rows[1 * 6 + 1 * 3 + 2].tolist() == image[1, :, 2:4, 4:6].flatten().tolist()
    assert torch.equal(unpatchify(rows, 2, (2, 3)), image)


# ---- settings of the same model


@pytest.mark.parametrize(
    "changes",
    [{}, {"masking.mask_tokens_in_encoder": True}, {"decoder": MAE_DECODER}, {"inputs": ["rgb", "depth"]}],
    ids=str,
)
@pytest.mark.parametrize("masks", ["everything", "dirichlet", "a sample without masked tokens", "different totals"])
def test_lean_and_full_paths_agree(changes, masks):
    """The losses and the gradients of the training path are those of the public calls."""
    model, images, visible = small(**changes), random_images(), MASKS[masks]()
    visible = visible and {m: visible[m] for m in model.config.inputs}
    gradients = []
    for losses in (model.training_losses(images, visible), masked_losses(model(images, visible), images, visible)):
        model.zero_grad()
        sum(losses.values()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        gradients[-1] |= {f"loss of {target}": loss.detach() for target, loss in losses.items()}
    lean, full = gradients
    assert lean.keys() == full.keys()
    for name in lean:
        torch.testing.assert_close(lean[name], full[name], msg=name)


@pytest.mark.parametrize("masks", ["everything", "dirichlet", "different totals"])
@pytest.mark.parametrize("mask_tokens", [False, True])
def test_bfloat16(masks, mask_tokens):
    """Mixed precision (float32 weights under autocast) and weights in bfloat16; losses are float32 in both."""
    model = small(**{"masking.mask_tokens_in_encoder": mask_tokens})
    images, visible = random_images(), MASKS[masks]()
    exact = model.training_losses(images, visible)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.training_losses(images, visible)
    low = model.bfloat16().training_losses(images, visible)
    for target, loss in exact.items():
        assert mixed[target].dtype == low[target].dtype == torch.float32
        torch.testing.assert_close(mixed[target], loss, rtol=0.02, atol=0)
        torch.testing.assert_close(low[target], loss, rtol=0.02, atol=0)
    sum(low.values()).backward()


def test_masked_patches_do_not_reach_the_encoder():
    model, images, visible = small(), random_images(), random_masks()
    changed = {m: x.clone() for m, x in images.items()}
    for b in range(3):
        for token in (~visible["rgb"][b]).nonzero().flatten().tolist():
            i, j = token // 4 * 16, token % 4 * 16
            changed["rgb"][b, :, i : i + 16, j : j + 16] = 100.0
    before, after = model.encode(images, visible), model.encode(changed, visible)
    assert torch.equal(before, after)


def test_mask_tokens_in_the_encoder():
    model, images, visible = small(**{"masking.mask_tokens_in_encoder": True}), random_images(), random_masks()
    assert model.encode(images, visible).shape == (3, 48 + 1, 32)
    torch.testing.assert_close(model.encode(images, same_mask(True, *MODALITIES)), model.encode(images))
    embedded = model.encoder.embed(images, model.encoder.select(images, same_mask(False, *MODALITIES)))
    expected = model.encoder.mask_tokens["depth"][0, 0] + model.encoder.tokens["depth"].positions[0, :, 1, 2]
    torch.testing.assert_close(embedded[0, 16 + 1 * 4 + 2], expected)


def test_mae_decoder():
    """MAE's: no cross-attention; a decoder sees its own modality and the global token alone."""
    model = small(inputs=["rgb"], targets=["rgb_standardized"], decoder=MAE_DECODER, masking={"visible_tokens": 4})
    assert not any("attention" in name for name in model.decoders.state_dict())
    images = {"rgb": random_images()["rgb"]}
    visible = random_masks(modalities=("rgb",), visible=4)
    decoder = model.decoders["rgb_standardized"]
    with torch.no_grad():
        encoded = model.encode(images, visible)
        context = decoder.project(encoded)
        queries = decoder.mask_token.repeat(3, 16, 1)
        queries[visible["rgb"]] = context[:, :-1].flatten(0, 1)
        queries = queries + decoder.positions.flatten(2).mT + decoder.modality_embeddings["rgb"]
        x = torch.cat([queries, context[:, -1:]], 1)
        for block in decoder.blocks:
            x = block(x)
        x = decoder.output(decoder.norm(x)[:, :-1])
        expected = unpatchify(x.flatten(0, 1), 16, (4, 4))
        torch.testing.assert_close(model(images, visible)["rgb_standardized"], expected)


def test_missing_modalities_are_neither_seen_nor_needed():
    model, images = small(), random_images()
    predictions = model({"rgb": images["rgb"]})
    assert {t: tuple(p.shape) for t, p in predictions.items()} == {
        "rgb": (3, 3, 64, 64), "rgb_standardized": (3, 3, 64, 64), "depth": (3, 1, 64, 64), "semseg": (3, 11, 16, 16)
    }  # fmt: skip
    unseen = same_mask(True, "rgb") | same_mask(False, "depth", "semseg")
    for target, prediction in model(images, unseen).items():
        torch.testing.assert_close(prediction, predictions[target])


def test_wrong_inputs_are_named():
    model, images = small(), random_images()
    with pytest.raises(ValueError, match=r"depth: 60x64 does not divide into patches of 16x16"):
        model.encode(images | {"depth": torch.zeros(3, 1, 60, 64)})
    with pytest.raises(ValueError, match="expected one or more of .*'rgb', 'depth', 'semseg'"):
        model.encode({"normals": images["rgb"]})
    with pytest.raises(ValueError, match=r"expected masks \(batch, tokens\) .*found .*'rgb': \(3, 4\)"):
        model.encode({"rgb": images["rgb"]}, {"rgb": torch.ones(3, 4, dtype=torch.bool)})
    with pytest.raises(ValueError, match="expected masks"):
        model.encode(images, {"rgb": torch.ones(3, 16, dtype=torch.bool)})


# ---- the encoder alone


def test_encoder_layers_and_checkpointing():
    torch.manual_seed(0)
    encoder = Encoder(build(SMALL).model.model_copy(update={"depth": 4}), ("rgb", "depth"), drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    encoder.eval()
    images = {m: random_images()[m] for m in ("rgb", "depth")}
    second, last = encoder.hidden(images, (2, 4))
    torch.testing.assert_close(last, encoder(images))
    for block in encoder.blocks[2:]:
        second = block(second)
    torch.testing.assert_close(second, last)

    gradients = []
    for encoder.activation_checkpointing in (False, True):
        encoder.zero_grad()
        encoder(images).square().mean().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_layer_decay_is_the_papers():
    """lr x decay^(13 - i): input projections i = 0, block k (from 1) i = k, the head 1."""
    from timm.optim import param_groups_layer_decay

    from multimae.tasks.transfer import TransferModel

    model = TransferModel(Encoder(Model(image_size=32, dim=8, heads=2), ("rgb", "semseg")), torch.nn.Linear(8, 2))
    scales = {}
    for group in param_groups_layer_decay(model, layer_decay=0.65):
        scales |= dict.fromkeys(map(id, group["params"]), group["lr_scale"])
    for name, parameter in model.named_parameters():
        layer = 13 if name.startswith("head") else int(name.split(".")[2]) + 1 if ".blocks." in name else 0
        assert scales[id(parameter)] == pytest.approx(0.65 ** (13 - layer)), name


# ---- the cost of a step


def test_counts_of_a_training_step():
    """What does not move with load: one sort, no hidden wait for the device, no padding where none is needed."""
    from multimae.bench import SORTS, SYNCS, CountOps

    model, images = small(), random_images(4)
    generator = torch.Generator().manual_seed(0)
    with CountOps() as ops:
        visible = sample_visible(dict.fromkeys(MODALITIES, 16), 4, 8, 1.0, generator)
        sum(model.training_losses(images, visible).values()).backward()
    assert ops.of(SORTS) == 1
    assert ops.of(SYNCS) == 0, "beside the one that reads the counts, which is a plain copy here"
    assert model.encoder.select(images, visible).real is None


COMPILED = """
import torch
from test_model import random_images, random_masks, small

model, images, graphs = small(), random_images(4), []


def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward


compiled = torch.compile(model.training_losses, backend=backend)
for seed in range(4):
    visible = random_masks(4, seed=seed)
    for target, loss in compiled(images, visible).items():
        torch.testing.assert_close(loss, model.training_losses(images, visible)[target])
print(len(graphs))
"""


@pytest.mark.slow
def test_one_graph_after_the_masks():
    """torch.compile makes one graph for the first sizes it meets and one for all others, whatever the masks."""
    # A fresh interpreter: the shape checks of the tests would be compiled too.
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    own = os.environ | {"PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", COMPILED], env=own, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "2"
