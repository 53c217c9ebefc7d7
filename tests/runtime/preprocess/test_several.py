"""Several equal parts in one sample: exactly the stated number, in reading order, the same in image and cloud."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.image.foreground import image_foreground, image_regions
from cmdiad_runtime.preprocess.prepare import Preprocessing, part_geometry, prepare, prepare_parts
from cmdiad_runtime.preprocess.settings import MOST_PARTS
from cmdiad_runtime.preprocess.view_settings import PartSettings
from cmdiad_runtime.preprocess.views.part import PartView
from cmdiad_runtime.preprocess.views.part_pose import template_area
from cmdiad_runtime.preprocess.views.registry import VIEWS
from cmdiad_runtime.preprocess.views.several import in_reading_order, parts_of, training_parts
from cmdiad_runtime.preprocess.views.top_pose import covered_area, covered_area_of_template
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.records import RecordError
from trays import FURTHER, PLACES, SIDE, Tray, tray

SIZE = 64


def sample_of(drawn: Tray, name: str = "tray") -> Sample:
    return Sample(name, rgb=drawn.rgb, xyz=drawn.xyz)


@functools.cache
def learned(view: str, modality: str, parts: int = 4) -> Preprocessing:
    """Settings of a view, learned from three good trays."""
    settings = Preprocessing(modality=modality, size=SIZE, xyz_feed="normals", parts=parts)  # type: ignore[arg-type]
    located = [
        VIEWS[view].locate(sample, geometry)  # type: ignore[index]
        for seed in range(3)
        for sample in [sample_of(tray(seed, places=PLACES[:parts]))]
        for geometry in training_parts(part_geometry(sample, settings), view)  # type: ignore[arg-type]
    ]
    assert len(located) == 3 * parts
    return VIEWS[view].learn(located, settings)  # type: ignore[index]


CASES = [("part", "rgb"), ("part", "both"), ("top", "xyz"), ("top", "both"), ("each", "both")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def settings(request: pytest.FixtureRequest) -> Preprocessing:
    return learned(*request.param)


@pytest.mark.seconds
def test_every_part_is_found_in_reading_order(settings: Preprocessing) -> None:
    drawn = tray(9)
    prepared = prepare_parts(sample_of(drawn), settings)
    assert len(prepared) == 4
    spot = np.zeros((SIZE, SIZE), dtype=np.float32)
    spot[SIZE // 2 - 3 : SIZE // 2 + 3, SIZE // 2 - 3 : SIZE // 2 + 3] = 1
    for part, (row, column) in zip(prepared, drawn.centres, strict=True):
        over = part.each_to_sensor(np.stack([spot] * max(1, len(part.places))))[-1]
        rows, columns = np.nonzero(over > 0.5)
        scale = SIDE / SIZE
        assert abs(rows.mean() * scale - row) < 5
        assert abs(columns.mean() * scale - column) < 5


@pytest.mark.seconds
def test_each_part_is_drawn_without_the_others(settings: Preprocessing) -> None:
    prepared = prepare_parts(sample_of(tray(9)), settings)
    for name in prepared[0].inputs:
        shown = [part.inputs[name][0].any(axis=2).mean() for part in prepared]
        assert max(shown) - min(shown) < 0.08
        assert 0.2 < min(shown) < 0.8


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (PLACES[:3], "3 parts"),
        ([*PLACES, FURTHER], "part"),  # in the image so near to the others that the closing joins some
        ([*PLACES[:3], (118.0, 80.0)], "2 parts and 1 region of another size"),  # two parts touch
        ([], "0 parts"),
    ],
    ids=["missing", "additional", "touching", "empty"],
)
@pytest.mark.seconds
def test_another_number_of_parts_is_refused(
    settings: Preprocessing, places: list[tuple[float, float]], words: str
) -> None:
    drawn = tray(9, places=places)
    with pytest.raises(InputError) as caught:
        prepare_parts(sample_of(drawn), settings)
    assert caught.value.reason == "part-count"
    assert words in str(caught.value)
    assert "4 equal parts" in str(caught.value)


def test_a_region_that_is_neither_part_nor_dirt_is_refused_and_dirt_is_not() -> None:
    settings = learned("part", "rgb")
    drawn = tray(9)
    dirty, foreign = drawn.rgb.copy(), drawn.rgb.copy()
    dirty[76:84, 76:84] = 200
    foreign[70:92, 70:92] = 200
    assert len(prepare_parts(Sample("dirty", rgb=dirty), settings)) == 4
    with pytest.raises(InputError, match="4 parts and 1 region of another size") as caught:
        prepare_parts(Sample("foreign", rgb=foreign), settings)
    assert caught.value.reason == "part-count"


def test_specks_are_no_parts_even_if_their_number_is_right() -> None:
    settings = learned("part", "rgb")
    rgb = np.full((SIDE, SIDE, 3), 40, dtype=np.uint8)
    for row, column in PLACES:
        rgb[int(row) - 6 : int(row) + 6, int(column) - 6 : int(column) + 6] = 200
    with pytest.raises(InputError, match="0 parts") as caught:
        prepare_parts(Sample("specks", rgb=rgb), settings)
    assert caught.value.reason == "part-count"


def test_image_and_cloud_must_show_the_same_parts() -> None:
    settings = learned("each", "both")
    shifted = [(row, column + 100) if column < 80 else (row, column - 100) for row, column in PLACES]
    mixed = Sample("mixed", rgb=tray(1).rgb, xyz=tray(2, places=[*shifted[:1], (80.0, 60.0), *PLACES[1:3]]).xyz)
    with pytest.raises(InputError) as caught:
        prepare_parts(mixed, settings)
    assert caught.value.reason == "part-count"


def test_parts_of_image_and_cloud_belong_together() -> None:
    settings = learned("each", "both")
    sample = sample_of(tray(9))
    for geometry in parts_of(part_geometry(sample, settings), settings):
        overlap = (geometry.part & geometry.image_regions.mask).sum()
        assert overlap > 0.8 * geometry.part.sum()


def test_the_usual_area_comes_from_the_template() -> None:
    settings = learned("each", "both")
    assert settings.part is not None
    assert settings.top is not None
    geometry = parts_of(part_geometry(sample_of(tray(9)), settings), settings)[0]
    assert template_area(settings.part) == pytest.approx(geometry.image_regions.mask.sum(), rel=0.15)
    area = covered_area(geometry.xyz, geometry.part, geometry.support, settings.top.pitch)
    assert covered_area_of_template(settings.top) == pytest.approx(area, rel=0.15)


def test_reading_order_goes_row_by_row_although_parts_do_not_line_up() -> None:
    def square(row: int, column: int) -> np.ndarray:
        mask = np.zeros((60, 60), dtype=bool)
        mask[row : row + 10, column : column + 10] = True
        return mask

    places = [(5, 3), (2, 25), (6, 45), (28, 1), (25, 30), (45, 20)]
    shuffled = [square(*places[i]) for i in (4, 1, 5, 0, 3, 2)]
    ordered = [tuple(np.argwhere(shuffled[i])[0].tolist()) for i in in_reading_order(shuffled)]
    assert ordered == places
    assert in_reading_order([]) == []


def test_one_part_is_found_as_before() -> None:
    drawn = tray(3, places=[(80.0, 80.0)])
    np.testing.assert_array_equal(image_regions(drawn.rgb, parts=1).mask, image_foreground(drawn.rgb))
    settings = PartView.learn([PartView.locate(*_one(drawn))], Preprocessing(modality="rgb", size=SIZE))
    (several,) = prepare_parts(Sample("one", rgb=drawn.rgb), settings)
    np.testing.assert_array_equal(several.inputs["rgb"], prepare(Sample("one", rgb=drawn.rgb), settings).inputs["rgb"])


def _one(drawn: Tray) -> tuple[Sample, object]:
    sample = Sample("one", rgb=drawn.rgb)
    return sample, part_geometry(sample, Preprocessing(modality="rgb", size=SIZE))


def test_the_record_names_parts_only_if_there_are_several() -> None:
    one = Preprocessing(modality="rgb")
    assert {"parts", "ignored"}.isdisjoint(one.to_json())
    settings = learned("part", "rgb")
    assert settings.to_json()["parts"] == 4
    assert Preprocessing.from_json(settings.to_json()) == settings
    for wrong in (0, MOST_PARTS + 1, 1.5, True, "2"):
        with pytest.raises(RecordError, match="parts"):
            Preprocessing(modality="rgb", parts=wrong)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="1 in the sensor view"):
        Preprocessing(modality="rgb", parts=2).check_view()
    assert isinstance(settings.part, PartSettings)
