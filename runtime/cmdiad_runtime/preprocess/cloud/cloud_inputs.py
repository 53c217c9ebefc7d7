"""The whole 3D preprocessing: organised cloud in, network inputs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.foreground import (
    Plane,
    fit_support_plane,
    pad_offset,
    pad_to_square,
    part_above,
    valid_mask,
)
from cmdiad_runtime.preprocess.cloud.interpolation import POINTS_AT_ONCE, center_tree, pooling_weights, weigh_centers
from cmdiad_runtime.preprocess.cloud.points import CENTERS_AT_ONCE, doubles, farthest_points, nearest_points, point_tree
from cmdiad_runtime.preprocess.image.resize import resize_nearest
from cmdiad_runtime.preprocess.work.pieces import Once, Piece, Pieces, parts
from cmdiad_runtime.preprocess.work.workspace import WORKSPACE
from cmdiad_runtime.sample import Mask, XyzImage


@dataclass(frozen=True)
class CloudInput:
    """What the graph takes from a cloud: `(weights @ features)[cells]` is the grid of patch features.

    Attributes:
        centers: float32 `[G, 3]`, group centres, metres.
        groups: float32 `[G, M, 3]`, neighbours minus their centre, metres.
        weights: float32 `[R, G]`; row 0 is all zeros (background), then one row for each grid cell with
            any weight, in raster order.
        cells: int64 `[grid * grid]`, the row of each cell in raster order; 0 is background.
    """

    centers: npt.NDArray[np.float32]
    groups: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    cells: npt.NDArray[np.int64]


@dataclass(frozen=True)
class CloudFrame:
    """Where the network's view of a cloud lies in the sensor's image.

    Pixel (row, column) of the sensor is pixel (row + top, column + left) of the frame, which was resized to
    `valid`'s size.

    Attributes:
        xyz: float32 `[size, size, 3]`, resized cloud, metres, finite, zeros in removed background.
        valid: bool `[size, size]`, pixels of `xyz` with a point.
        top: rows added above the sensor's image.
        left: columns added left of it.
        height: rows of the padded image.
        width: columns of the padded image.
    """

    xyz: XyzImage
    valid: Mask
    top: int
    left: int
    height: int
    width: int


def prepare_cloud(
    xyz: XyzImage,
    *,
    size: int,
    grid: int,
    groups: int,
    group_size: int,
    foreground: bool,
    pad_multiple: int,
    seed: int,
    name: str,
) -> tuple[CloudInput, CloudFrame]:
    """Take a raw organised cloud to the inputs of the point encoder and of the pooling behind it.

    Args:
        xyz: float32 `[h, w, 3]`, metres; 0, NaN and infinity mean missing.
        size: rows and columns of the network's view.
        grid: cells along each side of the patch features.
        groups: number of groups G, at least 3.
        group_size: points per group M.
        foreground: remove support plane and stray points first, as the published preprocessing does.
        pad_multiple: the side of the padded square is rounded up to a multiple of this (published: 100).
        seed: of the plane search.
        name: of the sample, for messages.

    Returns:
        The network inputs, and how they lie in the sensor's image.

    Raises:
        InputError: not float32 `[h, w, 3]`; no valid point; nothing but background; or fewer points than
            `groups` or `group_size` after the resize.
    """
    frame = frame_cloud(xyz, size=size, foreground=foreground, pad_multiple=pad_multiple, seed=seed, name=name)
    points = frame.xyz[frame.valid]
    _check_count(len(points), max(groups, group_size), size, name)
    return cloud_input(points, frame.valid, groups=groups, group_size=group_size, grid=grid), frame


def cloud_input(points: npt.NDArray[np.float32], valid: Mask, *, groups: int, group_size: int, grid: int) -> CloudInput:
    """Sampling, groups, interpolation and pooling of a cloud, on two threads where there are two cores.

    While this thread samples, the helper groups the centres that are chosen already. Then both weigh centres for
    interpolation, this thread from the first point on, the helper from the last; groups that are left come after.

    Args:
        points: float32 `[N, 3]`, finite, metres, N at least `groups` and `group_size`.
        valid: bool `[S, S]`, their pixels, N True, in raster order.
        groups: number of groups G, at least 3.
        group_size: points per group M.
        grid: cells along each side.
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
    """Fill `centers` `[G, 3]`, and say which part of it is known as soon as it is."""
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
    """Fill `near` `[n, M, 3]` with the points next to a few centres, relative to them."""
    index = nearest_points(tree(), centers, near.shape[1])
    np.take(points, index, axis=0, out=near, mode="clip")
    np.subtract(near, centers[:, None], out=near)


def _offer_weights(
    pieces: Pieces, points: npt.NDArray[np.float32], centers: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], list[Piece[None]]]:
    """What `interpolation_weights` gives once all of these pieces are done; the first one has the last points."""
    index = WORKSPACE.take("near_index", points.shape, np.int64)
    weight = WORKSPACE.take("near_weight", points.shape, np.float32)
    tree = center_tree(centers)
    offered = [
        pieces.offer(partial(weigh_centers, tree, points[part], index[part], weight[part]))
        for part in reversed(parts(len(points), POINTS_AT_ONCE))
    ]
    return index, weight, offered


def frame_cloud(xyz: XyzImage, *, size: int, foreground: bool, pad_multiple: int, seed: int, name: str) -> CloudFrame:
    """Cut, pad and resize a cloud: the part of `prepare_cloud` that precedes the points.

    Args:
        xyz: float32 `[h, w, 3]`, metres; 0, NaN and infinity mean missing.
        size: rows and columns of the result.
        foreground: remove the background, or take the cloud as it is.
        pad_multiple: of the side of the padded square.
        seed: of the plane search.
        name: of the sample, for messages.

    Returns:
        The resized cloud and its place in the sensor's image.

    Raises:
        InputError: no valid point, or nothing but background.
    """
    mask = part_mask(xyz, foreground=foreground, seed=seed, name=name)
    if foreground:
        xyz = np.where(mask[..., None], xyz, np.float32(0))
    top, left, side = pad_offset(*mask.shape, multiple=pad_multiple)
    resized = resize_nearest(pad_to_square(xyz, multiple=pad_multiple), size)
    finite = np.isfinite(resized)
    resized[~(finite[..., 0] & finite[..., 1] & finite[..., 2])] = 0
    return CloudFrame(resized, valid_mask(resized), top, left, side, side)


def part_mask(xyz: XyzImage, *, foreground: bool, seed: int, name: str) -> Mask:
    """Pixels bool `[h, w]` of a cloud that show the part, or any point where the background stays.

    Raises:
        InputError: not float32 `[h, w, 3]`; no valid point; or nothing but background.
    """
    mask = _point_mask(xyz, name)
    return _part_above(xyz, fit_support_plane(xyz, seed=seed), name) if foreground else mask


def part_and_support(xyz: XyzImage, *, foreground: bool, seed: int, name: str) -> tuple[Mask, Plane | None]:
    """`part_mask`, and the plane that the part lies on (see `fit_support_plane`)."""
    mask = _point_mask(xyz, name)
    plane = fit_support_plane(xyz, seed=seed)
    return (_part_above(xyz, plane, name) if foreground else mask), plane


def _point_mask(xyz: XyzImage, name: str) -> Mask:
    _check_array(xyz, name)
    mask = valid_mask(xyz)
    if not mask.any():
        raise _no_points(name)
    return mask


def _part_above(xyz: XyzImage, plane: Plane | None, name: str) -> Mask:
    mask = part_above(xyz, plane)
    if not mask.any():
        raise _only_background(name)
    return mask


def _check_array(xyz: XyzImage, name: str) -> None:
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype != np.float32:
        raise InputError(
            name,
            found=f"a cloud of {xyz.dtype} {list(xyz.shape)}",
            expected="an organised cloud, float32 [h, w, 3] in metres",
            action="give x, y, z per pixel as the sensor sees them",
        )


def _no_points(name: str) -> InputError:
    return InputError(
        name,
        found="no valid point in the cloud",
        expected="pixels whose x, y and z are finite and not 0",
        action="check that the sensor sees the part and that the file is an xyz image",
    )


def _only_background(name: str) -> InputError:
    return InputError(
        name,
        found="only background in the cloud",
        expected="a part standing at least 5 mm off its support",
        action="check that a part is in view and that the unit is metres, or turn background removal off",
    )


def _check_count(count: int, least: int, size: int, name: str) -> None:
    if count < least:
        raise InputError(
            name,
            found=f"{count} points after resizing to {size} x {size}",
            expected=f"at least {least} (one per group, and enough for one group)",
            action="check that the whole part is in view, or train with fewer or smaller groups",
        )
