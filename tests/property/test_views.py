"""A view and the way back to the sensor's image are inverse to each other."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from cmdiad_runtime.preprocess.image.padding import pad_offset, pad_to_square
from cmdiad_runtime.preprocess.views.part import draw_part_view
from cmdiad_runtime.preprocess.views.part_pose import ImagePose, sensor_to_view
from cmdiad_runtime.preprocess.views.place import PaddedSquare, PartPlace, TopPlace

angles = st.floats(-np.pi, np.pi)
HEIGHT, WIDTH = 120, 160


@given(height=st.integers(1, 90), width=st.integers(1, 90), multiple=st.integers(1, 40))
def test_padding_keeps_the_image_in_the_middle(height: int, width: int, multiple: int) -> None:
    image = np.random.default_rng(0).integers(1, 255, (height, width, 3), dtype=np.uint8)
    padded = pad_to_square(image, multiple=multiple)
    top, left, side = pad_offset(height, width, multiple=multiple)
    assert padded.shape == (side, side, 3)
    assert side % multiple == 0
    assert 0 <= side - max(height, width) < multiple
    assert np.array_equal(padded[top : top + height, left : left + width], image)
    assert (padded > 0).sum() == image.size


@given(height=st.integers(8, 200), width=st.integers(8, 200), size=st.integers(8, 64))
def test_view_pixels_cover_the_padded_square_evenly(height: int, width: int, size: int) -> None:
    square = PaddedSquare.of(np.zeros((height, width, 3), dtype=np.uint8), 1)
    rows, columns = square.sensor_pixels(size)
    step = square.side / size
    assert np.allclose(np.diff(rows, axis=0), step)
    assert np.allclose(np.diff(columns, axis=1), step)
    assert np.isclose(rows.mean(), (height - 1) / 2, atol=1)  # an odd remainder moves the image by half a pixel
    assert np.isclose(columns.mean(), (width - 1) / 2, atol=1)


@given(angle=angles, x=st.floats(0, WIDTH), y=st.floats(0, HEIGHT), side=st.floats(20, 300), size=st.integers(16, 320))
def test_the_way_into_the_view_keeps_distances_up_to_one_scale(
    angle: float, x: float, y: float, side: float, size: int
) -> None:
    pose = ImagePose(angle, x, y)
    points = np.random.default_rng(1).uniform(0, 100, (2, 20))
    rows, columns = sensor_to_view(points[0], points[1], pose, size=size, side=side)
    before = np.hypot(*np.diff(points, axis=1))
    after = np.hypot(np.diff(rows), np.diff(columns))
    assert np.allclose(after, before * size / side)
    middle = sensor_to_view(np.array(y), np.array(x), pose, size=size, side=side)
    assert np.allclose(middle, (size - 1) / 2)


@given(angle=angles, x=st.floats(60, 100), y=st.floats(50, 70), side=st.floats(40, 80))
def test_a_part_cut_out_and_carried_back_lies_where_it_was(angle: float, x: float, y: float, side: float) -> None:
    """The brightness of a ramp, cut out of an image and carried back, is the ramp again."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ramp = (40 + 0.6 * rows + 0.8 * columns).astype(np.uint8)
    rgb = np.dstack([ramp] * 3)
    pose = ImagePose(angle, x, y)
    size = 96
    cut = draw_part_view(rgb, np.ones((HEIGHT, WIDTH), dtype=np.bool_), pose, size=size, side=side)
    square = PaddedSquare.of(rgb, 1)
    back = PartPlace(pose, side).to_sensor(cut[..., 0].astype(np.float32), square)
    at = square.sensor_pixels(size)
    inside = np.hypot(at[0] - y, at[1] - x) < side / 2 - 3  # the circle that every turn of the view contains
    expected = 40 + 0.6 * at[0] + 0.8 * at[1]
    assert inside.any()
    assert np.abs(back - expected)[inside].max() < 2.5


@given(height=st.integers(2, 30), width=st.integers(2, 30), size=st.integers(4, 40), seed=st.integers(0, 99))
def test_positions_in_the_top_view_are_those_of_points_or_of_the_affine_map(
    height: int, width: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.stack(np.nonzero(rng.random((height, width)) < 0.6))
    assume(pixels.shape[1] >= 3 and np.linalg.matrix_rank(np.cov(pixels)) == 2)
    turn = rng.normal(size=(2, 2))
    target = pixels.T @ turn + rng.normal(size=2) + rng.normal(0, 0.01, pixels.T.shape)
    square = PaddedSquare.of(np.zeros((height, width, 3)), 1)
    found = TopPlace(pixels, target).positions(square, size)
    assert found.shape == (2, size, size)
    ones = np.ones((pixels.shape[1], 1))
    fitted = np.linalg.lstsq(np.hstack([pixels.T, ones]), target, rcond=None)[0]
    points = dict(zip(map(tuple, pixels.T.tolist()), target, strict=True))
    for i, j in np.ndindex(size, size):
        row = (i + 0.5) * square.side / size - 0.5 - square.top
        column = (j + 0.5) * square.side / size - 0.5 - square.left
        in_image = -0.5 < row < height - 0.5 and -0.5 < column < width - 0.5
        nearest = (round(row), round(column)) if in_image else (-1, -1)
        expected = points.get(nearest, np.array([row, column, 1]) @ fitted)
        assert np.allclose(found[:, i, j], expected, atol=1e-6)
