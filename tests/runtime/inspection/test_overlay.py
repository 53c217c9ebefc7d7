"""Overlays: the scale is fixed by the threshold, and shape shows."""

from __future__ import annotations

import numpy as np
import pytest

from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.marks import ringed
from cmdiad_runtime.inspection.overlay import anomaly_overlay, depth_image, largest_place, verdict_banner
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import Sample

RNG = np.random.default_rng(3)
IMAGE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def flat(value: float, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.full(shape, value, np.float32)


def test_well_below_the_threshold_the_image_is_untouched() -> None:
    noise = RNG.uniform(0, 0.799, (28, 28)).astype(np.float32) * 3.0
    np.testing.assert_array_equal(anomaly_overlay(IMAGE, noise, 3.0), IMAGE)


def test_scale_belongs_to_the_threshold_not_to_the_image() -> None:
    scores = RNG.uniform(0, 1.0, (20, 30)).astype(np.float32)
    alone = anomaly_overlay(IMAGE, scores, 0.8)
    beside_defect = scores.copy()
    beside_defect[:, 20:] = 100.0
    np.testing.assert_array_equal(anomaly_overlay(IMAGE, beside_defect, 0.8)[:, :36], alone[:, :36])
    scaled = anomaly_overlay(IMAGE, scores * 4, 0.8 * 4)
    np.testing.assert_array_equal(scaled, alone)


def test_colour_goes_from_yellow_to_magenta_and_saturates() -> None:
    grey = np.full((40, 60, 3), 128, np.uint8)
    weak, _, strong, strongest = (anomaly_overlay(grey, flat(v), 1.0)[20, 30].astype(int) for v in (0.85, 1, 2, 50))
    assert abs(weak[0] - weak[1]) < 8 and weak[2] < weak[0]  # yellow
    assert strong[1] < strong[2] < strong[0]  # magenta
    np.testing.assert_array_equal(strongest, strong)


def test_a_defect_stays_visible_under_its_heat() -> None:
    """A dark line in a bright part keeps more than half of its contrast where the heat is strongest."""
    part = np.full((40, 60, 3), 200, np.uint8)
    part[20] = 40
    heated = anomaly_overlay(part, flat(10.0), 1.0).astype(int)
    assert (heated[19, 30] - heated[20, 30] > 0.5 * (200 - 40)).all()


def test_map_is_resized_bilinearly() -> None:
    ramp = np.repeat(np.array([[0.0, 2.0]], np.float32), 2, axis=0)  # threshold at the middle
    black = np.zeros((8, 16, 3), np.uint8)
    overlay = anomaly_overlay(black, ramp, 1.0)
    assert (overlay[4, 8] == 255).all()  # inner line of the contour: first column at or above the threshold
    assert (overlay[4, 7] == 0).all()  # outer line
    assert (overlay[:, :6] == 0).all()  # 0.625 times the threshold at column 6


def test_contour_surrounds_the_region_on_any_image() -> None:
    scores = flat(0.0, (40, 60))
    scores[10:20, 30:45] = 1.0
    for background in (0, 128, 255):
        overlay = anomaly_overlay(np.full((40, 60, 3), background, np.uint8), scores, 1.0)
        assert (overlay[10, 30:45] == 255).all() and (overlay[10:20, 44] == 255).all()
        assert (overlay[9, 30:45] == 0).all() and (overlay[10:20, 45] == 0).all()
        assert (overlay[0] == background).all()


def test_overlay_leaves_its_input_alone() -> None:
    before = IMAGE.copy()
    overlay = anomaly_overlay(IMAGE, flat(3.0), 1.0)
    assert overlay.dtype == np.uint8 and overlay.shape == IMAGE.shape
    np.testing.assert_array_equal(IMAGE, before)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_threshold_must_be_positive(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        anomaly_overlay(IMAGE, flat(1.0), threshold)


def test_wrong_arrays() -> None:
    with pytest.raises(ValueError, match="uint8"):
        anomaly_overlay(IMAGE.astype(np.float32), flat(1.0), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="anomaly map"):
        anomaly_overlay(IMAGE, np.ones((1, 4, 4), np.float32), 1.0)
    with pytest.raises(ValueError, match="NaN"):
        anomaly_overlay(IMAGE, flat(np.nan), 1.0)
    with pytest.raises(ValueError, match="h, w, 3"):
        depth_image(np.ones((4, 4), np.float32))


def plane(z: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: z.shape[0], : z.shape[1]]
    return np.dstack([0.001 * (columns + 1), 0.001 * (rows + 1), z]).astype(np.float32)


def test_near_is_bright_and_missing_is_black() -> None:
    z = np.full((30, 40), 0.6)
    z[:, 20:] = 0.5
    cloud = plane(z)
    cloud[5, 5] = 0.0
    cloud[6, 30] = np.nan
    picture = depth_image(cloud)
    assert picture.dtype == np.uint8 and picture.shape == (30, 40, 3)
    assert (picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all()
    assert picture[15, 30, 0] > picture[15, 10, 0] + 50
    assert picture[5, 5, 0] == 0 and picture[6, 30, 0] == 0
    assert np.count_nonzero(picture[..., 0] == 0) == 2


def test_outliers_do_not_flatten_the_picture() -> None:
    z = np.linspace(0.5, 0.6, 40)[None].repeat(30, axis=0)
    with_outlier = z.copy()
    with_outlier[0, 0] = 9.0
    inside = np.s_[5:25, 5:35]
    difference = depth_image(plane(z))[inside].astype(int) - depth_image(plane(with_outlier))[inside]
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slopes_are_shaded_whichever_way_y_runs(sign: float) -> None:
    rise = 0.002 * np.abs(np.arange(40) - 20.0)  # a ridge along the middle column
    cloud = plane(0.5 + rise[None].repeat(30, axis=0))
    cloud[..., 1] *= sign
    picture = depth_image(cloud)[15, :, 0].astype(int)
    assert picture[10] > picture[30] + 20  # equally near; the left slope faces the lamp


def test_depth_of_little_or_nothing() -> None:
    assert not depth_image(np.zeros((5, 6, 3), np.float32)).any()
    assert depth_image(plane(np.full((1, 2), 0.5))).all()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("place", [(20.0, 30.0), (0.0, 0.0), (39.0, 59.0), (3.2, 55.7)])
def test_ring_is_seen_on_any_picture_and_leaves_its_centre_free(level: int, place: tuple[float, float]) -> None:
    picture = np.full((40, 60, 3), level, np.uint8)
    marked = ringed(picture, place).astype(int)
    assert marked.shape == picture.shape and (picture == level).all()
    assert (marked[round(place[0]), round(place[1])] == level).all()
    assert marked.max() - marked.min() > 200  # white next to black, whatever the picture
    rows, columns = np.nonzero(np.abs(marked - level).max(axis=2) > 60)
    assert np.hypot(rows - place[0], columns - place[1]).min() > 5


def test_ring_grows_with_the_picture() -> None:
    small, large = (ringed(np.zeros((side, side, 3), np.uint8), (side / 2, side / 2)) for side in (400, 2000))
    assert np.count_nonzero(large) > 10 * np.count_nonzero(small)


def inspected(picture: np.ndarray, values: np.ndarray, *, score: float, reason: Reason | None) -> Inspection:
    return Inspection(
        name="a",
        reason=reason,
        score=score,
        threshold=1.0,
        map_threshold=1.0,
        map=values,
        view=PaddedSquare.of(picture, 1),
        sample=Sample("a", rgb=picture),
    )


@pytest.mark.parametrize(("score", "reason"), [(0.4, None), (1.5, "score")])
def test_the_largest_value_is_marked_below_the_threshold_too(score: float, reason: Reason | None) -> None:
    values = np.zeros((30, 30), np.float32)
    values[15, 20] = score  # of a square of 200 pixels, of which the picture fills rows 50 to 150
    picture = np.full((100, 200, 3), 128, np.uint8)
    place = largest_place(values, PaddedSquare.of(picture, 1))
    assert place == pytest.approx((52.8, 136.2), abs=0.1)
    difference = np.abs(inspected(picture, values, score=score, reason=reason).overlay().astype(int) - 128).max(axis=2)
    rows, columns = np.nonzero(difference[8:, 90:] > 100)
    assert (rows + 8).min() < 43 and (rows + 8).max() > 62 and len(columns) > 60
    assert difference[30:95, 10:100].max() == 0


def test_the_place_of_a_value_at_the_edge_lies_in_the_picture() -> None:
    for height, width in ((3, 200), (200, 3), (50, 50), (1, 1)):
        view = PaddedSquare.of(np.zeros((height, width, 3), np.uint8), 1)
        for values in np.eye(64, dtype=np.float32).reshape(64, 8, 8):
            row, column = largest_place(values, view)
            assert 0 <= row <= height - 1 and 0 <= column <= width - 1
        assert largest_place(np.eye(8, dtype=np.float32)[::-1] * np.arange(8), view)[1] == pytest.approx(
            min(width - 1, 7.5 * view.side / 8 - 0.5 - view.left)
        )


def test_banner() -> None:
    good = verdict_banner(IMAGE, "OK 0.83 / thr 1.00", ok=True)
    bad = verdict_banner(IMAGE, "NG 1.83 / thr 1.00", ok=False)
    assert good.shape == IMAGE.shape and good.dtype == np.uint8
    for row, column in ((39, 30), (20, 0), (20, 59)):
        assert good[row, column].argmax() == 1
        assert bad[row, column].argmax() == 0
    np.testing.assert_array_equal(good[25:37, 5:55], IMAGE[25:37, 5:55])
    assert (good[:15] > 240).all(axis=-1).any()  # white letters
