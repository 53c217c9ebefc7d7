"""The largest cluster is that of scikit-learn's DBSCAN, and of connected components where every point is core."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_runtime.preprocess.cloud.clustering import largest_cluster
from strategies import seeds

Points = npt.NDArray[np.float64]


def blobs(seed: int, count: int, spread: float) -> Points:
    """Points around a few centres, without equal distances; `[count, 3]`."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 0.1, (4, 3))
    return np.asarray(centres[rng.integers(0, 4, count)] + rng.normal(0, spread, (count, 3)))


def largest(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The largest label of at least 0; the first point decides between equally large ones."""
    names, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    if len(names) == 0:
        return np.zeros(len(labels), dtype=np.bool_)
    firsts = np.array([np.flatnonzero(labels == name)[0] for name in names])
    assert len(first) == len(firsts)
    return np.asarray(labels == names[np.lexsort((firsts, -sizes))[0]])


def with_nearest_core(points: Points, model: Any, eps: float) -> npt.NDArray[np.int64]:
    """Return the labels of DBSCAN, with every point that is not core in the cluster of its nearest core point."""
    labels = np.asarray(model.labels_, dtype=np.int64).copy()
    core = model.core_sample_indices_
    rim = np.setdiff1d(np.flatnonzero(labels >= 0), core)
    for index in rim:
        distances = np.linalg.norm(points[core] - points[index], axis=1)
        assert distances.min() <= eps
        labels[index] = labels[core[distances.argmin()]]
    return labels


@pytest.mark.seconds
@given(
    seed=seeds, count=st.integers(1, 150), spread=st.floats(0.002, 0.05), eps=st.floats(0.004, 0.04),
    min_points=st.integers(1, 12),
)  # fmt: skip
def test_largest_cluster_is_that_of_dbscan(seed: int, count: int, spread: float, eps: float, min_points: int) -> None:
    points = blobs(seed, count, spread)
    sklearn_cluster = pytest.importorskip("sklearn.cluster", reason="needs scikit-learn")
    model = sklearn_cluster.DBSCAN(eps=eps, min_samples=min_points).fit(points)
    expected = largest(with_nearest_core(points, model, eps))
    assert np.array_equal(largest_cluster(points, eps=eps, min_points=min_points), expected)


@given(seed=seeds, count=st.integers(1, 200), eps=st.floats(0.003, 0.03))
def test_with_one_point_per_core_clusters_are_connected_components(seed: int, count: int, eps: float) -> None:
    points = blobs(seed, count, 0.02)
    pairs = scipy.spatial.cKDTree(points).query_pairs(eps, output_type="ndarray")
    graph = scipy.sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)
    assert np.array_equal(largest_cluster(points, eps=eps, min_points=1), largest(labels))


@given(seed=seeds, count=st.integers(1, 100))
def test_the_order_of_points_does_not_matter(seed: int, count: int) -> None:
    points = blobs(seed, count, 0.01)
    order = np.random.default_rng(seed).permutation(count)
    chosen = largest_cluster(points, eps=0.02, min_points=4)
    again = largest_cluster(points[order], eps=0.02, min_points=4)
    assert chosen.sum() == again.sum()
