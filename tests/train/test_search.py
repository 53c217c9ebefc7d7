"""The search against brute force in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from cmdiad_train.search import BankSearch, SearchPlan, brute_force, nearest_of, principal_components


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def features(kind: str) -> tuple[Tensor, Tensor]:
    """A bank `[300, 48]` and queries `[64, 48]` of one kind of difficulty."""
    rows, queries = noise(300, 48), noise(64, 48, seed=1)
    if kind == "common offset":  # as an untrained or linear network gives: all vectors point one way
        offset = 30 * noise(48, seed=2)
        return 0.05 * rows + offset, 0.05 * queries + offset
    if kind == "outlier channel":
        scale = torch.ones(48)
        scale[7] = 40
        return rows * scale, queries * scale
    if kind == "copies":  # queries that are in the bank
        return rows, rows[:64].clone()
    return rows, queries


KINDS = ["plain", "common offset", "outlier channel", "copies"]


def exact(rows: Tensor, queries: Tensor) -> Tensor:
    """Distances float64 `[T, K]` by differences."""
    return (queries.double()[:, None] - rows.double()[None]).square().sum(2).sqrt()


@pytest.mark.parametrize("kind", KINDS)
def test_brute_force_is_the_smallest_of_all_distances(kind: str) -> None:
    rows, queries = features(kind)
    expected = exact(rows, queries)
    distance, index = brute_force(queries, rows)
    assert distance.dtype == torch.float64
    assert torch.equal(index, expected.argmin(1))
    np.testing.assert_allclose(distance, expected.amin(1), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("candidates", [1, 4])
def test_search_finds_the_nearest_row(kind: str, candidates: int) -> None:
    rows, queries = features(kind)
    distance, index = BankSearch(rows, SearchPlan(candidates))(queries)
    expected = exact(rows, queries)
    np.testing.assert_allclose(distance, expected.amin(1), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(expected.gather(1, index[:, None])[:, 0], expected.amin(1), rtol=2e-5, atol=1e-5)
    assert distance.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_search_measures_in_single_precision(kind: str) -> None:
    rows, queries = features(kind)
    search = BankSearch(rows).to_half()
    distance, index = search(queries)
    expected = exact(rows, queries)
    typical = float(expected.amin(1).median()) or float(expected.median())
    assert search.rows.dtype == torch.float16
    assert distance.dtype == torch.float32
    np.testing.assert_allclose(distance, expected.amin(1), atol=5e-3 * typical)
    np.testing.assert_allclose(expected.gather(1, index[:, None])[:, 0], expected.amin(1), atol=5e-3 * typical)


def test_half_precision_search_does_not_overflow() -> None:
    rows, queries = 300 * noise(50, 768), 300 * noise(8, 768, seed=1)
    distance, _ = BankSearch(rows).to_half()(queries)
    np.testing.assert_allclose(distance, exact(rows, queries).amin(1), rtol=2e-3)


def test_candidates_are_never_more_than_the_bank_has() -> None:
    rows = noise(3, 8)
    distance, index = BankSearch(rows, SearchPlan(9))(rows)
    assert index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(distance, 0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [False, True])
def test_distance_to_named_rows(kind: str, half: bool) -> None:
    rows, queries = features(kind)
    search = BankSearch(rows).to_half() if half else BankSearch(rows)
    index = torch.tensor([5, 0, 299])
    expected = exact(rows, queries)[3, index]
    np.testing.assert_allclose(search.distance_to(queries[3], index), expected, rtol=5e-3 if half else 1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [7, 64, 300, 1000])
def test_loop_over_chunks_finds_what_the_whole_product_finds(kind: str, chunk: int) -> None:
    rows, queries = features(kind)
    expected = exact(rows, queries)
    distance, index = BankSearch(rows, SearchPlan(chunk=chunk))(queries)
    np.testing.assert_allclose(distance, expected.amin(1), rtol=2e-5, atol=1e-5)
    assert int(index.max()) < len(rows)


@pytest.mark.parametrize("half", [False, True])
def test_loop_is_a_loop_in_the_graph(tmp_path: Path, half: bool) -> None:
    rows, queries = features("plain")
    search = BankSearch(rows, SearchPlan(chunk=64))
    search = (search.to_half() if half else search).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("rows", min=2, max=100)},)
        program = torch.onnx.export(
            search, (queries,), dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False
        )
    assert program is not None
    program.save(tmp_path / "search.onnx")
    assert {n.op_type for n in program.model_proto.graph.node} & {"Scan", "Loop"}
    session = onnxruntime.InferenceSession(tmp_path / "search.onnx")
    for count in (64, 3):
        found = session.run(None, {session.get_inputs()[0].name: queries[:count].numpy()})
        expected = search(queries[:count])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        np.testing.assert_array_equal(found[1], expected[1])


def low_rank_features() -> tuple[Tensor, Tensor]:
    """A bank and queries with most of their variance in 10 of 48 dimensions, as real features have."""
    mix = noise(10, 48, seed=3)
    return noise(2000, 10) @ mix + 0.2 * noise(2000, 48, seed=5), noise(64, 10, seed=4) @ mix + 0.2 * noise(64, 48)


def test_principal_components_are_orthonormal_and_leading() -> None:
    rows, _ = low_rank_features()
    rows = rows - rows.mean(0)
    basis = principal_components(rows, 10)
    np.testing.assert_allclose(basis.T @ basis, np.eye(10), atol=1e-5)
    kept = (rows @ basis).square().sum() / rows.square().sum()
    assert float(kept) > 0.95


@pytest.mark.parametrize("chunk", [None, 256])
def test_projected_candidates_are_measured_exactly(chunk: int | None) -> None:
    rows, queries = low_rank_features()
    distances = exact(rows, queries)
    recall = []
    for candidates in (1, 4, 32):
        distance, index = BankSearch(rows, SearchPlan(candidates, width=10, chunk=chunk))(queries)
        np.testing.assert_allclose(distance, distances.gather(1, index[:, None])[:, 0], rtol=2e-5)
        recall.append(float((index == distances.argmin(1)).float().mean()))
    assert recall[0] < recall[1] <= recall[2]
    assert recall[2] > 0.95


def test_all_components_are_the_whole_search() -> None:
    rows, queries = features("plain")
    search = BankSearch(rows, SearchPlan(width=48))
    assert search.basis is None
    assert torch.equal(search(queries)[1], BankSearch(rows)(queries)[1])


def all_features(kind: str) -> tuple[Tensor, Tensor]:
    return low_rank_features() if kind == "low rank" else features(kind)


@pytest.mark.parametrize("kind", [*KINDS, "low rank"])
@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize(("candidates", "width"), [(1, 4), (8, 10), (32, 40)])
def test_proven_search_finds_the_nearest_row(kind: str, chunk: int | None, candidates: int, width: int) -> None:
    rows, queries = all_features(kind)
    distance, index = BankSearch(rows, SearchPlan(candidates, width, chunk, proven=True))(queries)
    expected = exact(rows, queries)
    np.testing.assert_allclose(distance, expected.amin(1), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(expected.gather(1, index[:, None])[:, 0], expected.amin(1), rtol=2e-5, atol=1e-5)


def in_doubt(search: BankSearch, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Which queries are in doubt, and the row that the candidates alone would give."""
    centred = queries - search.center
    keys, nearest = search._nearest(centred)
    squared, index = nearest_of(centred, search.rows, nearest)
    return keys[:, -1] > search._proving(centred, squared), index


@pytest.mark.parametrize("kind", [*KINDS, "low rank"])
def test_what_is_not_in_doubt_is_right(kind: str) -> None:
    """The proof itself, without the full search that would hide a wrong one."""
    rows, queries = all_features(kind)
    queries = torch.cat([queries, 0.3 * queries, rows[:50] + 1e-3 * noise(50, 48, seed=7)])
    expected = exact(rows, queries)
    doubts = []
    for width in (2, 10, 30, 46):
        for candidates in (1, 4, 16):
            search = BankSearch(rows, SearchPlan(candidates, width, proven=True))
            doubt, index = in_doubt(search, queries)
            found = expected.gather(1, index[:, None])[:, 0]
            np.testing.assert_allclose(found[~doubt], expected.amin(1)[~doubt], rtol=2e-5, atol=1e-5)
            doubts.append(float(doubt.float().mean()))
    assert max(doubts) > 0.3  # few candidates in two components settle little,
    assert min(doubts) < 0.3  # many in nearly all components most


def test_bounds_are_above_the_keys() -> None:
    rows, queries = low_rank_features()
    search = BankSearch(rows, SearchPlan(4, 10, proven=True))
    centred = (queries - search.center).double()
    assert search.projected is not None
    bounds = search._bounding(centred.float()).double() @ search.projected.double().T
    assert bool((bounds >= centred @ search.rows.double().T).all())


def test_rivals_are_as_many_candidates_as_leave_no_doubt() -> None:
    rows, queries = low_rank_features()
    nearest, _ = brute_force(queries, rows)
    rivals = BankSearch(rows, SearchPlan(1, 6, proven=True)).rivals(queries, nearest.float())
    assert int(rivals.min()) >= 1  # the nearest row itself
    assert len(set(rivals.tolist())) > 5
    for candidates in (2, 5, 20):
        doubt, _ = in_doubt(BankSearch(rows, SearchPlan(candidates, 6, proven=True)), queries)
        assert torch.equal(doubt, rivals >= candidates)


@pytest.mark.parametrize("half", [BankSearch.to_half, BankSearch.to_half_rows])
def test_nothing_is_proven_in_half_precision(half: Callable[[BankSearch], BankSearch]) -> None:
    rows, _ = low_rank_features()
    search = half(BankSearch(rows, SearchPlan(8, 10, chunk=64, proven=True)))
    assert search.plan == SearchPlan(chunk=64)
    assert search.projected is None
