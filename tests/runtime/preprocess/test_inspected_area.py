"""The inspected area: facts of one sample, limits, and the record in run and bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.image.foreground import LARGE_EDGE, image_foreground, image_regions
from cmdiad_runtime.preprocess.inspected_area.background import Background, background_cells, encode, strange_region
from cmdiad_runtime.preprocess.inspected_area.check import objection_to_area
from cmdiad_runtime.preprocess.inspected_area.measure import cloud_facts, image_facts, stray_share
from cmdiad_runtime.preprocess.inspected_area.records import WHOLE_PICTURE, InspectedArea, PartStatistics, describe
from cmdiad_runtime.preprocess.prepare import part_geometry, prepare
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.cutout import cut_around_part
from cmdiad_runtime.preprocess.views.part import PartView
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.records import NewerRecordError, RecordError
from pictures import boxes, discs, plate

STATISTICS = PartStatistics(
    least_area=0.01, count=(1, 1), area=(0.1, 0.2), row=(0.3, 0.7), column=(0.3, 0.7), rim=0.005
)


def dark_square() -> np.ndarray[Any, Any]:
    """A bright square of 40 pixels in the middle of a dark picture of 100."""
    rgb = np.full((100, 100, 3), 20, np.uint8)
    rgb[30:70, 30:70] = 200
    return rgb


def area_of(rgb: np.ndarray[Any, Any], **changes: Any) -> InspectedArea:
    """The inspected area of a part like that of `dark_square`."""
    cells = background_cells(rgb, image_regions(rgb).part)
    rows, columns = cells.near.shape
    background = Background(
        rows,
        columns,
        mean=encode(np.full((rows, columns, 3), 20.0)),
        spread=encode(np.full((rows, columns), 8.0)),  # two grey levels
        near_spread=40.0,
        threshold=6.0,
    )
    return replace(InspectedArea(0.16, 10, 0.001, STATISTICS, background), **changes)


def message(area: InspectedArea, rgb: np.ndarray[Any, Any]) -> tuple[str, str] | None:
    """Reason and message against an image, or None."""
    error = objection_to_area(area, PartGeometry(Sample("part 7", rgb=rgb)))
    return None if error is None else (error.reason, str(error))


def test_facts_of_an_image() -> None:
    facts = image_facts(image_regions(discs(3, (35, 80), (125, 80))))
    assert facts.count(0.02) == 2
    assert facts.area == pytest.approx(np.pi * 22**2 / 160**2, rel=0.2)
    assert facts.row == pytest.approx(0.5, abs=0.05)
    assert facts.rim == 0
    columns = sorted(facts.place(rank)[1] * 160 for rank in (0, 1))
    assert columns == pytest.approx([35, 125], abs=8)


def test_facts_of_a_cloud() -> None:
    geometry = PartGeometry(Sample("s", xyz=boxes(1, (30, 48), (66, 48), stray=12)))
    facts = cloud_facts(geometry)
    assert facts.count(0.02) == 2
    assert facts.area == pytest.approx(21 * 21 / 96**2, rel=0.05)
    assert stray_share(geometry) == pytest.approx((21 * 21 + 24) / 96**2, rel=0.05)


def test_part_like_those_of_training_has_no_objection() -> None:
    assert message(area_of(dark_square()), dark_square()) is None


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ((slice(2, 14), slice(2, 14), 180), "part-count", "found 2 parts in the image, one of them at row 8, column 8"),
        ((slice(30, 70), slice(30, 55), 20), "part-area", "a part that covers 7.1 % of the image"),
        ((slice(45, 56), slice(70, 100), 200), "part-position", "the edge of the picture cuts off"),
        ((slice(82, 90), slice(10, 18), 45), "outside", "unknown content outside of the part at row 86, column 14"),
    ],
)
@pytest.mark.failure_mode("A part of another size")
def test_difference_is_named_with_its_place(change: tuple[slice, slice, int], reason: str, words: str) -> None:
    rgb = dark_square()
    rows, columns, level = change
    rgb[rows, columns] = level
    found = message(area_of(dark_square()), rgb)
    assert found is not None
    assert found[0] == reason
    assert words in found[1]
    assert found[1].startswith("part 7: found ")


@pytest.mark.failure_mode("A part in another place")
def test_part_elsewhere_is_named_with_its_place() -> None:
    rgb = np.roll(dark_square(), -24, axis=1)
    found = message(area_of(dark_square(), background=None), rgb)
    assert found is not None
    assert found[0] == "part-position"
    assert "a part at row 50, column 26" in found[1]


def test_picture_of_another_shape_cannot_be_compared() -> None:
    area = area_of(dark_square())
    wide = np.pad(dark_square(), ((0, 0), (30, 30), (0, 0)), constant_values=20)
    found = message(replace(area, image=replace(STATISTICS, area=(0.05, 0.2))), wide)
    assert found is not None
    assert found[0] == "outside"
    assert "a picture of 160×100 pixels" in found[1]


def test_only_background_is_compared() -> None:
    rgb = dark_square()
    rgb[45:55, 45:55] = 90  # a defect of the part, which the detector sees
    assert message(area_of(dark_square()), rgb) is None


def test_largest_deviation_bounds_the_strange_region() -> None:
    deviation = np.zeros((6, 6), np.float32)
    deviation[0, 0], deviation[3:5, 3], deviation[5, 4] = 7, 9, 8
    assert np.argwhere(strange_region(deviation, 6.0)).tolist() == [[3, 3], [4, 3], [5, 4]]


def test_record_comes_back_from_json() -> None:
    area = area_of(dark_square(), cloud=STATISTICS, stray=0.01)
    assert InspectedArea.from_json(json.loads(json.dumps(asdict(area)))) == area
    assert InspectedArea.from_json({"share": 1.0}) == WHOLE_PICTURE


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("share",), 1.5),
        (("samples",), -1),
        (("stray",), "x"),
        (("image", "area"), [0.2, 0.1]),
        (("image", "count"), [0.5, 1]),
        (("image", "row"), [0.1]),
        (("image", "rim"), float("nan")),
        (("background", "mean"), "AAAA"),
        (("background", "spread"), "?"),
        (("background", "rows"), 1 << 20),
        (("background", "threshold"), None),
        (("cloud",), 3),
    ],
)
def test_wrong_values_are_refused(path: tuple[str, ...], value: object) -> None:
    content = json.loads(json.dumps(asdict(area_of(dark_square()))))
    record = content
    for name in path[:-1]:
        record = record[name]
    record[path[-1]] = value
    with pytest.raises(RecordError):
        InspectedArea.from_json(content)


def test_unknown_field_is_of_a_newer_version() -> None:
    with pytest.raises(NewerRecordError):
        InspectedArea.from_json({"share": 1.0, "depth": 2})


def test_description() -> None:
    assert describe(WHOLE_PICTURE) == "the whole picture"
    text = describe(InspectedArea(0.157, 11, 0.001, image=STATISTICS, cloud=replace(STATISTICS, count=(1, 2))))
    assert text == "the part in the image and in the cloud, 15.7% of the picture, 1 to 2 parts in each sample"


def enlarged(rgb: np.ndarray[Any, Any], times: int) -> np.ndarray[Any, Any]:
    """An image with every pixel repeated."""
    return rgb.repeat(times, axis=0).repeat(times, axis=1)


def test_part_of_a_large_image_is_that_of_the_small_one() -> None:
    small = plate(1, rail=False)
    large = image_foreground(enlarged(small, 8))
    assert large.shape == (1280, 1280)
    expected = enlarged(image_foreground(small), 8)
    assert (large & expected).sum() / (large | expected).sum() > 0.93


def test_view_of_a_large_image_is_cut_out_and_equals_that_of_a_small_one() -> None:
    pictures = [plate(seed, rail=False, size=200) for seed in range(3)]
    settings = Preprocessing("rgb", size=64)
    samples = [Sample(str(i), rgb=picture) for i, picture in enumerate(pictures)]
    learned = PartView.learn([PartView.locate(s, part_geometry(s, settings)) for s in samples], settings)
    assert learned.part is not None
    scaled = replace(learned.part, side=8 * learned.part.side, pitch=8 * learned.part.pitch)
    large = Sample("large", rgb=enlarged(pictures[1], 8))
    one = prepare(samples[1], learned).inputs["rgb"].astype(int)
    other = prepare(large, replace(learned, part=scaled)).inputs["rgb"].astype(int)
    assert np.abs(one - other).mean() < 6


def test_small_image_is_used_whole() -> None:
    rgb = np.pad(dark_square(), ((0, LARGE_EDGE - 100), (0, 0), (0, 0)), constant_values=20)
    regions = image_regions(rgb)
    cutout = cut_around_part(rgb, regions, scale=9.0)
    assert cutout.rgb is rgb
    assert (cutout.row, cutout.column, cutout.step) == (0, 0, 1)


def test_large_image_is_cut_and_reduced_around_its_part() -> None:
    rgb = np.full((3000, 2000, 3), 20, np.uint8)
    rgb[1000:1600, 500:900] = 200
    cutout = cut_around_part(rgb, image_regions(rgb), scale=6.0)
    assert cutout.step == 3
    assert cutout.rgb.shape[0] < 300
    rows, columns = np.nonzero(cutout.mask)
    assert cutout.row + 3 * rows.min() == pytest.approx(1000, abs=16)
    assert cutout.column + 3 * columns.max() == pytest.approx(900, abs=16)
