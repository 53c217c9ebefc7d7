"""Mean and standard deviation of the branches over the maps of held-out good samples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.trd.fitting.calibration import calibrate_branches

MAPS = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 4.0])[:, None, None]


class KnownMaps:
    """A detector with two branches whose maps are known."""

    branches = (None, None)
    input_names = ("number",)

    def __init__(self, maps: Tensor = MAPS) -> None:
        self.maps = maps

    def branch_maps(self, number: Tensor) -> Tensor:
        return self.maps[int(number)]


def context(count: int = 3, kept: Tensor | None = None) -> Any:
    """A training with `count` held-out samples, whose only input is their number."""
    samples = SimpleNamespace(prepared=lambda number: SimpleNamespace(inputs={"number": np.array(number)}))
    reporter = SimpleNamespace(step=lambda *_: None)
    recipe = SimpleNamespace(mains=("xyz", "rgb"))
    return SimpleNamespace(held_out=range(count), samples=samples, reporter=reporter, recipe=recipe, kept=kept)


@pytest.mark.parametrize("count", [2, 3])
def test_statistics_are_those_of_all_pixels(count: int) -> None:
    mean, deviation = calibrate_branches(context(count), KnownMaps())  # type: ignore[arg-type]
    pixels = MAPS[:count].double().numpy()
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation, pixels.std((0, 2, 3)), rtol=1e-12)  # of the population
    assert mean.dtype == deviation.dtype == torch.float64


def test_pixels_of_an_ignored_region_do_not_count() -> None:
    kept = torch.zeros(1, 32, 32, dtype=torch.bool)
    kept[0, 4:20, 7:11] = True
    mean, deviation = calibrate_branches(context(kept=kept), KnownMaps())  # type: ignore[arg-type]
    pixels = MAPS[:, :, 4:20, 7:11].double().numpy()
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation, pixels.std((0, 2, 3)), rtol=1e-12)


def test_each_view_has_its_own_ignored_region() -> None:
    kept = torch.zeros(2, 32, 32, dtype=torch.bool)
    kept[0, 4:20, 7:11] = kept[1, :30] = True
    mean, deviation = calibrate_branches(context(kept=kept), KnownMaps())  # type: ignore[arg-type]
    regions = [MAPS[:, 0, 4:20, 7:11].double().numpy(), MAPS[:, 1, :30].double().numpy()]
    np.testing.assert_allclose(mean, [region.mean() for region in regions], rtol=1e-12)
    np.testing.assert_allclose(deviation, [region.std() for region in regions], rtol=1e-12)


@pytest.mark.parametrize("value", [3.0, float("nan"), float("inf")])
def test_maps_that_detect_nothing_are_refused(value: float) -> None:
    maps = MAPS.clone()
    maps[:, 1] = value
    with pytest.raises(RunError, match=r"rgb student: found anomaly maps .* standard deviation of"):
        calibrate_branches(context(), KnownMaps(maps))  # type: ignore[arg-type]
