"""The four embedded data sets: apart from each other, each with its classes and holes; and what their samples hold."""

import numpy as np
import pytest
import torch

from multimae.config import SCENES, Scenes, recipe, recipes
from multimae.data.scenes import composing, targets
from multimae.data.scenes.dataset import BLOCK, RenderedScenes
from multimae.data.scenes.standins import STANDINS, StandIn
from multimae.modalities import DENSE, IGNORE, MASK
from multimae.study.cost import DENSE_SCENE, SCENE

DENSE_FIELDS = (*DENSE, MASK.name)
ALL = ("rgb", "depth", "pseudo_depth", "semseg", "pseudo_semseg", "instance", *DENSE_FIELDS)


@pytest.fixture(params=SCENES)
def standin(request) -> StandIn:
    return STANDINS[request.param]


def test_no_scene_of_one_occurs_in_another():
    """Not even the first number that is drawn: the size of the room."""
    rooms = {
        (name, split, index): float(next(standin.composer(composing.generator(split, index, number)).draws))
        for number, (name, standin) in enumerate(STANDINS.items())
        for split in composing.SPLITS
        for index in range(200)
    }
    assert len(set(rooms.values())) == len(rooms) == 5 * 3 * 200
    tables = {standin.scene("train", index).surfaces.tobytes() for standin in STANDINS.values() for index in range(8)}
    assert len(tables) == 5 * 8


def test_an_image_does_not_depend_on_its_batch(standin):
    scenes = [standin.scene("train", index) for index in range(5)]
    together = standin.render(scenes, 40, ALL)
    alone = standin.render(scenes[3:4], 40, ALL)
    assert set(together) == set(alone)
    for name, images in together.items():
        np.testing.assert_array_equal(images[3], alone[name][0], err_msg=name)


def test_numbers_suffice_for_any_scene(standin):
    """A composer draws from a fixed stock."""
    for index in range(300):
        standin.scene("test", index)


def test_what_a_sample_holds(standin, tmp_path):
    dataset = RenderedScenes("val", 3, 24, tmp_path, ALL, standin.name)
    assert dataset.source == standin.name and dataset.class_names == standin.labels
    sample = dataset.sample(1, ALL)
    for name, kind in (DENSE | {MASK.name: MASK}).items():
        values = sample[name]
        assert values.dtype == torch.float32 and values.shape == (kind.channels, 24, 24)
        assert float(values.min()) >= 0 and float(values.max()) <= 1
    assert set(sample["mask_valid"].unique().tolist()) <= {0.0, 1.0}
    assert sample["depth"].dtype == torch.float32 and sample["pseudo_depth"].min() > 0
    assert sample["semseg"].dtype == sample["pseudo_semseg"].dtype == torch.uint8
    normals = 2 * sample["normals"] - 1
    assert (normals.norm(dim=0) - 1).abs().max() < 0.02 and normals[2].mean() < 0, "towards the camera"


def test_classes_are_those_of_the_source(standin):
    scenes = [standin.scene("train", index) for index in range(250)]
    images = standin.render(scenes, 24, ("semseg", "pseudo_semseg", "instance"))
    found = set(np.unique(images["semseg"])) - {IGNORE}
    assert found == set(range(len(standin.classes))), "each class occurs, and no other"
    unlabelled = (images["semseg"] == IGNORE).mean()
    assert (0.15 < unlabelled < 0.4) if standin.kinect else unlabelled == 0
    if standin.called:  # a labeller labels everything, by the classes that the pre-training knows
        assert images["pseudo_semseg"].max() < len(composing.SEMSEG)
    assert {scene.label for scene in scenes} == set(range(len(standin.labels)))


def test_columns_are_different_tasks():
    a, h, n = (STANDINS[name] for name in ("scenes", "scenes_hypersim", "scenes_nyuv2"))
    assert [len(s.classes) for s in (a, h, n)] == [14, 9, 11]

    def of(standin: StandIn) -> dict[str, np.ndarray]:
        scenes = [standin.scene("train", index) for index in range(60)]
        return standin.render(scenes, 32, ("rgb", "depth", "instance"))

    a, h, n = of(a), of(h), of(n)
    things = [np.mean([len(np.unique(image)) for image in images["instance"]]) for images in (a, h, n)]
    assert things[1] > things[2] > things[0], "crowded"
    assert n["rgb"].mean() < min(a["rgb"].mean(), h["rgb"].mean()) - 10, "dark"
    holes = [(images["depth"] == 0).mean() for images in (a, h, n)]
    assert holes[0] == holes[1] == 0 and 0.08 < holes[2] < 0.3
    calm = [np.abs(np.diff(images["rgb"].astype(int), 2, axis=3)) for images in (a, n)]
    assert np.median(calm[0]) < 4 < np.median(calm[1]), "noise"


def test_unknown_depth_is_zero_and_invalid():
    standin = STANDINS["scenes_nyuv2"]
    images = standin.render([standin.scene("train", i) for i in range(12)], 32, ("depth", "mask_valid"))
    np.testing.assert_array_equal(images["depth"] == 0, images["mask_valid"] == 0)


@pytest.mark.parametrize("name", [name for name in recipes() if not name.startswith("paper/")])
def test_recipes_know_how_many_classes_there_are(name):
    scale, name = name.split("/")
    config = recipe(name, scale)
    if not isinstance(config.data, Scenes):
        return
    standin = STANDINS[config.data.name]
    expected = {"segment": len(standin.classes), "classify": len(standin.labels)}.get(config.task)
    assert expected is None or config.classes == expected
    if config.task in ("pretrain", "segment"):  # pseudo labels are of the pre-training's classes, whatever the data
        assert config.model.semseg_classes == len(composing.SEMSEG)


# ---- the cache


def test_folder_and_fingerprint_name_the_source_and_the_version_of_targets(tmp_path, standin):
    def opened(*fields: str) -> RenderedScenes:
        return RenderedScenes("val", 2, 8, tmp_path, fields, standin.name)

    usual, dense = opened("rgb"), opened("rgb", "edges")
    version = standin.version
    assert usual.fingerprint == f"{standin.name}-v{version}-8px-val-2"
    assert dense.fingerprint == f"{usual.fingerprint}-targets{targets.VERSION}"
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.npy")} == {
        f"{standin.name}-v{version}-8px"
    }


def test_dense_targets_are_rendered_once_for_all(tmp_path, monkeypatch):
    first = RenderedScenes("train", 3, 16, tmp_path, ("rgb", "normals"), "scenes_taskonomy")
    monkeypatch.setattr(StandIn, "render", lambda *_: pytest.fail("rendered again"))
    for field in DENSE_FIELDS:
        RenderedScenes("train", 3, 16, tmp_path, ("rgb", field), "scenes_taskonomy")
    stored = sum(np.load(path)[0].nbytes for path in first.folder.glob("*.npy"))
    assert stored == 16 * 16 * (SCENE + DENSE_SCENE) + 8, "all that is usual, all that is dense, and the label"


def test_blocks_and_batches_change_nothing(tmp_path, standin):
    many = RenderedScenes("val", BLOCK + 2, 8, tmp_path / "many", DENSE_FIELDS, standin.name)
    few = RenderedScenes("val", 3, 8, tmp_path / "few", DENSE_FIELDS, standin.name)
    for name in DENSE_FIELDS:
        assert torch.equal(many.sample(2, (name,))[name], few.sample(2, (name,))[name])
    index = BLOCK + 1
    direct = standin.render([standin.scene("val", index)], 8, DENSE_FIELDS)
    sample = many.sample(index, DENSE_FIELDS)
    for name in targets.NAMES:
        most = np.iinfo(direct[name].dtype).max
        np.testing.assert_allclose(sample[name], direct[name][0] / np.float32(most), rtol=1e-6)
