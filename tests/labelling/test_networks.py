"""What networks of transformers give, beside transformers' own processing: random weights of the true architectures."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import COCO, depth_anything, dpt, mask2former

from multimae.config import ConfigError
from multimae.config.label import Disparity, Metres, Relative
from multimae.labelling import conversions, models
from multimae.labelling.midas import from_midas
from multimae.labelling.networks import ClassNetwork, DepthNetwork, largest
from multimae.modalities import FIELDS

pytest.importorskip("transformers")
KIND = FIELDS["pseudo_depth"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Such small products take more threads longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp("networks")
    return {"anything": depth_anything(at / "anything"), "dpt": dpt(at / "dpt"), "mask": mask2former(at / "mask")}


def photographs(*sizes):
    """Smooth ones, (height, width, 3)."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)) for _ in sizes]
    return [np.array(image.resize(size[::-1], Image.Resampling.BICUBIC)) for image, size in zip(small, sizes)]


@pytest.mark.parametrize(("name", "auto"), [("anything", "DepthAnything"), ("dpt", "DPT")])
def test_depth_is_that_of_transformers(folders, name, auto):
    import transformers

    labeller = DepthNetwork(models.network(folders[name], "depth"))
    model = getattr(transformers, f"{auto}ForDepthEstimation").from_pretrained(folders[name]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders[name])
    for image in photographs((90, 120), (120, 90), (31, 33)):
        size = image.shape[:2]
        seen = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            given = model(**seen)
        if hasattr(processor, "post_process_depth_estimation"):
            theirs = processor.post_process_depth_estimation(given, [size])[0]["predicted_depth"]
        else:  # transformers 4.45 to 4.47: as the model cards had it then
            enlarged = torch.nn.functional.interpolate(given.predicted_depth[:, None], size, mode="bicubic")
            theirs = enlarged[0, 0]
        (ours,) = labeller.label(labeller.seen(image)[None], size)
        assert ours.shape == size and theirs.std() > 0
        # Cubic interpolation overshoots; here what no pixel of the network had is cut off.
        low, high = given.predicted_depth.min(), given.predicted_depth.max()
        torch.testing.assert_close(ours, theirs.clamp(low, high), rtol=0, atol=1e-4 * float(high))


def test_classes_are_those_of_transformers(folders):
    import transformers

    network = models.network(folders["mask"], "semseg")
    labeller = ClassNetwork(network, conversions.table(network.labels, {}))
    model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(folders["mask"]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders["mask"])
    for image in photographs((90, 120), (70, 64)):
        size = image.shape[:2]
        with torch.no_grad():
            given = model(**processor(images=image, return_tensors="pt"))
        (theirs,) = processor.post_process_semantic_segmentation(given, [size])
        (ours,) = labeller.label(labeller.seen(image)[None], size)
        assert ours.dtype == torch.uint8 and len(ours.unique()) > 1
        assert (ours == theirs).float().mean() > 0.999  # where two scores are equal but for rounding


def test_what_is_seen_together_changes_nothing_but_rounding(folders):
    labeller = DepthNetwork(models.network(folders["anything"], "depth"))
    seen = torch.stack([labeller.seen(image) for image in photographs((90, 120), (90, 120), (90, 120))])
    for alone, together in zip(seen, labeller.label(seen, (90, 120)), strict=True):
        torch.testing.assert_close(labeller.label(alone[None], (90, 120))[0], together, rtol=1e-4, atol=1e-4)


def test_a_long_photograph_is_shortened_before_it_takes_the_memory(folders):
    labeller = DepthNetwork(models.network(folders["anything"], "depth"))
    (image,) = photographs((30, 2400))
    seen = labeller.seen(image)
    assert seen.shape[-1] <= 4.5 * seen.shape[-2]
    assert labeller.label(seen[None], (30, 2400))[0].shape == (30, 2400)


def test_scores_are_enlarged_part_by_part(monkeypatch):
    scores = torch.rand(13, 6, 7)
    whole = largest(scores, (50, 40))
    monkeypatch.setattr("multimae.labelling.networks.AT_ONCE", 50 * 40 * 3)
    assert torch.equal(largest(scores, (50, 40)), whole)
    enlarged = torch.nn.functional.interpolate(scores[None], (50, 40), mode="bilinear")[0]
    assert torch.equal(whole.long(), enlarged.argmax(0))


# ---- conversions


def scenes() -> dict[str, torch.Tensor]:
    """Depth in metres: a plane seen at a slant, a ramp, a step. The first pixel of each is the nearest."""
    ramp = torch.linspace(2, 10, 64).expand(48, 64)
    return {
        "plane": 1 / torch.linspace(1 / 2, 1 / 30, 48)[:, None].expand(48, 64),
        "ramp": ramp,
        "step": torch.where(ramp < 5, 2.0, 8.0),
    }


@pytest.mark.parametrize("name", ["plane", "ramp", "step"])
def test_known_depth_comes_back(name):
    depth = scenes()[name]
    unit = KIND.unit
    back = conversions.counts(conversions.metres(37.5 / depth, Disparity(nearest=2.0)), KIND) * unit
    np.testing.assert_allclose(back, depth, atol=unit)  # of disparity, whatever its scale
    relative = conversions.counts(conversions.metres(depth / 40, Relative(scale=40.0)), KIND) * unit
    np.testing.assert_allclose(relative, depth, atol=unit)
    np.testing.assert_allclose(conversions.counts(conversions.metres(depth, Metres()), KIND) * unit, depth, atol=unit)
    one = conversions.metres(5 / depth, Disparity())
    assert ((one.diff(dim=1) >= 0) == (depth.diff(dim=1) >= 0)).all(), "larger is farther"


def test_what_is_infinitely_far_or_beyond_the_files_is_cut_off():
    far = conversions.metres(torch.tensor([[0.0, 1e-9, 4.0]]), Disparity())
    assert far.tolist() == [[100.0, 100.0, 1.0]]
    assert conversions.metres(torch.zeros(1, 3), Disparity()).tolist() == [[100.0] * 3]
    counts = conversions.counts(torch.tensor([[-1.0, 0.0, 200.0]]), KIND)
    assert counts.tolist() == [[1, 1, 65535]], "0 would be unknown"
    with pytest.raises(ValueError, match="gives NaN or infinity"):
        conversions.metres(torch.tensor([[float("nan")]]), Disparity())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_turned_back_to_where_the_pixels_lie(orientation, tmp_path):
    from PIL import ImageOps

    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[conversions.ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        shown = np.array(ImageOps.exif_transpose(image))
    upright = conversions.upright(pixels, orientation)
    assert np.array_equal(upright, shown)
    assert np.array_equal(conversions.turned_back(upright, orientation), pixels)


def test_other_classes_are_numbered_by_name(tmp_path):
    network = models.network(mask2former(tmp_path / "m", {0: "sky", 1: "road", 2: "sea"}), "semseg")
    with pytest.raises(ConfigError, match="has 3 classes.*expected the 133 of COCO panoptic.*--classes FILE"):
        models.numbering(network, {}, "semseg")
    with pytest.raises(ConfigError, match="has no class 'se'; did you mean 'sea'"):
        models.numbering(network, {"se": 3}, "semseg")
    assert conversions.table(network.labels, {"sea": 7, "sky": 0}).tolist() == [0, 255, 7]
    assert models.numbering(network, {"sea": 7}, "semseg") == {"sea": 7}


# ---- folders of networks


def test_a_network_is_known_by_its_content(folders, tmp_path):
    network = models.network(folders["anything"], "depth")
    assert network.gives == "disparity" and network.safe and network.architecture == "depth_anything"
    assert models.network(folders["dpt"], "depth").gives == "", "MiDaS's and Omnidata's are one architecture"
    assert models.network(folders["mask"], "semseg").labels == tuple(COCO.values())
    metric = depth_anything(tmp_path / "metric", depth_estimation_type="metric", max_depth=20)
    assert models.network(metric, "depth").gives == "metres"
    moved = shutil.copytree(folders["anything"], tmp_path / "moved")
    assert models.network(moved, "depth").content == network.content
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"patch_size": 15}))
    models.network.cache_clear()
    assert models.network(moved, "depth").content != network.content


def test_a_checkpoint_of_torch_is_read_without_its_code(folders, tmp_path):
    copy = shutil.copytree(folders["dpt"], tmp_path / "torch")
    (copy / "model.safetensors").unlink()
    safe = DepthNetwork(models.network(folders["dpt"], "depth"))
    torch.save({"state_dict": safe.model.state_dict()}, copy / "network.ckpt")
    read = DepthNetwork(models.network(copy, "depth"))
    (image,) = photographs((40, 50))
    assert torch.equal(*(one.label(one.seen(image)[None], (40, 50))[0] for one in (safe, read)))
    models.network.cache_clear()
    torch.save({"state_dict": {**safe.model.state_dict(), "x": models.NetworkFolder}}, copy / "network.ckpt")
    with pytest.raises(ConfigError, match="refused, because reading it would run code"):
        DepthNetwork(models.network(copy, "depth"))


def test_weights_that_do_not_fit_are_refused_not_drawn_anew(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folders["anything"], tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    save_file(
        {name: value for name, value in state.items() if "head.conv3" not in name},
        copy / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ConfigError, match="what is missing would be random: head.conv3"):
        DepthNetwork(models.network(copy, "depth"))


@pytest.mark.slow
def test_names_of_midas_are_those_of_transformers():
    """The ViT's are timm's; those of the rest stand here as https://github.com/isl-org/DPT has them."""
    import timm
    from transformers import DPTConfig, DPTForDepthEstimation

    with torch.device("meta"):
        hybrid = DPTForDepthEstimation(
            DPTConfig(
                is_hybrid=True, neck_hidden_sizes=[256, 512, 768, 768], reassemble_factors=[1, 1, 1, 0.5],
                use_batch_norm_in_fusion_residual=False, readout_type="project",
            )
        )  # fmt: skip
        vit = timm.create_model("vit_base_r50_s16_384", num_classes=10)
        state = {f"pretrained.model.{name}": value for name, value in vit.state_dict().items()}
        both = {
            **{f"pretrained.act_postprocess{i}.0.project.0": (768, 1536) for i in (3, 4)},
            **{f"pretrained.act_postprocess{i}.3": (768, 768, 1, 1) for i in (3, 4)},
            "pretrained.act_postprocess4.4": (768, 768, 3, 3),
            **{f"scratch.refinenet{i}.out_conv": (256, 256, 1, 1) for i in range(1, 5)},
            **{
                f"scratch.refinenet{i}.resConfUnit{u}.conv{c}": (256, 256, 3, 3)
                for i in range(1, 5)
                for u in (1, 2)
                for c in (1, 2)
            },
            "scratch.output_conv.0": (128, 256, 3, 3), "scratch.output_conv.2": (32, 128, 3, 3),
            "scratch.output_conv.4": (1, 32, 1, 1),
        }  # fmt: skip
        state |= {f"{name}.weight": torch.empty(shape) for name, shape in both.items()}
        state |= {f"{name}.bias": torch.empty(shape[0]) for name, shape in both.items()}
        widths = (256, 512, 768, 768)
        state |= {f"scratch.layer{i}_rn.weight": torch.empty(256, w, 3, 3) for i, w in enumerate(widths, 1)}
    renamed = from_midas({f"model.{name}": value for name, value in state.items()})
    expected = {name: tuple(value.shape) for name, value in hybrid.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in renamed.items()} == expected
    assert from_midas({"a": torch.empty(1)}).keys() == {"a"}
