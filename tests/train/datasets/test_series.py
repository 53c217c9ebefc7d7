"""Series of near copies are found; parts in a fixture and parts that differ in one way only are none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from cmdiad_runtime.support.records import RecordError
from cmdiad_train.datasets.series import Series, _near_groups, series_of, thumbnail

RNG = np.random.default_rng(7)


def found(views: list[np.ndarray], held_out: Collection[int] = (), counted_as: Sequence[int] = ()) -> Series | None:
    return series_of(names(len(views)), [thumbnail(view) for view in views], held_out, counted_as)


def part(shift: tuple[float, float] = (0.0, 0.0), angle: float = 0.0, noise: float = 2.0) -> np.ndarray:
    """A picture of a part with three holes on a table, moved and turned, with the noise of a sensor."""
    y, x = np.mgrid[:96, :96] - 47.5
    x, y = x - shift[0], y - shift[1]
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    levels = np.where(np.abs(x) / 34 + np.abs(y) / 22 < 1, 170.0, 60.0)
    for place in ((-18, 0), (10, 6), (14, -5)):
        levels[(x - place[0]) ** 2 + (y - place[1]) ** 2 < 16] = 30
    noisy = levels[..., None] + RNG.normal(0, noise, (96, 96, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def shift_within(reach: float) -> tuple[float, float]:
    return float(RNG.uniform(-reach, reach)), float(RNG.uniform(-reach, reach))


def placements(count: int) -> list[tuple[tuple[float, float], float]]:
    return [(shift_within(8.0), float(RNG.uniform(0, 6.3))) for _ in range(count)]


def names(count: int) -> list[str]:
    return [f"train/good/{i:03d}" for i in range(count)]


@pytest.mark.parametrize("images", [3, 5])
def test_images_of_parts_that_were_not_moved(images: int) -> None:
    views = [part(shift, angle) for shift, angle in placements(8) for _ in range(images)]
    order = RNG.permutation(len(views))
    series = found([views[i] for i in order])
    assert series is not None
    assert (series.count, series.samples) == (8, 8 * images)
    copies = {order[int(name[-3:])] // images for name in series.example}
    assert len(series.example) == images and len(copies) == 1
    assert series.example[0] in series.warning and "--calibration" in series.warning


def test_loose_parts() -> None:
    views = [part(shift, angle) for shift, angle in placements(40)]
    assert found(views) is None


@pytest.mark.parametrize("reach", [0.0, 1.0, 3.0])
def test_parts_in_a_fixture(reach: float) -> None:
    views = [part(shift_within(reach), RNG.uniform(-0.02, 0.02)) for _ in range(40)]
    assert found(views) is None


@pytest.mark.parametrize("count", [20, 40, 80])
def test_parts_on_a_turntable(count: int) -> None:
    views = [part(angle=RNG.uniform(0, 6.3), noise=1.0) for _ in range(count)]
    assert found(views) is None


def test_two_kinds_of_parts_in_a_fixture() -> None:
    views = [part(angle=angle) for angle in (0.0, 1.5) for _ in range(15)]
    assert found(views) is None


def test_whole_placements_that_are_held_out_set_the_threshold_right() -> None:
    views = [part(shift, angle) for shift, angle in placements(8) for _ in range(5)]
    assert found(views, range(30, 40)) is None
    assert found(views, range(28, 40)) is not None
    assert found(views, range(0, 40, 5)) is not None


def test_series_that_the_detector_left_out_are_not_counted() -> None:
    views = [part(shift, angle) for shift, angle in placements(8) for _ in range(5)]
    whole = [i // 5 for i in range(40)]
    assert found(views, range(36, 40), whole) is None
    alone = [number if number < 3 else 8 + i for i, number in enumerate(whole)]
    series = found(views, range(36, 40), alone)
    assert series is not None and (series.count, series.samples) == (5, 25)
    assert found(views, range(4), alone) is None  # held-out samples have near copies in series 0 only
    cut = [i // 5 if i // 5 > 3 else i // 2 + 8 for i in range(40)]
    assert found(views, (), cut) is None  # four of eight series are cut: near copies of half of the samples remain
    assert found(views, (), range(40)) == found(views)


def test_equal_and_empty_images() -> None:
    equal = [view for shift, angle in placements(6) for view in [part(shift, angle)] * 4]
    series = found(equal)
    assert series is not None and series.count == 6
    assert found([np.full((96, 96, 3), 7, np.uint8)] * 24) is None
    assert found(equal[:19]) is None  # too few to tell


def test_compression_and_exposure_do_not_hide_a_series() -> None:
    views = []
    for shift, angle in placements(7):
        image = part(shift, angle, noise=0.0)
        for quality in (60, 75, 95):
            stream = BytesIO()
            Image.fromarray((image * (1.0 - quality / 400)).astype(np.uint8)).save(stream, "JPEG", quality=quality)
            views.append(np.asarray(Image.open(stream)))
    series = found(views)
    assert series is not None and series.count == 7


def test_groups_are_those_of_the_definition() -> None:
    """Brute force over all subsets of few images."""
    for seed in range(20):
        points = np.random.default_rng(seed).normal(size=(12, 1)) ** 3
        differences = np.abs(points - points.T)
        subsets = [[i for i in range(12) if bits >> i & 1] for bits in range(1 << 12) if bits.bit_count() == 3]
        expected = []
        for members in subsets:
            others = [i for i in range(12) if i not in members]
            within = max(differences[i, j] for i in members for j in members)
            if within <= 0.5 * min(differences[i, j] for i in members for j in others):
                expected.append(members)
        assert sorted(map(sorted, _near_groups(differences))) == sorted(expected)


def test_record() -> None:
    series = Series(2, 7, ("a", "b", "c"))
    assert Series.from_json(series.to_json()) == series
    for wrong in ({"count": 0}, {"samples": 5}, {"example": ["a"]}, {"example": [1, 2, 3]}, {"other": 1}):
        with pytest.raises(RecordError):
            Series.from_json({**series.to_json(), **wrong})
