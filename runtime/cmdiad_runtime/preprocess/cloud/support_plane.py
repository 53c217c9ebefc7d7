"""Foreground of an organised cloud: drop the support plane, keep the largest cluster, pad to a square.

The steps and constants are those of the published preprocessing of MVTec 3D-AD (REFERENCE §2, after
Open3D's `segment_plane` and `cluster_dbscan`), with three deliberate differences: the plane search is
seeded; the noise label of DBSCAN never wins (in the published code it is kept where it is the most frequent
label); a cloud whose border shows no plane (already preprocessed, or no support in view) is left uncut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.work.pieces import parts, share
from cmdiad_runtime.preprocess.work.products import moments
from cmdiad_runtime.sample import Mask, XyzImage

_Points = npt.NDArray[np.float64]
_Index = npt.NDArray[np.int64]

PLANE_CLEARANCE = 0.005
"""Metres: points nearer to the support plane than this are background (REFERENCE §2.3)."""
_MIN_BORDER_POINTS = 50
_MIN_BORDER_SHARE = 0.5
_RANSAC_POINTS = 2000
_RANSAC_CHUNK = 100
_QUERIES_AT_ONCE = 128
PAD_MULTIPLE = 100


@dataclass(frozen=True)
class Plane:
    """The plane `normal · p + offset = 0`.

    Attributes:
        normal: float64 `[3]`, unit length, on the sensor's side of the plane (`offset` >= 0).
        offset: distance of the sensor origin from the plane, metres.
    """

    normal: npt.NDArray[np.float64]
    offset: float

    def distance(self, xyz: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Unsigned distance to the plane: `[..., 3]` metres in, float64 `[...]` metres out."""
        a, b, c = (float(component) for component in self.normal)
        gap = a * xyz[..., 0].astype(np.float64)
        gap += b * xyz[..., 1].astype(np.float64)
        gap += c * xyz[..., 2].astype(np.float64)
        gap += self.offset
        return np.abs(gap, out=gap)


def valid_mask(xyz: XyzImage) -> Mask:
    """Pixels that carry a point: all three coordinates finite and not 0 (REFERENCE §4).

    Args:
        xyz: float32 `[h, w, 3]`, metres; 0, NaN and infinity mean missing.

    Returns:
        bool `[h, w]`.
    """
    mask = np.ones(xyz.shape[:-1], dtype=np.bool_)
    for axis in range(3):
        coordinate = xyz[..., axis]
        mask &= np.isfinite(coordinate)
        mask &= coordinate != 0
    return mask


def fit_support_plane(
    xyz: XyzImage, *, seed: int, distance: float = 0.004, border: int = 10, iterations: int = 1000
) -> Plane | None:
    """Find the plane that the part lies on, from the rim of the image (REFERENCE §2.1-2.2).

    RANSAC with three-point hypotheses, counted on at most 2000 of the rim's points, then least squares
    through the inliers among all of them. The result depends on `xyz` and `seed` only.

    Args:
        xyz: float32 `[h, w, 3]`, metres.
        seed: of the draws; any non-negative integer.
        distance: metres from the plane up to which a point counts as lying on it.
        border: width of the rim in pixels.
        iterations: number of hypotheses.

    Returns:
        The plane, or None where the rim holds fewer than 50 points (an already preprocessed cloud) or where
        less than half of them lie on any one plane.
    """
    points = border_points(xyz, border)
    if len(points) < _MIN_BORDER_POINTS:
        return None
    rough = _best_hypothesis(points, np.random.default_rng(seed), distance, iterations)
    if rough is None:
        return None
    plane = _least_squares_plane(points[rough.distance(points) < distance])
    share = np.count_nonzero(plane.distance(points) < distance) / len(points)
    return plane if share >= _MIN_BORDER_SHARE else None


def border_points(xyz: XyzImage, border: int = 10) -> npt.NDArray[np.float64]:
    """Valid points of the first and last rows and columns, those in the corners twice (REFERENCE §2.1).

    Args:
        xyz: float32 `[h, w, 3]`, metres.
        border: width of the rim in pixels.

    Returns:
        float64 `[B, 3]`, metres.
    """
    strips = (xyz[:border], xyz[-border:], xyz[:, :border], xyz[:, -border:])
    return np.concatenate([strip[valid_mask(strip)] for strip in strips]).astype(np.float64)


def _best_hypothesis(points: _Points, rng: np.random.Generator, distance: float, iterations: int) -> Plane | None:
    """The three-point plane with most points within `distance`; None where all triples are collinear."""
    if len(points) > _RANSAC_POINTS:
        points = points[rng.choice(len(points), _RANSAC_POINTS, replace=False)]
    centre = points.mean(axis=0)
    local = points - centre
    a, b, c = local[rng.integers(0, len(local), size=(3, iterations))]  # each [I, 3]
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    proper = length > 1e-12
    if not proper.any():
        return None
    normals = normals[proper] / length[proper, None]
    offsets = -(normals * a[proper]).sum(axis=1)
    best = int(np.argmax(_count_inliers(local, normals, offsets, distance)))
    return _oriented(normals[best], float(offsets[best] - normals[best] @ centre))


def _count_inliers(points: _Points, normals: _Points, offsets: _Points, distance: float) -> _Index:
    """Number of points within `distance` of each plane, int64 `[I]`.

    Written without a matrix product, so that every BLAS counts the same.
    """
    x, y, z = (np.ascontiguousarray(column, dtype=np.float32) for column in points.T)
    planes = np.concatenate([normals, offsets[:, None]], axis=1).astype(np.float32)  # [I, 4]
    counts = np.empty(len(planes), dtype=np.int64)

    def count(part: slice) -> None:
        some = planes[part]
        gap = some[:, :1] * x
        gap += some[:, 1:2] * y
        gap += some[:, 2:3] * z
        gap += some[:, 3:]
        np.abs(gap, out=gap)
        counts[part] = np.count_nonzero(gap < distance, axis=1)

    share(partial(count, part) for part in parts(len(planes), _RANSAC_CHUNK))
    return counts


def _least_squares_plane(points: _Points) -> Plane:
    """The plane of least squared distances: through the mean, across the direction of least variance."""
    centre = points.mean(axis=0)
    local = points - centre
    normal = np.linalg.eigh(moments(local, local))[1][:, 0]
    return _oriented(normal, float(-normal @ centre))


def _oriented(normal: _Points, offset: float) -> Plane:
    return Plane(normal, offset) if offset >= 0 else Plane(-normal, -offset)


def largest_cluster(
    points: npt.NDArray[np.floating[Any]], *, eps: float = 0.006, min_points: int = 30
) -> npt.NDArray[np.bool_]:
    """Select exactly the largest cluster of DBSCAN (Ester et al. 1996; constants of REFERENCE §2.5).

    A point is core when at least `min_points` points, itself included, lie within `eps` of it. Core points
    within `eps` of each other share a cluster; any other point joins the cluster of its nearest core point
    within `eps` (DBSCAN leaves that choice to the order of visits), or is noise.

    Args:
        points: `[N, 3]`, finite, metres.
        eps: radius in metres, inclusive.
        min_points: smallest population of a core point's ball, at least 1.

    Returns:
        bool `[N]`: the largest cluster; of equally large ones that with the lowest point index. All False
        where there is no cluster. Noise never wins.
    """
    labels = _cluster_labels(points.astype(np.float64), eps, min_points)
    clustered = np.flatnonzero(labels >= 0)
    if len(clustered) == 0:
        return np.zeros(len(points), dtype=np.bool_)
    names, first, size = np.unique(labels[clustered], return_index=True, return_counts=True)
    winner = names[np.lexsort((first, -size))[0]]
    return np.asarray(labels == winner)


def _cluster_labels(points: _Points, eps: float, min_points: int) -> _Index:
    """DBSCAN label of each point, -1 for noise.

    In a voxel whose diagonal is `eps` all points are neighbours: one with `min_points` of them is all core,
    and the core points of any one voxel share a cluster. So balls are searched around the rest only.
    """
    labels = np.full(len(points), -1, dtype=np.int64)
    if len(points) == 0:
        return labels
    keys, offsets = _voxel_keys(points, eps / np.sqrt(3) * (1 - 1e-9))
    _, voxel, population = np.unique(keys, return_inverse=True, return_counts=True)
    core = population[voxel] >= min_points
    sparse = np.flatnonzero(~core)
    ball = _nearest_within(points, sparse, eps, min_points)  # [S, min_points]; N = none
    core[sparse] = ball[:, -1] < len(points)
    labels[core] = _connect(points[core], keys[core], offsets, eps)
    # The ball of a point that is not core is complete and sorted: its first core entry is the nearest.
    ball_is_core = np.append(core, False)[ball] & ~core[sparse, None]
    joins = ball_is_core.any(axis=1)
    nearest = ball[joins, ball_is_core[joins].argmax(axis=1)]
    labels[sparse[joins]] = labels[nearest]
    return labels


def _voxel_keys(points: _Points, side: float) -> tuple[_Index, _Index]:
    """Number of each point's voxel `[N]`, and what to add for each of 62 (half of 124) nearby voxels."""
    cell = np.floor(points / side)
    low, high = _extremes(cell)
    if float(np.prod(high - low + 3)) > 2.0**62:
        cell = np.stack([_close_gaps(column) for column in cell.T], axis=1)
        low, high = _extremes(cell)
    cell -= low
    extent = (high - low).astype(np.int64) + 3  # margin: two voxels further never wraps onto another
    stride = np.array([extent[1] * extent[2], extent[2], 1], dtype=np.int64)
    near = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = near @ stride
    return cell.astype(np.int64) @ stride, offsets[len(near) // 2 + 1 :]


def _extremes(cell: _Points) -> tuple[_Points, _Points]:
    """Smallest and largest of each column, `[3]` each; NumPy takes ten times as long along axis 0."""
    return np.array([column.min() for column in cell.T]), np.array([column.max() for column in cell.T])


def _close_gaps(cell: _Points) -> _Points:
    """Renumber one axis so that voxels three or more apart become exactly three apart."""
    values, inverse = np.unique(cell, return_inverse=True)
    steps = np.minimum(np.diff(values, prepend=values[0]), 3.0)
    return np.asarray(np.cumsum(steps)[inverse])


def _nearest_within(points: _Points, queries: _Index, radius: float, count: int) -> _Index:
    """The `count` nearest points within `radius` (inclusive) of each query, ascending; N where none."""
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
    """Label core points `[K, 3]` so that those linked by steps of at most `eps` are equal, int64 `[K]`."""
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
    """Pairs `[2, P]` of positions in the sorted keys `occupied` that differ by one of `offsets`."""
    wanted = occupied + offsets[:, None]  # [62, V]
    found = np.searchsorted(occupied, wanted)
    hit = occupied[np.minimum(found, len(occupied) - 1)] == wanted
    return np.stack([np.nonzero(hit)[1], found[hit]])


def _have_link(witness: _Points, pairs: _Index, eps: float) -> npt.NDArray[np.bool_]:
    """Pairs of voxels of which two of the three witness points each are within `eps`, bool `[P]`."""
    linked = np.zeros(pairs.shape[1], dtype=np.bool_)
    first, second = witness[pairs[0]], witness[pairs[1]]  # [P, 3, 3]
    for a in range(witness.shape[1]):
        for b in range(witness.shape[1]):
            step = first[:, a] - second[:, b]
            linked |= np.einsum("ij,ij->i", step, step) <= eps * eps
    return linked


def _components(count: int, edges: _Index) -> _Index:
    """Connected component of each of `count` nodes under undirected `edges` `[2, E]`, int64 `[count]`."""
    graph = scipy.sparse.coo_array((np.ones(edges.shape[1], dtype=np.int8), (edges[0], edges[1])), shape=(count, count))
    return np.asarray(scipy.sparse.csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def _exact_links(points: _Points, voxel: _Index, group: _Index, pairs: _Index, eps: float) -> _Index:
    """Pairs of groups `[2, E]` that the witnesses missed: some of their points are within `eps`.

    Args:
        points: core points `[K, 3]`.
        voxel: voxel of each point `[K]`.
        group: group of each voxel `[V]`.
        pairs: nearby voxels `[2, P]`; only there can a link be.
        eps: largest step.
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
    few, many = sorted((first, second), key=lambda tree: int(tree.n))
    nearest, _ = many.query(few.data, distance_upper_bound=np.nextafter(radius, np.inf))
    return bool(np.isfinite(nearest).any())


def foreground_mask(xyz: XyzImage, *, seed: int = 0) -> Mask:
    """Pixels of the part: valid, off the support plane, in the largest cluster (REFERENCE §2.3, §2.5).

    Args:
        xyz: float32 `[h, w, 3]`, metres; 0, NaN and infinity mean missing.
        seed: of the plane search.

    Returns:
        bool `[h, w]`, all False where nothing remains.
    """
    return part_above(xyz, fit_support_plane(xyz, seed=seed))


def part_above(xyz: XyzImage, plane: Plane | None) -> Mask:
    """`foreground_mask` where the support plane is known, or that there is none."""
    mask = valid_mask(xyz)
    if plane is not None:
        with np.errstate(invalid="ignore"):  # infinity in pixels without a point
            mask &= plane.distance(xyz) >= PLANE_CLEARANCE
    mask[mask] = largest_cluster(xyz[mask])
    return mask


def pad_offset(height: int, width: int, *, multiple: int = PAD_MULTIPLE) -> tuple[int, int, int]:
    """Where an image lies in its padded square (REFERENCE §2.4).

    Args:
        height: rows of the image.
        width: columns of the image.
        multiple: the published code rounds the side up to a multiple of 100; 1 leaves the longer edge.

    Returns:
        `(top, left, side)` in pixels; `side` is the longer edge rounded up to a multiple of `multiple`.
    """
    side = -(-max(height, width) // multiple) * multiple
    return (side - height) // 2, (side - width) // 2, side


def pad_to_square(array: npt.NDArray[Any], *, multiple: int = PAD_MULTIPLE) -> npt.NDArray[Any]:
    """Pad an image or cloud with zeros to the square of `pad_offset` (REFERENCE §2.4).

    Args:
        array: `[h, w]` or `[h, w, channels]`, any dtype.
        multiple: see `pad_offset`.

    Returns:
        `[side, side]` or `[side, side, channels]`, same dtype, a copy.
    """
    height, width = array.shape[:2]
    top, left, side = pad_offset(height, width, multiple=multiple)
    padded = np.zeros((side, side, *array.shape[2:]), dtype=array.dtype)
    padded[top : top + height, left : left + width] = array
    return padded
