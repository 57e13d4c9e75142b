"""Small networks of the true architectures with random weights, saved as their makers publish theirs."""

from pathlib import Path

import torch

# As https://huggingface.co/facebook/mask2former-swin-small-coco-panoptic names them, where anything depends on it.
COCO = {i: f"stuff {i}" for i in range(133)} | {
    0: "person", 2: "car", 56: "chair", 79: "toothbrush", 80: "banner", 88: "flower", 120: "cabinet-merged",
}  # fmt: skip
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def depth_anything(folder: Path, **more) -> Path:
    """V2: the DINOv2 of the first is the same. Sees 56 px on the shorter side, in multiples of 14."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    sizes = {"reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}
    config = DepthAnythingConfig(backbone_config=backbone, patch_size=14, head_hidden_size=8, **sizes, **more)
    model = DepthAnythingForDepthEstimation(config)
    _spread(model)
    processor = DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3, **IMAGENET
    )
    return _save(folder, model, processor)


def dpt(folder: Path) -> Path:
    """DPT, not hybrid: the ViT is smaller to make, and the rest is the same."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(1)
    model = DPTForDepthEstimation(
        DPTConfig(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=64,
            patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        )
    )  # fmt: skip
    _spread(model)
    processor = DPTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return _save(folder, model, processor)


def mask2former(folder: Path, names: dict[int, str] = COCO) -> Path:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(2)
    backbone = SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=40,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, encoder_feedforward_dim=32,
    )  # fmt: skip
    config.id2label, config.label2id = names, {name: i for i, name in names.items()}
    model = Mask2FormerForUniversalSegmentation(config)
    _spread(model)
    processor = Mask2FormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 128}, size_divisor=32, ignore_index=255, **IMAGENET
    )
    return _save(folder, model, processor)


def _spread(model: torch.nn.Module) -> None:
    """What transformers draws at first is so small that nothing of an image is left at the end."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)


def _save(folder: Path, model, processor) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
