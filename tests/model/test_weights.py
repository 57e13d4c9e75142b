import argparse
import pickle

import pytest
import timm
import torch
from reference_model import random_checkpoint
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from multimae.config import Model, build
from multimae.model.encoder import Encoder
from multimae.model.multimae import MultiMAE
from multimae.weights import from_timm, load_encoder, load_official, pretrained_vit, to_official, to_timm


def images(batch=2, height=64, width=64):
    g = torch.Generator().manual_seed(0)
    channels = {"rgb": 3, "depth": 1}
    return {modality: torch.randn(batch, n, height, width, generator=g) for modality, n in channels.items()}


def small_model(**changes):
    size = {"image_size": 64, "dim": 32, "depth": 2, "heads": 4, "semseg_classes": 11, "semseg_embedding": 6}
    values = {"task": "pretrain", "model": size, "decoder": {"dim": 16, "heads": 4}, "masking": {"visible_tokens": 8}}
    torch.manual_seed(0)
    return MultiMAE(build(values).edit(changes))


def global_token_last(tokens):
    return torch.cat([tokens[:, 1:], tokens[:, :1]], 1)


# ---- official


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_rows": 12},
        {"inputs": ("rgb",)},
        {"inputs": ("depth", "semseg"), "targets": ("depth",)},
        {"targets": ("rgb", "depth")},
        {"patch": 8, "grid": 6, "depth": 3, "decoder_depth": 1, "decoder_dim": 32},
    ],
    ids=str,
)
def test_round_trip(options):
    state = random_checkpoint(**options)
    back = to_official(load_official(state, 4, 4))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) and back[name].shape == value.shape for name, value in state.items())


def test_shapes_tell_the_sizes():
    config = load_official(random_checkpoint(patch=8, grid=6, depth=3, decoder_depth=1), 8, 2).config
    assert (config.model.image_size, config.model.patch_size, config.model.dim, config.model.depth) == (48, 8, 32, 3)
    assert (config.model.semseg_classes, config.model.semseg_embedding, config.model.semseg_unlabelled) == (
        11,
        6,
        False,
    )
    assert (config.decoder.dim, config.decoder.depth, config.decoder.heads, config.model.heads) == (16, 1, 2, 8)
    assert config.targets == ("rgb", "rgb_standardized", "depth", "semseg")


def test_unknown_and_missing_keys_are_listed():
    state = random_checkpoint()
    lost = ("encoder.1.mlp.fc2.bias", "output_adapters.norm_rgb.task_embeddings.depth")
    wrong = {name: value for name, value in state.items() if name not in lost}
    wrong["input_adapters.rgb.extra"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        load_official(wrong, 4, 4)
    for name in (*lost, "input_adapters.rgb.extra"):
        assert name in str(error.value)
    with pytest.raises(ValueError, match=r"unknown keys .*output_adapters\.normals\.\*"):
        load_official(state | {"output_adapters.normals.mask_token": torch.zeros(1, 1, 16)}, 4, 4)
    with pytest.raises(ValueError, match="missing keys .*global_tokens, .*input_adapters.rgb.pos_emb"):
        load_official({"encoder.0.norm1.weight": torch.zeros(32)}, 4, 4)


def test_wrong_shapes_are_listed():
    state = random_checkpoint()
    state["encoder.1.attn.proj.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"blocks.1.attn.proj.bias: expected \(32,\), found \(5,\)"):
        load_official(state, 4, 4)
    state = random_checkpoint() | {"output_adapters.depth.pos_emb": torch.zeros(1, 16, 5, 5)}
    with pytest.raises(ValueError, match="positions: expected .*found"):
        load_official(state, 4, 4)


def test_what_the_official_form_cannot_hold():
    for changes in ({"decoder.kind": "self_attention"}, {"masking.mask_tokens_in_encoder": True}):
        with pytest.raises(ValueError, match="the official form has cross-attention decoders and no mask tokens"):
            to_official(small_model(**changes))


# ---- files


def test_training_checkpoints_load_without_running_code(tmp_path):
    state = random_checkpoint()
    path = tmp_path / "checkpoint.pth"
    args = argparse.Namespace(lr=1e-4, betas=[0.9, 0.95], data_path="/somewhere", alphas=None)
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    torch.save({"model": state, "optimizer": optimizer, "epoch": 1599, "scaler": {"scale": 2.0}, "args": args}, path)
    assert all(torch.equal(value, state[name]) for name, value in to_official(load_official(path, 4, 4)).items())
    torch.save({"model": state}, path)
    assert to_official(load_official(str(path), 4, 4)).keys() == state.keys()
    torch.save(state, path)
    assert to_official(load_official(path, 4, 4)).keys() == state.keys()


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_files_that_would_run_code_are_refused(tmp_path, legacy):
    path, touched = tmp_path / "bad.pth", tmp_path / "touched"
    torch.save({"model": random_checkpoint(), "args": Code(touched)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="refused"):
        load_official(path)
    assert not touched.exists()
    path.write_bytes(pickle.dumps({"model": Code(touched)}))
    with pytest.raises(ValueError, match="refused"):
        load_official(path)
    assert not touched.exists()


def test_what_is_no_state_dict_is_named(tmp_path):
    path = tmp_path / "list.pth"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="list.pth: expected a state dict"):
        load_official(path)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_official(tmp_path / "nowhere.pth")


# ---- timm


def test_to_timm_computes_the_same_features():
    model = load_official(random_checkpoint(), 4, 4).eval()
    vit = to_timm(model).eval()
    x = images()["rgb"]
    with torch.no_grad():
        torch.testing.assert_close(global_token_last(vit.forward_features(x)), model.encode({"rgb": x}))
        torch.testing.assert_close(vit(x), model.encode({"rgb": x})[:, -1])
        torch.testing.assert_close(to_timm(model.encoder).state_dict(), vit.state_dict())
    assert vit.state_dict()["pos_embed"][:, 0].abs().max() == 0
    assert not any(name.startswith(("norm.", "head.")) for name in vit.state_dict())
    with pytest.raises(ValueError, match="expected an encoder with the input rgb"):
        to_timm(load_official(random_checkpoint(inputs=("depth",)), 4, 4))


def test_from_timm_is_the_reverse():
    vit = VisionTransformer(img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=4, num_classes=10)
    model = from_timm(vit)
    x = images()["rgb"]
    vit.norm = torch.nn.Identity()  # what the encoder does not have
    with torch.no_grad():
        torch.testing.assert_close(global_token_last(vit.forward_features(x)), model.encode({"rgb": x}))
    back = to_timm(model).state_dict()
    for name, value in vit.state_dict().items():
        if name.startswith(("blocks.", "patch_embed.")):
            assert torch.equal(back[name], value)
    assert model.config.inputs == ("rgb",) and model.config.model.heads == 4


def test_from_timm_refuses_parts_it_lacks():
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4}
    with pytest.raises(ValueError, match="unknown keys: .*blocks.0.ls1.gamma"):
        from_timm(VisionTransformer(**sizes, init_values=1e-5))
    with pytest.raises(ValueError, match="reg_token"):
        from_timm(VisionTransformer(**sizes, reg_tokens=4, no_embed_class=True))


def test_published_vit_form(tmp_path):
    model = load_official(random_checkpoint(), 4, 4)
    path = tmp_path / "vit.pth"
    torch.save({"model": to_timm(model).state_dict()}, path)
    loaded = load_official(path, encoder_heads=4)
    assert loaded.config.inputs == ("rgb",)
    x = {"rgb": images()["rgb"]}
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(x), model.encode(x))


# ---- encoders for transfers


def forms(model, tmp_path):
    """The same weights in every form that a transfer can start from."""
    ours, official, vit = tmp_path / "weights.safetensors", tmp_path / "official.pth", tmp_path / "vit.pth"
    save_file(model.state_dict(), ours)
    torch.save({"model": to_official(model), "args": argparse.Namespace()}, official)
    torch.save({"model": to_timm(model).state_dict()}, vit)
    modules = {"module": to_timm(model), "model": model, "encoder": model.encoder}
    return {"run": ours, "official": official, "vit": vit} | modules


@pytest.mark.parametrize("form", ["run", "official", "vit", "module", "model", "encoder"])
def test_load_encoder(tmp_path, form):
    model = load_official(random_checkpoint(), 4, 4)
    source = forms(model, tmp_path)[form]
    sizes = model.config.model
    encoder = Encoder(sizes, ("rgb",))
    assert load_encoder(encoder, source) == []
    x = {"rgb": images()["rgb"]}
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), model.encode(x))

    both = Encoder(sizes, ("rgb", "depth"))
    fresh = both.tokens["depth"].project.weight.clone()
    lacks_depth = form in ("vit", "module")
    assert load_encoder(both, source) == (["depth"] if lacks_depth else [])
    assert torch.equal(both.tokens["depth"].project.weight, fresh) == lacks_depth

    larger = Encoder(sizes.model_copy(update={"image_size": 96}), ("rgb",))
    load_encoder(larger, source)
    x = {"rgb": images(height=96, width=96)["rgb"]}
    with torch.no_grad():
        torch.testing.assert_close(larger(x), model.encode(x))


def test_load_encoder_from_a_transfer(tmp_path):
    from multimae.tasks.transfer import TransferModel

    encoder = small_model().encoder
    save_file(TransferModel(encoder, torch.nn.Linear(32, 3)).state_dict(), tmp_path / "weights.safetensors")
    copy = Encoder(small_model().config.model, ("rgb", "semseg"))
    assert load_encoder(copy, tmp_path / "weights.safetensors") == []
    assert torch.equal(copy.blocks[1].mlp.fc1.weight, encoder.blocks[1].mlp.fc1.weight)


def test_load_encoder_with_a_padding_class():
    model = load_official(random_checkpoint(), 4, 4)
    padded = Encoder(model.config.model.model_copy(update={"semseg_unlabelled": True}), ("rgb", "semseg"))
    last = padded.tokens["semseg"].embedding.weight[-1].clone()
    assert load_encoder(padded, model) == []
    assert torch.equal(padded.tokens["semseg"].embedding.weight[:-1], model.encoder.tokens["semseg"].embedding.weight)
    assert torch.equal(padded.tokens["semseg"].embedding.weight[-1], last)
    unpadded = Encoder(model.config.model, ("rgb", "semseg"))
    load_encoder(unpadded, padded)
    without_depth = {name: value for name, value in model.encoder.state_dict().items() if "depth" not in name}
    torch.testing.assert_close(unpadded.state_dict(), without_depth)


def test_load_encoder_names_what_does_not_fit():
    model = load_official(random_checkpoint(), 4, 4)
    sizes = model.config.model
    with pytest.raises(ValueError, match="missing keys: .*blocks.2.norm1.weight"):
        load_encoder(Encoder(sizes.model_copy(update={"depth": 3}), ("rgb",)), model)
    with pytest.raises(ValueError, match="unknown keys: .*encoder.1.norm1.weight"):
        load_encoder(Encoder(sizes.model_copy(update={"depth": 1}), ("rgb",)), to_official(model))
    with pytest.raises(ValueError, match="shapes do not fit: .*project.weight"):
        load_encoder(Encoder(sizes.model_copy(update={"patch_size": 8}), ("rgb",)), model)
    with pytest.raises(ValueError, match="embedding.weight"):
        load_encoder(Encoder(sizes.model_copy(update={"semseg_classes": 20}), ("semseg",)), model)
    with pytest.raises(ValueError, match="expected the weights of a run, an official checkpoint or a ViT"):
        load_encoder(Encoder(Model(), ("rgb",)), {"layer.weight": torch.zeros(1)})


def test_mask_tokens_stay_behind():
    model = small_model(**{"masking.mask_tokens_in_encoder": True})
    encoder = Encoder(model.config.model, ("rgb", "depth"))
    assert load_encoder(encoder, model) == []
    with torch.no_grad():
        torch.testing.assert_close(encoder(images()), model.encode(images()))


def test_timms_vit_is_looked_at_before_it_is_downloaded(monkeypatch):
    """Nothing is drawn meanwhile: the weights of a head that is made after it stay the same."""
    asked = []

    def create(name, pretrained=False, **options):
        asked.append(pretrained)
        if pretrained:
            raise OSError("no network\nand a long story")
        return timm_create(name, **options)

    timm_create = timm.create_model
    monkeypatch.setattr("multimae.weights.convert.timm.create_model", create)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"cannot be downloaded \(no network\); .*--weights vit_tiny_patch16_224=FILE"):
        pretrained_vit("vit_tiny_patch16_224")
    assert asked == [False, True] and torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="is a ResNet, expected a plain ViT"):
        pretrained_vit("resnet18")
    assert asked[2:] == [False]


def test_a_vit_of_other_parts_or_heads_is_refused():
    options = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_classes": 0}
    encoder = Encoder(Model(image_size=64, dim=32, depth=2, heads=4), ("rgb",))
    load_encoder(encoder, VisionTransformer(num_heads=4, **options))
    with pytest.raises(ValueError, match="has 2 heads, expected model.heads 4"):
        load_encoder(encoder, VisionTransformer(num_heads=2, **options))
    with pytest.raises(ValueError, match="parts that the encoder lacks: norm_pre"):
        load_encoder(encoder, VisionTransformer(num_heads=4, pre_norm=True, **options))


@pytest.mark.parametrize("change", ["nan", "int", "flat", "none"])
def test_changed_tensors_of_an_encoder_are_refused_whichever_they_are(change):
    """Every tensor, in either form, in every way."""
    encoder = Encoder(Model(image_size=64, dim=32, depth=1, heads=4), ("rgb", "semseg"))
    vit = VisionTransformer(img_size=64, patch_size=16, embed_dim=32, depth=1, num_heads=4, num_classes=0)
    for state in (encoder.state_dict(), {k: v for k, v in vit.state_dict().items() if not k.startswith("norm")}):
        for name, value in state.items():
            changed = {
                "nan": torch.full_like(value, torch.nan),
                "int": value.long(),
                "flat": value.flatten()[:7],
                "none": value[..., :0],
            }[change]
            with pytest.raises(ValueError, match="finite|shape|missing|square|fit"):
                load_encoder(encoder, {**state, name: changed})
