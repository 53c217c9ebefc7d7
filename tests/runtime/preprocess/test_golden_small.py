"""Parity of point geometry with the published code, on the arrays that are part of the repository."""

from __future__ import annotations

import numpy as np
import pytest

import golden
from cmdiad_runtime.preprocess.cloud.interpolation import interpolation_weights, pooling_axis
from cmdiad_runtime.preprocess.cloud.points import farthest_point_sampling, group_points


@pytest.mark.parametrize("case", ["near_origin", "ties", "few_valid"])
def test_sampling_corner_cases(case: str) -> None:
    data = golden.small("sampling")
    expected = data[f"fps_{case}_idx"]
    assert np.array_equal(farthest_point_sampling(data[f"fps_{case}_pts"], len(expected)), expected)


def test_groups() -> None:
    data = golden.small("groups")
    grouped = group_points(data["points"], data["centers"], data["groups"].shape[1])
    assert np.array_equal(np.sort(grouped), np.sort(data["groups"]))


def test_interpolation_weights() -> None:
    """The published weights come from rounded distances: the third neighbour of a few points is another one."""
    data = golden.small("interpolation")
    index, weight = interpolation_weights(data["points"], data["centers"])
    ours, published = (np.zeros((len(index), len(data["centers"]))) for _ in range(2))
    np.put_along_axis(ours, index, weight, axis=1)
    np.put_along_axis(published, data["index"].astype(np.int64), data["weight"], axis=1)
    same = (np.sort(index) == np.sort(data["index"])).all(axis=1)
    assert np.count_nonzero(~same) <= 1
    assert np.abs(ours - published)[same].max() < 2e-2
    assert np.median(np.abs(ours - published)[same].max(axis=1)) < 1e-3


def test_windows_of_the_adaptive_average() -> None:
    data = golden.small("interpolation")
    covered = pooling_axis(224, 56) > 0
    first, last = covered.argmax(axis=1), 223 - covered[:, ::-1].argmax(axis=1)
    assert np.array_equal(first, data["start"])
    assert np.array_equal(last - 1, data["end"])  # the 3 x 3 average reaches two pixels further; end is exclusive
