"""Map and scores of a detector: what counts, what an inspection mask removes, and that nothing is finite by luck."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cmdiad_train.detectors.ast.detector import AsymmetricStudentTeacher
from cmdiad_train.detectors.ast.networks.cells import Cells, Standardisation
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.student import Student
from helpers import tiny_ast_recipe

ONES = torch.ones(1, 1, 8, 8)


def detector(kept: torch.Tensor | None = None, **changes: Any) -> AsymmetricStudentTeacher:
    recipe = tiny_ast_recipe("xyz", **changes)
    cells = Cells(recipe, None)
    torch.manual_seed(0)
    networks = Flow(cells.channels, cells.grid), Student(cells.channels, cells.grid, width=4, units=1)
    return AsymmetricStudentTeacher(recipe, cells, Standardisation(cells.channels), *networks, kept)


def distances() -> torch.Tensor:
    return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_the_map_is_the_bicubic_enlargement_of_the_distances() -> None:
    given = distances()
    score, anomaly_map = detector().scored(given, ONES)
    expected = F.interpolate(given[None], size=(64, 64), mode="bicubic", align_corners=False)[0, 0]
    torch.testing.assert_close(anomaly_map, expected, rtol=0, atol=1e-6)
    assert float(score) == pytest.approx(float(given.mean()), rel=1e-6)
    score, _ = detector(reduction="max").scored(given, ONES)
    assert float(score) == pytest.approx(float(expected.max()), rel=1e-6)


def test_a_larger_difference_anywhere_raises_score_and_map() -> None:
    module, surface = detector(), torch.rand(1, 64, 64, 3) * 255
    with torch.no_grad():
        z, _ = module.flow(module.standardise(module.cells({"surface": surface})[0]))
        module.student.forward = lambda features: z  # type: ignore[method-assign]
        score, anomaly_map = module(surface)
        assert float(score) == 0
        assert not anomaly_map.any()
        changed = surface.clone()
        changed[:, 40:48, 16:24] = 0
        score, anomaly_map = module(changed)
    assert float(score) > 0
    assert divmod(int(anomaly_map.argmax()), 64)[0] // 8 == 5


def test_an_inspection_mask_removes_its_pixels_from_map_and_score() -> None:
    kept = torch.ones(1, 64, 64, dtype=torch.bool)
    kept[:, :16] = False  # the first two rows of cells
    given, other = distances(), distances()
    other[:, :2] = 100
    for reduction in ("mean", "max"):
        module = detector(kept, reduction=reduction)
        score, anomaly_map = module.scored(given, ONES)
        assert not anomaly_map[:16].any()
        changed = module.scored(other, ONES)
        assert torch.equal(score, changed[0])
        assert torch.equal(anomaly_map, changed[1])
        if reduction == "mean":
            assert float(score) == pytest.approx(float(given[:, 2:].mean()), rel=1e-6)


def test_a_detector_that_sees_nothing_gives_no_number() -> None:
    """A mean over no cell is not 0, which would be a good part."""
    score, _ = detector(torch.zeros(1, 64, 64, dtype=torch.bool)).scored(distances(), ONES)
    assert bool(score.isnan())
