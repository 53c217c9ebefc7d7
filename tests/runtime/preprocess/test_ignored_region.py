"""The inspection mask between picture and view, and its record."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.ignored_region import IgnoredRegion, decode_region, encode_region
from cmdiad_runtime.preprocess.prepare import Preprocessing, part_geometry, prepare, prepare_parts
from cmdiad_runtime.preprocess.views.masking import over_sensor, regions_in_view
from cmdiad_runtime.preprocess.views.registry import VIEWS
from cmdiad_runtime.preprocess.views.several import training_parts
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.records import NewerRecordError, RecordError
from trays import SIDE, tray

SIZE = 80
CENTRE = [(80.0, 80.0)]


def sample_of(seed: int) -> Sample:
    drawn = tray(seed, places=CENTRE)
    return Sample("part", rgb=drawn.rgb, xyz=drawn.xyz)


def learned(view: str, modality: str) -> Preprocessing:
    settings = Preprocessing(modality=modality, size=SIZE, xyz_feed="normals")  # type: ignore[arg-type]
    located = [
        VIEWS[view].locate(sample, geometry)  # type: ignore[index]
        for seed in range(3)
        for sample in [sample_of(seed)]
        for geometry in training_parts(part_geometry(sample, settings), view)  # type: ignore[arg-type]
    ]
    return VIEWS[view].learn(located, settings)  # type: ignore[index]


def spot(rgb: np.ndarray) -> np.ndarray:
    """The dark spot on every part, with a margin."""
    grown = np.zeros(rgb.shape[:2], dtype=bool)
    dark = (rgb[..., 0] > 80) & (rgb[..., 0] < 115)
    rows, columns = np.median(np.argwhere(dark), axis=0)
    row_of, column_of = np.ogrid[:SIDE, :SIDE]
    grown[np.hypot(row_of - rows, column_of - columns) < 8] = True
    return grown


def with_region(settings: Preprocessing, sample: Sample, mask: np.ndarray) -> Preprocessing:
    regions = regions_in_view(mask, prepare(sample, settings), settings)
    return replace(settings, ignored=IgnoredRegion.of(regions, mask.shape, 0.1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("view", "modality"), [("part", "rgb"), ("part", "both"), ("top", "xyz"), ("top", "both"), ("each", "both")]
)
def test_the_region_moves_with_the_part(view: str, modality: str) -> None:
    settings = learned(view, modality)
    first = sample_of(0)
    assert first.rgb is not None
    settings = with_region(settings, first, spot(first.rgb))
    assert settings.ignored is not None
    assert len(settings.ignored.regions) == (2 if view == "each" else 1)
    for seed in (0, 5, 6, 7):  # turned by up to 180 degrees
        sample = sample_of(seed)
        assert sample.rgb is not None
        ignored = over_sensor(prepare(sample, settings), settings.ignored)
        expected = spot(sample.rgb)[::2, ::2]
        assert (ignored & expected).sum() > 0.75 * (ignored | expected).sum(), seed


@pytest.mark.parametrize(("view", "modality"), [("part", "both"), ("top", "both"), ("each", "both")])
def test_nothing_in_the_region_reaches_the_network(view: str, modality: str) -> None:
    settings = learned(view, modality)
    sample = sample_of(0)
    assert sample.rgb is not None
    assert sample.xyz is not None
    mask = spot(sample.rgb)
    settings = with_region(settings, sample, mask)
    inner = np.zeros_like(mask)
    rows, columns = np.argwhere(mask).mean(axis=0).astype(int)
    inner[rows - 3 : rows + 4, columns - 3 : columns + 4] = True
    rgb, xyz = sample.rgb.copy(), sample.xyz.copy()
    rgb[inner] = 150
    xyz[inner, 2] -= 0.0004
    before, after = prepare(sample, settings), prepare(Sample("other", rgb=rgb, xyz=xyz), settings)
    for name, values in before.inputs.items():
        number = list(before.inputs).index(name) if view == "each" else 0
        assert settings.ignored is not None
        assert not values[0][settings.ignored.array[number]].any()
        assert np.abs(values.astype(float) - after.inputs[name]).max() < 30  # the pose moves by a fraction of a pixel
    unmasked = replace(settings, ignored=None)
    changed = [
        np.abs(prepare(s, unmasked).inputs["rgb"].astype(float)) for s in (sample, Sample("o", rgb=rgb, xyz=xyz))
    ]
    assert np.abs(changed[0] - changed[1]).max() > 40


def test_in_the_sensor_view_the_region_is_fixed_and_pictures_need_its_size() -> None:
    settings = Preprocessing(modality="rgb", size=SIZE)
    sample = sample_of(0)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[10:31, 20:60] = True
    settings = with_region(settings, sample, mask)
    assert settings.ignored is not None
    (region,) = settings.ignored.array
    assert np.argwhere(region).min(axis=0).tolist() == [5, 10]
    assert np.argwhere(region).max(axis=0).tolist() == [14, 29]  # row 15 of the view is only half covered
    prepared = prepare(sample, settings)
    np.testing.assert_array_equal(over_sensor(prepared, settings.ignored), region)
    assert not prepared.inputs["rgb"][0][region].any()
    kept = prepare(sample, replace(settings, ignored=None)).inputs["rgb"][0]
    np.testing.assert_array_equal(prepared.inputs["rgb"][0][~region], kept[~region])
    assert sample.rgb is not None
    with pytest.raises(InputError, match="160 x 150") as caught:
        prepare_parts(Sample("cut", rgb=sample.rgb[:150]), settings)
    assert caught.value.reason == "image-size"


def test_a_cloud_that_is_also_read_as_an_image_is_masked_in_the_image() -> None:
    settings = Preprocessing(
        modality="both", size=SIZE, foreground=False, groups=16, group_size=8, grid=14, xyz_image=True
    )
    sample = sample_of(0)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:80] = True
    inputs = prepare(sample, with_region(settings, sample, mask)).inputs
    kept = prepare(sample, settings).inputs
    for name in ("xyz", "rgb"):
        assert kept[name][0, : SIZE // 2].any()
        assert not inputs[name][0, : SIZE // 2].any()
        np.testing.assert_array_equal(inputs[name][0, SIZE // 2 :], kept[name][0, SIZE // 2 :])


def test_a_picture_that_is_not_square() -> None:
    rgb = sample_of(0).rgb
    assert rgb is not None
    sample = Sample("wide", rgb=np.ascontiguousarray(rgb[40:120]))
    mask = np.zeros((80, 160), dtype=bool)
    mask[:, 120:] = True
    settings = with_region(Preprocessing(modality="rgb", size=SIZE), sample, mask)
    assert settings.ignored is not None
    assert (settings.ignored.height, settings.ignored.width) == (80, 160)
    expected = np.zeros((SIZE, SIZE), dtype=bool)
    expected[20:60, 60:] = True
    np.testing.assert_array_equal(settings.ignored.array[0], expected)


@pytest.mark.parametrize("size", [1, 7, 80, 321])
def test_a_region_survives_its_text(size: int) -> None:
    region = np.random.default_rng(size).random((size, size)) < 0.3
    np.testing.assert_array_equal(decode_region(encode_region(region), size), region)


GOOD = {"height": 4, "width": 5, "size": 8, "share": 0.5, "regions": [encode_region(np.eye(8, dtype=bool))]}


def test_the_record_survives_json() -> None:
    region = IgnoredRegion.from_json(GOOD)
    settings = Preprocessing(modality="rgb", size=8, ignored=region)
    assert Preprocessing.from_json(settings.to_json()) == settings
    np.testing.assert_array_equal(region.array, np.eye(8, dtype=bool)[None])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 0),
        ("width", "5"),
        ("size", 9),
        ("share", 1.5),
        ("share", float("nan")),
        ("regions", []),
        ("regions", "text"),
        ("regions", ["not base64!"]),
        ("regions", [3]),
        ("regions", GOOD["regions"] * 3),
        ("regions", [base64.b64encode(b"nothing").decode()]),
        ("regions", [base64.b64encode(zlib.compress(bytes(9))).decode()]),
        ("regions", [base64.b64encode(zlib.compress(bytes(7))).decode()]),
        ("regions", [base64.b64encode(zlib.compress(bytes(1 << 24))).decode()]),  # would unpack to 16 MB
    ],
)
def test_wrong_records_are_damage(field: str, value: object) -> None:
    with pytest.raises(RecordError):
        IgnoredRegion.from_json({**GOOD, field: value})
    with pytest.raises(NewerRecordError):
        IgnoredRegion.from_json({**GOOD, "colour": 1})


def test_settings_must_fit_the_region() -> None:
    region = IgnoredRegion.from_json(GOOD)
    with pytest.raises(RecordError, match="a region of size 16"):
        Preprocessing(modality="rgb", size=16, ignored=region)
    with pytest.raises(RecordError, match="regions of 1 views"):
        two = IgnoredRegion.from_json({**GOOD, "regions": GOOD["regions"] * 2})  # type: ignore[operator]
        Preprocessing(modality="rgb", size=8, ignored=two).check_view()
