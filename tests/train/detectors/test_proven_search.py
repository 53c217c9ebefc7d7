"""The proven search, and its proof by itself, against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings, brute_force
from cmdiad_train.detectors.bank.search.proven import ProvenSearch, search_by, squared_distance
from search_features import KINDS, exact, features, low_rank_features, noise


def all_features(kind: str) -> tuple[Tensor, Tensor]:
    return low_rank_features() if kind == "low rank" else features(kind)


@pytest.mark.parametrize("kind", [*KINDS, "low rank"])
@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize(("candidates", "width"), [(1, 4), (8, 10), (32, 40)])
def test_it_finds_the_nearest_row(kind: str, chunk: int | None, candidates: int, width: int) -> None:
    rows, queries = all_features(kind)
    distance, index = ProvenSearch(rows, SearchSettings(candidates, width, chunk, proven=True))(queries)
    expected = exact(rows, queries)
    np.testing.assert_allclose(distance, expected.amin(1), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(expected.gather(1, index[:, None])[:, 0], expected.amin(1), rtol=2e-5, atol=1e-5)


def in_doubt(search: ProvenSearch, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Which queries are in doubt, and the row that the candidates alone would give."""
    leading, rest = search._turn(queries)
    keys, nearest = search._candidates(leading, rest)
    squared = squared_distance(leading[:, None], rest[:, None], search.leading[nearest], search.rest[nearest])
    best, position = squared.min(1)
    return keys[:, -1] > search._proving(leading, rest, best), nearest.gather(1, position[:, None])[:, 0]


@pytest.mark.parametrize("kind", [*KINDS, "low rank"])
def test_what_is_not_in_doubt_is_right(kind: str) -> None:
    """The proof itself, without the full search that would hide a wrong one."""
    rows, queries = all_features(kind)
    queries = torch.cat([queries, 0.3 * queries, rows[:50] + 1e-3 * noise(50, 48, seed=7)])
    expected = exact(rows, queries)
    doubts = []
    for width in (2, 10, 30, 46):
        for candidates in (1, 4, 16):
            search = ProvenSearch(rows, SearchSettings(candidates, width, proven=True))
            doubt, index = in_doubt(search, queries)
            found = expected.gather(1, index[:, None])[:, 0]
            np.testing.assert_allclose(found[~doubt], expected.amin(1)[~doubt], rtol=2e-5, atol=1e-5)
            doubts.append(float(doubt.float().mean()))
    assert max(doubts) > 0.3  # few candidates in two components settle little,
    assert min(doubts) < 0.3  # many in nearly all components most


@pytest.mark.parametrize("kind", [*KINDS, "low rank"])
def test_bounds_are_above_the_products(kind: str) -> None:
    rows, queries = all_features(kind)
    search = ProvenSearch(rows, SearchSettings(4, 10, proven=True))
    leading, rest = search._turn(queries)
    bounds = search._bounding(leading, rest).double() @ search.leading.double().T
    products = leading.double() @ search.leading[:, :-1].double().T + rest.double() @ search.rest.double().T
    assert bool((bounds >= products).all())


@pytest.mark.parametrize("kind", [*KINDS, "low rank"])
def test_turning_changes_no_distance(kind: str) -> None:
    """Within what single precision leaves of rows of such length: 2⁻²² of it."""
    rows, queries = all_features(kind)
    search = ProvenSearch(rows, SearchSettings(4, 10, proven=True))
    lengths = (rows - rows.mean(0)).norm(dim=1).max() + (queries - rows.mean(0)).norm(dim=1).max()
    expected = exact(rows, queries)
    for number in (0, 5, 63):
        found = search.distance_to(queries[number], torch.arange(len(rows)))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected[number], rtol=1e-6, atol=float(lengths) * 2**-22)


def test_nothing_of_the_bank_is_kept_twice() -> None:
    rows, _ = low_rank_features()
    search = ProvenSearch(rows, SearchSettings(4, 10, proven=True))
    of_rows = [buffer for buffer in search.buffers() if len(buffer) == len(rows)]
    assert sum(buffer.numel() for buffer in of_rows) == len(rows) * (48 + 2)  # with a length and a half square each


def test_rivals_are_as_many_candidates_as_leave_no_doubt() -> None:
    rows, queries = low_rank_features()
    nearest, _ = brute_force(queries, rows)
    rivals = ProvenSearch(rows, SearchSettings(1, 6, proven=True)).rivals(queries, nearest.float())
    assert int(rivals.min()) >= 1  # the nearest row itself
    assert len(set(rivals.tolist())) > 5
    for candidates in (2, 5, 20):
        doubt, _ = in_doubt(ProvenSearch(rows, SearchSettings(candidates, 6, proven=True)), queries)
        assert torch.equal(doubt, rivals >= candidates)


def test_with_all_components_there_is_nothing_to_prove() -> None:
    rows, queries = features("plain")
    search = search_by(rows, SearchSettings(width=48, proven=True))
    assert isinstance(search, BankSearch)
    assert torch.equal(search(queries)[1], BankSearch(rows)(queries)[1])


@pytest.mark.parametrize("proven", [False, True])
def test_axes_that_are_known_already_are_taken(proven: bool) -> None:
    rows, queries = low_rank_features()
    plan = SearchSettings(8, 10, proven=proven)
    found = search_by(rows, plan)
    axes = torch.linalg.svd((rows - rows.mean(0)).double(), full_matrices=False)[2].T.float()
    given = search_by(rows, plan, axes)
    assert isinstance(given, ProvenSearch) == proven
    np.testing.assert_allclose(given(queries)[0], found(queries)[0], rtol=2e-5)
