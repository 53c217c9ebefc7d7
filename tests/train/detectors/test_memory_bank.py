"""Search, reweighting and maps against plain float64 implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank, nearest_others
from cmdiad_train.detectors.bank.published_blur import PilGaussianBlur
from cmdiad_train.detectors.cell_maps import upsampling


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def exact(rows: Tensor, queries: Tensor) -> Tensor:
    """Distances float64 `[T, K]` by differences."""
    return (queries.double()[:, None] - rows.double()[None]).square().sum(2).sqrt()


def published_score(bank: np.ndarray, queries: np.ndarray) -> float:
    """The published scores in float64 (method §12.1 and §12.2)."""
    distance = np.sqrt(((queries[:, None] - bank[None]) ** 2).sum(2))
    nearest = distance.min(1)
    worst = int(nearest.argmax())
    around = bank[distance[worst].argmin()]
    neighbours = np.sqrt(((bank - around) ** 2).sum(1)).argsort(kind="stable")[1:3]
    root = math.sqrt(bank.shape[1])
    to_neighbours = [math.exp(distance[worst, j] / root) for j in neighbours]
    return float((1 - math.exp(nearest[worst] / root) / sum(to_neighbours)) * nearest[worst])


@pytest.mark.parametrize("seed", range(4))
def test_score_is_the_published_reweighting(seed: int) -> None:
    mean, std = 0.3, 2.5
    raw = 3 * noise(40, 24, seed=seed) + 0.3
    queries = 3 * noise(49, 24, seed=seed + 100) + 0.3
    bank = MemoryBank.from_rows((raw - mean) / std, mean, std)
    scorer = BankScorer(bank, grid=7, size=56, published_blur=False)
    score, _ = scorer(queries, torch.arange(49))
    expected = published_score((raw.double().numpy() - mean) / std, (queries.double().numpy() - mean) / std)
    assert float(score) == pytest.approx(expected, rel=1e-5)


def test_repeated_cells_score_like_their_expansion() -> None:
    rows, cells = noise(10, 24), torch.randint(0, 10, (49,), generator=generator())
    scorer = BankScorer(MemoryBank.from_rows(noise(30, 24, seed=1), 0.0, 1.0), grid=7, size=56, published_blur=False)
    short, expanded = scorer(rows, cells), scorer(rows[cells], torch.arange(49))
    torch.testing.assert_close(short, expanded)


def test_row_that_no_cell_uses_never_counts() -> None:
    rows, cells = noise(10, 24), torch.randint(1, 10, (49,), generator=generator())
    scorer = BankScorer(MemoryBank.from_rows(noise(30, 24, seed=1), 0.0, 1.0), grid=7, size=56, published_blur=False)
    score, anomaly_map = scorer(rows, cells)
    rows[0] = 1000.0
    again, same_map = scorer(rows, cells)
    assert torch.equal(score, again)
    assert torch.equal(anomaly_map, same_map)
    used, _ = scorer(rows, torch.zeros(49, dtype=torch.int64))
    assert float(used) > 100


def test_score_of_a_hopeless_part_is_still_a_number() -> None:
    scorer = BankScorer(MemoryBank.from_rows(noise(30, 24), 0.0, 1.0), grid=7, size=56, published_blur=False)
    score, _ = scorer(torch.full((1, 24), 1e5), torch.zeros(49, dtype=torch.int64))
    assert float(score) == pytest.approx(1e5 * math.sqrt(24), rel=0.6)  # the weight lies in [0.5, 1]


@pytest.mark.parametrize("count", [3, 50, 1300])
def test_nearest_others_matches_brute_force(count: int) -> None:
    rows = noise(count, 6)
    distance = exact(rows, rows)
    distance.fill_diagonal_(torch.inf)
    expected = distance.topk(2, largest=False).indices
    assert torch.equal(nearest_others(rows, 2), expected)


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("added", [0, 1, 12])
@pytest.mark.parametrize("removed", [[], [*range(7)], [*range(40, 50)], [3, 4, 20, 31, 49]])
def test_bank_with_exchanged_rows_is_that_of_the_new_rows(removed: list[int], added: int, count: int) -> None:
    rows, further = noise(50, 6), noise(added, 6, seed=1)
    kept = torch.ones(50, dtype=torch.bool)
    kept[removed] = False
    bank = MemoryBank.from_rows(rows, 0.5, 2.0, neighbours=count).exchanged(kept, further)
    expected = MemoryBank.from_rows(torch.cat([rows[kept], further]), 0.5, 2.0, neighbours=count)
    assert torch.equal(bank.rows, expected.rows)
    assert torch.equal(bank.neighbours, expected.neighbours)
    assert (bank.mean, bank.std) == (0.5, 2.0)
    plain = MemoryBank.from_rows(rows, 0.5, 2.0, neighbours=0).exchanged(kept, further)
    assert torch.equal(plain.rows, expected.rows)
    assert plain.neighbours is None


def test_bank_with_fewer_rows_than_neighbours_lists_all_of_them() -> None:
    rows, kept = noise(12, 6), torch.arange(12) < 5
    bank = MemoryBank.from_rows(rows, 0.5, 2.0, neighbours=8).exchanged(kept, rows[:0])
    assert torch.equal(bank.neighbours, MemoryBank.from_rows(rows[:5], 0.5, 2.0, neighbours=8).neighbours)
    assert bank.neighbour_count == 4


def test_bank_of_two_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 rows, got 2"):
        nearest_others(noise(2, 4), 2)


@pytest.mark.parametrize(("grid", "size"), [(28, 224), (56, 224), (14, 112), (7, 100)])
@pytest.mark.parametrize("blur", [False, True])
def test_map_is_bilinear_upsampling_and_gaussian_blur(grid: int, size: int, blur: bool) -> None:
    distance = torch.rand(1, 1, grid, grid, generator=generator(), dtype=torch.float64)
    matrix = upsampling(grid, size, blur=blur).double()
    found = matrix @ distance[0, 0] @ matrix.T
    expected = torch.nn.functional.interpolate(distance, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
    if blur:
        expected = gaussian_filter(expected, 4.0, mode="nearest", truncate=4.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_published_blur_is_pillows_bit_by_bit(seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 256, (61, 64), dtype=np.uint8)
    levels[0, 0] = 255
    blurred = np.asarray(Image.fromarray(levels).filter(ImageFilter.GaussianBlur(4)))
    image = torch.from_numpy((levels + np.float32(0.5)) / np.float32(255.5))  # truncates back to `levels`
    assert np.array_equal((255 * (image / image.max())).to(torch.uint8).numpy(), levels)
    found = PilGaussianBlur()(image)
    np.testing.assert_array_equal(found.numpy(), (torch.from_numpy(blurred.copy()).float() / 255 * image.max()).numpy())


def test_published_blur_of_nothing_is_nothing() -> None:
    assert torch.equal(PilGaussianBlur()(torch.zeros(32, 32)), torch.zeros(32, 32))


def test_scorer_uses_the_published_blur_only_if_asked() -> None:
    bank = MemoryBank.from_rows(noise(30, 24), 0.0, 1.0)
    distance = noise(49, seed=4).abs()
    for published in (False, True):
        found = BankScorer(bank, grid=7, size=56, published_blur=published).map(distance)
        plain = upsampling(7, 56, blur=not published)
        expected = plain @ distance.reshape(7, 7) @ plain.T
        assert torch.equal(found, PilGaussianBlur()(expected) if published else expected)


def test_image_score_can_be_the_largest_distance_itself() -> None:
    rows, queries = noise(60, 12), noise(49, 12, seed=1)
    scorer = BankScorer(MemoryBank.from_rows(rows, 0.0, 1.0), grid=7, size=56, published_blur=False, image_score="max")
    score, _ = scorer(queries, torch.arange(49))
    assert float(score) == pytest.approx(float(exact(rows, queries).amin(1).max()), rel=1e-5)
