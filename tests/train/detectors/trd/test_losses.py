"""Distances between features against their definition in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cmdiad_train.detectors.trd.losses import flat_cosine, pixel_cosine, student_loss
from cmdiad_train.detectors.trd.networks.student import StudentOutputs


def levels(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 4, 8, 8), (3, 6, 4, 4), (3, 8, 2, 2))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(1 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_the_published_distance_compares_a_level_as_one_vector() -> None:
    a, b = levels(0), levels(1)
    expected = sum(
        np.mean([distance(x, y) for x, y in zip(p.numpy(), q.numpy(), strict=True)]) for p, q in zip(a, b, strict=True)
    )
    assert float(flat_cosine(a, b)) == pytest.approx(expected, rel=1e-12)


def test_the_distance_by_pixel_is_the_mean_of_the_anomaly_map() -> None:
    a, b = levels(0), levels(1)
    expected = 0.0
    for p, q in zip(a, b, strict=True):
        places = zip(
            p.permute(0, 2, 3, 1).flatten(0, 2).numpy(), q.permute(0, 2, 3, 1).flatten(0, 2).numpy(), strict=True
        )
        expected += float(np.mean([distance(x, y) for x, y in places]))
    assert float(pixel_cosine(a, b)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("measure", [flat_cosine, pixel_cosine])
def test_squares_of_half_precision_features_do_not_overflow(measure: object) -> None:
    a, b = ([(400 * level).half() for level in levels(seed)] for seed in (0, 1))
    assert callable(measure)
    loss = measure(a, b)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(measure([x.double() for x in a], [y.double() for y in b])), rel=1e-5)


@pytest.mark.parametrize("measure", [flat_cosine, pixel_cosine])
def test_the_magnitude_of_features_is_free(measure: object) -> None:
    a, b = levels(0), levels(1)
    assert callable(measure)
    assert float(measure([7 * level for level in a], b)) == pytest.approx(float(measure(a, b)), rel=1e-12)
    assert float(measure(a, a)) == pytest.approx(0, abs=1e-12)


def test_terms_of_a_student_with_both_modalities() -> None:
    outputs = StudentOutputs(torch.zeros(1), levels(0), levels(1), levels(2), levels(3))
    terms = student_loss(outputs, levels(4), "flat")
    for seed, name in enumerate(("raw", "filtered", "amplified", "fused")):
        assert terms.pop(name) == flat_cosine(levels(seed), levels(4))
    assert not terms


def test_a_student_of_one_modality_counts_its_reconstruction_once() -> None:
    outputs = StudentOutputs(torch.zeros(1), levels(0), [], [], levels(0))
    assert student_loss(outputs, levels(1), "pixel") == {"raw": pixel_cosine(levels(0), levels(1))}
