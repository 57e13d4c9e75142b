"""Weights from one form into another: by the names of their tensors, and for an encoder by their sizes."""

import re
from collections.abc import Iterable
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..config import Pretrain
from ..config.settings import nearest
from ..modalities import MODALITIES
from ..model.encoder import Encoder
from ..model.multimae import MultiMAE
from ..model.tokens import resize_positions
from .checkpoint import Source, State, read

# Our names -> official ones, applied from top to bottom.
OFFICIAL_NAMES = (
    (r"^encoder\.global_token$", "global_tokens"),
    (r"^encoder\.tokens\.(\w+)\.embedding\.", r"input_adapters.\1.class_emb."),
    (r"^encoder\.tokens\.(\w+)\.project\.", r"input_adapters.\1.proj."),
    (r"^encoder\.tokens\.(\w+)\.positions$", r"input_adapters.\1.pos_emb"),
    (r"^encoder\.blocks\.", "encoder."),
    (r"^decoders\.rgb_standardized\.", "output_adapters.norm_rgb."),
    (r"^decoders\.", "output_adapters."),
    (r"^(output_adapters\.\w+)\.positions$", r"\1.pos_emb"),
    (r"^(output_adapters\.\w+)\.modality_embeddings\.", r"\1.task_embeddings."),
    (r"^(output_adapters\.\w+)\.project\.", r"\1.proj_context."),
    (r"^(output_adapters\.\w+)\.attention\.", r"\1.decoder."),
    (r"^(output_adapters\.\w+)\.mlp_norm\.", r"\1.out_norm."),
    (r"^(output_adapters\.\w+)\.blocks\.", r"\1.decoder_transformer."),
    (r"^(output_adapters\.\w+)\.output\.", r"\1.out_proj."),
)
VIT_NAMES = (
    (r"^encoder\.global_token$", "cls_token"),
    (r"^encoder\.tokens\.rgb\.project\.", "patch_embed.proj."),
    (r"^encoder\.tokens\.rgb\.positions$", "pos_embed"),
    (r"^encoder\.blocks\.", "blocks."),
)
# The forms an encoder can be read from: a key that tells the form, our names -> its names, the prefix of its blocks.
FORMS = (
    ("encoder.global_token", (), "encoder.blocks."),  # a run's weights
    ("global_token", ((r"^encoder\.", ""),), "blocks."),  # an Encoder
    ("global_tokens", OFFICIAL_NAMES, "encoder."),
    ("cls_token", VIT_NAMES, "blocks."),
)
VIT_OTHER = ("norm_pre.", "reg_token", "patch_embed.norm.")  # what some of timm's ViTs have besides, and ours does not
VIT_CLASSIFIER = ("norm.", "fc_norm.", "head.")  # what follows the blocks of a timm ViT; the encoder has no counterpart
OFFICIAL_TARGETS = {"rgb": "rgb", "norm_rgb": "rgb_standardized", "depth": "depth", "semseg": "semseg"}


# ---- whole models


def load_official(source: Source, encoder_heads: int = 12, decoder_heads: int = 8) -> MultiMAE:
    """The model of an official checkpoint: a file, or its state dict.

    Sizes, modalities and decoders are read off the shapes; the numbers of heads are not in the file. The published ViT
    form gives an RGB model with a fresh decoder. Raises ValueError that lists the keys that are missing, unknown or of
    another shape than the others imply.
    """
    state = read(source)
    if "cls_token" in state:
        return _from_vit(state, encoder_heads)
    model = MultiMAE(_official_config(state, encoder_heads, decoder_heads))
    names = {ours: rename(ours, OFFICIAL_NAMES) for ours in model.state_dict()}
    _check_keys(names.values(), state, "an official checkpoint")
    _copy(model, {ours: state[official] for ours, official in names.items()})
    return model


def to_official(model: MultiMAE) -> State:
    """The state dict of the authors' form, key for key."""
    config = model.config
    if config.decoder.kind != "cross_attention" or config.mask_tokens_in_encoder:
        raise ValueError(
            "to_official: the official form has cross-attention decoders and no mask tokens in the encoder; found "
            f"decoder.kind {config.decoder.kind}, mask_tokens_in_encoder {config.mask_tokens_in_encoder}"
        )
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith(".project.weight") and name.startswith("encoder."):
            side = model.encoder.tokens[name.split(".")[2]].patches.side
            value = value.unflatten(1, (-1, side, side))
        state[rename(name, OFFICIAL_NAMES)] = value.clone()
    return state


def to_timm(model: MultiMAE | Encoder) -> VisionTransformer:
    """A timm ViT that computes the same features of RGB alone. Its class token, which comes first, is our global token,
    which comes last; it has no norm after the blocks and no head (`num_classes=0`)."""
    encoder = model.encoder if isinstance(model, MultiMAE) else model
    if "rgb" not in encoder.tokens:
        raise ValueError(f"to_timm: expected an encoder with the input rgb, found {list(encoder.tokens)}")
    tokens = encoder.tokens["rgb"]
    dim, (down, across) = tokens.positions.shape[1], tokens.positions.shape[-2:]
    side = tokens.patches.side
    vit = VisionTransformer(
        img_size=(down * side, across * side), patch_size=side, embed_dim=dim, depth=len(encoder.blocks),
        num_heads=_heads(encoder), num_classes=0, final_norm=False, weight_init="skip",
    )  # fmt: skip
    state = {f"blocks.{name}": value for name, value in encoder.blocks.state_dict().items()}
    table = tokens.positions.flatten(2).transpose(1, 2)
    state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], 1)  # the global token has no position
    state["cls_token"] = encoder.global_token.detach()
    state["patch_embed.proj.weight"] = tokens.project.weight.detach().unflatten(1, (-1, side, side))
    state["patch_embed.proj.bias"] = tokens.project.bias.detach()
    vit.load_state_dict(state)
    return vit


def from_timm(vit: VisionTransformer) -> MultiMAE:
    """The reverse: an RGB model with the ViT's weights in the encoder and a fresh decoder.

    A final norm or a head of the ViT is left behind: the features are those before it. Raises ValueError for a ViT with
    parts that the encoder lacks (layer scale, registers, ...).
    """
    return _from_vit(vit.state_dict(), _heads(vit))


# ---- the encoder alone


def load_encoder(encoder: Encoder, source: Source | nn.Module) -> list[str]:
    """Pre-trained weights of any form into `encoder`; position tables are resized to its image size.

    `source`: a file (a run's weights.safetensors, an official or a ViT checkpoint), a state dict, or a model.

    Returns the inputs that the source lacks: they keep their fresh projection. Raises ValueError that lists what is
    missing or does not fit.
    """
    state = source.state_dict() if isinstance(source, nn.Module) else read(source)
    form = next((form for form in FORMS if form[0] in state), None)
    if form is None:
        raise ValueError(
            "the source of an encoder: expected the weights of a run, an official checkpoint or a ViT (one of the keys "
            f"{', '.join(form[0] for form in FORMS)}), found {', '.join(list(state)[:5]) or 'nothing'}"
        )
    marker, table, blocks = form
    if marker == "cls_token":
        state = _without_class_position(state)
    if isinstance(source, VisionTransformer) and _heads(source) != (wanted := _heads(encoder)):
        raise ValueError(f"the source of an encoder has {_heads(source)} heads, expected model.heads {wanted}")
    target = encoder.state_dict()
    names = {ours: rename(f"encoder.{ours}", table) for ours in target if not ours.startswith("mask_tokens.")}
    fresh = [m for m in encoder.tokens if names[f"tokens.{m}.project.weight"] not in state]
    for modality in fresh:
        names = {ours: name for ours, name in names.items() if not ours.startswith(f"tokens.{modality}.")}
    given = [name for name in state if name in names.values() or name.startswith(blocks)]
    _check_keys(names.values(), given, "the source of an encoder")

    values = {ours: state[name] for ours, name in names.items()}
    _check_numbers(values)
    _check_dimensions(target, values)
    for ours, value in values.items():
        if ours.endswith(".positions"):
            kind = MODALITIES[ours.split(".")[1]]
            values[ours] = resize_positions(value, tuple(target[ours].shape[-2:]), kind.interpolation)
        elif ours.endswith(".embedding.weight") and abs(len(value) - len(target[ours])) == 1:
            # The class for padding, the last, stays fresh where the source has none.
            values[ours] = torch.cat([value, target[ours][len(value) :]])[: len(target[ours])]
    _copy(encoder, values)
    return fresh


def pretrained_vit(name: str) -> VisionTransformer:
    """timm's ViT of this name, with its published weights. Raises ValueError that tells how to go on without."""
    hint = f"a file of it can be given with --weights {name}=FILE"
    try:
        with torch.device("meta"):  # nothing is allocated, drawn or downloaded yet
            vit = timm.create_model(name, num_classes=0)
    except RuntimeError as error:  # of names that timm does not know
        known = [*timm.list_models("*vit*"), *timm.list_models("*vit*", pretrained=True)]
        raise ValueError(f"timm:{name}: {error}{nearest(name, known)} Else {hint}") from None
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"timm:{name} is a {type(vit).__name__}, expected a plain ViT, such as vit_base_patch16_224")
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)  # type: ignore[return-value]  # asked above
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"timm:{name}: its weights cannot be downloaded ({reason}); {hint}") from None


# ---- official form


def _official_config(state: State, encoder_heads: int, decoder_heads: int) -> Pretrain:
    inputs = _parts(state, r"input_adapters\.(\w+)\.")
    adapters = _parts(state, r"output_adapters\.(\w+)\.")
    unknown = [f"input_adapters.{name}.*" for name in inputs if name not in MODALITIES]
    unknown += [f"output_adapters.{name}.*" for name in adapters if name not in OFFICIAL_TARGETS]
    if unknown:
        raise ValueError(f"unknown keys in an official checkpoint: {', '.join(unknown)}")
    first = inputs[0] if inputs else "rgb"
    adapter = adapters[0] if adapters else "rgb"
    output = f"output_adapters.{adapter}.out_proj.weight"
    wanted = ["global_tokens", f"input_adapters.{first}.pos_emb", f"input_adapters.{first}.proj.weight", output]
    wanted += ["input_adapters.semseg.class_emb.weight"] * ("semseg" in inputs)
    wanted += ["output_adapters.semseg.out_proj.weight"] * ("semseg" in adapters)
    if missing := [name for name in wanted if name not in state]:
        listed = ", ".join(missing)
        raise ValueError(f"missing keys in an official checkpoint: {listed} (for an encoder alone: load_encoder)")
    patch = state[f"input_adapters.{first}.proj.weight"].shape[-1] * MODALITIES[first].stride
    grid = state[f"input_adapters.{first}.pos_emb"].shape[-1]
    model = {
        "image_size": grid * patch, "patch_size": patch, "dim": state["global_tokens"].shape[-1],
        "depth": len(_parts(state, r"encoder\.(\d+)\.")), "heads": encoder_heads,
    }  # fmt: skip
    if "semseg" in inputs:
        rows, model["semseg_embedding"] = state["input_adapters.semseg.class_emb.weight"].shape
        model["semseg_classes"] = rows
    if "semseg" in adapters:
        side = patch // MODALITIES["semseg"].stride
        model["semseg_classes"] = state["output_adapters.semseg.out_proj.weight"].shape[0] // side**2
        model["semseg_unlabelled"] = "semseg" in inputs and rows == model["semseg_classes"] + 1
    decoder = {
        "dim": state[output].shape[1], "heads": decoder_heads,
        "depth": len(_parts(state, rf"output_adapters\.{adapter}\.decoder_transformer\.(\d+)\.")),
    }  # fmt: skip
    return _config(inputs, [OFFICIAL_TARGETS[name] for name in adapters], model, decoder)


def _config(inputs: list[str], targets: list[str], model: dict, decoder: dict) -> Pretrain:
    tokens = len(inputs) * (model["image_size"] // model["patch_size"]) ** 2
    values = {"inputs": inputs, "targets": targets, "model": model, "decoder": decoder}
    # Weights do not say how many tokens were visible: the paper's 1/4 of one or two modalities, 1/6 of three.
    return Pretrain().edit(values | {"masking": {"visible_tokens": max(1, tokens // (6 if len(inputs) > 2 else 4))}})


def _heads(vit: Encoder | VisionTransformer) -> int:
    attention: Any = vit.blocks[0].attn
    return attention.num_heads


# ---- ViT form


def _from_vit(state: State, heads: int) -> MultiMAE:
    state = _without_class_position(state)
    patch = state["patch_embed.proj.weight"].shape[-1]
    sizes = {
        "image_size": state["pos_embed"].shape[-1] * patch, "patch_size": patch, "dim": state["cls_token"].shape[-1],
        "depth": len(_parts(state, r"blocks\.(\d+)\.")), "heads": heads,
    }  # fmt: skip
    model = MultiMAE(_config(["rgb"], ["rgb"], sizes, {}))
    names = {ours: rename(f"encoder.{ours}", VIT_NAMES) for ours in model.encoder.state_dict()}
    _check_keys(names.values(), state, "a ViT")
    _copy(model.encoder, {ours: state[name] for ours, name in names.items()})
    return model


def _without_class_position(state: State) -> State:
    """A ViT's state dict without its classifier, its positions a grid, and the class token's added to the token."""
    state = {name: value for name, value in state.items() if not name.startswith(VIT_CLASSIFIER)}
    if missing := [name for name in ("pos_embed", "patch_embed.proj.weight") if name not in state]:
        raise ValueError(f"missing keys in a ViT: {', '.join(missing)}")
    if other := [name for name in state if name.startswith(VIT_OTHER)]:
        raise ValueError(f"a ViT with parts that the encoder lacks: {', '.join(other)}")
    dimensions = {"pos_embed": 3, "cls_token": 3, "patch_embed.proj.weight": 4}
    if wrong := [f"{name}: {tuple(state[name].shape)}" for name, n in dimensions.items() if state[name].ndim != n]:
        raise ValueError(f"shapes that no ViT has: {'; '.join(wrong)}")
    _check_numbers({name: state[name] for name in dimensions})
    table = state["pos_embed"]
    if state["cls_token"].shape != (1, 1, table.shape[2]):
        found = tuple(state["cls_token"].shape)
        raise ValueError(f"cls_token: expected the shape (1, 1, {table.shape[2]}) of one position, found {found}")
    side = int(table.shape[1] ** 0.5)
    if table.shape[1] == side**2 + 1:
        state["cls_token"] = state["cls_token"] + table[:, :1]
        table = table[:, 1:]
    if table.shape[1] != side**2:
        found = tuple(state["pos_embed"].shape)
        raise ValueError(f"pos_embed: expected the positions of a square grid and a class token, found {found}")
    return state | {"pos_embed": table.transpose(1, 2).unflatten(-1, (side, side))}


# ---- names and shapes


def rename(name: str, table: Iterable[tuple[str, str]]) -> str:
    """A tensor's name in another form: (pattern, replacement), applied from top to bottom."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _check_keys(wanted: Iterable[str], found: Iterable[str], what: str) -> None:
    wanted, found = list(wanted), list(found)
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing or unknown:
        lists = {"missing": missing, "unknown": unknown}
        listed = "; ".join(f"{label} keys: {', '.join(names)}" for label, names in lists.items() if names)
        raise ValueError(f"{what} does not fit: {listed}")


def _check_numbers(values: State) -> None:
    """Raises ValueError for whole numbers, which would be taken for floats, and for a NaN, which spreads everywhere."""
    if wrong := [name for name, v in values.items() if not v.is_floating_point() or not v.isfinite().all()]:
        listed = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if wrong[5:] else "")
        raise ValueError(f"expected finite floating-point numbers, but these have none or others: {listed}")


def _check_dimensions(target: State, values: State) -> None:
    """Raises ValueError for tensors that cannot be resized to those of `target`."""
    wrong = [
        f"{name}: expected {tuple(target[name].shape)}, found {tuple(value.shape)}"
        for name, value in values.items()
        if name.endswith((".positions", ".embedding.weight"))
        and (value.ndim != target[name].ndim or 0 in value.shape or value.shape[1] != target[name].shape[1])
    ]
    if wrong:
        raise ValueError(f"shapes do not fit: {'; '.join(wrong)}")


def _copy(module: nn.Module, values: State) -> None:
    """Copy into parameters and buffers. A convolution's weight fills the matrix that it is."""
    own = module.state_dict()
    _check_numbers(values)
    matrices = [name for name, v in values.items() if name.endswith(".project.weight") and v.ndim > 1]
    values = {name: v.flatten(1) if name in matrices else v for name, v in values.items()}
    shapes = {name: (tuple(own[name].shape), tuple(value.shape)) for name, value in values.items()}
    wrong = [f"{name}: expected {own}, found {given}" for name, (own, given) in shapes.items() if own != given]
    if wrong:
        raise ValueError(f"shapes do not fit: {'; '.join(wrong)}")
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


def _parts(state: Iterable[str], pattern: str) -> list[str]:
    """What `pattern` captures in the keys, each once, in their order."""
    return list(dict.fromkeys(match[1] for name in state if (match := re.match(pattern, name))))
