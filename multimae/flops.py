"""Floating-point operations of a training image, counted from the config. Imports no torch.

Conventions: matrix products, attention products and convolutions only, two operations a multiply-add. Norms,
activations, softmax, resizing and the loss are left out: together they are below 1 %. A backward pass costs two forward
passes, except that nothing asks for the gradient of an input image. Numbers are expectations over masks.

`every_patch=True` counts as the authors' code computes: all patches are projected and decoded. `multimae` projects only
visible patches and decodes only masked ones, which at paper scale is 2.6 % less.
"""

from dataclasses import dataclass

from .config import Classify, ConfigError, Model, Pretrain, RunConfig, Runtime, Segment
from .modalities import MODALITIES, TARGETS

CONVNEXT_KERNEL = 7 * 7


@dataclass(frozen=True)
class Flops:
    """Of one image, by part; in the forward pass unless said otherwise."""

    projections: float
    encoder: float
    heads: dict[str, float]  # a decoder per target, or the transfer's head
    image_gradients: float  # of the projections, which no backward pass computes

    @property
    def forward(self) -> float:
        return self.projections + self.encoder + sum(self.heads.values())

    @property
    def training(self) -> float:
        """Forward and backward."""
        return 3 * self.forward - self.image_gradients


def flops(config: RunConfig, every_patch: bool = False) -> Flops:
    """The operations of one training image of a run."""
    match config:
        case Pretrain():
            return _pretrain(config, every_patch)
        case Classify():
            head = 2 * config.model.dim * config.classes
            return _transfer(config, {"linear": head})
        case Segment():
            return _transfer(config, {"convnext": _convnext(config)})
    raise ValueError(f"no count for the task '{config.task}'")


def training_flops(config: RunConfig) -> float:
    """Of a whole run without its evaluations. The number of training samples must be in the config."""
    samples = config.data.train_samples
    assert samples is not None
    images = config.total_steps(samples) * config.batch_size
    return images * flops(config).training


def parameters(config: RunConfig) -> int:
    """Weights of a run's model: the matrices, which are all but a percent of them."""
    model = config.model
    count = 12 * model.depth * model.dim**2
    count += sum(_patch_values(model, modality) * model.dim for modality in config.modalities)
    match config:
        case Pretrain():
            return count + sum(_decoder_parameters(config, target) for target in config.targets)
        case Classify():
            return count + model.dim * config.classes
        case Segment():
            width = config.head_dim // (model.patch_size // 4) ** 2
            return count + model.dim * config.head_dim + 8 * config.head_depth * width**2 + width * config.classes
    raise ValueError(f"no count for the task '{config.task}'")


def check_size(config: RunConfig, runtime: Runtime) -> None:
    """Raises ConfigError for a model that no machine is meant for: one digit too many takes its memory, or the day."""
    sizes = {"parameters": parameters(config), "tokens": config.model.tokens * len(config.inputs)}
    for what, size in sizes.items():
        limit = getattr(runtime, f"max_{what}")
        if size > limit:
            raise ConfigError(
                f"model: {size:,.0f} {what} are more than the {limit:,} that runtime.max_{what} allows "
                f"(image_size {config.model.image_size}, patch_size {config.model.patch_size}, dim {config.model.dim}, "
                f"depth {config.model.depth}); if it is meant, raise max_{what} there"
            )


# ---- parts


def _linear(tokens: float, d_in: int, d_out: int) -> float:
    return 2 * tokens * d_in * d_out


def _attention(queries: float, keys: float, dim: int) -> float:
    """The two products of attention, without its projections."""
    return 2 * 2 * queries * keys * dim


def _block(tokens: float, dim: int) -> float:
    """qkv 3, projection 1 and MLP 8 times dim squared."""
    return _linear(tokens, dim, 12 * dim) + _attention(tokens, tokens, dim)


def _encoder(model: Model, tokens: float) -> float:
    return model.depth * _block(tokens + 1, model.dim)  # the global token


def _patch_values(model: Model, modality: str) -> int:
    """Numbers in a patch, as it is projected."""
    return MODALITIES[modality].encoded(model) * (model.patch_size // MODALITIES[modality].stride) ** 2


def _projections(model: Model, tokens: dict[str, float]) -> tuple[float, float]:
    """(all of them, the part on images: class embeddings are learned, so theirs has an input gradient)."""
    parts = {m: _linear(n, _patch_values(model, m), model.dim) for m, n in tokens.items()}
    return sum(parts.values()), sum(f for m, f in parts.items() if MODALITIES[m].channels)


def _transfer(config: Classify | Segment, heads: dict[str, float]) -> Flops:
    tokens = {m: float(config.model.tokens) for m in config.modalities}
    projections, on_images = _projections(config.model, tokens)
    return Flops(projections, _encoder(config.model, sum(tokens.values())), heads, on_images)


def _convnext(config: Segment) -> float:
    model, sub_patches = config.model, (config.model.patch_size // 4) ** 2
    width, places = config.head_dim // sub_patches, model.tokens * sub_patches
    block = 2 * places * CONVNEXT_KERNEL * width + _linear(places, width, 8 * width)
    return (
        _linear(model.tokens, model.dim, config.head_dim)
        + config.head_depth * block
        + _linear(places, width, config.classes)
    )


def _pretrain(config: Pretrain, every_patch: bool) -> Flops:
    model, masking = config.model, config.masking
    all_tokens = model.tokens * len(config.inputs)
    visible = all_tokens if masking.kind == "none" else masking.visible_tokens
    share = visible / all_tokens  # every alpha shows each modality equally often
    projected = dict.fromkeys(config.modalities, model.tokens * (1.0 if every_patch else share))
    encoded = all_tokens if masking.mask_tokens_in_encoder else visible
    compared = model.tokens * (1.0 if every_patch or masking.kind == "none" else 1 - share)

    projections, on_images = _projections(model, projected)
    heads = {target: _decoder(config, target, encoded, compared) for target in config.targets}
    return Flops(projections, _encoder(model, encoded), heads, on_images)


def _target_values(model: Model, target: str) -> int:
    """Numbers in a patch, as it is predicted."""
    modality = TARGETS[target].modality
    return MODALITIES[modality].predicted(model) * (model.patch_size // MODALITIES[modality].stride) ** 2


def _decoder_parameters(config: Pretrain, target: str) -> int:
    dim, cross = config.decoder.dim, 12 * (config.decoder.kind == "cross_attention")
    values = _target_values(config.model, target)
    return (config.model.dim + (12 * config.decoder.depth + cross) * dim + values) * dim


def _decoder(config: Pretrain, target: str, encoded: float, compared: float) -> float:
    model, dim = config.model, config.decoder.dim
    values = _target_values(model, target)
    context, queries = encoded + 1, model.tokens
    embed, output = _linear(context, model.dim, dim), _linear(compared, dim, values)
    if config.decoder.kind == "self_attention":
        return embed + config.decoder.depth * _block(queries + 1, dim) + output
    cross = 2 * _linear(queries, dim, dim) + 2 * _linear(context, dim, dim) + _attention(queries, context, dim)
    mlp = _linear(queries, dim, 8 * dim)
    return embed + cross + mlp + config.decoder.depth * _block(queries, dim) + output
