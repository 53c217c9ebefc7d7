"""Usual distances of good parts by place, and the factors of relative distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmdiad_train.detectors.bank.fitting.usual_distance import MOST_CHANGE, UsualDistances

GRID = 20
EVERYWHERE = torch.ones(8, GRID**2, dtype=torch.bool)


def distances(seed: int = 0) -> torch.Tensor:
    """Distances of eight samples; those in the right half vary more."""
    random = np.random.default_rng(seed).normal(size=(8, GRID, GRID))
    values = 2 + 0.05 * random
    values[:, :, GRID // 2 :] = 3 + 0.3 * random[:, :, GRID // 2 :]
    return torch.from_numpy(values.reshape(8, -1)).float()


def test_equal_distances_stay_as_they_are() -> None:
    factors = UsualDistances(torch.full((8, GRID**2), 3.0), EVERYWHERE, range(8)).factors()
    torch.testing.assert_close(factors, torch.ones(GRID**2))


def test_distances_count_less_where_good_parts_differ_more() -> None:
    factors = UsualDistances(distances(), EVERYWHERE, range(8)).factors().reshape(GRID, GRID)
    assert float(factors[:, :4].min()) > 1 > float(factors[:, -4:].max())


def test_one_odd_sample_hides_at_most_half_of_a_defect() -> None:
    odd = distances()
    odd[3, 150] = 1e6
    factors = UsualDistances(odd, EVERYWHERE, range(8)).factors()
    assert float(factors.min()) == 1 / MOST_CHANGE
    assert float(factors.max()) <= MOST_CHANGE


@pytest.mark.parametrize("picture", [0, 2])
def test_factors_without_a_picture_know_none_of_its_samples(picture: int) -> None:
    owners = [0, 0, 1, 1, 2, 2, 3, 3]
    values, others = distances(), torch.tensor([owner != picture for owner in owners])
    expected = UsualDistances(values[others], EVERYWHERE[others], range(6)).factors()
    values[~others] = 50.0
    factors = UsualDistances(values, EVERYWHERE, owners).factors(without=picture)
    torch.testing.assert_close(factors, expected)


def test_places_that_show_no_part_keep_plain_distances() -> None:
    shown = EVERYWHERE.clone().reshape(8, GRID, GRID)
    shown[:, :, : GRID // 2] = False
    values = distances()
    values[~shown.reshape(8, -1)] = 1e3
    factors = UsualDistances(values, shown.reshape(8, -1), range(8)).factors().reshape(GRID, GRID)
    torch.testing.assert_close(factors[:, 0], torch.ones(GRID), rtol=0, atol=0.01)


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_to_learn_from_changes_nothing(shown: bool) -> None:
    nothing = UsualDistances(torch.zeros(8, GRID**2), EVERYWHERE & shown, range(8))
    assert torch.equal(nothing.factors(), torch.ones(GRID**2))
    assert torch.equal(UsualDistances(distances()[:1], EVERYWHERE[:1], [0]).factors(without=0), torch.ones(GRID**2))
