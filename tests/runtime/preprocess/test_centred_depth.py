"""The depth image of the published AST: parity with golden arrays, and clouds that fail."""

from __future__ import annotations

import numpy as np
import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.centred_depth import (
    DEPTH_SHARE,
    centred_depth,
    centred_depth_image,
    filled_holes,
)
from cmdiad_runtime.preprocess.image.resize import resize_bilinear
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.records import RecordError
from golden import load, small

CORNERS = {
    "top left": np.s_[:6, :6],
    "top right": np.s_[:6, -6:],
    "bottom left": np.s_[-6:, :6],
    "bottom right": np.s_[-6:, -6:],
}


def cloud(height: int = 60, width: int = 60) -> np.ndarray:
    """A block of 20 mm on a tilted plate, with a hole on the block, float32 `[h, w, 3]`, metres."""
    v, u = (np.mgrid[:height, :width] - 30.0) * 0.002
    xyz = np.stack([u, v, 0.5 + 0.1 * u + 0.05 * v], axis=2)
    xyz[height // 3 : 2 * height // 3, width // 4 : 3 * width // 4, 2] -= 0.02
    xyz[height // 2, width // 2] = 0
    return xyz.astype(np.float32)


def test_a_sample_has_the_published_depth_image() -> None:
    golden = small("ast")
    assert np.array_equal(filled_holes(golden["z_raw"], 1), golden["z_filled_1"])
    depth, part = centred_depth(golden["z_raw"], "a")
    assert np.array_equal(part, golden["mask"].astype(bool))
    resized = resize_bilinear(np.stack([depth, part.astype(np.float32)], axis=2), 64)
    assert np.abs(resized[..., 0] - golden["depth_64"][0]).max() < 5e-6
    assert np.array_equal(resized[..., 1] > 0, np.unpackbits(golden["fg_64"]).reshape(64, 64))


@pytest.mark.golden
def test_steps_are_the_published_ones() -> None:
    golden = load("ast_preproc")
    assert np.array_equal(filled_holes(golden["z_raw"]), golden["z_filled_3"])
    depth, part = centred_depth(golden["z_raw"], "a")
    assert np.abs(depth[part].mean()) < 1e-4
    assert golden["z_filled_3"][part].mean() == pytest.approx(float(golden["mean_fg"]), abs=1e-7)


def test_the_image_is_centimetres_about_the_mean_over_the_padded_square() -> None:
    image = centred_depth_image(cloud(40, 60), size=48, name="a")
    assert (image.shape, image.dtype) == ((48, 48, 3), np.float32)
    part = image[..., 1] > 0
    assert part.any()
    assert not image[~part].any()
    assert not image[:8].any()  # A wide cloud is padded above and below.
    assert not image[40:].any()
    assert np.abs(image[part][:, 0]).max() < 1.5
    blocks = image.reshape(12, DEPTH_SHARE, 12, DEPTH_SHARE, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


@pytest.mark.parametrize("missing", [np.nan, np.inf, 1e30])
def test_numbers_for_missing_points_mean_the_same_as_zeros(missing: float) -> None:
    zeros, numbers = cloud(), cloud()
    zeros[20:23, 20:24] = 0
    numbers[20:23, 20:24] = missing
    images = [centred_depth_image(xyz, size=48, name="a") for xyz in (zeros, numbers)]
    assert np.array_equal(*images)


@pytest.mark.parametrize("corner", list(CORNERS))
def test_a_corner_without_a_point_is_refused(corner: str) -> None:
    xyz = cloud()
    xyz[CORNERS[corner]] = 0
    with pytest.raises(InputError, match=f"no point in the {corner} corner") as error:
        centred_depth_image(xyz, size=48, name="a")
    assert error.value.reason == "no-points"


def test_holes_next_to_a_corner_are_filled() -> None:
    xyz = cloud()
    xyz[-2:, -2:] = 0
    assert centred_depth_image(xyz, size=48, name="a").any()


def test_a_cloud_of_background_is_refused() -> None:
    xyz = cloud()
    xyz[..., 2] = 0.5 + 0.1 * xyz[..., 0]
    with pytest.raises(InputError, match="only background") as error:
        centred_depth_image(xyz, size=48, name="a")
    assert error.value.reason == "no-part"


def test_a_sample_is_prepared_with_it() -> None:
    settings = Preprocessing(modality="xyz", size=48, xyz_feed="centred-depth", groups=0, group_size=0, grid=0)
    inputs = prepare(Sample("a", xyz=cloud()), settings).inputs
    assert np.array_equal(inputs["surface"][0], centred_depth_image(cloud(), size=48, name="a"))
    assert Preprocessing.from_json(settings.to_json()) == settings
    with pytest.raises(RecordError, match="multiple of 4"):
        Preprocessing(modality="xyz", size=50, xyz_feed="centred-depth", groups=0, group_size=0, grid=0)
