"""From samples to network inputs, and samples that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare, prepare_ground_truth
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.readers import read_rgb, read_xyz
from cmdiad_runtime.sample import Sample
from helpers import sample_files

RGB = Preprocessing("rgb", size=112)
XYZ = Preprocessing("xyz", size=112, groups=64, group_size=16, grid=14)
MASKED = replace(RGB, rgb_mask="cloud")


@pytest.fixture
def sample(data: Path) -> Sample:
    rgb, xyz = (sample_files(data, "test", "good", m)[0] for m in ("rgb", "xyz"))
    return Sample("part 1", rgb=read_rgb(rgb), xyz=read_xyz(xyz))


def test_rgb_inputs(sample: Sample) -> None:
    prepared = prepare(sample, RGB)
    assert list(prepared.inputs) == ["rgb"]
    assert prepared.inputs["rgb"].shape == (1, 112, 112, 3)
    assert prepared.inputs["rgb"].dtype == np.uint8


def test_rgb_alone_gives_the_same_with_and_without_a_cloud(sample: Sample) -> None:
    alone = prepare(replace(sample, xyz=None), RGB).inputs["rgb"]
    np.testing.assert_array_equal(alone, prepare(sample, RGB).inputs["rgb"])


def test_xyz_inputs(sample: Sample) -> None:
    inputs = prepare(replace(sample, rgb=None), XYZ).inputs
    assert list(inputs) == ["centers", "groups", "weights", "cells"]
    assert inputs["centers"].shape == (1, 64, 3)
    assert inputs["groups"].shape == (1, 64, 16, 3)
    assert inputs["weights"].shape[1] == 64
    assert inputs["cells"].shape == (196,)
    assert inputs["cells"].max() == len(inputs["weights"]) - 1


def test_cloud_mask_blacks_out_the_background_only(sample: Sample) -> None:
    plain, masked = (prepare(sample, p).inputs["rgb"][0].astype(int) for p in (RGB, MASKED))
    black = (masked == 0).all(2)
    assert 0.2 < black.mean() < 0.95
    assert plain[black].mean() > 10
    assert np.abs(plain - masked)[40:72, 40:72].mean() < np.abs(plain - masked)[:10].mean()


def test_position_of_the_padded_square(sample: Sample) -> None:
    assert sample.rgb is not None
    wide = replace(sample, rgb=sample.rgb[:90], xyz=None)
    assert prepare(wide, RGB).square == PaddedSquare(height=90, width=112, top=11, left=0, side=112)
    published = prepare(wide, replace(RGB, pad_multiple=100)).square
    assert (published.side, published.top, published.left) == (200, 55, 44)


def test_ground_truth_lies_over_the_inputs(sample: Sample) -> None:
    mask = np.zeros((90, 112), bool)
    mask[40:50, 20:30] = True
    found = prepare_ground_truth(mask, RGB)
    rows, columns = np.nonzero(found)
    assert found.shape == (112, 112)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (51, 60, 20, 29)


def refused(sample: Sample, preprocessing: Preprocessing) -> str:
    with pytest.raises(InputError) as error:
        prepare(sample, preprocessing)
    assert error.value.subject == sample.name
    return str(error.value)


def test_missing_modality(sample: Sample) -> None:
    assert "no rgb. Expected a sample with rgb" in refused(replace(sample, rgb=None), RGB)
    assert "no xyz. Expected a sample with xyz" in refused(replace(sample, xyz=None), XYZ)
    assert "--rgb-mask cloud" in refused(replace(sample, xyz=None), MASKED)


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 3), np.float32),
        np.zeros((40, 40, 3), np.uint16),
        np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8),
        np.random.default_rng(0).integers(0, 256, (40, 40, 1), dtype=np.uint8),
        np.random.default_rng(0).integers(0, 256, (3, 40, 40), dtype=np.uint8),
        np.zeros((0, 40, 3), np.uint8),
    ],
    ids=lambda rgb: f"{rgb.dtype}{rgb.shape}",
)
def test_wrong_image_arrays(rgb: np.ndarray) -> None:
    assert "Expected uint8 [h, w, 3] in RGB order" in refused(Sample("part", rgb=rgb), RGB)


@pytest.mark.parametrize("xyz", [np.ones((40, 40), np.float32), np.ones((40, 40, 3)), np.ones((40, 40, 4), np.float32)])
def test_wrong_cloud_arrays(xyz: np.ndarray) -> None:
    assert "Expected an organised cloud" in refused(Sample("part", xyz=xyz), XYZ)


@pytest.mark.parametrize(
    ("shape", "expected"), [((20_000, 20_000), "20000×20000 pixels"), ((1, 10_001), "10001×1 pixels")]
)
def test_image_arrays_that_are_too_large(shape: tuple[int, int], expected: str) -> None:
    rgb = np.broadcast_to(np.uint8(0), (*shape, 3))
    assert expected in refused(Sample("part", rgb=rgb), RGB)


@pytest.mark.parametrize(("shape", "expected"), [((4097, 4096), "4096×4097 points"), ((1, 8_193), "8193×1 points")])
def test_cloud_arrays_that_are_too_large(shape: tuple[int, int], expected: str) -> None:
    xyz = np.broadcast_to(np.float32(0), (*shape, 3))
    assert expected in refused(Sample("part", xyz=xyz), XYZ)


def test_masked_arrays(sample: Sample) -> None:
    """The masked elements have no value, so a mask would take content away from the inspection."""
    rgb, xyz = np.ma.masked_array(sample.rgb, mask=False), np.ma.masked_array(sample.xyz, mask=False)
    assert "class MaskedArray" in refused(replace(sample, rgb=rgb), RGB)
    assert "class MaskedArray" in refused(replace(sample, xyz=xyz), XYZ)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_uniform_image(level: int) -> None:
    image = np.full((40, 40, 3), level, np.uint8)
    image[3, 4, 1] ^= 3  # sensor noise is not a part
    assert "all background" in refused(Sample("part", rgb=image), RGB)


def test_image_that_the_cloud_masks_entirely(sample: Sample) -> None:
    plane = np.zeros_like(sample.xyz)
    assert "all background" in refused(replace(sample, xyz=plane), MASKED)


def test_mismatched_pair(sample: Sample) -> None:
    assert sample.xyz is not None
    message = refused(replace(sample, xyz=sample.xyz[:-1]), MASKED)
    assert "(112, 112)" in message
    assert "(111, 112)" in message
    assert "registered pixel by pixel" in message


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_cloud_without_a_point(value: float) -> None:
    assert "no valid point" in refused(Sample("part", xyz=np.full((40, 40, 3), value, np.float32)), XYZ)


def test_some_missing_points_are_fine_however_they_are_written(sample: Sample) -> None:
    assert sample.xyz is not None
    holes = np.random.default_rng(0).random(sample.xyz.shape[:2]) < 0.05
    found = []
    for value in (0.0, np.nan, np.inf, -np.inf):
        xyz = np.where(holes[..., None], np.float32(value), sample.xyz)
        found.append(prepare(Sample("part", xyz=xyz), XYZ).inputs)
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(array, other[name])


def test_fewer_points_than_groups(sample: Sample) -> None:
    assert "at least 16000" in refused(sample, replace(XYZ, groups=16_000))
    assert "at least 4000" in refused(sample, replace(XYZ, size=56, group_size=4000))
