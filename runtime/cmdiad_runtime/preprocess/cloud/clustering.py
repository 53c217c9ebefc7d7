"""The largest DBSCAN cluster of a point cloud, exact and fast enough for the line (method §2.5).

The noise label never wins, unlike in the published code, which keeps noise if that is the most frequent label.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.work.pieces import parts, share

_Points = npt.NDArray[np.float64]
_Index = npt.NDArray[np.int64]

_QUERIES_AT_ONCE = 128
_MOST_COUNTERS = 1 << 18  # Keys up to this number are counted without sorting.
_SHIFTS = np.array([(0, 0, 1), (1, 1, 0), (1, 1, 1)])[..., None] / 2
"""Shifts in edges of a voxel. More prove few more core points: on real parts, these leave one in ten unproven."""


def largest_cluster(
    points: npt.NDArray[np.floating[Any]], *, eps: float = 0.006, min_points: int = 30
) -> npt.NDArray[np.bool_]:
    """Select exactly the largest cluster of DBSCAN (Ester et al. 1996; constants of method §2.5).

    A point is core when at least `min_points` points, itself included, lie within `eps` of it. Core points
    within `eps` of each other share a cluster; any other point joins the cluster of its nearest core point
    within `eps` (DBSCAN leaves that choice to the order of visits), or is noise.

    Args:
        points: Points `[N, 3]`, finite, metres.
        eps: Radius of a neighbourhood, inclusive, metres.
        min_points: Smallest number of points in the neighbourhood of a core point, at least 1.

    Returns:
        True for the points of the largest cluster, bool `[N]`; among equally large clusters, of the one with the
        lowest point index. All False if there is no cluster. Noise is never returned.
    """
    return np.asarray(cluster_ranks(points, eps=eps, min_points=min_points) == 0)


def cluster_ranks(points: npt.NDArray[np.floating[Any]], *, eps: float = 0.006, min_points: int = 30) -> _Index:
    """Return the rank of each point's cluster by size, int64 `[N]`: 0 in the largest cluster, -1 for noise.

    Arguments and ties are those of `largest_cluster`.
    """
    labels = _cluster_labels(points.astype(np.float64), eps, min_points)
    clustered = np.flatnonzero(labels >= 0)
    if len(clustered) == 0:
        return labels
    names, first, size = np.unique(labels[clustered], return_index=True, return_counts=True)
    rank = np.full(int(names.max()) + 2, -1, dtype=np.int64)  # the last entry is that of noise, whose label is -1
    rank[names[np.lexsort((first, -size))]] = np.arange(len(names))
    return rank[labels]


def _cluster_labels(points: _Points, eps: float, min_points: int) -> _Index:
    """Return the DBSCAN label of each point, -1 for noise.

    All points in a voxel whose diagonal is `eps` are neighbours. Every point of a voxel with at least `min_points`
    points is therefore core, and the core points of one voxel share a cluster. Shifted voxels prove most of the other
    core points. Only the neighbourhoods of the remaining points are searched.
    """
    labels = np.full(len(points), -1, dtype=np.int64)
    if len(points) == 0:
        return labels
    places = np.ascontiguousarray(points.T) / (eps / np.sqrt(3) * (1 - 1e-9))
    keys, offsets = _voxel_keys(places)
    core = _population(keys) >= min_points
    for shift in _SHIFTS:
        core |= _population(_voxel_keys(places + shift)[0]) >= min_points
    sparse = np.flatnonzero(~core)
    ball = _nearest_within(points, sparse, eps, min_points)  # [S, min_points]; N means none
    core[sparse] = ball[:, -1] < len(points)
    labels[core] = _connect(points[core], keys[core], offsets, eps)
    # The ball of a point that is not core is complete and sorted, so its first core entry is the nearest.
    ball_is_core = np.append(core, False)[ball] & ~core[sparse, None]
    joins = ball_is_core.any(axis=1)
    nearest = ball[joins, ball_is_core[joins].argmax(axis=1)]
    labels[sparse[joins]] = labels[nearest]
    return labels


def _voxel_keys(places: _Points) -> tuple[_Index, _Index]:
    """Return the voxel key of each point `[N]`, and the key offsets of 62 (half of 124) nearby voxels.

    Args:
        places: Coordinates in edges of a voxel, `[3, N]`.
    """
    cell = np.floor(places)
    low, high = cell.min(axis=1), cell.max(axis=1)
    if float(np.prod(high - low + 3)) > 2.0**62:
        cell = np.stack([_close_gaps(column) for column in cell])
        low, high = cell.min(axis=1), cell.max(axis=1)
    extent = (high - low).astype(np.int64) + 3  # a margin, so that a step of two voxels never wraps onto another row
    stride = np.array([extent[1] * extent[2], extent[2], 1], dtype=np.int64)
    x, y, z = (cell - low[:, None]).astype(np.int64)
    near = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = near @ stride
    return x * stride[0] + y * stride[1] + z, offsets[len(near) // 2 + 1 :]


def _population(keys: _Index) -> _Index:
    """Return the number of points with the same key as each point, int64 `[N]`."""
    if keys.max() < _MOST_COUNTERS:
        return np.asarray(np.bincount(keys)[keys])
    _, voxel, population = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(population[voxel])


def _close_gaps(cell: _Points) -> _Points:
    """Renumber one axis so that voxels three or more apart become exactly three apart."""
    values, inverse = np.unique(cell, return_inverse=True)
    steps = np.minimum(np.diff(values, prepend=values[0]), 3.0)
    return np.asarray(np.cumsum(steps)[inverse])


def _nearest_within(points: _Points, queries: _Index, radius: float, count: int) -> _Index:
    """Return the `count` nearest points within `radius` (inclusive) of each query, nearest first; N means none."""
    if len(queries) == 0:
        return np.empty((0, count), dtype=np.int64)
    tree = scipy.spatial.cKDTree(points, balanced_tree=False, compact_nodes=False)
    bound = np.nextafter(radius, np.inf)
    ranks = np.arange(1, count + 1)
    index = np.empty((len(queries), count), dtype=np.int64)

    def search(part: slice) -> None:
        index[part] = tree.query(points[queries[part]], k=ranks, distance_upper_bound=bound)[1]

    share(partial(search, part) for part in parts(len(queries), _QUERIES_AT_ONCE))
    return index


def _connect(points: _Points, keys: _Index, offsets: _Index, eps: float) -> _Index:
    """Label core points `[K, 3]`, int64 `[K]`: points linked by steps of at most `eps` get the same label."""
    if len(points) == 0:
        return np.empty(0, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    start = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    occupied = sorted_keys[start]
    end = np.append(start[1:], len(keys))
    pairs = _voxel_pairs(occupied, offsets)
    witness = points[order[np.stack([start, (start + end) // 2, end - 1], axis=1)]]  # [V, 3, 3]
    group = _components(len(occupied), pairs[:, _have_link(witness, pairs, eps)])
    voxel = np.searchsorted(occupied, keys)
    joined = _components(int(group.max()) + 1, _exact_links(points, voxel, group, pairs, eps))
    return joined[group[voxel]]


def _voxel_pairs(occupied: _Index, offsets: _Index) -> _Index:
    """Return pairs `[2, P]` of positions in the sorted keys `occupied` whose keys differ by one of `offsets`."""
    neighbours = occupied + offsets[:, None]  # [62, V]
    position = np.searchsorted(occupied, neighbours)
    hit = occupied[np.minimum(position, len(occupied) - 1)] == neighbours
    return np.stack([np.nonzero(hit)[1], position[hit]])


def _have_link(witness: _Points, pairs: _Index, eps: float) -> npt.NDArray[np.bool_]:
    """Return, bool `[P]`, whether a witness point of one voxel lies within `eps` of one of the other voxel."""
    linked = np.zeros(pairs.shape[1], dtype=np.bool_)
    first, second = witness[pairs[0]], witness[pairs[1]]  # [P, 3, 3]
    for a in range(witness.shape[1]):
        for b in range(witness.shape[1]):
            step = first[:, a] - second[:, b]
            linked |= np.einsum("ij,ij->i", step, step) <= eps * eps
    return linked


def _components(count: int, edges: _Index) -> _Index:
    """Return the connected component of each of `count` nodes under undirected `edges` `[2, E]`, int64 `[count]`."""
    graph = scipy.sparse.coo_array((np.ones(edges.shape[1], dtype=np.int8), (edges[0], edges[1])), shape=(count, count))
    return np.asarray(scipy.sparse.csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def _exact_links(points: _Points, voxel: _Index, group: _Index, pairs: _Index, eps: float) -> _Index:
    """Return pairs of groups `[2, E]` with points within `eps` of each other that the witnesses missed.

    Args:
        points: Core points `[K, 3]`, metres.
        voxel: Voxel of each point `[K]`.
        group: Group of each voxel `[V]`.
        pairs: Pairs of nearby voxels `[2, P]`, the only ones that can be linked.
        eps: Largest distance of linked points, metres.
    """
    open_pairs = pairs[:, group[pairs[0]] != group[pairs[1]]]
    at_rim = np.zeros(len(group), dtype=np.bool_)
    at_rim[open_pairs] = True
    rim = np.flatnonzero(at_rim[voxel])
    rim = rim[np.argsort(group[voxel[rim]], kind="stable")]
    names, start = np.unique(group[voxel[rim]], return_index=True)
    members = dict(zip(names.tolist(), np.split(points[rim], start[1:]), strict=True)) if len(rim) else {}
    trees = {name: scipy.spatial.cKDTree(part) for name, part in members.items()}
    candidates = np.unique(np.sort(group[open_pairs], axis=0), axis=1)
    linked = [_is_within(trees[a], trees[b], eps) for a, b in candidates.T.tolist()]
    return candidates[:, np.array(linked, dtype=np.bool_)]


def _is_within(first: scipy.spatial.cKDTree, second: scipy.spatial.cKDTree, radius: float) -> bool:
    """Return True if a point of one tree lies within `radius` of a point of the other."""
    few, many = sorted((first, second), key=lambda tree: int(tree.n))
    nearest, _ = many.query(few.data, distance_upper_bound=np.nextafter(radius, np.inf))
    return bool(np.isfinite(nearest).any())
