from typing import Any

import numpy as np
import pytest
import scipy

from cmdiad_runtime.preprocess.cloud.patches import patch_input
from cmdiad_runtime.preprocess.cloud.support_plane import Plane
from cmdiad_runtime.preprocess.views import top_pose
from cmdiad_runtime.preprocess.views.top_drawing import draw_top_view, normal_colours, point_colours, top_frame
from cmdiad_runtime.preprocess.views.top_pose import (
    PartCloud,
    Pose,
    find_pose,
    part_cloud,
    plane_axes,
    pose_template,
    top_pixels,
)

TILTED = np.array([0.11, -0.35, -0.93]) / np.linalg.norm([0.11, -0.35, -0.93])
SUPPORT = Plane(TILTED, 0.6)
PITCH = 0.00025
SIDE = 0.05
MIDDLE = plane_axes(TILTED)[:2] @ (0, 0, -SUPPORT.offset / TILTED[2])  # of the support, below the sensor


def wedge(u, v):
    """Height of a part that looks different from every side, metres; NaN where there is none."""
    height = 0.010 + 0.2 * u + 0.002 * np.cos(v * 800)
    inside = (np.abs(u) < 0.012) & (np.abs(v) < 0.007) | (np.abs(u - 0.008) < 0.004) & (np.abs(v - 0.01) < 0.006)
    return np.where(inside, height, np.nan)


def scene(angle, *, shift=(0.0, 0.0), holes=0.0, seed=0) -> tuple[Any, Any]:
    """A wedge turned and moved on a tilted support, measured along z on a pixel grid: cloud and mask."""
    axes = plane_axes(TILTED)
    x, y = np.mgrid[:200, :200][::-1] * PITCH - 100 * PITCH
    c, s = np.cos(angle), np.sin(angle)
    height = np.full(x.shape, 0.01)
    for _ in range(30):  # along z down to the wedge's surface, by fixed point
        z = (height - SUPPORT.offset - TILTED[0] * x - TILTED[1] * y) / TILTED[2]
        place = np.stack([x, y, z], axis=-1) @ axes.T
        a, b = np.moveaxis(place[..., :2] - MIDDLE - shift, 2, 0)
        local = wedge(c * a + s * b, -s * a + c * b)
        height = 0.5 * height + 0.5 * np.nan_to_num(local, nan=0.01)
    mask = np.isfinite(local) & (np.random.default_rng(seed).random(x.shape) >= holes)
    xyz = np.stack([x, y, z], axis=-1).astype(np.float32)
    xyz[~mask] = 0
    return xyz, mask


def degrees(angle):
    return abs((np.degrees(angle) + 180) % 360 - 180)


@pytest.fixture(scope="module")
def template():
    clouds = [part_cloud(*scene(a), SUPPORT) for a in np.radians([10, 100, 220, 300])]
    return pose_template(clouds, 0.001)


# --- points on the plane's axes


def test_axes_are_orthonormal_and_look_down_on_the_support():
    axes = plane_axes(TILTED)
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert axes[0, 0] > 0.9  # to the right, as in the image
    assert axes[1, 1] > 0.9  # downwards, as in the image
    assert axes[2] == pytest.approx(TILTED)


def test_positions_are_heights_above_the_support_and_normals_point_up():
    xyz, mask = scene(0.3)
    cloud = part_cloud(xyz, mask, SUPPORT)
    assert cloud.position[:, 2] == pytest.approx(SUPPORT.distance(xyz[cloud.pixels[0], cloud.pixels[1]]))
    assert np.linalg.norm(cloud.normals, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.median(cloud.normals[:, 2]) > 0.5
    assert cloud.pitch == pytest.approx(PITCH, rel=1e-3)


def test_without_a_support_the_view_is_the_sensors():
    xyz, mask = scene(0.3)
    cloud = part_cloud(xyz, mask, None)
    assert cloud.position == pytest.approx(xyz[cloud.pixels[0], cloud.pixels[1]] * (1, 1, -1), abs=1e-6)


# --- pose


@pytest.mark.parametrize("turn", [17, 90, 133, 201, 340])
def test_pose_follows_turn_and_shift(template, turn):
    one = find_pose(part_cloud(*scene(0.0), SUPPORT), template, 0.001)
    shift = (0.004, -0.003)
    other = find_pose(part_cloud(*scene(np.radians(turn), shift=shift, holes=0.1), SUPPORT), template, 0.001)
    assert degrees(other.angle - one.angle - np.radians(turn)) < 4
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    middle = np.array([[c, -s], [s, c]]) @ (np.array([one.x, one.y]) - MIDDLE) + shift + MIDDLE
    assert np.hypot(*(middle - (other.x, other.y))) < 0.002


def test_a_turned_part_looks_the_same_from_above(template):
    images = []
    for turn in (0.0, 2.2):
        cloud = part_cloud(*scene(turn), SUPPORT)
        pose = find_pose(cloud, template, 0.001)
        images.append(draw_top_view(cloud, normal_colours(cloud, pose), pose, size=64, side=SIDE))
    known = [image.any(axis=2) for image in images]
    assert (known[0] & known[1]).sum() > 0.85 * (known[0] | known[1]).sum()
    both = known[0] & known[1]
    assert np.median(np.abs(images[0] - images[1])[both]) < 10


# --- drawing


@pytest.mark.parametrize("turn", [0.0, 2.2])
def test_the_cloud_from_above_is_the_surface_in_the_pose(turn):
    cloud, pose, size = part_cloud(*scene(turn), SUPPORT), Pose(turn, *MIDDLE), 96
    frame = top_frame(cloud, pose, size=size, side=SIDE)
    assert frame.xyz.shape == (size, size, 3) and frame.xyz.dtype == np.float32
    assert not frame.xyz[~frame.valid].any()
    pitch = SIDE / size
    rows, columns = np.nonzero(frame.valid)
    across, down, height = frame.xyz[frame.valid].T
    assert across == pytest.approx((columns - (size - 1) / 2) * pitch, abs=1e-6)
    assert down == pytest.approx((rows - (size - 1) / 2) * pitch, abs=1e-6)
    expected = 1 + wedge(across.astype(float), down.astype(float))  # metres above a plane below the support
    inside = np.isfinite(expected)
    whole = np.isfinite(wedge(*(np.mgrid[:size, :size][::-1] - (size - 1) / 2) * pitch))
    assert inside.mean() > 0.8 and inside.sum() > 0.98 * whole.sum()  # a rim of one pixel is drawn, too
    assert np.median(np.abs(height - expected)[inside]) < 1e-4  # a fifth of a pixel of the view
    cover = patch_input(frame, most=400, points=32, coverage=4, name="a").cover
    assert np.array_equal(cover.any(axis=2), frame.valid)


def test_a_turned_part_has_the_same_cloud_from_above(template):
    frames = []
    for turn in (0.0, 2.2):
        cloud = part_cloud(*scene(turn), SUPPORT)
        frames.append(top_frame(cloud, find_pose(cloud, template, 0.001), size=64, side=SIDE))
    both = frames[0].valid & frames[1].valid
    assert both.sum() > 0.85 * (frames[0].valid | frames[1].valid).sum()
    assert np.median(np.abs(frames[0].xyz - frames[1].xyz)[both]) < 2e-4


def flat(height, values):
    rows, columns = np.mgrid[-10:11, -10:11]
    place = np.stack([columns.ravel() * 0.001, rows.ravel() * 0.001, np.full(rows.size, height)], axis=1)
    up = np.tile([0.0, 0.0, 1.0], (rows.size, 1))
    pixels = np.stack([rows.ravel(), columns.ravel()]) + 10
    return PartCloud(place, up, pixels, 0.001), np.tile(np.asarray(values, dtype=float), (rows.size, 1))


def test_values_are_drawn_where_the_points_are():
    cloud, values = flat(0.01, [10, 120, 250])
    image = draw_top_view(cloud, values, Pose(0, 0, 0), size=41, side=0.041)
    assert image.dtype == np.float32
    known = image.any(axis=2)
    assert known[10:31, 10:31].all()
    assert not known[:8].any() and not known[:, 33:].any()
    assert image[known] == pytest.approx(np.tile(np.float32([10, 120, 250]), (known.sum(), 1)), abs=1e-3)


def test_what_lies_below_the_top_is_hidden():
    top, red = flat(0.01, [200, 50, 50])
    floor, blue = flat(0.0, [50, 50, 200])
    joined = PartCloud(
        np.concatenate([top.position, floor.position]),
        np.concatenate([top.normals, floor.normals]),
        np.concatenate([top.pixels, floor.pixels], axis=1),
        0.001,
    )
    image = draw_top_view(joined, np.concatenate([red, blue]), Pose(0, 0, 0), size=41, side=0.041)
    assert image[12:29, 12:29] == pytest.approx(np.broadcast_to(np.float32([200, 50, 50]), (17, 17, 3)), abs=1e-3)


def test_small_gaps_are_filled_and_large_ones_stay():
    cloud, values = flat(0.01, [10, 120, 250])
    small = np.abs(cloud.position[:, :2]).max(axis=1) < 0.0005
    large = np.abs(cloud.position[:, :2]).max(axis=1) < 0.0045
    for gap, filled in ((small, True), (large, False)):
        keep = ~gap
        part = PartCloud(cloud.position[keep], cloud.normals[keep], cloud.pixels[:, keep], 0.001)
        image = draw_top_view(part, values[keep], Pose(0, 0, 0), size=41, side=0.041)
        assert image[20, 20].any() == filled


def test_pixels_lead_back_from_the_view_to_the_sensor():
    cloud, values = flat(0.01, [1, 1, 1])
    values[:, 0] = np.arange(len(values)) % 200 + 1
    target = np.rint(top_pixels(cloud, Pose(np.pi / 2, 0, 0), size=41, side=0.041)).astype(int)
    assert len(np.unique(target, axis=0)) == len(target)
    turned = np.rint(top_pixels(cloud, Pose(0, 0, 0), size=41, side=0.041)).astype(int)
    assert not np.array_equal(target, turned)
    assert sorted(map(tuple, target)) == sorted(map(tuple, turned))


def test_colours_of_points_are_never_background():
    cloud, _ = flat(0.01, [0, 0, 0])
    rgb = np.zeros((21, 21, 3), dtype=np.uint8)
    rgb[3, 4] = [7, 8, 9]
    colours = point_colours(cloud, rgb)
    assert colours.min() == 1
    assert colours[3 * 21 + 4].tolist() == [7, 8, 9]


def drawn_plainly(cloud, values, pose, size, side):
    """Draw the image of `draw_top_view` with SciPy's filters over the whole view, also where no part is."""
    pitch, target = side / size, top_pixels(cloud, pose, size=size, side=side)
    cell, height = np.rint(target).astype(int), cloud.position[:, 2]
    seen = np.all((cell >= 0) & (cell < size), axis=1)
    top = np.full((size, size), -np.inf)
    np.maximum.at(top, tuple(cell[seen].T), height[seen])
    seen[seen] = height[seen] >= scipy.ndimage.maximum_filter(top, 3)[tuple(cell[seen].T)] - 0.0015
    target, values = target[seen], np.column_stack([np.ones(seen.sum()), values[seen]])
    low = np.floor(target).astype(int)
    sums, part = np.zeros((4, size + 2, size + 2)), target - low
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
            spread = np.zeros_like(sums)
            for channel in range(4):
                np.add.at(spread[channel], tuple((low + 1 + (down, right)).T), share * values[:, channel])
            sums += spread
    spot = max(1.0, cloud.pitch / pitch)
    sums = np.stack([scipy.ndimage.gaussian_filter(s, 0.6 * spot, mode="constant") for s in sums[:, 1:-1, 1:-1]])
    known = sums[0] > 0.15 / spot**2
    image = np.where(known, sums[1:] / np.where(known, sums[0], 1), 0)
    width = 2 * max(round(0.001 / pitch), 1) + 1
    wide = scipy.ndimage.binary_dilation(np.pad(known, width), np.ones((width, width)))
    closed = scipy.ndimage.binary_erosion(wide, np.ones((width, width)))[width:-width, width:-width]
    weight, *rest = (scipy.ndimage.gaussian_filter(s, width / 4, mode="constant") for s in [known * 1.0, *image])
    filled = np.stack(rest) / np.maximum(weight, 1e-6)
    return np.moveaxis(np.where(known, image, np.where(closed, filled, 0)), 0, 2).astype(np.float32)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.012, -0.02), (0.1, 0.1)], ids=["inside", "at the edge", "outside"])
@pytest.mark.parametrize("holes", [0.0, 0.4])
def test_the_drawing_without_shortcuts_is_the_same(shift, holes):
    cloud = part_cloud(*scene(0.7, holes=holes), SUPPORT)
    x, y = cloud.position[:, :2].mean(axis=0) + shift
    pose, size = Pose(0.3, x, y), 160
    values = normal_colours(cloud, pose)
    expected = drawn_plainly(cloud, values, pose, size, SIDE)
    drawn = draw_top_view(cloud, values, pose, size=size, side=SIDE)
    assert drawn.flags.c_contiguous
    assert drawn.any() == (shift != (0.1, 0.1))
    # Equal in every bit where the compiler of SciPy fuses no products with sums, as for x86; else one rounding apart.
    np.testing.assert_array_max_ulp(drawn, expected, maxulp=1)


@pytest.mark.parametrize("pitch", [0.001, 0.0003], ids=["whole part", "points outside"])
def test_the_coarse_drawing_is_the_mean_normal_and_the_coverage_of_each_cell(pitch):
    cloud, size, angle = part_cloud(*scene(0.7), SUPPORT), 64, 2.1
    x, y = cloud.position[:, :2].mean(axis=0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = (cloud.position[:, :2] - (x, y)) @ turn / pitch + size / 2
    column, row = np.floor(place).astype(int).T
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    sums = np.zeros((3, size, size))
    for point, normal in zip(np.flatnonzero(inside), cloud.normals[inside, :2] @ turn, strict=True):
        sums[:, row[point], column[point]] += *normal, 1
    expected = sums / np.maximum(sums[2], 1)
    expected[2] *= 0.5
    drawn = top_pose._draw_coarse(top_pose._flat(cloud), Pose(angle, x, y), pitch, size)
    assert inside.all() == (pitch == 0.001)
    # The same sums up to rounding: BLAS may fuse products with sums in the expected rotation.
    np.testing.assert_allclose(drawn, expected, rtol=1e-9, atol=1e-12)
