"""Defects on good samples are reproducible, lie on the part, and change what their sensors measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.sample import Sample
from cmdiad_train.assessment.defects import DEFECTS, GoodPart, inflict
from cmdiad_train.datasets import open_category


@pytest.fixture(scope="module")
def part(data: Path) -> GoodPart:
    return GoodPart(open_category(data, "gear").split("train", ("rgb", "xyz"))[0].read())


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_changes_what_its_sensors_measure(part: GoodPart, kind: str) -> None:
    changed = inflict(kind, part, seed=1)
    assert changed.rgb is not None and changed.xyz is not None
    image, cloud = (changed.rgb != part.rgb).any(axis=2), (changed.xyz != part.xyz).any(axis=2)
    assert image.any() == (DEFECTS[kind].sensors != "3D")
    assert cloud.any() == (DEFECTS[kind].sensors != "camera")
    assert not (cloud & ~part.pixels).any()
    assert np.isfinite(changed.xyz).all()
    largest = DEFECTS[kind].radius[1] * part.size
    assert (np.abs(changed.rgb.astype(int) - part.rgb).max(axis=2) > 20).sum() <= 3 * (largest + 4) ** 2 * np.pi


@pytest.mark.parametrize("kind", DEFECTS)
def test_place_and_size_follow_from_seed_and_sample(part: GoodPart, kind: str) -> None:
    first, again, other = (inflict(kind, part, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.rgb, again.rgb) and np.array_equal(first.xyz, again.xyz)
    assert not (np.array_equal(first.rgb, other.rgb) and np.array_equal(first.xyz, other.xyz))


def test_changes_of_shape_have_the_stated_height_and_direction(part: GoodPart) -> None:
    heights = {}
    for kind in ("dent", "contamination", "deformation"):
        xyz = inflict(kind, part, seed=1).xyz
        heights[kind] = ((xyz - part.xyz) * part.normals).sum(axis=2)  # type: ignore[operator]
    assert heights["dent"].min() < 0 and heights["dent"].max() < 1e-6  # away from the sensor
    assert heights["contamination"].max() > 0 and heights["contamination"].min() > -1e-6
    scale = part.size * part.pitch
    for kind in ("dent", "deformation"):
        low, high = DEFECTS[kind].height
        assert 0.5 * low * scale <= np.abs(heights[kind]).max() <= 1.05 * high * scale


def test_a_hole_removes_points_and_darkens_the_image(part: GoodPart) -> None:
    changed = inflict("hole", part, seed=1)
    removed = part.xyz.any(axis=2) & ~changed.xyz.any(axis=2)  # type: ignore[union-attr]
    assert removed.sum() >= 4
    assert changed.rgb[removed].mean() < 0.5 * part.rgb[removed].mean()  # type: ignore[index]


def test_a_cloud_without_a_surface_is_refused(part: GoodPart) -> None:
    with pytest.raises(InputError):
        GoodPart(Sample("empty", rgb=part.rgb, xyz=np.zeros_like(part.xyz)))
    with pytest.raises(InputError):
        GoodPart(Sample("camera", rgb=part.rgb))
