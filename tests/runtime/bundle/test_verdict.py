"""Which score decides: in calibrations, thresholds, golden sets and certificates, of old and of new bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.certificate import compare, search_tolerance, tolerance_for
from cmdiad_runtime.bundle.golden import GoldenSample, read_golden, write_golden
from cmdiad_runtime.bundle.threshold import adjusted, calibrate
from cmdiad_runtime.bundle.verdict import deciding_score
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.preprocess.views.part_pose import ImagePose
from cmdiad_runtime.preprocess.views.place import PaddedSquare, PartPlace, SampledPlace, TopPlace
from cmdiad_runtime.preprocess.views.prepared import Placement
from cmdiad_runtime.support.records import RecordError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "format1" / "both-each.cmdiad"
PEAKS = [float(value) for value in range(1, 41)]
SIZE = 24
SQUARE = PaddedSquare(SIZE, SIZE, 0, 0, SIZE)
MAP_CALIBRATION = replace(calibrate(PEAKS, PEAKS, 0.05), verdict="map")


def spot(row: int, column: int, value: float = 50.0) -> npt.NDArray[np.float32]:
    """A map with one high value."""
    drawn = np.ones((SIZE, SIZE), np.float32)
    drawn[row, column] = value
    return drawn


def two_views() -> Placement:
    """A cloud seen from the top as recorded, and an image whose part is turned by half a turn."""
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")).reshape(2, -1)
    top = TopPlace(pixels, pixels.T.astype(np.float64))
    middle = (SIZE - 1) / 2
    return Placement(SQUARE, (top, PartPlace(ImagePose(np.pi, middle, middle), float(SIZE))))


def test_map_decides_by_its_largest_value_and_image_by_the_score_of_the_graph() -> None:
    outputs = {"score": np.array([3.0], np.float32)}
    assert deciding_score("image", outputs, spot(1, 2)) == 3
    assert deciding_score("map", {}, spot(1, 2)) == 50
    assert np.isnan(deciding_score("map", {}, np.where(spot(1, 2) > 2, np.float32(np.nan), spot(1, 2))))


def test_json_names_the_map_only_so_that_earlier_calibrations_stay_as_they_are() -> None:
    image = calibrate(PEAKS, PEAKS, 0.05)
    assert "verdict" not in image.to_json()
    assert Calibration.from_json(image.to_json()) == image
    assert MAP_CALIBRATION.to_json()["verdict"] == "map"
    assert Calibration.from_json(MAP_CALIBRATION.to_json()) == MAP_CALIBRATION
    with pytest.raises(RecordError, match="verdict"):
        replace(image, verdict="pixel")  # type: ignore[arg-type]


def test_thresholds_of_score_and_map_stay_equal_until_one_is_set_for_drawing() -> None:
    bundle = replace(Bundle.open(FIXTURE), calibration=MAP_CALIBRATION)
    for changed in (adjusted(bundle, score=7.5), adjusted(bundle, false_reject_rate=0.3)):
        assert changed.calibration.verdict == "map"
        assert changed.calibration.score_threshold == changed.calibration.map_threshold
    drawn = adjusted(bundle, map_threshold=9.0)
    assert adjusted(drawn, score=7.5).calibration.map_threshold == 9
    assert adjusted(bundle, score=7.5, map_threshold=9.0).calibration.map_threshold == 9
    image = replace(bundle, calibration=calibrate(PEAKS, PEAKS, 0.05))
    assert adjusted(image, score=7.5).calibration.map_threshold == image.calibration.map_threshold


def test_manifest_has_one_verdict() -> None:
    record = Bundle.open(FIXTURE).record
    assert record.calibration.verdict == "image"
    with pytest.raises(RecordError, match="verdict"):
        replace(record, calibration=MAP_CALIBRATION, calibration_original=record.calibration)


def test_stored_placement_moves_maps_as_the_sample_does(tmp_path: Path) -> None:
    placement = two_views()
    maps = np.stack([spot(5, 7), spot(18, 16)])
    moved = placement.to_sensor(maps)
    assert moved[5, 7] == moved.max() == pytest.approx(100)  # both spots lie over the same pixel of the sensor
    sample = GoldenSample("0-good", {}, float(moved.max()), maps, False, placement.sampled(SIZE))
    write_golden(tmp_path / "golden.npz", [sample])
    (read,) = read_golden(tmp_path / "golden.npz")
    np.testing.assert_array_equal(read.over_sensor(maps), moved)


BROKEN: list[dict[str, npt.NDArray[Any]]] = [
    {"square": np.arange(4)},
    {"square": np.array([1.0] * 5)},
    {"place-0": np.array([0.0, np.nan, 0.0, 9.0])},
    {"place-0": np.array([0.0, 0.0, 0.0, -1.0])},
    {"place-0": np.zeros((2, 3, 4), np.float32)},
    {"place-0": np.zeros(4, np.int64)},
    {"place-2": np.array([0.0, 0.0, 0.0, 9.0])},
]


@pytest.mark.parametrize("change", BROKEN, ids=range(len(BROKEN)))
def test_placement_of_a_stranger_is_checked(tmp_path: Path, change: dict[str, npt.NDArray[Any]]) -> None:
    stored = two_views().sampled(SIZE).to_arrays() | change
    arrays = {f"a/placement/{name}": value for name, value in stored.items()}
    arrays |= {"a/score": np.array(1.0), "a/map": np.zeros((2, SIZE, SIZE), np.float32)}
    np.savez(tmp_path / "golden.npz", allow_pickle=False, **arrays)
    with pytest.raises(BundleError, match="golden set"):
        read_golden(tmp_path / "golden.npz")


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (3, SIZE, SIZE), (2, 8, 8)])
def test_placement_fits_its_maps(shape: tuple[int, ...]) -> None:
    with pytest.raises(RecordError, match="places"):
        GoldenSample("a", {}, 1.0, np.zeros(shape, np.float32), False, two_views().sampled(SIZE))


class Shifted:
    """An engine whose second map has its spot elsewhere, or one value too high, and that returns no score."""

    description = identity = "shifted"

    def __init__(self, maps: npt.NDArray[np.float32]) -> None:
        self.maps = maps

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        return {"map": self.maps}

    def close(self) -> None:
        """Nothing to give back."""


def test_certificate_compares_the_largest_value_over_the_sensor() -> None:
    placement, maps = two_views().sampled(SIZE), np.stack([spot(5, 7), spot(18, 16)])
    golden = [GoldenSample("0-good", {}, 100.0, maps, False, placement)]
    tolerance = tolerance_for("fp32", published_blur=False, verdict="map")

    def compared(*spots: npt.NDArray[np.float32]) -> Any:
        return compare(Shifted(np.stack(spots)), "fp32", golden, MAP_CALIBRATION, tolerance)

    same = compared(*maps)
    assert (same.passed, same.score_max_abs) == (True, 0)
    higher = compared(spot(5, 7, 50.01), maps[1])
    assert higher.score_max_abs == pytest.approx(0.01, rel=1e-2) == pytest.approx(higher.map_max_abs, rel=1e-2)
    apart = compared(maps[0], spot(3, 3))  # each map has its largest value still, but no longer over one pixel
    assert apart.score_max_abs == pytest.approx(49)
    assert not apart.passed
    lost = compared(maps[0] * np.float32(np.nan), maps[1])
    assert lost.not_finite > 0
    assert not lost.passed


def test_rounding_of_the_published_blur_concerns_the_score_of_the_map_only() -> None:
    image, drawn = (tolerance_for("fp32", published_blur=True, verdict=verdict) for verdict in ("image", "map"))
    assert (image.score, image.map) == (1e-3, drawn.map)
    assert drawn.score == pytest.approx(3.1e-2)
    assert search_tolerance(published_blur=True, verdict="map").score == pytest.approx(3.5e-2)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_no_place_of_a_fine_view_is_lost_between_pixels_of_the_sensor(factor: int) -> None:
    """The view shows the part several times as large as the sensor's map, and a defect covers a few view pixels."""
    size = 120
    place = PartPlace(ImagePose(0.4, size / 2, size / 2), size / factor)
    square = PaddedSquare(size, size, 0, 0, size)
    rows, columns = np.mgrid[:size, :size]
    for row, column in ((40, 41), (57, 66), (63, 50), (71, 72)):
        drawn = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 3.0**2)).astype(np.float32)
        moved = place.to_sensor(drawn, square)
        assert 0.7 < moved.max() <= 1
        stored = SampledPlace(place.positions(square, size).astype(np.float32))
        np.testing.assert_allclose(stored.to_sensor(drawn, square), moved, atol=1e-5)
