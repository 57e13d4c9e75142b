"""The scenes' dense targets are what geometry and photograph say, computed here in other ways."""

import math

import numpy as np
import pytest

from multimae.data.scenes import composing, rendering, sensors, targets
from multimae.data.scenes.composing import Composer, Material
from multimae.data.scenes.rendering import Scene, Shot, paint

SIZE = 96
GREY = ((0.5, 0.5, 0.5),) * 2
FOCAL = 1.5


def staged(*solids, looking: str = "level") -> Scene:
    """A grey room of 8 x 8 x 3 m with `solids` (shape, place, half sizes), seen from (-3, 0, 1.2) along x."""
    composer = Composer(np.random.default_rng(0))
    material = Material(GREY, gloss=0)
    for name in ("floor", "ceiling", "wall", "wall", "wall", "wall"):
        composer.add(name, rendering.ROOM, (0, 0, 1.5), (4, 4, 1.5), material)
    for shape, place, size, *name in solids:
        composer.add(*name or ["block"], shape, place, size, material)
    down = 0.0 if looking == "level" else -0.5
    cos, sin = math.cos(down), math.sin(down)
    f = np.float32
    return Scene(
        surfaces=np.array(composer.rows, f),
        camera=np.array((-3, 0, 1.2), f),
        axes=np.array([(0, -1, 0), (sin, 0, -cos), (cos, 0, sin)], f),
        focal=FOCAL,
        light=np.array((0, 0, 2.8), f),
        light_color=np.ones(3, f),
        ambient=0.4,
        label=0,
    )


def seen(scene: Scene, size: int = SIZE, rgb: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """(channels, S, S) of each target, in [0, 1], and what was rendered."""
    shot = Shot([scene], size)
    images = paint(shot, ("rgb", "depth", "normals", "instance", "semseg"))
    if rgb is not None:
        images["rgb"] = rgb
    made = targets.targets(shot, images["rgb"], sensors.within_range(shot))
    images |= {name: image / np.iinfo(image.dtype).max for name, image in made.items()}
    return {name: image[0] for name, image in images.items()}


def points(depth: np.ndarray, focal: float) -> np.ndarray:
    """Back-projected, in camera axes, from depth (S, S): (3, S, S)."""
    x = ((np.arange(len(depth)) + 0.5) * 2 / len(depth) - 1) / focal
    return np.stack([x[None] * depth, x[:, None] * depth, depth])


def bending(depth: np.ndarray, focal: float, at: tuple[int, int], step: int) -> np.ndarray:
    """The two principal curvatures in size, the larger first, from finite differences of depth."""
    place, (i, j) = points(depth.astype(float), focal), at
    p = place[:, i - step : i + step + 1 : step, j - step : j + step + 1 : step]
    u, v = (p[:, 1, 2] - p[:, 1, 0]) / 2, (p[:, 2, 1] - p[:, 0, 1]) / 2
    uu, vv = p[:, 1, 2] - 2 * p[:, 1, 1] + p[:, 1, 0], p[:, 2, 1] - 2 * p[:, 1, 1] + p[:, 0, 1]
    uv = (p[:, 2, 2] - p[:, 2, 0] - p[:, 0, 2] + p[:, 0, 0]) / 4
    normal = np.cross(u, v) / np.linalg.norm(np.cross(u, v))
    first = np.array([[u @ u, u @ v], [u @ v, v @ v]])
    second = np.array([[uu @ normal, uv @ normal], [uv @ normal, vv @ normal]])
    return np.sort(np.abs(np.linalg.eigvals(np.linalg.inv(first) @ second)))[::-1]


@pytest.mark.parametrize("radius", [0.25, 0.7])
@pytest.mark.parametrize("shape", ["sphere", "cylinder", "wall"])
def test_curvature_is_that_of_the_surface_that_depth_describes(shape, radius):
    solids = {
        "sphere": [(rendering.SPHERE, (0, 0, 1.2), (radius,) * 3)],
        "cylinder": [(rendering.CYLINDER, (0, 0, 1.2), (radius, radius, 1.0))],
        "wall": [],
    }[shape]
    images = seen(staged(*solids), 256)
    stored = images["curvature"][:, 124, 130]
    curvature = targets.CURVED * stored / (1 - stored)
    expected = {"sphere": (1 / radius, 1 / radius), "cylinder": (1 / radius, 0), "wall": (0, 0)}[shape]
    np.testing.assert_allclose(curvature, expected, rtol=0.03, atol=0.02)
    measured = bending(images["depth"][0], FOCAL, (124, 130), step=round(12 * radius))
    np.testing.assert_allclose(measured, expected, rtol=0.05, atol=0.02)


def test_the_ends_of_a_cylinder_are_flat():
    above = staged((rendering.CYLINDER, (0, 0, 0.2), (0.6, 0.6, 0.2)), looking="down")
    images = seen(above)
    flat = (images["instance"] == rendering.ROOM_SURFACES) & (images["normals"][1] < -100)  # their normals point up
    assert flat.sum() > 100 and images["curvature"][:, flat].max() == 0


@pytest.mark.parametrize("index", range(6))
def test_normals_are_those_of_the_surface_that_depth_describes(index):
    scene = composing.scene("val", index)
    images = seen(scene, 192)
    place = points(images["depth"][0].astype(float), scene.focal)
    u, v = place[:, 1:-1, 2:] - place[:, 1:-1, :-2], place[:, 2:, 1:-1] - place[:, :-2, 1:-1]
    crossed = np.cross(u, v, axis=0)
    crossed /= -np.linalg.norm(crossed, axis=0)  # towards the camera
    normals = images["normals"][:, 1:-1, 1:-1] / 127
    here = np.stack([*images["normals"].astype(int), 100 * images["instance"].astype(int)])
    near = np.stack([here[:, i : i + 190, j : j + 190] for i in range(3) for j in range(3)])
    smooth = np.ptp(near, axis=0).max(0) < 12  # and of one surface
    assert smooth.mean() > 0.6
    cosine = (crossed * normals).sum(0)[smooth]
    assert cosine.min() > 0.97 and np.quantile(cosine, 0.01) > 0.985


def test_reshading_is_the_cosine_between_normal_and_view():
    scene = composing.scene("val", 2)
    images = seen(scene)
    ray = points(np.ones((SIZE, SIZE)), scene.focal)
    cosine = -(images["normals"] / 127 * ray).sum(0) / np.linalg.norm(ray, axis=0)
    assert np.abs(images["reshading"][0] - cosine.clip(0)).max() < 0.02
    assert np.ptp(images["reshading"]) > 0.5


# ---- occlusion


def test_a_crease_is_no_occlusion_and_a_gap_is():
    empty = seen(staged())
    assert empty["occlusion"].max() == 0 and len(np.unique(empty["instance"])) > 3, "walls meet, nothing is hidden"
    box = seen(staged((rendering.BOX, (0, 0, 0.75), (0.4, 0.4, 0.75))))
    solid = box["instance"] == rendering.ROOM_SURFACES
    edge = box["occlusion"][0]
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    top, bottom, middle = rows[0], rows[-1], columns.mean().astype(int)
    assert edge[top, middle] == 1, "its top stands four metres before a wall"
    assert edge[top + 3, columns[0]] == edge[top + 3, columns[-1]] == 1
    assert edge[bottom, middle] == 0, "it stands on the floor"
    assert edge[top - 1, middle] == 1 and edge[top - 2, middle] == 0, "both sides of it, and no more"
    for region in (solid, ~solid):
        inside = np.zeros_like(solid)
        inside[1:-1, 1:-1] = np.min([np.roll(region, s, a) for s in (-1, 1) for a in (0, 1)], 0)[1:-1, 1:-1]
        assert edge[inside & region].max() == 0, "its own faces hide nothing of each other"


def test_occlusion_is_where_depth_jumps():
    jumps, marked, silent = 0, 0, []
    for index in range(10):
        images = seen(composing.scene("train", index))
        depth, edge = images["depth"][0], images["occlusion"][0]
        jump = np.zeros_like(depth)  # the largest to one of four neighbours
        for axis in (0, 1):
            step = np.abs(np.diff(depth, axis=axis))
            for ends in ((0, 1), (1, 0)):
                pad = [(0, 0), (0, 0)]
                pad[axis] = ends
                np.maximum(jump, np.pad(step, pad), out=jump)
        assert jump[edge > 0.5].min() > 0.2
        far = jump > 2
        jumps, marked = jumps + far.sum(), marked + (edge[far] > 0.3).sum()
        silent.append(edge[jump < 0.05].max())
    assert jumps > 100 and marked / jumps > 0.97
    assert max(silent) < 0.02


def test_what_stands_on_a_table_is_not_behind_it():
    table = (rendering.BOX, (0.2, 0, 0.7), (0.8, 1.2, 0.05))
    block = (rendering.BOX, (0.2, 0, 1.0), (0.2, 0.2, 0.25))
    images = seen(staged(table, block))
    on = images["instance"] == rendering.ROOM_SURFACES + 1
    bottom = np.flatnonzero(on.any(1))[-1]
    assert images["instance"][bottom + 1, SIZE // 2] == rendering.ROOM_SURFACES, "the table is seen before it"
    assert images["occlusion"][0, bottom : bottom + 2, SIZE // 2].max() == 0


# ---- what depends on what


def test_edges_and_keypoints_2d_are_of_the_photograph_alone_and_all_else_of_the_geometry():
    scene = composing.scene("train", 3)
    rng = np.random.default_rng(0)
    plain = seen(scene, rgb=np.full((1, 3, SIZE, SIZE), 120, np.uint8))
    noise = seen(scene, rgb=rng.integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8))
    assert plain["edges"].max() == plain["keypoints2d"].max() == 0
    assert noise["edges"].mean() > 0.02 and noise["keypoints2d"].mean() > 0.02
    for name in set(targets.NAMES) - {"edges", "keypoints2d"}:
        np.testing.assert_array_equal(plain[name], noise[name])


def test_an_empty_grey_room_has_edges_where_its_walls_meet_but_no_corner_on_a_wall():
    images = seen(staged())
    wall = (images["instance"] == 3)[:, SIZE // 2]  # straight ahead
    rows = slice(np.flatnonzero(wall)[0] + 6, np.flatnonzero(wall)[-1] - 5)
    assert rows.stop - rows.start > 10
    assert images["edges"][0, rows, SIZE // 2].max() < 0.01
    assert images["keypoints3d"][0, :, SIZE // 2].max() < 0.02, "floor, wall and ceiling: changes in one direction"
    assert images["keypoints3d"].max() > 0.1, "two walls and the floor"


def test_edges_measure_a_slope_and_keypoints_2d_a_blob():
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    slope = targets.edges((0.01 * x)[None].astype(np.float32))[0]
    np.testing.assert_allclose(slope[8:-8, 8:-8], 0.01, rtol=1e-3)
    step = targets.edges(np.float32(x >= 32)[None])[0]
    assert abs(step.max() - 0.4) < 0.05 and np.unravel_index(step.argmax(), step.shape)[1] in (31, 32)
    blob = 0.5 * np.exp(-((x - 20) ** 2 + (y - 40) ** 2) / (2 * 1.6**2))
    interest = targets.keypoints2d(blob[None].astype(np.float32))[0]
    assert np.unravel_index(interest.argmax(), interest.shape) == (40, 20) and interest.max() > 0.5
    assert targets.keypoints2d(np.float32(x >= 32)[None]).max() < 0.05, "an edge is no point"


def test_keypoints_3d_are_near_corners_of_a_solid_not_in_the_middle_of_an_edge_or_at_it():
    images = seen(staged((rendering.BOX, (0, 0, 1.2), (0.8, 0.8, 0.8))), 192)
    solid = images["instance"] == rendering.ROOM_SURFACES
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    interest, middle = images["keypoints3d"][0], columns.mean().astype(int)
    corner = interest[rows[0] + 4, columns[0] + 4]
    assert corner > 0.3
    assert interest[rows[0] + 4, middle] < corner / 3, "a straight edge changes in one direction"
    assert interest[rows[0], columns[0]] < corner / 3, "the corner itself is no stable surface"
    assert interest[rows.mean().astype(int), middle] < corner / 3


def test_targets_use_their_range():
    """Of edges, which dense regression cuts off at a quarter, most lies under that."""
    many = [seen(composing.scene("train", index), 48) for index in range(48)]
    upper = {name: np.quantile(np.stack([images[name] for images in many]), 0.99) for name in targets.NAMES}
    assert 0.1 < upper.pop("edges") < 0.25
    assert upper["curvature"] > 0.4 and all(top > 0.5 for name, top in upper.items() if name != "curvature")


# ---- validity


def test_depth_ends_in_windows_and_out_of_range():
    window = (rendering.BOX, (4, 1.5, 1.5), (0.03, 0.8, 0.6), "window")
    images = seen(staged(window))
    mask, depth = images["mask_valid"][0], images["depth"][0]
    glass = images["semseg"] == composing.SEMSEG.index("window")
    assert glass.any() and mask[glass].max() == 0
    np.testing.assert_array_equal(mask[~glass], depth[~glass] < sensors.RANGE)
    assert set(np.unique(mask)) == {0, 1}


def test_a_kinect_sees_nothing_beside_what_is_near_at_grazing_angles_in_glare_and_far_away():
    near = staged((rendering.BOX, (-1.9, 0, 1.2), (0.1, 0.3, 0.3)))
    shot = Shot([near], SIZE)
    known = sensors.kinect(shot).reshape(SIZE, SIZE)
    depth, hit = shot.depth.reshape(SIZE, SIZE), shot.hit.reshape(SIZE, SIZE)
    assert not known[depth > sensors.KINECT_RANGE].any()
    row = SIZE // 2 - 6
    columns = np.flatnonzero(hit[row] == rendering.ROOM_SURFACES)
    far = staged((rendering.BOX, (-1.9, 0, 1.2), (0.1, 0.3, 0.3)), (rendering.BOX, (1, 0, 1.5), (0.1, 3.9, 1.5)))
    known = sensors.kinect(Shot([far], SIZE)).reshape(SIZE, SIZE)[row]
    # 0.1 m to the right: seen from there, what is near moves to the left before what is behind it.
    assert known[columns].all() and not known[columns[0] - 1] and known[columns[-1] + 1 : columns[-1] + 9].all()
    floor = hit == 0
    steep = targets.reshading(shot).reshape(SIZE, SIZE) < sensors.GRAZING
    assert not sensors.kinect(shot).reshape(SIZE, SIZE)[floor & steep].any()
    glossy = staged((rendering.BOX, (1, 0, 1.5), (0.1, 3.9, 1.5)))
    glossy.surfaces[-1, rendering.COLUMNS["gloss"]] = 0.7
    assert not sensors.kinect(Shot([glossy], SIZE)).reshape(SIZE, SIZE)[SIZE // 2, SIZE // 2]
