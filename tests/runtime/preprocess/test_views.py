"""Top views in the preprocessing: learnt, stored, applied, and maps carried back to the sensor's image."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.cloud import part_geometry as part_geometry_module
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_runtime.preprocess.view_settings import TopSettings
from cmdiad_runtime.preprocess.views.part import PartView
from cmdiad_runtime.preprocess.views.place import PaddedSquare, TopPlace
from cmdiad_runtime.preprocess.views.registry import VIEWS
from cmdiad_runtime.preprocess.views.strategy import part_geometry
from cmdiad_runtime.preprocess.views.top import TopView
from cmdiad_runtime.preprocess.work import pieces as pieces_module
from cmdiad_runtime.sample import Sample
from patience import LIMIT_S

SIZE = 120
PITCH = 0.0005
DISTANCE = 0.4


def part(angle: float, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A ridged L on a plate, turned about the sensor's axis, float32 `[120, 120, 3]`, metres."""
    v, u = (np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5) * PITCH
    c, s = np.cos(angle), np.sin(angle)
    x, y = c * (u - shift[0]) + s * (v - shift[1]), -s * (u - shift[0]) + c * (v - shift[1])
    inside = (np.abs(x + 0.008) < 0.004) & (np.abs(y) < 0.014) | (np.abs(y - 0.010) < 0.004) & (np.abs(x) < 0.012)
    height = np.where(inside, 0.010 + 0.001 * np.sin(x / 0.0012), 0.0)
    return np.stack([u, v, DISTANCE - height], 2).astype(np.float32)


def sample(angle: float, shift: tuple[float, float] = (0.0, 0.0)) -> Sample:
    xyz = part(angle, shift)
    rgb = np.zeros((SIZE, SIZE, 3), np.uint8)
    rgb[xyz[..., 2] < DISTANCE - 0.005] = (200, 120, 40)
    return Sample("part", rgb=rgb, xyz=xyz)


SETTINGS = Preprocessing("xyz", size=96, xyz_feed="normals")
ANGLES = (0.0, 0.7, 2.0, 3.0, 4.4, 5.5)


def learn(view: ViewName, samples: list[Sample]) -> Preprocessing:
    """Learn the settings of a view from samples."""
    return VIEWS[view].learn([VIEWS[view].locate(s, part_geometry(s, SETTINGS)) for s in samples], SETTINGS)


@pytest.fixture(scope="module")
def top() -> TopSettings:
    learned = learn("top", [sample(angle) for angle in ANGLES]).top
    assert learned is not None
    return learned


def test_parts_in_any_direction_give_one_picture(top: TopSettings) -> None:
    settings = replace(SETTINGS, top=top)
    views = [
        prepare(sample(angle, shift), settings).inputs["surface"][0]
        for angle, shift in ((0.3, (0.0, 0.0)), (1.9, (0.003, 0.0)), (4.0, (0.0, -0.004)))
    ]
    assert views[0].shape == (96, 96, 3)
    assert views[0].dtype == np.float32
    covered = [view.any(axis=2) for view in views]
    for view, cover in zip(views[1:], covered[1:], strict=True):
        assert (cover & covered[0]).sum() / (cover | covered[0]).sum() > 0.9
        both = cover & covered[0]
        assert np.abs(view - views[0])[both].mean() < 12  # of 255; ridges swing over 100


def test_sensor_view_of_turned_parts_differs() -> None:
    views = [prepare(sample(angle), SETTINGS).inputs["surface"][0].any(axis=2) for angle in (0.3, 1.9)]
    assert (views[0] & views[1]).sum() / (views[0] | views[1]).sum() < 0.7


def test_colours_follow_the_cloud(top: TopSettings) -> None:
    prepared = prepare(sample(1.0), replace(SETTINGS, modality="both", top=top))
    assert list(prepared.inputs) == ["surface", "rgb"]
    rgb, surface = prepared.inputs["rgb"][0], prepared.inputs["surface"][0]
    assert rgb.dtype == np.uint8
    inner = surface.any(axis=2) & rgb.any(axis=2)
    assert inner.sum() > 500
    np.testing.assert_allclose(np.median(rgb[inner], axis=0), (200, 120, 40), atol=2)


def test_settings_survive_json(top: TopSettings) -> None:
    settings = replace(SETTINGS, top=top)
    again = Preprocessing.from_json(json.loads(json.dumps(settings.to_json())))
    assert again == settings
    assert again.top is not None
    np.testing.assert_array_equal(again.top.array, top.array)
    assert np.abs(top.array).max() <= 1


def test_defect_is_found_where_it_is(top: TopSettings) -> None:
    """A bright spot of the top view's map over one place of the part comes back over the same place."""
    turned = sample(2.5, (0.002, 0.001))
    prepared = prepare(turned, replace(SETTINGS, top=top))
    (place,) = prepared.places
    assert isinstance(place, TopPlace)
    chosen = len(place.target) // 3
    row, column = place.target[chosen]
    rows, columns = np.mgrid[:96, :96]
    spot = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18).astype(np.float32)
    found = prepared.to_sensor(spot)
    at = np.array(np.unravel_index(found.argmax(), found.shape)) * SIZE / 96
    np.testing.assert_allclose(at, place.pixels[:, chosen], atol=2.5)


def test_pixels_without_a_point_follow_the_affine_map() -> None:
    rows, columns = np.mgrid[10:30:3, 10:30:3]
    pixels = np.stack([rows.ravel(), columns.ravel()])
    place = TopPlace(pixels, np.column_stack([pixels[1] - 5.0, 40.0 - pixels[0]]))  # turned by a right angle
    anomaly_map = np.arange(40 * 40, dtype=np.float32).reshape(40, 40)
    found = place.to_sensor(anomaly_map, PaddedSquare(40, 40, 0, 0, 40))
    for row, column in ((10, 10), (11, 12), (20, 25)):
        assert found[row, column] == pytest.approx(anomaly_map[column - 5, 40 - row], abs=0.01)
    assert found[0, 0] == anomaly_map.min()  # beyond the view


@pytest.mark.parametrize(
    "square",
    [
        PaddedSquare(30, 30, 0, 0, 30),
        PaddedSquare(20, 30, 5, 0, 30),
        PaddedSquare(30, 20, 0, 5, 30),
        PaddedSquare(20, 20, 40, 40, 30),  # no place of the square inside the image
    ],
)
def test_positions_are_those_of_the_points_and_else_of_the_affine_map(square: PaddedSquare) -> None:
    rng, size = np.random.default_rng(0), 24
    pixels = np.stack(np.nonzero(rng.random((square.height, square.width)) < 0.4))
    target = rng.normal(size=(pixels.shape[1], 2)) * 5
    found = TopPlace(pixels, target).positions(square, size)
    ones = np.ones((pixels.shape[1], 1))
    affine = np.linalg.lstsq(np.hstack([pixels.T, ones]), target, rcond=None)[0]  # [3, 2]
    points = {(int(row), int(column)): place for row, column, place in zip(*pixels, target, strict=True)}
    rows, columns = square.sensor_pixels(size)
    for i, j in np.ndindex(size, size):
        row, column = float(rows[i, 0]), float(columns[0, j])
        exact = points.get((round(row), round(column)))
        if exact is not None:
            np.testing.assert_array_equal(found[:, i, j], exact)
        else:  # both in float64; the normal equations lose some digits
            np.testing.assert_allclose(found[:, i, j], np.array([row, column, 1]) @ affine, rtol=0, atol=1e-9)


def test_padding_is_beyond_the_part() -> None:
    place = TopPlace(np.array([[5, 5, 9], [5, 9, 5]]), np.array([[5.0, 5.0], [5.0, 9.0], [9.0, 5.0]]))
    anomaly_map = np.full((20, 20), 2.0, np.float32)
    anomaly_map[5, 5] = 3
    found = place.to_sensor(anomaly_map, PaddedSquare(20, 10, 0, 5, 20))
    assert found[5, 10] == pytest.approx(3)


def test_too_little_of_a_part_is_refused(top: TopSettings) -> None:
    xyz = part(0.0)
    keep = np.zeros((SIZE, SIZE), bool)
    keep[:, :12] = keep[58:62, 40:48] = True
    with pytest.raises(InputError, match="only background|points"):
        prepare(Sample("scrap", xyz=np.where(keep[..., None], xyz, 0)), replace(SETTINGS, top=top))


def test_each_modality_in_its_own_view(top: TopSettings) -> None:
    turned = sample(1.0)
    assert turned.rgb is not None
    part_view = learn("part", [turned]).part
    both = replace(SETTINGS, modality="both", top=top, part=part_view)
    prepared = prepare(turned, both)
    above = prepare(turned, replace(SETTINGS, modality="xyz", top=top))
    cut_out = prepare(turned, replace(SETTINGS, modality="rgb", part=part_view))
    assert list(prepared.inputs) == ["surface", "rgb"]
    np.testing.assert_array_equal(prepared.inputs["surface"], above.inputs["surface"])
    np.testing.assert_array_equal(prepared.inputs["rgb"], cut_out.inputs["rgb"])
    assert prepared.square == above.square == cut_out.square
    maps = np.random.default_rng(0).random((2, 96, 96), dtype=np.float32)
    np.testing.assert_array_equal(prepared.to_sensor(maps), above.to_sensor(maps[0]) + cut_out.to_sensor(maps[1]))
    again = Preprocessing.from_json(json.loads(json.dumps(both.to_json())))
    assert again == both
    for modality in ("rgb", "xyz"):  # as training sees them, one by one
        alone = prepare(turned, replace(both, modality=modality)).inputs
        np.testing.assert_array_equal(*(each[next(iter(alone))] for each in (alone, prepared.inputs)))


@pytest.fixture(params=[True, False], ids=["helper", "no helper"])
def helper(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Return True if the process has a helper thread, as it has on several cores."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="test-helper") if request.param else None
    monkeypatch.setattr(pieces_module, "_helper", lambda: executor)
    yield request.param
    if executor is not None:
        executor.shutdown()


def each_view(top: TopSettings) -> Preprocessing:
    return replace(SETTINGS, modality="both", top=top, part=learn("part", [sample(1.0)]).part)


def test_the_helper_prepares_the_image_meanwhile(
    top: TopSettings, helper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, turned = each_view(top), sample(1.0)
    expected = {name: prepare(turned, replace(settings, modality=name)) for name in ("xyz", "rgb")}
    begun, threads = threading.Event(), []
    in_top, in_part = TopView.prepare, PartView.prepare

    def top_prepare(view: TopView, *arguments: Any) -> Any:
        assert not helper or begun.wait(LIMIT_S)
        return in_top(view, *arguments)

    def part_prepare(view: PartView, *arguments: Any) -> Any:
        begun.set()
        threads.append(threading.current_thread().name)
        return in_part(view, *arguments)

    monkeypatch.setattr(TopView, "prepare", top_prepare)
    monkeypatch.setattr(PartView, "prepare", part_prepare)
    prepared = prepare(turned, settings)
    assert [name.startswith("test-helper") for name in threads] == [helper]
    np.testing.assert_array_equal(prepared.inputs["surface"], expected["xyz"].inputs["surface"])
    np.testing.assert_array_equal(prepared.inputs["rgb"], expected["rgb"].inputs["rgb"])
    maps = np.random.default_rng(0).random((2, 96, 96), dtype=np.float32)
    alone = [expected[name].to_sensor(anomaly_map) for name, anomaly_map in zip(("xyz", "rgb"), maps, strict=True)]
    np.testing.assert_array_equal(prepared.each_to_sensor(maps), np.stack(alone))


@pytest.mark.parametrize(
    ("has_image", "has_cloud", "reason"),
    [(True, False, "no-part"), (False, True, "no-contrast"), (False, False, "no-part")],
)
def test_an_unusable_modality_is_refused(
    top: TopSettings, helper: bool, has_image: bool, has_cloud: bool, reason: str
) -> None:
    good = sample(1.0)
    assert good.rgb is not None and good.xyz is not None
    rgb = good.rgb if has_image else np.zeros_like(good.rgb)
    xyz = good.xyz if has_cloud else np.where([True, True, False], good.xyz, np.float32(DISTANCE))
    with pytest.raises(InputError) as caught:
        prepare(Sample("part", rgb=rgb, xyz=xyz), each_view(top))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "both", "rgb_mask": "cloud"},
        {"modality": "both", "rgb_mask": "cloud", "xyz_feed": "points", "groups": 20, "group_size": 4, "grid": 8},
        {"modality": "rgb", "rgb_mask": "cloud"},
        {"modality": "both", "view": "top"},
        {"modality": "both", "view": "part"},
        {"modality": "both", "view": "each"},
        {"modality": "both", "view": "each", "rgb_mask": "cloud"},
    ],
)
def test_plane_and_clusters_are_searched_once_per_sample(
    changes: dict[str, Any], top: TopSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = changes.pop("view", "sensor")
    part_settings = learn("part", [sample(1.0)]).part
    settings = replace(SETTINGS, **changes)
    settings = replace(settings, top=top) if view in ("top", "each") else settings
    settings = replace(settings, part=part_settings) if view in ("part", "each") else settings
    calls: Counter[str] = Counter()

    def count(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    count(part_geometry_module, "fit_support_plane")
    count(part_geometry_module, "valid_mask")
    count(part_geometry_module, "cluster_ranks")
    prepare(sample(2.0), settings)
    assert calls == {"fit_support_plane": 1, "valid_mask": 1, "cluster_ranks": 1}


def test_image_alone_needs_no_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_geometry_module, "valid_mask", None)
    prepare(sample(2.0), Preprocessing("rgb", size=96))


def test_view_in_training_names_the_missing_modality(top: TopSettings) -> None:
    """In the top view an image is drawn at the cloud's points, and in the part view a cloud is cut out by the image."""
    both = sample(1.0)
    with pytest.raises(InputError, match="no xyz"):
        prepare(replace(both, xyz=None), replace(SETTINGS, modality="rgb", top=top))
    with pytest.raises(InputError, match="no rgb"):
        prepare(replace(both, rgb=None), replace(SETTINGS, part=learn("part", [both]).part))
