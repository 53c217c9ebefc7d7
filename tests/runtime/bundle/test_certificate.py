"""How far an engine's results may lie from the trained detector's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cmdiad_runtime.bundle.certificate import compare, tolerance_for
from cmdiad_runtime.bundle.golden import GoldenSample
from cmdiad_runtime.bundle.threshold import calibrate

CALIBRATION = calibrate([1.0, 1.1, 0.9], [2.0, 2.0, 2.1], 0.3)


class Shifted:
    """An engine that gives the golden results, one value of each map shifted."""

    description = "shifted"
    identity = "shifted"

    def __init__(self, maps: npt.NDArray[np.float32], shift: float) -> None:
        self.maps, self.shift = maps.copy(), shift
        self.maps[..., 3, 4] += shift

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        return {"score": np.array([5.0], np.float32), "map": self.maps}

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (2, 8, 8)])
def test_errors_of_maps_that_add_up_add_up(shape: tuple[int, ...]) -> None:
    maps = np.ones(shape, np.float32)
    golden = [GoldenSample("0-good", {}, 5.0, maps, tampered=False)]
    tolerance = tolerance_for("fp32", published_blur=False)
    limit = tolerance.map * CALIBRATION.map_threshold
    count = shape[0] if len(shape) == 3 else 1
    within = compare(Shifted(maps, 0.95 * limit / count), "fp32", golden, CALIBRATION, tolerance)
    assert within.passed
    assert within.map_max_abs == pytest.approx(0.95 * limit, rel=1e-3)
    assert not compare(Shifted(maps, 1.05 * limit / count), "fp32", golden, CALIBRATION, tolerance).passed
