"""Network inputs of the point encoder from an organised cloud: frame, groups and pooling weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.interpolation import POINTS_AT_ONCE, center_tree, pooling_weights, weigh_centers
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.points import CENTERS_AT_ONCE, doubles, farthest_points, nearest_points, point_tree
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.preprocess.image.resize import resize_nearest
from cmdiad_runtime.preprocess.work.pieces import Once, Piece, Pieces, parts
from cmdiad_runtime.preprocess.work.workspace import WORKSPACE
from cmdiad_runtime.sample import Mask, XyzImage


@dataclass(frozen=True)
class CloudInput:
    """Graph inputs of a cloud: `(weights @ features)[cells]` is the grid of patch features.

    Attributes:
        centers: Group centres, float32 `[G, 3]`, metres.
        groups: Points of each group minus its centre, float32 `[G, M, 3]`, metres.
        weights: Pooling weights, float32 `[R, G]`; row 0 is all zeros (background), then one row for each grid cell
            with any weight, in raster order.
        cells: Row of each grid cell in raster order, int64 `[grid * grid]`; 0 is background.
    """

    centers: npt.NDArray[np.float32]
    groups: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int64]


@dataclass(frozen=True)
class CloudFrame:
    """A cloud at the network's size.

    Attributes:
        xyz: Resized cloud, float32 `[size, size, 3]`, metres, finite, zeros in removed background.
        valid: Pixels of `xyz` with a point, bool `[size, size]`.
    """

    xyz: XyzImage
    valid: Mask


def prepare_cloud(
    geometry: PartGeometry, *, size: int, pad_multiple: int, groups: int, group_size: int, grid: int
) -> tuple[CloudInput, CloudFrame]:
    """Compute the inputs of the point encoder and of the pooling behind it.

    Args:
        geometry: Geometry of the sample.
        size: Rows and columns of the network's view.
        pad_multiple: The side of the padded square is rounded up to a multiple of this, 100 as published.
        groups: Number of groups G, at least 3.
        group_size: Points per group M.
        grid: Cells along each side of the patch features.

    Returns:
        The network inputs, and the resized cloud that they are made of.

    Raises:
        InputError: The cloud cannot be used (see `PartGeometry.part`), or has fewer points than `groups` or
            `group_size` after the resize.
    """
    frame = frame_cloud(geometry, size=size, pad_multiple=pad_multiple)
    points = frame.xyz[frame.valid]
    _check_count(len(points), max(groups, group_size), size, geometry.name)
    return cloud_input(points, frame.valid, groups=groups, group_size=group_size, grid=grid), frame


def cloud_input(points: npt.NDArray[np.float32], valid: Mask, *, groups: int, group_size: int, grid: int) -> CloudInput:
    """Compute samples, groups and pooling weights of a cloud, on two threads if there are two cores.

    While this thread samples, the helper groups the centres that are already chosen. Then both compute interpolation
    weights, this thread from the first point on and the helper from the last. Remaining groups come last.

    Args:
        points: Points float32 `[N, 3]`, finite, metres, N at least `groups` and `group_size`.
        valid: Pixels of the points in raster order, bool `[S, S]`, N of them True.
        groups: Number of groups G, at least 3.
        group_size: Points per group M.
        grid: Cells along each side of the patch features.
    """
    centers = np.empty((groups, 3), dtype=np.float32)
    near = np.empty((groups, group_size, 3), dtype=np.float32)
    with Pieces() as pieces:
        tree = Once(partial(point_tree, doubles(points)))
        pieces.offer(tree)
        grouped = [
            pieces.offer(partial(_group, tree, points, centers[part], near[part])) for part in _sampled(points, centers)
        ]
        index, weight, weighed = _offer_weights(pieces, points, centers)
        grouped = [pieces.postpone(piece) for piece in grouped]
        for piece in reversed(weighed):
            piece.result()
        weights, cells = pooling_weights(valid, index, weight, groups, grid)
        for piece in reversed(grouped):
            piece.result()
    return CloudInput(centers, near, weights, cells)


def _sampled(points: npt.NDArray[np.float32], centers: npt.NDArray[np.float32]) -> Iterator[slice]:
    """Fill `centers` `[G, 3]` in order of choice, and yield each slice as soon as its centres are known."""
    choices = farthest_points(points, len(centers))
    for part in parts(len(centers), CENTERS_AT_ONCE):
        centers[part] = points[list(islice(choices, CENTERS_AT_ONCE))]
        yield part


def _group(
    tree: Once[scipy.spatial.cKDTree],
    points: npt.NDArray[np.float32],
    centers: npt.NDArray[np.float32],
    near: npt.NDArray[np.float32],
) -> None:
    """Fill `near` `[n, M, 3]` with the nearest points of a few centres, relative to the centres."""
    index = nearest_points(tree(), centers, near.shape[1])
    np.take(points, index, axis=0, out=near, mode="clip")
    np.subtract(near, centers[:, None], out=near)


def _offer_weights(
    pieces: Pieces, points: npt.NDArray[np.float32], centers: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], list[Piece[None]]]:
    """Offer the work of `interpolation_weights` in pieces, the last points first.

    Returns:
        index: int64 `[N, 3]`, complete once all pieces are done.
        weight: float32 `[N, 3]`, complete once all pieces are done.
        pieces: The offered pieces.
    """
    index = WORKSPACE.take("near_index", points.shape, np.int64)
    weight = WORKSPACE.take("near_weight", points.shape, np.float32)
    tree = center_tree(centers)
    offered = [
        pieces.offer(partial(weigh_centers, tree, points[part], index[part], weight[part]))
        for part in reversed(parts(len(points), POINTS_AT_ONCE))
    ]
    return index, weight, offered


def frame_cloud(geometry: PartGeometry, *, size: int, pad_multiple: int) -> CloudFrame:
    """Cut, pad and resize a cloud to the network's size.

    Args:
        geometry: Geometry of the sample.
        size: Rows and columns of the result.
        pad_multiple: See `prepare_cloud`.

    Raises:
        InputError: The cloud cannot be used (see `PartGeometry.part`).
    """
    mask = geometry.part
    xyz = geometry.xyz
    if geometry.removes_background:
        xyz = np.where(mask[..., None], xyz, np.float32(0))
    resized = resize_nearest(pad_to_square(xyz, multiple=pad_multiple), size)
    finite = np.isfinite(resized)
    resized[~(finite[..., 0] & finite[..., 1] & finite[..., 2])] = 0
    return CloudFrame(resized, valid_mask(resized))


def _check_count(count: int, least: int, size: int, name: str) -> None:
    if count < least:
        raise InputError(
            name,
            found=f"{count} points after resizing to {size} x {size}",
            expected=f"at least {least} (one per group, and enough for one group)",
            action="check that the whole part is in view, or train with fewer or smaller groups",
            reason="no-points",
        )
