"""Views of the part in the image alone: found, turned to one pose, cut out, and places carried to the view."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cmdiad_runtime.preprocess.image.foreground import image_foreground
from cmdiad_runtime.preprocess.view_settings import PartSettings
from cmdiad_runtime.preprocess.views.part import draw_part_view
from cmdiad_runtime.preprocess.views.part_pose import (
    ImagePose,
    find_image_pose,
    image_template,
    learn_part_settings,
    part_channels,
    sensor_to_view,
    turned,
)
from cmdiad_runtime.support.records import RecordError

SIZE = 200
ANGLES = (0.0, 0.7, 2.0, 3.0, 4.4, 5.5)


def photo(angle=0.0, shift=(0.0, 0.0), shape=(SIZE, SIZE), *, noise=3.0, seed=0):
    """A striped, shaded L on a dark support, turned by `angle` and moved by columns and rows: image and mask."""
    height, width = shape
    fine = 4  # samples per pixel and axis
    rows, columns = np.mgrid[: height * fine, : width * fine] / fine + (0.5 / fine - 0.5)
    u, v = columns - (width - 1) / 2 - shift[0], rows - (height - 1) / 2 - shift[1]
    c, s = np.cos(angle), np.sin(angle)
    x, y = c * u + s * v, -s * u + c * v
    inside = (np.abs(x + 22) < 12) & (np.abs(y) < 40) | (np.abs(y - 28) < 12) & (np.abs(x) < 34)
    grey = np.where(inside, 150 + 50 * np.sin(x / 4) + 0.7 * y, 12.0)
    grey = grey.reshape(height, fine, width, fine).mean(axis=(1, 3))
    grey = grey + np.random.default_rng(seed).normal(0, noise, shape)
    rgb = np.clip(grey[..., None] * (1.0, 0.8, 0.6), 0, 255).astype(np.uint8)
    return rgb, inside.reshape(height, fine, width, fine).mean(axis=(1, 3)) > 0.5


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def degrees(angle):
    return abs((np.degrees(angle) + 180) % 360 - 180)


def pose_of(rgb, settings):
    return find_image_pose(rgb, image_foreground(rgb), settings.array, settings.pitch)


@pytest.fixture(scope="module")
def settings() -> PartSettings:
    rgbs = [photo(angle, seed=seed)[0] for seed, angle in enumerate(ANGLES)]
    return learn_part_settings(rgbs, [image_foreground(rgb) for rgb in rgbs])


# --- the part in the image


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_part_is_found(angle):
    rgb, truth = photo(angle, (8.0, -5.0))
    found = image_foreground(rgb)
    assert found.dtype == np.bool_ and found.shape == truth.shape
    assert overlap(found, truth) > 0.82  # the inner corner is closed, the rim blurred
    assert found[truth].mean() > 0.99


def test_part_cut_in_two_by_a_groove_stays_whole():
    rgb, truth = photo()
    rgb[90:100] = np.minimum(rgb[90:100], 12)
    assert image_foreground(rgb)[truth].mean() > 0.98


def test_faces_in_shadow_belong_to_the_part():
    rgb, truth = photo(noise=1)
    shadow = truth & (np.mgrid[:SIZE, :SIZE][0] > 110)
    rgb[shadow] = rgb[shadow] // 2
    assert image_foreground(rgb)[truth].mean() > 0.97


def test_holes_are_filled_and_specks_dropped():
    rgb = np.full((SIZE, SIZE, 3), 10, np.uint8)
    rgb[60:140, 60:140] = 200
    rgb[70:130, 70:130] = 10
    rgb[5:15, 5:15] = 255
    found = image_foreground(rgb)
    assert found[62:138, 62:138].all()
    assert not found[:50, :50].any()


def test_uneven_support_is_no_part():
    rgb, truth = photo(noise=0)
    lamp = np.linspace(10, 60, SIZE)[None, :, None]
    lit = np.maximum(rgb, np.broadcast_to(lamp, rgb.shape)).astype(np.uint8)
    assert overlap(image_foreground(lit), truth) > 0.85


def test_part_at_the_edge_of_the_frame_reaches_it():
    rgb, truth = photo(0.0, (-75.0, 0.0))
    found = image_foreground(rgb)
    assert truth[:, 0].sum() > 50
    assert found[truth].mean() > 0.99


def test_large_images_are_worked_on_reduced():
    rgb, truth = photo()
    doubled = rgb.repeat(5, axis=0).repeat(5, axis=1)[:997, :999]
    found = image_foreground(doubled)
    assert found.shape == (997, 999)
    assert overlap(found, truth.repeat(5, axis=0).repeat(5, axis=1)[:997, :999]) > 0.88


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((90, 120, 3)),
        np.full((90, 120, 3), 255),
        np.full((1, 1, 3), 7),
        np.random.default_rng(0).integers(0, 12, (90, 120, 3)),
        np.random.default_rng(0).integers(0, 256, (90, 120, 3)),
        np.where(np.mgrid[:90, :120, :3][0] == 40, np.where(np.mgrid[:90, :120, :3][1] == 50, 255, 5), 5),
        np.broadcast_to(np.linspace(20, 45, 120)[None, :, None], (90, 120, 3)),
    ],
    ids=["dark", "bright", "one pixel", "dark noise", "noise", "hot pixel", "vignette"],
)
def test_without_a_part_the_mask_is_empty(rgb):
    mask = image_foreground(rgb.astype(np.uint8))
    assert mask.dtype == np.bool_ and mask.shape == rgb.shape[:2]
    assert not mask.any()


def test_dark_part_on_a_bright_support_is_not_taken():
    assert not image_foreground(255 - photo()[0]).any()


# --- pose


@pytest.mark.parametrize("turn", [17, 90, 133, 201, 340])
def test_pose_follows_turn_and_shift(settings, turn):
    one = pose_of(photo()[0], settings)
    other = pose_of(photo(np.radians(turn), (14.0, -9.0), seed=5)[0], settings)
    assert degrees(other.angle - one.angle - np.radians(turn)) < 4
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    centre = (SIZE - 1) / 2
    middle = np.array([[c, -s], [s, c]]) @ (one.x - centre, one.y - centre) + (centre + 14, centre - 9)
    assert np.hypot(*(middle - (other.x, other.y))) < 1.5 * settings.pitch


def test_pose_does_not_depend_on_the_exposure(settings):
    rgb, mask = photo(1.2, noise=0)
    dark = (rgb * 0.6).astype(np.uint8)
    poses = [find_image_pose(image, mask, settings.array, settings.pitch) for image in (rgb, dark)]
    assert degrees(poses[0].angle - poses[1].angle) < 1e-6
    assert (poses[0].x, poses[0].y) == (poses[1].x, poses[1].y)


def test_template_is_the_aligned_mean(settings):
    template = settings.array
    assert template.shape == (2, 64, 64) and template.dtype == np.float32
    rgb, _ = photo(0.0, noise=0)
    mask = image_foreground(rgb)
    alone = image_template([rgb], [mask], settings.pitch, rounds=0)
    pose = find_image_pose(rgb, mask, template, settings.pitch)
    again = find_image_pose(rgb, mask, alone, settings.pitch)
    assert degrees(again.angle) < 1e-6  # its own picture is found unturned
    assert min(degrees(pose.angle + angle) for angle in ANGLES) < 4  # as one of the training parts lay


def test_an_unusual_first_part_does_not_spoil_the_template(settings):
    rgbs = [photo(angle, seed=seed)[0] for seed, angle in enumerate(ANGLES)]
    odd = np.full_like(rgbs[0], 10)
    odd[80:120, 80:120] = 150
    masks = [image_foreground(rgb) for rgb in (odd, *rgbs)]
    template = image_template([odd, *rgbs], masks, settings.pitch)
    poses = [find_image_pose(r, m, template, settings.pitch) for r, m in zip(rgbs, masks[1:], strict=True)]
    relative = [pose.angle - angle - poses[0].angle for pose, angle in zip(poses, ANGLES, strict=True)]
    assert max(degrees(angle) for angle in relative) < 4


def test_parts_in_any_direction_give_one_picture(settings):
    views, unturned = [], []
    for turn, shift in ((0.3, (0.0, 0.0)), (1.9, (9.0, 0.0)), (4.0, (0.0, -12.0))):
        rgb, mask = photo(turn, shift)
        pose = find_image_pose(rgb, mask, settings.array, settings.pitch)
        views.append(draw_part_view(rgb, mask, pose, size=96, side=settings.side))
        unturned.append(draw_part_view(rgb, mask, replace(pose, angle=0.0), size=96, side=settings.side))
    for view, other in zip(views[1:], unturned[1:], strict=True):
        covered = view.any(axis=2) & views[0].any(axis=2)
        assert overlap(view.any(axis=2), views[0].any(axis=2)) > 0.9
        assert np.abs(view[..., 0].astype(int) - views[0][..., 0])[covered].mean() < 15  # stripes swing by 100
        assert overlap(other.any(axis=2), unturned[0].any(axis=2)) < 0.7


def test_larger_frames_give_the_same_picture(settings):
    views = []
    for shape in ((SIZE, SIZE), (260, 310)):
        rgb, _ = photo(2.2, shape=shape, noise=0)
        mask = image_foreground(rgb)
        pose = find_image_pose(rgb, mask, settings.array, settings.pitch)
        views.append(draw_part_view(rgb, mask, pose, size=96, side=settings.side))
    assert overlap(*(view.any(axis=2) for view in views)) > 0.96


# --- drawing


def test_view_in_the_sensors_pose_is_a_cutout():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    mask = np.zeros((40, 50), bool)
    mask[10:30, 12:33] = True
    view = draw_part_view(
        rgb, mask, ImagePose(0.0, 19.5, 15.5), size=20, side=20.0
    )  # the corner lies at row 6, column 10
    assert view.dtype == np.uint8 and view.shape == (20, 20, 3)
    assert np.array_equal(view.any(axis=2), mask[6:26, 10:30])
    turned = draw_part_view(rgb, mask, ImagePose(np.pi / 2, 19.5, 15.5), size=20, side=20.0)
    assert np.abs(turned.astype(int) - np.rot90(view)).max() <= 1
    assert np.array_equal(turned.any(axis=2), np.rot90(view.any(axis=2)))


def test_flat_parts_keep_their_colour_to_the_rim():
    mask = photo(0.4)[1]
    rgb = np.where(mask[..., None], np.uint8([200, 100, 0]), np.uint8([0, 0, 255]))
    view = draw_part_view(rgb, mask, ImagePose(1.1, 99.0, 99.0), size=64, side=120.0)
    covered = view.any(axis=2)
    assert covered.sum() > 500
    assert np.abs(view[covered].astype(int) - (200, 100, 1)).max() <= 4  # blue would add 100 at the rim
    assert view[covered].min() == 1


def test_view_is_antialiased():
    """A checkerboard finer than the view's pixels becomes grey instead of moiré."""
    rows, columns = np.mgrid[:240, :240]
    rgb = np.repeat(((rows + columns) % 2 * 200).astype(np.uint8)[..., None], 3, axis=2)
    view = draw_part_view(rgb, np.ones((240, 240), bool), ImagePose(0.2, 120.0, 120.0), size=40, side=160.0)
    assert np.abs(view.astype(int) - 100).max() <= 8


@pytest.mark.parametrize(
    ("rows", "columns"), [((20, 41), (30, 47)), ((0, 12), (50, 64)), ((0, 64), (0, 64)), ((31, 32), (9, 10))]
)
@pytest.mark.parametrize("side", [40, 200, 900])
def test_the_blur_around_the_part_is_that_of_the_whole_image(rows, columns, side):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    size, pose = 64, ImagePose(0.3, 32.0, 30.0)
    whole = Image.fromarray(np.dstack([rgb, mask * np.uint8(255)])).convert("RGBa")
    whole = turned(whole.filter(ImageFilter.GaussianBlur(0.4 * side / size)), pose, side / size, size).convert("RGBA")
    expected = np.asarray(whole)
    drawn = draw_part_view(rgb, mask, pose, size=size, side=side)
    np.testing.assert_array_equal(drawn, np.where(expected[..., 3:] > 127, np.maximum(expected[..., :3], 1), 0))


def test_the_pose_uses_the_mean_of_the_channels():
    rgb, mask = photo(0.4)
    grey = rgb.mean(axis=2, dtype=np.float32)
    inside = grey[mask]
    relative = np.clip((grey - inside.mean()) / (2 * inside.std()), -1, 1) * mask
    cover, brightness = (np.asarray(channel) for channel in part_channels(rgb, mask))
    np.testing.assert_array_equal(cover, np.float32(0.25) * mask)
    np.testing.assert_array_equal(brightness, relative)


def test_beyond_the_frame_there_is_no_part():
    view = draw_part_view(
        np.full((30, 30, 3), 90, np.uint8), np.ones((30, 30), bool), ImagePose(0, 0, 0), size=20, side=20
    )
    assert view[10:, 10:].all()
    assert not view[:9].any() and not view[:, :9].any()


# --- places


def test_places_of_the_sensor_are_found_in_the_view():
    """A white spot anywhere on the part is drawn where `to_view` puts it, and a map is read there."""
    pose, size, side = ImagePose(0.8, 83.0, 91.5), 150, 120.0
    for row, column in ((70, 60), (100, 95), (88, 120)):
        rgb = np.full((160, 170, 3), 20, np.uint8)
        rgb[row - 1 : row + 2, column - 1 : column + 2] = 255
        view = draw_part_view(rgb, np.ones((160, 170), bool), pose, size=size, side=side)[..., 0].astype(float) - 20
        view[view < 20] = 0
        grid = np.mgrid[:size, :size]
        centre = (grid * view).sum(axis=(1, 2)) / view.sum()
        np.testing.assert_allclose(
            centre, sensor_to_view(np.array(row), np.array(column), pose, size=size, side=side), atol=0.1
        )


def test_places_lead_back():
    pose, size, side = ImagePose(-2.1, 40.25, 33.0), 96, 70.0
    rows, columns = np.mgrid[:60:7, :80:9]
    down, right = sensor_to_view(rows, columns, pose, size=size, side=side)
    assert down.shape == rows.shape and down.dtype == np.float64
    v, u = ((place - (size - 1) / 2) * side / size for place in (down, right))
    c, s = np.cos(pose.angle), np.sin(pose.angle)
    np.testing.assert_allclose(pose.x + c * u - s * v, columns, atol=1e-9)
    np.testing.assert_allclose(pose.y + s * u + c * v, rows, atol=1e-9)
    middle = sensor_to_view(np.array(pose.y), np.array(pose.x), pose, size=size, side=side)
    np.testing.assert_allclose(middle, (size - 1) / 2)


# --- settings


def test_view_holds_every_training_part(settings):
    for seed, angle in enumerate(ANGLES):
        rgb, _ = photo(angle, seed=seed)
        mask = image_foreground(rgb)
        pose = find_image_pose(rgb, mask, settings.array, settings.pitch)
        at = np.nonzero(mask)
        rows, columns = sensor_to_view(at[0], at[1], pose, size=96, side=settings.side)
        inside = (np.minimum(rows, columns) > -0.5) & (np.maximum(rows, columns) < 95.5)
        assert inside.mean() > 0.995
    assert settings.side < 1.5 * np.hypot(68, 80)


def test_settings_survive_json(settings):
    again = PartSettings.from_json(json.loads(json.dumps(asdict(settings))))
    assert again == settings
    np.testing.assert_array_equal(again.array, settings.array)
    assert np.abs(again.array).max() <= 1
    with pytest.raises(RecordError, match="2 x 64 x 64 bytes in base64"):
        replace(settings, template=settings.template[:-8])


def test_learning_is_repeatable(settings):
    rgbs = [photo(angle, seed=seed)[0] for seed, angle in enumerate(ANGLES)]
    assert learn_part_settings(rgbs, [image_foreground(rgb) for rgb in rgbs]) == settings
