"""Depth and pseudo-normals of the published reverse distillation: parity with golden arrays, and clouds that fail."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud import published_surface
from cmdiad_runtime.preprocess.cloud.published_surface import (
    KernelWidth,
    PublishedKind,
    normals_of_depth,
    pseudo_normals,
    published_depth,
    published_image,
    published_mask,
    scaled_depth,
)
from cmdiad_runtime.preprocess.image.resize import resize_bilinear, resize_nearest, resize_rgb
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_runtime.sample import Sample
from golden import load

KINDS: tuple[PublishedKind, ...] = get_args(PublishedKind)
CORNERS = {
    "top left": np.s_[:3, :3],
    "top right": np.s_[:3, -3:],
    "bottom left": np.s_[-3:, :3],
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load("trd_preproc")


def cloud(height: int = 60, width: int = 60) -> np.ndarray:
    """A block of 20 mm on a plate that is tilted towards the sensor, float32 `[h, w, 3]`, metres."""
    v, u = (np.mgrid[:height, :width] - 30.0) * 0.002
    xyz = np.stack([u, v, 0.5 + 0.1 * u], axis=2)
    xyz[height // 3 : 2 * height // 3, width // 4 : 3 * width // 4, 2] -= 0.02
    return xyz.astype(np.float32)


@pytest.mark.golden
@pytest.mark.parametrize(("cloud", "prefix"), [("xyz", "native"), ("rgbd_xyz64", "rgbd")])
def test_the_support_plane_is_the_published_one(golden: dict[str, np.ndarray], cloud: str, prefix: str) -> None:
    xyz = golden[cloud]
    off_plane = published_surface._support_plane(xyz, "a").distance(xyz) > published_surface._CLEARANCE
    assert np.array_equal(off_plane, golden[f"{prefix}_mask_plane"].astype(bool))
    assert np.array_equal(off_plane & (xyz[..., 2] != 0), golden[f"{prefix}_mask_and_z"].astype(bool))


@pytest.mark.golden
def test_the_corner_points_are_the_published_ones(golden: dict[str, np.ndarray]) -> None:
    plane = published_surface._support_plane(golden["xyz"], "a")
    assert plane.distance(golden["native_plane_points"]).max() < 1e-6
    expected = golden["native_plane"] / np.linalg.norm(golden["native_plane"][:3])
    assert np.abs([*plane.normal, -plane.offset] - expected).max() < 1e-6


@pytest.mark.golden
def test_masks_and_depth_are_the_published_ones(golden: dict[str, np.ndarray]) -> None:
    assert np.array_equal(published_mask(golden["xyz"], "a"), golden["native_mask_closed"].astype(bool))
    resized = resize_nearest(golden["xyz"], 64)
    assert np.array_equal(resized, golden["rgbd_xyz64"])
    assert np.array_equal(published_mask(resized, "a"), golden["rgbd_mask_closed"].astype(bool))
    assert np.abs(published_depth(resized, "a") - golden["rgbd_depth"][0]).max() < 1e-6


@pytest.mark.golden
@pytest.mark.parametrize("width", get_args(KernelWidth))
def test_pseudo_normals_are_the_published_ones(golden: dict[str, np.ndarray], width: KernelWidth) -> None:
    depth = scaled_depth(golden["xyz"], published_mask(golden["xyz"], "a"))
    assert np.abs(depth - golden["rgbn_filled_depth"]).max() < 1e-6
    rows = normals_of_depth(depth, width)[::8]
    assert np.abs(rows - golden[f"rgbn_k{width}_native_rows"]).max() < 1e-5
    image = resize_bilinear(pseudo_normals(golden["xyz"], "a", width), 64).transpose(2, 0, 1)
    assert np.abs(image - golden[f"rgbn_k{width}_image"]).max() < 1e-5
    mean, deviation = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert np.abs((image - mean) / deviation - golden[f"rgbn_k{width}_input"]).max() < 5e-5


@pytest.mark.golden
def test_images_are_resized_as_published(golden: dict[str, np.ndarray]) -> None:
    assert np.array_equal(resize_rgb(golden["rgb_native"], 64, rgb_filter="bilinear"), golden["rgb_resized_u8"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_square_cloud_is_prepared_as_published(kind: PublishedKind) -> None:
    settings = Preprocessing("xyz", size=32, xyz_feed=kind, groups=0, group_size=0, grid=0)
    prepared = prepare(Sample("a", xyz=cloud()), settings).inputs
    assert list(prepared) == ["surface"]
    if kind == "published-depth":
        expected = np.repeat(published_depth(resize_nearest(cloud(), 32), "a")[..., None], 3, axis=2)
    else:
        expected = resize_bilinear(pseudo_normals(cloud(), "a"), 32)
    assert prepared["surface"].dtype == np.float32
    np.testing.assert_allclose(prepared["surface"][0], 255 * expected, rtol=1e-6)
    assert 150 < prepared["surface"].max() <= 255
    assert not prepared["surface"][0, :3].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cloud_that_is_not_square_keeps_its_shape(kind: PublishedKind) -> None:
    square, wide = (published_image(c, kind=kind, size=32, name="a") for c in (cloud(), cloud(40, 60)))
    (tall, broad), (low, equally_broad) = (np.ptp(np.argwhere(i.any(axis=2)), axis=0) for i in (square, wide))
    assert abs(broad - equally_broad) <= 1
    assert low < 0.8 * tall
    assert not wide[:5].any()
    assert not wide[-5:].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [np.nan, np.inf, 1e8])
def test_missing_points_may_be_any_number(kind: PublishedKind, missing: float) -> None:
    zeros, numbers = cloud(), cloud()
    zeros[25:28, 20:23] = zeros[0, 0] = 0
    numbers[25:28, 20:23] = numbers[0, 0] = missing
    images = [published_image(c, kind=kind, size=48, name="a") for c in (zeros, numbers)]
    assert np.array_equal(*images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corner", CORNERS)
def test_a_corner_without_a_point_is_refused(kind: PublishedKind, corner: str) -> None:
    xyz = cloud()
    xyz[CORNERS[corner]] = 0
    with pytest.raises(InputError, match=f"no point in the {corner} corner") as raised:
        published_image(xyz, kind=kind, size=60, name="a")
    assert raised.value.reason == "no-points"
    xyz[CORNERS[corner]][1, 1] = cloud()[CORNERS[corner]][1, 1]
    assert published_image(xyz, kind=kind, size=60, name="a").any()


def _without_corners() -> np.ndarray:
    xyz = cloud()
    for corner in CORNERS.values():
        xyz[corner] = 0
    return xyz


def _line() -> np.ndarray:
    xyz = cloud()
    for corner in CORNERS.values():
        xyz[corner] = xyz[0, 0]
    return xyz


def _plate() -> np.ndarray:
    xyz = cloud()
    xyz[..., 2] = 0.5
    return xyz


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("xyz", "reason", "text"),
    [
        (_without_corners(), "no-points", "top left and the top right and the bottom left"),
        (np.zeros((40, 40, 3), np.float32), "no-points", "top left and the top right and the bottom left"),
        (np.full((40, 40, 3), np.nan, np.float32), "no-points", "no point"),
        (_line(), "no-points", "on one line"),
        (_plate(), "no-part", "only background"),
        (np.zeros((40, 40), np.float32), "wrong-array", "organised cloud"),
        (np.full((2, 2, 3), 0.5, np.float32), "no-points", "on one line"),
    ],
)
def test_an_unusable_cloud_is_refused(kind: PublishedKind, xyz: Any, reason: str, text: str) -> None:
    settings = Preprocessing("xyz", size=60, xyz_feed=kind, groups=0, group_size=0, grid=0)
    with pytest.raises(InputError, match=text) as raised:
        prepare(Sample("a", xyz=xyz), settings)
    assert raised.value.reason == reason


def test_a_part_of_equal_depth_is_no_division_by_zero() -> None:
    xyz = cloud()
    xyz[..., 2] = 0.5
    xyz[20:40, 15:45, 2] = 0.47
    for kind in KINDS:
        image = published_image(xyz, kind=kind, size=60, name="a")
        assert np.isfinite(image).all()
        assert image.any()


@pytest.mark.seconds
def test_bilinear_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    image = np.random.default_rng(0).random((37, 61, 3)).astype(np.float32)
    for size in (20, 64):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None], (size, size), mode="bilinear"
        )
        np.testing.assert_allclose(resize_bilinear(image, size), expected[0].permute(1, 2, 0), atol=2e-6)
