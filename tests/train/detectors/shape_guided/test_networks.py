"""Networks, pursuit and training data of Shape-Guided detectors against independent computations in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.shape_guided.detector import ShapeGuided
from cmdiad_train.detectors.shape_guided.fitting.fit import require_spread
from cmdiad_train.detectors.shape_guided.fitting.patches import spread_of, training_queries
from cmdiad_train.detectors.shape_guided.networks.decoder import FoldedDecoder, pulled
from cmdiad_train.detectors.shape_guided.networks.encoder import FoldedEncoder
from cmdiad_train.detectors.shape_guided.networks.memory import Memory, Pursuit
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.recipe import PUBLISHED_SHAPE_GUIDED
from helpers import tiny_shape_guided_recipe as recipe


def network(width: int = 16) -> ShapeNetwork:
    """A network whose BatchNorms have seen other statistics than 0 and 1."""
    torch.manual_seed(0)
    module = ShapeNetwork(width)
    module.encoder(torch.randn(6, 40, 3))
    return module.eval().requires_grad_(False)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_published_sizes() -> None:
    module = ShapeNetwork(PUBLISHED_SHAPE_GUIDED.decoder_width)
    sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in (module.encoder, module.decoder)]
    assert sizes == [734_848, 2_435_585]


def test_networks_for_inspection_equal_the_trained_ones() -> None:
    module, patches, codes = network(), numbers(3, 20, 3), numbers(3, 128).abs()
    torch.testing.assert_close(FoldedEncoder(module.encoder)(patches), module.encoder(patches), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        FoldedDecoder(module.decoder)(codes, patches), module.decoder(codes, patches), rtol=1e-4, atol=1e-5
    )


def test_queries_are_pulled_along_the_numerical_gradient() -> None:
    module, codes, queries = network().double(), numbers(2, 128).abs().double(), numbers(2, 5, 3).double()
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    moved = [module.decoder(codes, queries + s * shift) for shift in step for s in (1, -1)]
    gradient = torch.stack([(moved[2 * i] - moved[2 * i + 1]) / 2e-6 for i in range(3)], 2)
    unit = gradient / (gradient.square().sum(2, keepdim=True) + 1e-12).sqrt()
    expected = queries - module.decoder(codes, queries)[..., None] * unit
    torch.testing.assert_close(pulled(module.decoder, codes, queries), expected, rtol=1e-4, atol=1e-6)


def omp(x: np.ndarray, rows: np.ndarray, atoms: int, normalised: bool) -> np.ndarray:
    """Matching pursuit by least squares on the chosen rows, float64."""
    chosen: list[int] = []
    rebuilt = np.zeros_like(x)
    for _ in range(atoms):
        merit = (rows @ (x - rebuilt)) ** 2 / ((rows**2).sum(1) if normalised else 1)
        chosen.append(int(merit.argmax()))
        rebuilt = rows[chosen].T @ np.linalg.lstsq(rows[chosen].T, x, rcond=None)[0]
    return rebuilt


@pytest.mark.parametrize("normalised", [True, False])
def test_pursuit_equals_least_squares_on_the_chosen_rows(normalised: bool) -> None:
    vectors, rows = numbers(7, 12), numbers(7, 9, 12, seed=2) * torch.linspace(0.5, 3, 9)[:, None]
    rebuilt = Pursuit(3, normalised=normalised)(vectors, rows)
    pairs = zip(vectors.double().numpy(), rows.double().numpy(), strict=True)
    expected = np.stack([omp(x, own, 3, normalised) for x, own in pairs])
    np.testing.assert_allclose(rebuilt.numpy(), expected, rtol=0, atol=1e-5)


def test_degenerate_neighbours_end_the_pursuit_with_finite_numbers() -> None:
    row = numbers(12)
    cases = {
        "equal rows": (row * 1.5, row.expand(4, -1)),
        "a copy": (row, torch.stack([numbers(12, seed=3), row, 5 * numbers(12, seed=4)])),
        "zeros": (torch.zeros(12), torch.stack([row, 2 * row])),
        "rows of zeros": (row, torch.zeros(3, 12)),
    }
    for (name, (vector, rows)), normalised in itertools.product(cases.items(), (True, False)):
        rebuilt = Pursuit(3, normalised=normalised)(vector[None], rows[None])[0]
        assert bool(torch.isfinite(rebuilt).all()), name
        if normalised and name in ("equal rows", "a copy"):
            torch.testing.assert_close(rebuilt, vector, rtol=0, atol=1e-5)
        if normalised and name == "zeros":  # a dead code must not look as if it were known
            assert torch.equal(rebuilt, row)


def test_the_nearest_codes_are_those_of_brute_force() -> None:
    rows, codes = numbers(50, 128).abs(), numbers(6, 128, seed=2).abs()
    expected = torch.cdist(codes.double(), rows.double()).argsort(1)[:, :10]
    memory = Memory(rows, neighbours=10, atoms=3, normalised=True)
    assert torch.equal(memory.nearest(memory.keys(codes)), expected)


@pytest.mark.parametrize("seed", range(3))
def test_nearly_parallel_codes_are_rebuilt_as_in_float64(seed: int) -> None:
    common = 5 * numbers(1, 128, seed=9).abs() / 9
    rows, codes = common + 0.002 * numbers(200, 128, seed=seed), common + 0.002 * numbers(60, 128, seed=seed + 10)
    memory = Memory(rows, neighbours=10, atoms=1, normalised=True)
    expected = torch.cdist(codes.double(), rows.double()).argsort(1)[:, :10]
    nearest = memory.nearest(memory.keys(codes))
    assert bool((nearest == expected).all(1).float().mean() > 0.95)
    of_rows = zip(codes.double().numpy(), rows[expected].double().numpy(), strict=True)
    rebuilt = np.stack([omp(x, own, 1, True) for x, own in of_rows])
    np.testing.assert_allclose(memory.rebuilt(codes, expected).numpy(), rebuilt, rtol=0, atol=1e-5)


def test_queries_are_next_to_their_nearest_points() -> None:
    patches, noise, factor = numbers(2, 60, 3), numbers(2, 60, 3, seed=2), torch.tensor([0.5, 1.0])
    distances = torch.cdist(patches.double(), patches.double())
    torch.testing.assert_close(spread_of(patches).double(), distances.sort(2).values[:, :, 6], rtol=1e-5, atol=1e-6)
    queries, targets = training_queries(patches, noise, factor)
    expected = patches + factor[:, None, None] * spread_of(patches)[..., None] * noise
    torch.testing.assert_close(queries, expected)
    nearest = torch.cdist(queries.double(), patches.double()).amin(2)
    torch.testing.assert_close((queries - targets).norm(dim=2).double(), nearest, rtol=1e-4, atol=1e-6)


def test_a_pixel_has_the_smallest_distance_of_its_places() -> None:
    kept = torch.ones(1, 64, 64, dtype=torch.bool)
    kept[:, :, :8] = False
    detector = ShapeGuided(recipe(), network(), numbers(30, 128).abs(), kept)
    patches = numbers(96, 32, 3)
    cover = torch.zeros(64, 64, 12, dtype=torch.int32)
    cover[20, 30], cover[21, 4] = torch.tensor([5, 40, 2000] + [5] * 9), 7
    codes = detector.memory(detector.codes(patches))
    values = detector.decoder(codes, patches).abs().flatten()
    distances = detector.distances(codes, patches, cover)
    assert distances[20, 30] == values[[4, 39, 1999]].min()
    assert distances[21, 4] == values[6]
    assert int((distances > 0).sum()) == 2
    score, anomaly_map = detector(patches[None], cover[None])
    assert float(score) == pytest.approx(float((detector.codes(patches) - codes).norm(dim=1).max()), rel=1e-5)
    assert not anomaly_map[:, :8].any() and anomaly_map[20, 30] == anomaly_map.max() > 0


def test_codes_that_cannot_tell_patches_apart_are_refused() -> None:
    require_spread(numbers(4, 128))
    for codes in (torch.ones(4, 128), torch.zeros(4, 128), torch.full((4, 128), float("nan"))):
        with pytest.raises(RunError, match="codes of good patches that differ"):
            require_spread(codes)
