"""Grey images of 16 bits: the range of training, values outside it, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from cmdiad_runtime.colour import GreyRange, range_of
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.readers import read_rgb
from cmdiad_runtime.readers.image import is_grey16, read_grey16
from cmdiad_runtime.readers.reading import read_files
from cmdiad_runtime.readers.worker import TimedReader
from cmdiad_runtime.support.records import NewerRecordError, RecordError

RANGE = GreyRange(7000, 7510)


def ramp(low: int = 7000, high: int = 7510) -> npt.NDArray[np.uint16]:
    """Values `[16, 32]` from low to high."""
    return np.linspace(low, high, 16 * 32).round().astype(np.uint16).reshape(16, 32)


def saved(path: Path, values: npt.NDArray[np.generic]) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_values_are_scaled_and_never_cut_to_eight_bits(tmp_path: Path, name: str) -> None:
    image = read_rgb(saved(tmp_path / name, ramp()), colour=RANGE)
    assert image.dtype == np.uint8
    assert image.shape == (16, 32, 3)
    expected = np.rint((ramp().astype(float) - 7000) / 2).astype(np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], expected)
    assert (ramp() >> 8).max() - (ramp() >> 8).min() == 2  # the upper 8 bits would have three levels


def test_big_endian_tiff_has_the_same_values(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ramp(), byteorder=">", photometric="minisblack")
    np.testing.assert_array_equal(read_grey16(tmp_path / "a.tif"), ramp())


@pytest.mark.parametrize("value", [6999, 7511, 0, 65535])
def test_value_outside_the_range_is_refused(tmp_path: Path, value: int) -> None:
    values = ramp()
    values[3, 4] = value
    with pytest.raises(InputError, match=str(value)) as refused:
        read_rgb(saved(tmp_path / "a.png", values), colour=RANGE)
    assert refused.value.reason == "exposure"


def test_range_is_measured_with_a_margin() -> None:
    assert range_of([ramp(7100, 7200), ramp(7000, 7100)]) == GreyRange(6950, 7250)
    assert range_of([ramp(10, 65535)]) == GreyRange(0, 65535)
    assert range_of([np.full((2, 2), 300, np.uint16)]) == GreyRange(299, 301)
    assert range_of([]) is None


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_images_of_eight_bits_are_refused(tmp_path: Path, values: npt.NDArray[np.uint8]) -> None:
    path = saved(tmp_path / "a.png", values)
    assert not is_grey16(path)
    with pytest.raises(InputError) as refused:
        read_rgb(path, colour=RANGE)
    assert refused.value.reason == "unsupported"


def test_detector_of_eight_bits_refuses_sixteen(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", ramp())
    assert is_grey16(path)
    with pytest.raises(InputError, match="16 bits"):
        read_rgb(path, colour="grey")


def test_other_files_of_sixteen_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "inverted.tif", ramp(), photometric="miniswhite")
    tifffile.imwrite(tmp_path / "colour.tif", np.stack([ramp()] * 3, axis=-1), photometric="rgb")
    tifffile.imwrite(tmp_path / "signed.tif", ramp().astype(np.int16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "float.tif", ramp().astype(np.float32), photometric="minisblack")
    for path in sorted(tmp_path.iterdir()):
        assert not is_grey16(path)
        with pytest.raises(InputError, match="Save the image as 16-bit grey PNG or TIFF"):
            read_grey16(path)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.random.default_rng(0).integers(7000, 7510, (64, 64)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError):
        read_rgb(path, colour=RANGE)


def test_reading_process_converts_in_the_same_way(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", ramp())
    with TimedReader(60) as reader:
        there = reader.read_files("part", path, None, colour=RANGE)
    here = read_files("part", path, None, colour=RANGE)
    assert there.rgb is not None
    assert here.rgb is not None
    np.testing.assert_array_equal(there.rgb, here.rgb)


def test_settings_keep_the_range() -> None:
    settings = Preprocessing("rgb", colour=RANGE, image_modality="infrared")
    stored = settings.to_json()
    assert (stored["colour"], stored["grey_range"]) == ("grey", {"low": 7000, "high": 7510})
    assert Preprocessing.from_json(stored) == settings
    assert settings.modality_name == "infrared"
    plain = Preprocessing("rgb", colour="grey").to_json()
    assert not {"grey_range", "image_modality"} & plain.keys()  # earlier versions read such settings


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"colour": "rgb"}, RecordError),
        ({"grey_range": {"low": 9, "high": 9}}, RecordError),
        ({"grey_range": {"low": 0}}, RecordError),
        ({"grey_range": None}, RecordError),
        ({"image_modality": "gamma"}, NewerRecordError),
        ({"modality": "both"}, RecordError),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], error: type[RecordError]) -> None:
    stored = Preprocessing("rgb", colour=RANGE, image_modality="infrared").to_json()
    with pytest.raises(error):
        Preprocessing.from_json({**stored, **change})
