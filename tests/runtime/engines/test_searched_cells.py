"""The cells of an image that a graph must search: all that show the part, and one of the background."""

from __future__ import annotations

import numpy as np
import pytest

from cmdiad_runtime.engines.searched_cells import grids_of, lists_of, searched_cells


def shown(size: int, share: float, *, signed: bool = False) -> np.ndarray:
    """An image of scattered pixels of a part, 0 elsewhere."""
    rng = np.random.default_rng(round(size + 1000 * share))
    pixels = rng.random((1, size, size, 3)) * (rng.random((1, size, size, 1)) < share)
    return (pixels - pixels * (rng.random(pixels.shape) < 0.5) * 2 if signed else 255 * pixels).astype(
        np.float32 if signed else np.uint8
    )


def cells_of_the_part(image: np.ndarray, grid: int) -> np.ndarray:
    """Return the cells with a pixel of the part, bool `[grid²]`, as the pooling of `PatchFeatures` finds them."""
    part = image[0].max(axis=2) > 0
    stride = len(part) // grid
    side = len(part) - stride * (grid - 1)
    starts = range(0, stride * grid, stride)
    return np.array([part[row : row + side, column : column + side].any() for row in starts for column in starts])


@pytest.mark.parametrize(("size", "grid"), [(320, 40), (112, 14), (112, 9), (64, 64)])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 1.0])
@pytest.mark.parametrize("signed", [False, True])
def test_list_is_the_part_and_one_background_cell(size: int, grid: int, share: float, signed: bool) -> None:
    image = shown(size, share, signed=signed)
    on_part = cells_of_the_part(image, grid)
    expected = set(np.flatnonzero(on_part)) | set(np.flatnonzero(~on_part)[:1])
    cells = searched_cells(image, grid)
    if len(expected) == grid**2:
        assert cells is None
    else:
        assert cells is not None
        assert cells.dtype == np.int64
        assert set(cells) == expected
        assert len(cells) == max(2, len(expected))


def test_an_image_smaller_than_the_grid_is_searched_everywhere() -> None:
    assert searched_cells(shown(8, 0.5), 9) is None


def test_only_grids_that_are_numbers_count() -> None:
    sides = {"rgb_searched": "40", "a_searched": "-1", "b_searched": "0", "c_searched": "9" * 5, "d_searched": "²"}
    assert grids_of({**sides, "author": "7", "e_searched": ""}) == {"rgb": 40}


def test_an_image_that_is_missing_or_flat_gets_no_list() -> None:
    image = shown(112, 0.02)
    assert list(lists_of({"rgb": image}, {"rgb": 14, "surface": 14})) == ["rgb_searched"]
    assert lists_of({"rgb": image[0]}, {"rgb": 14}) == {}
