"""Patch features of images that show the part alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmdiad_train.detectors.bank.features.patches import PatchFeatures, shows_part_alone
from cmdiad_train.extractors import TimmBackbone
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from helpers import tiny_recipe


@pytest.fixture(scope="module")
def extractor() -> TimmBackbone:
    return TimmBackbone(RgbExtractor("resnet10t", (0, 1), 14), size=112)


def image(left: int) -> torch.Tensor:
    """Noise right of a column, 0 left of it."""
    pixels = torch.randint(1, 256, (1, 112, 112, 3), generator=torch.Generator().manual_seed(0)).float()
    pixels[:, :, :left] = 0
    return pixels


@pytest.mark.parametrize("left", [0, 8, 60, 112])
def test_cells_without_any_part_share_one_row_of_zeros(extractor: TimmBackbone, left: int) -> None:
    rows, cells = PatchFeatures(extractor, cut_out=True)(image(left))
    plain, _ = PatchFeatures(extractor)(image(left))
    columns = np.arange(14 * 14) % 14
    background = (columns + 1) * 8 <= left  # a cell is 8 pixels wide; one pixel of the part makes it the part's
    np.testing.assert_array_equal(rows[~background], plain[~background])
    assert not rows[background].any()
    np.testing.assert_array_equal(cells[~background], np.flatnonzero(~background))
    assert len(torch.unique(cells[background])) == min(1, background.sum())


@pytest.mark.parametrize("left", [0, 8, 60, 112])
def test_listed_cells_have_the_features_of_all_cells(extractor: TimmBackbone, left: int) -> None:
    features = PatchFeatures(extractor, cut_out=True)
    rows, cells = features(image(left))
    searched = np.resize(np.unique(cells), max(2, len(np.unique(cells))))
    few, places = features(image(left), searched=torch.from_numpy(searched))
    assert few.shape[0] == len(searched)
    torch.testing.assert_close(few[places], rows[cells], rtol=0, atol=0)


def test_a_cell_of_the_part_that_is_not_listed_has_no_row(extractor: TimmBackbone) -> None:
    features = PatchFeatures(extractor, cut_out=True)
    _, cells = features(image(60))
    listed = torch.unique(cells)
    for missing in (0, len(listed) // 2):  # a background cell that all others refer to, and a cell of the part
        rows, places = features(image(60), searched=listed[torch.arange(len(listed)) != missing])
        with pytest.raises(IndexError):
            rows[places]


def test_a_grid_that_does_not_divide_the_side_is_covered(extractor: TimmBackbone) -> None:
    features = PatchFeatures(TimmBackbone(RgbExtractor("resnet10t", (0, 1), 9), size=112), cut_out=True)
    rows, cells = features(image(0))
    assert cells.tolist() == list(range(81))
    assert rows.any(dim=1).all()


def test_which_inputs_show_the_part_alone() -> None:
    normals = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
    assert not shows_part_alone(tiny_recipe("rgb"), "rgb")
    assert not shows_part_alone(tiny_recipe("xyz"), "xyz")
    assert shows_part_alone(tiny_recipe("both", xyz=normals), "xyz")
    assert not shows_part_alone(tiny_recipe("both", xyz=normals), "rgb")
    assert shows_part_alone(tiny_recipe("both", xyz=normals, view="top"), "rgb")
