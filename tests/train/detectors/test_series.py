"""Test `cmdiad_train.detectors.bank.fitting.series`: samples that were recorded in series, and those that were not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cmdiad_train.detectors.bank.fitting.series import averaged, in_order, series_of


def placements(count: int, each: int, *, noise: float = 0.1) -> Tensor:
    """Features of `each` samples of `count` placements, in the order of recording."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count, 32, generator=generator).repeat_interleave(each, 0)
    return centres + noise * torch.randn(centres.shape, generator=generator)


@pytest.mark.parametrize("each", [2, 4, 5, 7, 12, 20])
def test_samples_of_one_placement_are_one_series(each: int) -> None:
    recorded = series_of(placements(8, each), longest=each)
    assert recorded == [i // each for i in range(8 * each)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 40, 150])
def test_samples_without_an_order_stay_alone(count: int) -> None:
    assert series_of(placements(count, 1), count // 5) == list(range(count))


def test_poses_that_return_later_are_no_series() -> None:
    order = np.random.default_rng(0).permutation(32)
    assert series_of(placements(8, 4)[torch.from_numpy(order)], 6) == list(range(32))
    returning = placements(8, 12).reshape(8, 12, -1).transpose(0, 1).reshape(96, -1)
    assert series_of(returning, 96 // 5) == list(range(96))


def test_a_slow_drift_is_divided_so_that_a_bank_remains() -> None:
    drift = torch.linspace(0, 1, 40)[:, None] * torch.ones(1, 8)
    recorded = series_of(drift, 40 // 5)
    assert np.bincount(recorded).max() == 40 // 5
    assert recorded == sorted(recorded)


def test_numbers_in_names_are_ordered_by_value() -> None:
    names = ["train/good/10", "train/good/9", "train/bad", "train/good/9b", "b", "²"]
    ordered = ["b", "train/bad", "train/good/9", "train/good/9b", "train/good/10", "²"]
    assert [names[i] for i in in_order(names)] == ordered


@pytest.mark.parametrize(("side", "blocks"), [(3, 1), (4, 1), (10, 2), (40, 10)])
def test_features_are_averaged_over_blocks_of_cells(side: int, blocks: int) -> None:
    rows, cells = torch.arange(side**2 * 2.0).reshape(-1, 2), torch.arange(side**2).flip(0)
    vector = averaged([(rows, cells), (rows, cells)]).reshape(2, blocks, blocks, 2)
    width = min(side, 4)
    corner = rows.flip(0).reshape(side, side, 2)[:width, :width].mean((0, 1))
    torch.testing.assert_close(vector[:, 0, 0], torch.stack([corner, corner]))
