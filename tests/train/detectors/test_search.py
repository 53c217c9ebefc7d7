"""The search against brute force in float64."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings, brute_force, principal_components
from search_features import KINDS, exact, features, low_rank_features, noise


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
    distance, index = BankSearch(rows, SearchSettings(candidates))(queries)
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
    distance, index = BankSearch(rows, SearchSettings(9))(rows)
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
    distance, index = BankSearch(rows, SearchSettings(chunk=chunk))(queries)
    np.testing.assert_allclose(distance, expected.amin(1), rtol=2e-5, atol=1e-5)
    assert int(index.max()) < len(rows)


@pytest.mark.parametrize("half", [False, True])
def test_loop_is_a_loop_in_the_graph(tmp_path: Path, half: bool) -> None:
    rows, queries = features("plain")
    search = BankSearch(rows, SearchSettings(chunk=64))
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
        distance, index = BankSearch(rows, SearchSettings(candidates, width=10, chunk=chunk))(queries)
        np.testing.assert_allclose(distance, distances.gather(1, index[:, None])[:, 0], rtol=2e-5)
        recall.append(float((index == distances.argmin(1)).float().mean()))
    assert recall[0] < recall[1] <= recall[2]
    assert recall[2] > 0.95


def test_all_components_are_the_whole_search() -> None:
    rows, queries = features("plain")
    search = BankSearch(rows, SearchSettings(width=48))
    assert search.basis is None
    assert torch.equal(search(queries)[1], BankSearch(rows)(queries)[1])
