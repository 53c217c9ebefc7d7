"""Greedy k-centre selection and its random projection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

import golden
from cmdiad_train.detectors.bank.fitting import coreset
from cmdiad_train.detectors.bank.fitting.coreset import (
    SelectionsWithout,
    covering_radius,
    distance_to_nearest,
    greedy_coreset,
    project,
    projection_matrix,
)
from lanes import long
from studies.coreset import plain_greedy


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def naive_greedy(points: np.ndarray, count: int, selected: Sequence[int] = (0,)) -> list[int]:
    """The greedy selection in float64, without any shortcut (method §11.2)."""
    selected = [*selected]
    while len(selected) < count:
        distance = np.sqrt(((points[:, None] - points[selected][None]) ** 2).sum(2)).min(1)
        selected.append(int(distance.argmax()))
    return selected


def clustered(count: int, width: int, *, spread: float = 0.2, seed: int = 0) -> torch.Tensor:
    """Twelve clusters and, among them, rows that are ten times as far out."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, width, generator=generator)
    points = centres[torch.randint(12, (count,), generator=generator)]
    points += spread * torch.rand(count, 1, generator=generator) * torch.randn(count, width, generator=generator)
    points[::97] *= 10
    return points


def repeated(count: int, distinct: int, width: int) -> torch.Tensor:
    """Each row several times over, and a third of them zero, as the background cells of a cloud are."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(distinct, width, generator=generator)[torch.randint(distinct, (count,), generator=generator)]
    points[torch.rand(count, generator=generator) < 1 / 3] = 0
    return points


def on_a_grid(count: int, width: int) -> torch.Tensor:
    """Small whole numbers: distances tie exactly, also in float16."""
    return torch.randint(0, 5, (count, width), generator=torch.Generator().manual_seed(2)).float()


HARD = {
    "random": rows(1500, 24),
    "offset": 0.1 * rows(1500, 24) + 20,
    "clustered": clustered(1500, 24),
    "tight": clustered(1500, 24, spread=0.01),
    "one far row": torch.cat([rows(1499, 8), torch.full((1, 8), 1000.0)]),
    "repeated": repeated(1500, 400, 24),
    "grid": on_a_grid(1500, 6),
    "line": torch.linspace(0, 1, 1500)[:, None],
    "equal": torch.ones(1500, 4),
    "tiny": 1e-4 * rows(1500, 24),
}


@pytest.mark.parametrize("candidates", [long(1), 16, long(100), 4096])
@pytest.mark.parametrize("kind", HARD)
def test_published_form_makes_the_picks_of_the_plain_one(
    kind: str, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    monkeypatch.setattr(coreset, "BLOCK_VALUES", {"cpu": 999})
    found = greedy_coreset(HARD[kind], 300, half=True)
    assert found.tolist() == plain_greedy(HARD[kind], 300, half=True).tolist()


@pytest.mark.parametrize("candidates", [1, 16, 100, 4096])
@pytest.mark.parametrize("kind", HARD)
def test_every_pick_is_the_farthest_row(kind: str, candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, within the rounding of a squared distance in float32."""
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    monkeypatch.setattr(coreset, "BLOCK_VALUES", {"cpu": 999})
    points = HARD[kind].double().numpy()
    rounding = 1e-6 * ((points - points.mean(0)) ** 2).sum(1).max()
    found = greedy_coreset(HARD[kind], 300)
    assert found[0] == 0
    nearest = np.full(len(points), np.inf)
    for last, pick in pairwise(found):
        nearest = np.minimum(nearest, ((points - points[last]) ** 2).sum(1))
        assert nearest[pick] >= nearest.max() - rounding
    plain = plain_greedy(HARD[kind], 300)
    assert covering_radius(HARD[kind], found) == pytest.approx(covering_radius(HARD[kind], plain), rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_rounds_save_work(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many picks a round, and rows in tight clusters are left alone once their cluster is reached."""
    monkeypatch.setattr(coreset, "CANDIDATES", 100)
    met: list[int] = []
    shorten = coreset._shorten

    def count(nearest: torch.Tensor, squared: torch.Tensor, *rest: object) -> None:
        met.append(squared.numel())
        shorten(nearest, squared, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(coreset, "_shorten", count)
    told: list[int] = []
    greedy_coreset(HARD["random"], 300, half=half, progress=lambda done, _: told.append(done))
    assert len(told) < 30
    met.clear()
    greedy_coreset(HARD["tight"], 40, half=half)
    assert sum(met) < 0.7 * 40 * len(HARD["tight"])


@pytest.mark.parametrize("row", [0, 20])
@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (float("inf"), True), (1e5, True)])
def test_rows_that_are_not_finite_are_refused(value: float, half: bool, row: int) -> None:
    points = rows(50, 4)
    points[row, 2] = value
    with pytest.raises(ValueError, match="rows to select from must be finite"):
        greedy_coreset(points, 10, half=half)


@pytest.mark.parametrize("half", [False, True])
def test_rows_that_run_out_give_the_first_one(half: bool) -> None:
    points = on_a_grid(5, 2)[[0, 1, 2, 1, 0, 2]]
    assert len(points.unique(dim=0)) == 3
    found = greedy_coreset(points, 6, half=half).tolist()
    assert sorted(found) == [0, 0, 0, 0, 1, 2]
    assert found[0] == found[3] == 0


@pytest.mark.parametrize(("count", "width", "seed"), [(60, 3, 0), (200, 16, 1), (120, 40, 2)])
def test_greedy_matches_the_naive_form(count: int, width: int, seed: int) -> None:
    points = rows(count, width, seed)
    found = greedy_coreset(points, count // 3)
    assert found.tolist() == naive_greedy(points.double().numpy(), count // 3)
    assert found.dtype == np.int64


def test_greedy_is_not_misled_by_a_common_offset() -> None:
    points = 0.1 * rows(120, 8) + 20
    assert greedy_coreset(points, 20).tolist() == naive_greedy(points.double().numpy(), 20)


def test_ties_go_to_the_lowest_index() -> None:
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert greedy_coreset(square, 4).tolist() == [0, 3, 1, 2]


def test_published_form_selects_each_row_once_while_there_are_others() -> None:
    chosen = greedy_coreset(rows(100, 8), 100, half=True)
    assert sorted(chosen.tolist()) == list(range(100))


def test_progress_counts_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    greedy_coreset(rows(200, 4), 150, progress=lambda done, count: told.append((done, count)))
    assert told[-1] == (150, 150)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.golden
@pytest.mark.skipif(not golden.GOLDEN.is_dir(), reason="shared/golden is not beside this checkout")
@pytest.mark.parametrize(("half", "key"), [(True, "cs_idx_fp16"), (False, "cs_idx_fp32")])
def test_published_selections(half: bool, key: str) -> None:
    stored = golden.load("small_cases")
    projected = torch.from_numpy(stored["cs_z_projected"])
    np.testing.assert_array_equal(greedy_coreset(projected, len(stored[key]), half=half), stored[key])


@pytest.mark.parametrize("count", [50, 4500])
def test_covering_radius_matches_brute_force(count: int) -> None:
    points, selected = rows(count, 5), np.arange(0, count, max(1, count // 7))
    exact = points.double().numpy()
    distance = np.sqrt(((exact[:, None] - exact[selected][None]) ** 2).sum(2)).min(1)
    assert covering_radius(points, selected) == pytest.approx(float(distance.max()), rel=1e-5)


def test_greedy_covers_better_than_chance() -> None:
    points = rows(1000, 8)
    chance = np.random.default_rng(0).permutation(1000)[:50]
    assert covering_radius(points, greedy_coreset(points, 50)) < 0.9 * covering_radius(points, chance)


def test_projection_preserves_distances_within_eps() -> None:
    points = rows(2000, 1024)
    projected = project(points, eps=0.5, seed=0)
    assert projected.shape == (2000, int(4 * np.log(2000) / (0.5**2 / 2 - 0.5**3 / 3)))
    first, second = np.random.default_rng(0).integers(0, 2000, (2, 3000))
    apart = first != second
    before = (points[first] - points[second])[apart].square().sum(1)
    after = (projected[first] - projected[second])[apart].square().sum(1)
    ratio = (after / before).numpy()
    assert (np.abs(ratio - 1) < 0.5).mean() > 0.999
    assert ratio.mean() == pytest.approx(1, abs=0.05)


def test_projection_in_blocks_is_the_whole_product() -> None:
    points = rows(2500, 1024)
    components = projection_matrix(points.shape, eps=0.9, seed=0)
    assert components is not None
    whole = np.ascontiguousarray((components @ points.numpy().T).T)
    np.testing.assert_array_equal(project(points, eps=0.9, seed=0).numpy(), whole)


def test_projection_depends_on_the_seed_alone() -> None:
    points = rows(500, 400)
    assert torch.equal(project(points, eps=0.9, seed=3), project(points, eps=0.9, seed=3))
    assert not torch.equal(project(points, eps=0.9, seed=3), project(points, eps=0.9, seed=4))


def test_rows_narrower_than_the_projection_stay_as_they_are() -> None:
    points = rows(500, 32)
    assert projection_matrix(points.shape, eps=0.9, seed=0) is None
    assert project(points, eps=0.9, seed=0) is points


@pytest.mark.parametrize("owners", [torch.arange(600) // 60, torch.arange(600) % 10, (torch.arange(600) > 0).long()])
def test_selection_without_an_owner_is_completed_greedily_among_the_rows_of_others(owners: torch.Tensor) -> None:
    points = clustered(600, 12)
    selected = torch.from_numpy(greedy_coreset(points, 150))
    selections = SelectionsWithout(points, owners, selected)
    for owner in range(int(owners.max())):
        others = (owners != owner).nonzero()[:, 0]
        count = 150 * len(others) // 600
        stays, added = selections.without(owner, count)
        kept = selected[stays].tolist()
        assert kept == [row for row in selected.tolist() if owners[row] != owner][:count]
        positions = {row: i for i, row in enumerate(others.tolist())}
        expected = naive_greedy(points[others].double().numpy(), count, [positions[row] for row in kept])
        assert [positions[row] for row in added.tolist()] == expected[len(kept) :]


@pytest.mark.parametrize(("first", "count"), [(300, 300), (270, 270)])
def test_completed_selection_covers_the_rows_as_one_from_scratch_does(first: int, count: int) -> None:
    """The bank keeps its size, as if it were full, or shrinks with the rows: a fraction of the rows."""
    points, owners = clustered(1500, 24), torch.arange(1500) // 150
    selected = torch.from_numpy(greedy_coreset(points, 300))[:first]
    selections = SelectionsWithout(points, owners, selected)
    for owner in range(10):
        others = points[owners != owner]
        stays, added = selections.without(owner, count)
        completed = points[torch.cat([selected[stays], added])]
        assert len(completed) == count
        radius, best = distance_to_nearest(others, completed).max(), greedy_coreset(others, count)
        assert float(radius) == pytest.approx(covering_radius(others, best), rel=0.03)


def test_selection_of_one_owner_alone_is_replaced() -> None:
    points, owners = rows(40, 4), torch.tensor([0] * 20 + [1] * 20)
    stays, added = SelectionsWithout(points, owners, torch.arange(5)).without(0, 5)
    assert len(stays) == 0
    assert (owners[added] == 1).all()
    assert len(set(added.tolist())) == 5


def test_selection_without_an_owner_ends_when_all_other_rows_equal_a_pick() -> None:
    points = torch.cat([torch.zeros(5, 3), torch.ones(5, 3), rows(10, 3)])
    owners = torch.tensor([0] * 10 + [1] * 10)
    stays, added = SelectionsWithout(points, owners, torch.from_numpy(greedy_coreset(points, 12))).without(1, 6)
    assert len(stays) + len(added) == 2
