"""Numbers that stand for missing points are no points, in files and in arrays; other clouds stay as they are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import pcd, ply, records, refusal, write_intrinsics
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.readers import read_xyz
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.missing_points import without_missing_numbers

SHAPE = (24, 30)
GAP = np.zeros(SHAPE, dtype=bool)
GAP[4:9, 5:12] = True


def cloud() -> np.ndarray:
    """A tilted plane half a metre away, with noise."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices(SHAPE)
    z = 0.5 + 0.001 * rows + rng.normal(0, 1e-4, SHAPE)
    return np.stack([(columns - 14.7) * z / 600, (rows - 11.2) * z / 600, z], axis=2).astype(np.float32)


def with_gap(value: Any) -> np.ndarray:
    points = cloud()
    points[GAP] = np.asarray(value, dtype=np.float32)
    return points


FLOAT_MAX = float(np.finfo(np.float32).max)
EVERYWHERE = [1e8, 1e30, FLOAT_MAX, -FLOAT_MAX, -1e10, 65.535, 65535.0, 51.0, 9999.0]
"""Numbers in all coordinates that lie beyond any sensor."""
REPEATED = [-1.0, 10.0, 6.5535, -0.5, 3.0]
"""Numbers that could be coordinates, if they were not the same in many pixels."""


@pytest.mark.parametrize("value", [*EVERYWHERE, *REPEATED])
def test_same_number_in_all_coordinates(value: float) -> None:
    cleaned = without_missing_numbers(with_gap(value))
    np.testing.assert_array_equal(cleaned, np.where(GAP[..., None], np.float32(0), cloud()))
    assert cleaned.dtype == np.float32


@pytest.mark.parametrize("value", [*EVERYWHERE, 10.0, 6.5535])
def test_z_alone(value: float) -> None:
    """The other coordinates follow from z, or are kept from elsewhere; zeros are missing as they are."""
    flat = cloud()
    flat[GAP, 2] = value
    projected = cloud()
    with np.errstate(over="ignore"):
        projected[GAP] *= (value / projected[GAP, 2])[:, None]
    projected[GAP, 2] = value
    for points in (flat, projected):
        cleaned = without_missing_numbers(points)
        np.testing.assert_array_equal(valid_mask(cleaned), ~GAP)
        np.testing.assert_array_equal(cleaned[~GAP], cloud()[~GAP])


@pytest.mark.parametrize("value", EVERYWHERE)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_pixel_and_one_coordinate(value: float, axis: int) -> None:
    points = cloud()
    points[3, 4, axis] = value
    assert not valid_mask(points)[3, 4]
    assert valid_mask(points).sum() == points[..., 0].size - 1
    assert not without_missing_numbers(points)[3, 4].any()


@pytest.mark.parametrize(
    "change",
    [
        lambda points: points,
        lambda points: np.where(GAP[..., None], np.float32(0), points),
        lambda points: np.where(GAP[..., None], np.float32(np.nan), points),
        lambda points: np.where(GAP[..., None], np.float32(np.inf), points),
        lambda points: np.round(points, 3),  # a sensor that delivers whole millimetres
        lambda points: points.repeat(3, axis=0).repeat(3, axis=1),
        lambda points: points - np.float32([0, 0, 0.5]),
        lambda points: points * np.float32(-1),
        lambda points: points * np.float32(80),  # 40 m away
        np.zeros_like,
        lambda points: np.full_like(points, 1),
    ],
)
def test_other_clouds_are_returned_as_they_are(change: Callable[[np.ndarray], np.ndarray]) -> None:
    points = change(cloud())
    assert without_missing_numbers(points) is points


def test_table_of_one_height_is_measured() -> None:
    """A drawn table, or one whose heights are rounded: the most frequent and largest distance, but not far."""
    points = cloud()
    points[..., 2] = np.where(GAP, 0.55, 0.6)
    assert without_missing_numbers(points) is points
    np.testing.assert_array_equal(valid_mask(points), np.ones(SHAPE, dtype=bool))


@pytest.mark.parametrize("value", [1e8, FLOAT_MAX, 65.535, -1.0])
def test_arrays_of_the_python_api(value: float) -> None:
    """Plane, part and every other result are those of a cloud with zeros."""
    plain, marked = (PartGeometry(Sample("a", xyz=with_gap(gap))) for gap in (0, value))
    np.testing.assert_array_equal(marked.valid, plain.valid)
    np.testing.assert_array_equal(marked.xyz, plain.xyz)


WRITERS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "a.tiff": lambda path, points: tifffile.imwrite(path, points, photometric="rgb"),
    "a.npz": lambda path, points: np.savez(path, xyz=points),
    "binary.ply": lambda path, points: path.write_bytes(
        ply({"vertex": records(points)}, notes=("obj_info num_cols 30", "obj_info num_rows 24"))
    ),
    "text.ply": lambda path, points: path.write_bytes(
        ply({"vertex": records(points)}, form="ascii", notes=("obj_info num_cols 30", "obj_info num_rows 24"))
    ),
    "binary.pcd": lambda path, points: path.write_bytes(pcd(points)),
    "text.pcd": lambda path, points: path.write_bytes(pcd(points, data="ascii")),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("value", [1e8, 1e30, FLOAT_MAX, 65.535, -1e10, -1.0])
def test_files(tmp_path: Path, name: str, value: float) -> None:
    WRITERS[name](tmp_path / name, with_gap(value))
    np.testing.assert_array_equal(read_xyz(tmp_path / name), np.where(GAP[..., None], np.float32(0), cloud()))


@pytest.mark.parametrize("value", [1e8, 65.535, FLOAT_MAX])
def test_more_missing_than_measured(tmp_path: Path, value: float) -> None:
    """The median of such a cloud is the large number, and not in millimetres."""
    points = np.full((*SHAPE, 3), value, dtype=np.float32)
    points[:8] = cloud()[:8]
    np.savez(tmp_path / "a.npz", xyz=points)
    read = read_xyz(tmp_path / "a.npz")
    np.testing.assert_array_equal(read[:8], cloud()[:8])
    assert not read[8:].any()


@pytest.mark.parametrize("gap", [0.0, 1e8, 65_535.0])
def test_millimetres_are_refused_whatever_stands_for_missing_points(tmp_path: Path, gap: float) -> None:
    points = np.where(GAP[..., None], np.float32(gap), cloud() * 1000)
    np.savez(tmp_path / "a.npz", xyz=points)
    assert "surely millimetres" in refusal(read_xyz, tmp_path / "a.npz")


def test_heights_in_millimetres_are_refused(tmp_path: Path) -> None:
    """A profile sensor counts z from its working distance: only x and y show the unit."""
    points = (cloud() - np.float32([0, 0, 0.51])) * 1000
    points[..., 0] = np.linspace(-150, 150, SHAPE[1])
    np.savez(tmp_path / "a.npz", xyz=points)
    assert "surely millimetres" in refusal(read_xyz, tmp_path / "a.npz")


def test_depth_beyond_the_range(tmp_path: Path) -> None:
    depth = np.round(cloud()[..., 2] * 10_000).astype(np.uint16)
    depth[GAP] = 65_535
    write_intrinsics(tmp_path / "intrinsics.json", depth_scale=0.0001)
    Image.fromarray(depth).save(tmp_path / "a.png")
    points = read_xyz(tmp_path / "a.png")
    np.testing.assert_array_equal(valid_mask(points), ~GAP)
    tifffile.imwrite(tmp_path / "b.tif", np.where(GAP, np.float32(30_000), depth.astype(np.float32)))
    np.testing.assert_array_equal(valid_mask(read_xyz(tmp_path / "b.tif")), ~GAP)


def test_count_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "a.npz", xyz=with_gap(1e8))
    with caplog.at_level("INFO", logger="cmdiad.readers"):
        read_xyz(tmp_path / "a.npz")
    assert f"{GAP.sum()} points with numbers that stand for missing points" in caplog.text


def test_many_repeated_points_take_little_memory() -> None:
    """160,000 points that repeat 6,400 took 4 GB and 47 s."""
    steps = np.arange(1, 81) * 1e-3
    x, y = np.meshgrid(steps, steps)
    points = np.tile(np.stack([x, y, np.full_like(x, 0.5)], axis=2), (5, 5, 1)).astype(np.float32)
    points[0, 0, 2] = 0.4
    tracemalloc.start()
    cleaned = without_missing_numbers(points)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert np.count_nonzero(valid_mask(cleaned)) == 1
