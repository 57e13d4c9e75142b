"""Counted FLOPs against the measured counts of the reference, and against torch's counter on our model."""

import pytest

from multimae.config import Classify, Pretrain, Regress, Segment

MAE = {"inputs": ["rgb"], "targets": ["rgb_standardized"], "masking.visible_tokens": 49}
MAE |= {"decoder.kind": "self_attention", "decoder.heads": 8}


@pytest.mark.parametrize(
    "edits, forward, training",
    [
        ({}, 22.34, 66.7),
        ({"masking.mask_tokens_in_encoder": True}, 119.7, 358.7),
        (MAE | {"decoder.depth": 2, "decoder.dim": 256}, None, 28.6),
        (MAE | {"decoder.depth": 8, "decoder.dim": 512}, None, 58.5),
    ],
    ids=["MultiMAE", "w/ [M]", "MAE D2", "MAE D8"],
)
def test_every_patch_counts_as_the_reference_computes(edits, forward, training):
    count = Pretrain().edit(edits).flops(every_patch=True)
    assert count.training / 1e9 == pytest.approx(training, abs=0.05)
    if forward:
        assert count.forward / 1e9 == pytest.approx(forward, abs=0.05)


def test_parts_at_paper_scale():
    count = Pretrain().flops(every_patch=True)
    assert count.projections / 1e9 == pytest.approx(0.6, abs=0.05)
    assert count.encoder / 1e9 == pytest.approx(17.2, abs=0.05)
    heads = {target: round(value / 1e9, 2) for target, value in count.heads.items()}
    assert heads == {"rgb": 1.11, "rgb_standardized": 1.11, "depth": 1.06, "semseg": 1.25}


def test_what_the_lean_step_saves():
    lean, full = Pretrain().flops(), Pretrain().flops(every_patch=True)
    assert lean.encoder == full.encoder
    assert lean.projections == pytest.approx(full.projections / 6)
    assert lean.training / full.training == pytest.approx(0.978, abs=0.001)


def test_a_whole_run():
    config = Pretrain().edit({"data.train_samples": 1281167, "epochs": 400})
    assert config.operations({}) == 625 * 400 * 2048 * config.flops().training


MAE_DECODER = {"kind": "self_attention", "dim": 32, "depth": 1, "heads": 4}
MASKED = {"masking.visible_tokens": 12, "masking.alpha": float("inf")}
SMALL = {"model": {"image_size": 32, "patch_size": 8, "dim": 48, "depth": 2, "heads": 4, "semseg_classes": 5}}


@pytest.mark.parametrize(
    "edits",
    [
        MASKED,
        MASKED | {"masking.mask_tokens_in_encoder": True},
        {"masking.kind": "none"},
        {"inputs": ["rgb"], "targets": ["rgb"], "decoder": MAE_DECODER, "masking.visible_tokens": 6},
    ],
    ids=["cross-attention", "mask tokens encoded", "no masking", "self-attention"],
)
def test_pre_training_as_torch_counts_it(edits):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from multimae.masking import sample_visible
    from multimae.model.multimae import MultiMAE

    decoder = {"decoder": {"dim": 32, "depth": 1, "heads": 4}}
    config = Pretrain().edit(SMALL | decoder | edits)
    images = {"rgb": torch.randn(1, 3, 32, 32), "depth": torch.randn(1, 1, 32, 32)}
    images["semseg"] = torch.zeros(1, 8, 8, dtype=torch.int64)
    images = {modality: images[modality] for modality in config.inputs}
    visible = None
    if config.masking.kind != "none":
        counts = dict.fromkeys(config.inputs, config.model.tokens)
        masking = config.masking
        visible = sample_visible(counts, 1, masking.visible_tokens, masking.alpha, torch.Generator().manual_seed(0))
    model = MultiMAE(config)
    # The fused kernels compute attention again in the backward pass, which is no part of the work.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sum(model.training_losses(images, visible).values()).backward()
    assert counter.get_total_flops() == pytest.approx(config.flops().training, rel=0.005)


def test_transfers_as_torch_counts_them():
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from multimae.model.encoder import Encoder
    from multimae.model.heads import ClassificationHead, ConvNeXtHead, DPTHead

    image = {"rgb": torch.randn(1, 3, 32, 32)}
    classify = Classify().edit(SMALL | {"classes": 7})
    segment = Segment().edit(SMALL | {"classes": 7, "head": {"dim": 64, "depth": 2}})
    regress = Regress().edit(SMALL | {"model.depth": 4, "head": {"layers": [1, 2, 3, 4], "widths": [8] * 4, "dim": 16}})
    for config in (classify, segment, regress):
        encoder = Encoder(config.model, config.inputs)
        # The counter knows the plain form's products; not, at every version of torch, the CPU's fused kernel.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            tokens = encoder(image)
            if config.task == "classify":
                ClassificationHead(48, 7)(tokens)
            elif config.task == "regress":
                DPTHead(48, (1, 2, 3, 4), [8] * 4, 16, 1, 8)(*[tokens[:, :-1]] * 4, grid=(4, 4))
            else:
                ConvNeXtHead(48, 64, 2, 7, 8)(tokens[:, :-1], (4, 4))
        assert counter.get_total_flops() == pytest.approx(config.flops().forward, rel=0.001), config.task


def test_parameters_as_torch_counts_them():
    import torch

    from multimae.model.encoder import Encoder
    from multimae.model.heads import ClassificationHead, ConvNeXtHead
    from multimae.model.multimae import MultiMAE

    pretrain, classify, segment = Pretrain(), Classify(), Segment()
    with torch.device("meta"):
        whole = MultiMAE(pretrain)
        classifier = Encoder(classify.model, classify.inputs), ClassificationHead(768, classify.classes)
        head = ConvNeXtHead(768, segment.head.dim, segment.head.depth, segment.classes, 16)
        segmenter = Encoder(segment.model, segment.inputs), head
    for config, modules in ((pretrain, [whole]), (classify, classifier), (segment, segmenter)):
        count = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
        assert config.parameters() == pytest.approx(count, rel=0.01), config.task
