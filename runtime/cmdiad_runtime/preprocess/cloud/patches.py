"""Overlapping patches of a cloud for Shape-Guided detectors, and the patches that show each pixel.

Source: Chu et al., "Shape-Guided Dual-Memory Learning for 3D Anomaly Detection", ICML 2023. The first centre is the
first point, where the published program draws one at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.cloud_inputs import CloudFrame
from cmdiad_runtime.preprocess.cloud.points import farthest_point_sampling, group_points

FURTHER_COVER = 4
"""Entries of the cover table per pixel, in addition to twice the mean number of patches that show a point."""
MOST_MISSED = 0.01
"""Share of the points of a cloud that may be in no patch at first; such points then take the place of others."""


@dataclass(frozen=True)
class PatchInput:
    """Graph inputs of a cloud.

    Attributes:
        patches: Points of each patch, float32 `[P, M, 3]`. The longest side of the bounding box of a patch is 1, and
            the mean of its points is 0. The cloud's own patches come first, then copies of the first patch.
        cover: Places of each pixel, int32 `[size, size, K]`: 1 + patch · M + row of the point in the patch, 0 in a
            pixel without a point. A pixel with fewer places repeats its first one.
    """

    patches: npt.NDArray[np.float32]
    cover: npt.NDArray[np.int32]


def patch_input(frame: CloudFrame, *, most: int, points: int, coverage: int, name: str) -> PatchInput:
    """Cut a cloud into overlapping patches around the farthest points.

    Args:
        frame: Cloud at the size of the network's view, N points.
        most: Number of patches P of the graph.
        points: Points per patch M.
        coverage: Mean number of patches that show a point. A cloud has N · coverage / M patches, at most `most`.
        name: Name of the sample for errors.

    Raises:
        InputError: The cloud has fewer than M points, a patch is a single place, or too many points are in no patch.
    """
    cloud = frame.xyz[frame.valid]
    if len(cloud) < points:
        raise InputError(
            name,
            found=f"{len(cloud)} points after resizing to {frame.valid.shape[0]} x {frame.valid.shape[0]}",
            expected=f"at least {points}, the points of one patch",
            action="check that the whole part is in view, or train with a smaller --patch-points",
            reason="no-points",
        )
    members = patch_members(cloud, patch_count(len(cloud), points, coverage, most), points)
    _show_every_point(cloud, members, name)
    cover = cover_table(members, len(cloud), 2 * coverage + FURTHER_COVER)
    table = np.zeros((*frame.valid.shape, cover.shape[1]), dtype=np.int32)
    table[frame.valid] = cover
    patches = normalised(cloud[members], name)
    copies = np.repeat(patches[:1], most - len(patches), axis=0)
    return PatchInput(np.concatenate([patches, copies]), table)


def patch_count(total: int, points: int, coverage: int, most: int) -> int:
    """Return the number of patches of a cloud with `total` points, at least 1 and at most `most`."""
    return min(most, max(1, round(total * coverage / points)))


def patch_members(cloud: npt.NDArray[np.float32], count: int, points: int) -> npt.NDArray[np.int64]:
    """Return the nearest points of each of the farthest points, indices int64 `[count, points]`.

    Args:
        cloud: Points float32 `[N, 3]`, N at least `points`.
        count: Number of patches.
        points: Points per patch.
    """
    return group_points(cloud, cloud[farthest_point_sampling(cloud, count)], points)


def normalised(patches: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """Divide patches float32 `[P, M, 3]` by the longest side of their bounding boxes, then subtract their means.

    Raises:
        InputError: All points of a patch are at one place.
    """
    side = (patches.max(axis=1) - patches.min(axis=1)).max(axis=1)
    if not (side > 0).all():
        raise InputError(
            name,
            found="a patch whose points are all at one place",
            expected="a cloud of a surface",
            action="check the 3D sensor",
            reason="no-points",
        )
    scaled = (patches - patches[:, :1]) / side[:, None, None]  # the shift keeps digits of parts far from the sensor
    result: npt.NDArray[np.float32] = scaled - scaled.mean(axis=1, keepdims=True)
    return result


def cover_table(members: npt.NDArray[np.int64], total: int, width: int) -> npt.NDArray[np.int32]:
    """Return the places of each point in the patches, int32 `[total, width]`; see `PatchInput.cover`.

    A point that more than `width` patches show has its places in the first `width` of them. A minimum over fewer
    patches is never smaller.

    Args:
        members: Points of each patch, indices int64 `[P, M]`.
        total: Number of points.
        width: Places per point.
    """
    point = members.ravel()
    order = np.argsort(point, kind="stable")
    first = np.searchsorted(point[order], np.arange(total))
    count = np.bincount(point, minlength=total)
    rank = np.minimum(np.arange(width), np.maximum(count, 1)[:, None] - 1)
    rank = np.where(np.arange(width) < count[:, None], rank, 0)
    places = order[np.minimum(first[:, None] + rank, len(order) - 1)] + 1
    return np.where(count[:, None] > 0, places, 0).astype(np.int32)


def _show_every_point(cloud: npt.NDArray[np.float32], members: npt.NDArray[np.int64], name: str) -> None:
    """Put points that are in no patch into a near patch, in place of a point that another patch shows too.

    Args:
        cloud: Points float32 `[N, 3]`.
        members: Points of each patch, nearest first, int64 `[P, M]`, changed in place.
        name: Name of the sample for errors.

    Raises:
        InputError: More than `MOST_MISSED` of the points are in no patch, or no patch has room for one.
    """
    count = np.bincount(members.ravel(), minlength=len(cloud))
    missed = np.flatnonzero(count == 0)
    if len(missed) > MOST_MISSED * len(cloud) or not all(_take_place(cloud, members, count, int(i)) for i in missed):
        raise InputError(
            name,
            found=f"{len(missed)} of {len(cloud)} points that no patch shows",
            expected="patches that show the whole part",
            action="check that only one part is in view, or train with more --patches or a larger --coverage",
            reason="no-points",
        )


def _take_place(
    cloud: npt.NDArray[np.float32], members: npt.NDArray[np.int64], count: npt.NDArray[np.intp], point: int
) -> bool:
    """Replace the last point of the nearest patch that another patch shows too; return False without such a point."""
    middles = cloud[members].mean(axis=1)
    for patch in np.argsort(((middles - cloud[point]) ** 2).sum(axis=1), kind="stable"):
        shared = np.flatnonzero(count[members[patch]] > 1)
        if len(shared):
            row = shared[-1]
            count[members[patch, row]] -= 1
            members[patch, row] = point
            count[point] += 1
            return True
    return False
