"""Measures of recording conditions: each follows the condition that it describes, and no other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from cmdiad_runtime.envelope.cloud_measures import measure_cloud, measure_part
from cmdiad_runtime.envelope.colour_order import colour_order, colour_weights
from cmdiad_runtime.envelope.image_measures import QUARTERS, measure_image
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.sample import Sample

PITCH = 0.0005


def picture(seed: int = 0, *, height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth coloured picture with a brighter part, and a little noise."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.normal(size=(height, width)), 4)
    y, x = np.mgrid[:height, :width]
    part = np.hypot(y - height / 2, x - width / 2) < height / 4
    grey = 60 + 300 * rough + 90 * part
    colours = np.stack([grey * 1.1, grey, grey * 0.8], axis=2)
    return np.clip(colours + rng.normal(0, 1, colours.shape), 0, 255).astype(np.uint8)


@dataclass
class Scene:
    """A box on a plane, seen from above."""

    size: int = 120

    def cloud(self) -> np.ndarray:
        y, x = np.mgrid[: self.size, : self.size] - self.size / 2 + 0.25
        z = np.where((np.abs(x) < 30) & (np.abs(y) < 30), 0.38, 0.4)
        return np.stack([x * PITCH, y * PITCH, z], axis=2).astype(np.float32)


def of_cloud(xyz: np.ndarray) -> dict[str, float]:
    geometry = PartGeometry(Sample("scene", xyz=np.ascontiguousarray(xyz, dtype=np.float32)))
    return {**measure_cloud(geometry), **measure_part(geometry, PITCH**2)}


def test_light_scales_the_grey_levels_and_not_the_sharpness() -> None:
    rgb = picture()
    light, half = measure_image(rgb), measure_image(rgb // 2)
    for name in ("dark", "brightness", "bright"):
        assert half[name] == pytest.approx(light[name] / 2, rel=0.05, abs=1)
    assert half["sharpness"] == pytest.approx(light["sharpness"], abs=0.6)


def test_saturated_share() -> None:
    rgb = picture()
    rgb[: len(rgb) // 4] = 255
    assert measure_image(rgb)["saturated"] == pytest.approx(0.25, abs=0.02)


def test_noise_is_measured_in_grey_levels_whatever_the_content() -> None:
    flat = np.full((120, 160, 3), 100.0)
    noise = np.random.default_rng(1).normal(0, 4, (120, 160, 1)).repeat(3, axis=2)
    noisy = np.rint(flat + noise).astype(np.uint8)
    assert measure_image(noisy)["noise"] == pytest.approx(4, rel=0.1)
    noisy[:, 60:] += 50  # an edge
    assert measure_image(noisy)["noise"] == pytest.approx(4, rel=0.1)


def test_blur_lowers_the_sharpness() -> None:
    rgb = picture()
    values = [
        measure_image(np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(radius))))["sharpness"]
        for radius in (0, 1, 2, 4)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[2] > 2


def test_exchanged_channels_change_the_sign_of_the_quarters() -> None:
    rgb = picture()
    right, swapped = measure_image(rgb), measure_image(rgb[..., ::-1])
    for name in (*QUARTERS, "red_blue"):
        assert swapped[name] == pytest.approx(-right[name])
    assert swapped["green"] == pytest.approx(right["green"])
    assert swapped["brightness"] == pytest.approx(right["brightness"])


def test_colour_order_is_a_place_between_right_and_swapped() -> None:
    samples = [measure_image(picture(seed)) for seed in range(6)]
    weights = colour_weights(np.array([[sample[name] for name in QUARTERS] for sample in samples]))
    orders = [colour_order(sample, weights) for sample in samples]
    assert np.mean([order for order in orders if order is not None]) == pytest.approx(1)
    new = picture(7)
    assert colour_order(measure_image(new), weights) == pytest.approx(1, abs=0.3)
    assert colour_order(measure_image(new[..., ::-1]), weights) == pytest.approx(-1, abs=0.3)
    assert colour_order(measure_image(new.mean(axis=2, keepdims=True).repeat(3, 2).astype(np.uint8)), weights) == 0


def test_grey_pictures_have_no_colour_order() -> None:
    assert colour_weights(np.zeros((5, 4))) == ()
    assert colour_order(measure_image(picture()), ()) is None


def test_tiny_pictures_are_measured() -> None:
    for shape in ((1, 1), (1, 9), (9, 1), (2, 2)):
        assert all(np.isfinite(value) for value in measure_image(np.full((*shape, 3), 7, np.uint8)).values())


def test_noise_of_a_cloud_is_measured_in_metres_whatever_the_part() -> None:
    xyz = Scene().cloud()
    before = of_cloud(xyz)["depth_noise"]
    xyz[..., 2] += np.random.default_rng(1).normal(0, 1e-3, xyz.shape[:2])
    assert before < 2e-4
    assert of_cloud(xyz)["depth_noise"] == pytest.approx(1e-3, rel=0.1)


def test_a_scene_has_the_measures_of_its_geometry() -> None:
    values = of_cloud(Scene().cloud())
    assert values["column_pitch"] == values["row_pitch"] == pytest.approx(PITCH, rel=1e-3)
    assert [values[f"column_{axis}"] for axis in "xyz"] == pytest.approx([1, 0, 0], abs=1e-3)
    assert [values[f"row_{axis}"] for axis in "xyz"] == pytest.approx([0, 1, 0], abs=1e-3)
    assert values["plane_distance"] == pytest.approx(0.4, abs=1e-4)
    assert values["depth"] == pytest.approx(0.4, abs=1e-4)
    assert (values["valid"], values["away"], values["plane"]) == (1, 1, 1)
    assert values["holes"] == values["detached"] == 0
    assert values["part_height"] == pytest.approx(0.02, abs=1e-4)


def test_height_of_a_part_is_that_of_its_upper_points_and_not_of_a_few_stray_ones() -> None:
    xyz = Scene().cloud()
    xyz[60:80, 30:90, 2] = 0.375  # a step over a third of the part
    assert of_cloud(xyz)["part_height"] == pytest.approx(0.025, abs=1e-4)
    xyz = Scene().cloud()
    xyz[50:52, 50:52, 2] = 0.372
    assert of_cloud(xyz)["part_height"] == pytest.approx(0.02, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        (lambda xyz: xyz * [-1, 1, 1], "column_x", -1),
        (lambda xyz: xyz * [1, -1, 1], "row_y", -1),
        (lambda xyz: xyz * [1, 1, -1], "away", 0),
        (lambda xyz: xyz[..., [1, 0, 2]], "column_y", 1),
        (lambda xyz: np.swapaxes(xyz, 0, 1), "row_x", 1),
        (lambda xyz: xyz * 2, "column_pitch", 2 * PITCH),
        (lambda xyz: xyz * 2, "plane_distance", 0.8),
    ],
)
def test_axes_and_scale(change: object, name: str, expected: float) -> None:
    assert callable(change)
    assert of_cloud(change(Scene().cloud()))[name] == pytest.approx(expected, abs=1e-3)


def test_missing_points_and_numbers_instead_of_them() -> None:
    xyz = Scene().cloud()
    xyz[:30] = 0
    assert of_cloud(xyz)["valid"] == pytest.approx(0.75)
    near = of_cloud(xyz)["reach"]
    xyz[:30] = np.random.default_rng(0).uniform(5, 10, (30, 120, 3))
    assert of_cloud(xyz)["reach"] > 100 * near


def test_holes_and_detached_material_inside_the_part() -> None:
    xyz = Scene().cloud()
    xyz[50:54, 50:54] = 0
    assert of_cloud(xyz)["holes"] == pytest.approx(16 / 60**2, rel=0.05)
    xyz = Scene().cloud()
    xyz[50:58, 50:58, 2] = 0.33
    values = of_cloud(xyz)
    assert values["detached"] == pytest.approx(64 * PITCH**2)
    assert values["holes"] == 0


def test_a_through_hole_shows_the_support_and_is_not_detached_material() -> None:
    xyz = Scene().cloud()
    xyz[50:58, 50:58, 2] = 0.4
    values = of_cloud(xyz)
    assert values["detached"] == values["holes"] == 0


def test_a_cut_out_part_has_no_support_plane() -> None:
    xyz = Scene().cloud()
    xyz[xyz[..., 2] > 0.39] = 0
    assert of_cloud(xyz)["plane"] == 0


def test_too_few_points_are_not_a_number() -> None:
    xyz = np.zeros((60, 60, 3), np.float32)
    xyz[3, 3] = 1
    geometry = PartGeometry(Sample("scene", xyz=xyz))
    values = measure_cloud(geometry)
    assert np.isnan(values["column_pitch"])
    assert np.isnan(values["depth"])


def test_infinite_numbers_are_missing_points_without_a_warning() -> None:
    xyz = Scene().cloud()
    xyz[:20] = np.inf
    assert measure_cloud(PartGeometry(Sample("scene", xyz=xyz)))["column_pitch"] == pytest.approx(PITCH, rel=0.05)
