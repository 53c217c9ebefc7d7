"""Fusion network, loss, pairs and fused features against computations in float64 and by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.memory_bank import BankScorer, MemoryBank
from cmdiad_train.detectors.m3dm.fitting.pairs import TrainingPairs
from cmdiad_train.detectors.m3dm.fitting.training import rate_at
from cmdiad_train.detectors.m3dm.networks.fused_features import FusedFeatures
from cmdiad_train.detectors.m3dm.networks.fusion_network import Compared, FusionNetwork
from cmdiad_train.detectors.m3dm.networks.loss import contrastive_loss
from cmdiad_train.detectors.m3dm.pairing import paired_cells
from cmdiad_train.recipe import M3dmRecipe, Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(M3dmRecipe(), modality="both", view="top", size=64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(xyz: int = 6, rgb: int = 4) -> FusionNetwork:
    torch.manual_seed(3)
    return FusionNetwork(xyz, rgb).eval().requires_grad_(False)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_loss_is_that_of_all_pairs_one_by_one(temperature: float) -> None:
    q, k = drawn(5, 3), drawn(5, 3, seed=1)
    rows = [[float(v) for v in row] for row in q], [[float(v) for v in row] for row in k]
    unit = [[[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in side] for side in rows]
    total = 0.0
    for i, query in enumerate(unit[0]):
        logits = [sum(a * b for a, b in zip(query, key, strict=True)) / temperature for key in unit[1]]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[i]
    loss = contrastive_loss(Compared(rgb=q, xyz=k), temperature)
    assert float(loss.detach()) == pytest.approx(2 * temperature * total / 5, rel=1e-5)


def test_fewer_than_two_pairs_change_nothing() -> None:
    module = FusionNetwork(6, 4)
    loss = contrastive_loss(module(drawn(1, 6), drawn(1, 4)), 1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_each_half_depends_on_its_own_modality_alone() -> None:
    module = network()
    xyz, rgb = drawn(7, 6), drawn(7, 4)
    before, after = module(xyz, rgb), module(xyz, rgb + 1)
    assert torch.equal(before.xyz, after.xyz) and not torch.equal(before.rgb, after.rgb)


def brute_force(module: FusionNetwork, patches: list[Patches], grids: tuple[int, int], finer: int) -> Tensor:
    """Fused features of every cell in float64, one by one, `[finer², C]`."""
    rows = []
    for y in range(finer):
        for x in range(finer):
            halves = []
            for (features, cells), grid, name in zip(patches, grids, ("xyz", "rgb"), strict=True):
                place = (y * grid // finer) * grid + x * grid // finer
                half = module.half_of(name).double()  # type: ignore[arg-type]
                normed = half.norm(features[cells[place]].double()[None])
                halves.append(half.mlp(normed)[0])
            rows.append(torch.cat(halves))
    return torch.stack(rows)


def cut_out(grid: int, width: int, background: list[int], seed: int) -> Patches:
    """Patch features of an image whose background cells share the row of the first of them."""
    rows, cells = drawn(grid**2, width, seed=seed), torch.arange(grid**2)
    rows[background], cells[background] = 0, background[0]
    return rows, cells


def test_fused_rows_are_those_of_every_cell_on_one_grid() -> None:
    patches = [cut_out(3, 6, [1, 4, 8], 0), cut_out(3, 4, [1, 4], 1)]
    rows, cells = FusedFeatures([network().half_of("xyz"), network().half_of("rgb")], (3, 3), cut_out=True)(patches)
    torch.testing.assert_close(rows[cells].double(), brute_force(network(), patches, (3, 3), 3), rtol=1e-5, atol=1e-6)
    assert cells.tolist() == [0, 1, 2, 3, 1, 5, 6, 7, 8]


def test_fused_rows_are_those_of_every_cell_of_the_finer_grid() -> None:
    points = drawn(5, 6), torch.randint(0, 5, (16,), generator=torch.Generator().manual_seed(0))
    patches = [points, cut_out(2, 4, [3], 1)]
    fused = FusedFeatures([network().half_of("xyz"), network().half_of("rgb")], (4, 2), cut_out=False)
    rows, cells = fused(patches)
    assert fused.grid == 4 and fused.reads_every_cell
    torch.testing.assert_close(rows[cells].double(), brute_force(network(), patches, (4, 2), 4), rtol=1e-5, atol=1e-6)


def test_a_half_alone_returns_the_columns_of_the_fused_rows() -> None:
    patches = [cut_out(3, 6, [1, 4, 8], 0), cut_out(3, 4, [1, 4], 1)]
    rows, cells = FusedFeatures([network().half_of("xyz"), network().half_of("rgb")], (3, 3), cut_out=True)(patches)
    for number, name, columns in ((0, "xyz", slice(0, 6)), (1, "rgb", slice(6, 10))):
        half = FusedFeatures([network().half_of(name)], (3,), cut_out=True)  # type: ignore[arg-type]
        own, of_cells = half([patches[number]])
        assert not half.reads_every_cell and torch.equal(of_cells, patches[number][1])
        torch.testing.assert_close(own[of_cells], rows[cells][:, columns], rtol=0, atol=1e-6)


def test_grids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RunError, match="feature fusion: found grids of 4 and 3 cells"):
        FusedFeatures([network().half_of("xyz"), network().half_of("rgb")], (4, 3), cut_out=False)


def test_published_pairs_are_a_permutation_of_repeated_rows_and_equal_on_one_grid() -> None:
    published = paired_cells("published", 4, 8)
    assert published.bincount().tolist() == [4] * 16
    assert int((published == paired_cells("aligned", 4, 8)).sum()) < 16
    assert torch.equal(paired_cells("published", 5, 5), torch.arange(25))


def test_pairs_are_the_cells_with_points_that_are_inspected() -> None:
    xyz, rgb = cut_out(4, 6, [0, 1, 2, 3], 0), cut_out(4, 4, [0], 1)
    kept = torch.ones(1, 64, 64, dtype=torch.bool)
    kept[:, 48:] = False  # the last row of cells
    pairs = TrainingPairs(RECIPE, {"xyz": [xyz], "rgb": [rgb]}, {"xyz": 4, "rgb": 4}, kept, CPU)
    found = pairs.of([0], None, None)
    assert torch.equal(found.xyz, xyz[0][4:12]) and torch.equal(found.rgb, rgb[0][4:12])
    limited = pairs.of([0], 4, None)
    assert torch.equal(limited.xyz, xyz[0][4:12:2])
    random = pairs.of([0], 4, torch.Generator().manual_seed(0))
    places = [int((found.xyz == row).all(1).nonzero()) for row in random.xyz]
    assert len(set(places)) == 4 and torch.equal(random.rgb, found.rgb[places])


def test_clouds_without_any_point_of_the_part_are_refused() -> None:
    empty = torch.zeros(16, 6), torch.zeros(16, dtype=torch.int64)
    with pytest.raises(RunError, match="feature fusion: found fewer than two cells with points"):
        TrainingPairs(RECIPE, {"xyz": [empty], "rgb": [empty]}, {"xyz": 4, "rgb": 4}, None, CPU)


def test_the_rate_rises_for_a_third_and_ends_at_zero() -> None:
    assert rate_at(0, 30, 2.0) == 0 and rate_at(5, 30, 2.0) == 1 and rate_at(10, 30, 2.0) == 2
    assert rate_at(20, 30, 2.0) == pytest.approx(1) and rate_at(30, 30, 2.0) == pytest.approx(0)


@torch.no_grad()
def test_the_two_bank_form_divides_the_distances_of_the_score_by_a_thousand() -> None:
    rows, query = drawn(12, 5), drawn(9, 5, seed=1)
    bank = MemoryBank.from_rows(rows, 0.0, 1.0)
    scorer = BankScorer(bank, grid=3, size=32, published_blur=False, image_score="thousandth")
    score, _ = scorer(query, torch.arange(9))
    distances = torch.cdist(query.double(), rows.double())
    worst = distances.amin(1).argmax()
    nearest = distances[worst].argmin()
    around = torch.cdist(rows[nearest][None].double(), rows.double())[0].argsort()[1:3]
    s, e = distances[worst, nearest] / 1000, distances[worst, around] / 1000
    weight = 1 - torch.exp(s / 5**0.5) / torch.exp(e / 5**0.5).sum()
    assert float(score) == pytest.approx(float(weight * s), rel=1e-5)


def test_impossible_recipes_are_refused() -> None:
    for changes, words in (
        ({"pairing": "published"}, "pairing"),
        ({"hallucination": "f2f"}, "hallucination"),
        ({"temperature": 0.0}, "temperature"),
        ({"rows": 1}, "rows"),
    ):
        with pytest.raises(RunError, match=words):
            M3dmRecipe(**changes)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="for banks of one sensor choose the family bank"):
        Recipe(M3dmRecipe(feature_fusion="none"), modality="rgb")
    with pytest.raises(RunError, match="must show the same view"):
        Recipe(M3dmRecipe(), modality="both", view="each")
