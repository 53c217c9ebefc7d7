"""Make images of clouds as the published reverse distillation does (TRD, arXiv 2412.08949): depth and pseudo-normals.

The support is the plane through three corners of the cloud. Depth is scaled to the range of the part, and
pseudo-normals are the gradients of this depth image; they are not metric. `surface` has metric normals, which need no
support in view.

Deliberate differences from the published code: a cloud without a point in one of the three corners, whose plane would
be wrong or missing, is refused; the kernel of the gradients has one width for all classes; and clouds that are not
square are padded instead of stretched, so that the anomaly map lies over the picture of the sensor.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.support_plane import Plane
from cmdiad_runtime.preprocess.cloud.surface import SurfaceImage
from cmdiad_runtime.preprocess.image.padding import pad_offset, pad_to_square
from cmdiad_runtime.preprocess.image.resize import resize_bilinear, resize_nearest
from cmdiad_runtime.sample import Mask, XyzImage
from cmdiad_runtime.support.missing_points import within_reach

PublishedKind = Literal["pseudo-normals", "published-depth"]
KernelWidth = Literal[3, 5, 7]

KERNEL_WIDTH: KernelWidth = 5
"""Pixels: width of the Sobel kernels. The published code has 5 for six of ten classes, 7 for three and 3 for one."""
_BLOCK = 3  # pixels: edge of a corner
_CLEARANCE = 0.005  # metres: smallest distance of the part from the support plane
_CLOSINGS = 3
_FILLS = 2
_GUARD = 1e-8
_LEAST_SINE = 1e-4  # of the angle between two edges from corner to corner
_KERNELS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((1, 2, 1), (-1, 0, 1)),
    5: ((1, 4, 6, 4, 1), (-1, -2, 0, 2, 1)),
    7: ((1, 6, 15, 20, 15, 6, 1), (-1, -4, -5, 0, 5, 4, 1)),
}
"""Smoothing and derivative of the Sobel kernels by width."""
_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)

_Depth = npt.NDArray[np.float32]


def published_image(xyz: XyzImage, *, kind: PublishedKind, size: int, name: str) -> SurfaceImage:
    """Return the image of a cloud as the published code makes it, over the padded square.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, metres; 0, NaN, infinity and more than 50 m mean missing.
        kind: "pseudo-normals" or "published-depth".
        size: Rows and columns of the result.
        name: Name of the sample, for messages.

    Returns:
        float32 `[size, size, 3]`, 0-255; the background is 0 in all three channels.

    Raises:
        InputError: A corner of the cloud has no point, or the cloud shows only background.
    """
    xyz = np.where(within_reach(xyz).all(axis=2, keepdims=True), xyz, np.float32(0))
    if kind == "pseudo-normals":
        image = pseudo_normals(xyz, name)
        return resize_bilinear(pad_to_square(image, multiple=1), size) * np.float32(255)
    height, width = xyz.shape[:2]
    rows, columns = (max(1, round(length * size / max(height, width))) for length in (height, width))
    depth = np.zeros((size, size), dtype=np.float32)
    top, left, _ = pad_offset(rows, columns, multiple=size)
    depth[top : top + rows, left : left + columns] = published_depth(resize_nearest(xyz, rows, width=columns), name)
    return np.repeat(depth[..., None], 3, axis=2) * np.float32(255)


def published_depth(xyz: XyzImage, name: str) -> _Depth:
    """Return the depth image of a cloud that has the network's size.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, finite, metres; z = 0 means missing.
        name: Name of the sample, for messages.

    Returns:
        float32 `[h, w]`: 0.1 at the nearest point of the part to 0.9 at the farthest, 0 in the background. Holes are
        filled, which widens the part by two pixels.

    Raises:
        InputError: See `published_mask`.
    """
    depth = _depth_of_part(xyz, published_mask(xyz, name))
    return _filled(np.where(depth != 0, _scaled(depth) * np.float32(0.8) + np.float32(0.1), np.float32(0)))


def pseudo_normals(xyz: XyzImage, name: str, kernel_width: KernelWidth = KERNEL_WIDTH) -> npt.NDArray[np.float32]:
    """Return the pseudo-normals of a cloud.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, finite, metres; z = 0 means missing.
        name: Name of the sample, for messages.
        kernel_width: Width of the Sobel kernels, pixels.

    Returns:
        float32 `[h, w, 3]`: components -1 to 1 mapped to 0-1; 0 in all channels off the part.

    Raises:
        InputError: See `published_mask`.
    """
    mask = published_mask(xyz, name)
    return normals_of_depth(scaled_depth(xyz, mask), kernel_width) * mask[..., None]


def scaled_depth(xyz: XyzImage, mask: Mask) -> _Depth:
    """Return the depth of the part from 0 to 1 with filled holes, float32 `[h, w]`.

    The pixel of least depth becomes 0, so it is filled like a hole, as published.
    """
    depth = _depth_of_part(xyz, mask)
    return _filled(np.where(depth != 0, _scaled(depth), np.float32(0)))


def normals_of_depth(depth: _Depth, kernel_width: KernelWidth = KERNEL_WIDTH) -> npt.NDArray[np.float32]:
    """Return the gradients of a depth image `[h, w]` as directions, -1 to 1 mapped to 0-1, float32 `[h, w, 3]`.

    Sobel derivatives in float64; the border mirrors the picture without its last pixel.
    """
    smooth, derive = (np.array(kernel, dtype=np.float64) for kernel in _KERNELS[kernel_width])
    along = (_correlated(depth, rows, columns) for rows, columns in ((smooth, derive), (derive, smooth)))
    dx, dy = along
    normals = np.stack([-dx, -dy, np.ones_like(dx)], axis=2)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + _GUARD
    return ((normals + 1) / 2).astype(np.float32)


def published_mask(xyz: XyzImage, name: str) -> Mask:
    """Return the part's pixels: off the plane through three corners, with gaps of up to six pixels closed.

    Args:
        xyz: Organised cloud, float32 `[h, w, 3]`, finite, metres; z = 0 means missing.
        name: Name of the sample, for messages.

    Returns:
        bool `[h, w]`. Closed gaps contain pixels without a point.

    Raises:
        InputError: A corner of the cloud has no point, or no point is off the plane.
    """
    mask = (_support_plane(xyz, name).distance(xyz) > _CLEARANCE) & (xyz[..., 2] != 0)
    if not mask.any():
        raise InputError(
            name,
            found="only background in the cloud",
            expected="a part standing more than 5 mm off the plane through the corners of the cloud",
            action="check that a part is in view and that the unit is metres, or train with --geometry normals",
            reason="no-part",
        )
    grown = scipy.ndimage.binary_dilation(mask, _NEIGHBOURS, iterations=_CLOSINGS)
    closed: Mask = scipy.ndimage.binary_erosion(grown, _NEIGHBOURS, iterations=_CLOSINGS, border_value=1)
    return closed


def _support_plane(xyz: XyzImage, name: str) -> Plane:
    """Return the plane through three corners of the cloud: the mean points of blocks of 3 x 3 pixels.

    Raises:
        InputError: A corner has no point, or the three points determine no plane.
    """
    blocks = {
        "top left": xyz[:_BLOCK, :_BLOCK],
        "top right": xyz[:_BLOCK, -_BLOCK:],
        "bottom left": xyz[-_BLOCK:, :_BLOCK],
    }
    counts = {corner: int(np.count_nonzero(block[..., 2])) for corner, block in blocks.items()}
    missing = [corner for corner, count in counts.items() if count == 0]
    if missing:
        raise _no_support(name, f"no point in the {' and the '.join(missing)} corner of the cloud")
    first, second, third = (
        block.reshape(-1, 3).sum(axis=0, dtype=np.float64) / counts[corner] for corner, block in blocks.items()
    )
    edges = second - first, third - first
    normal = np.cross(*edges)
    length = float(np.linalg.norm(normal))
    if length <= _LEAST_SINE * float(np.prod(np.linalg.norm(edges, axis=1))):
        raise _no_support(name, "corners of the cloud that lie on one line")
    normal /= length if normal[2] < 0 else -length
    return Plane(normal, float(-(normal * first).sum()))


def _no_support(name: str, found: str) -> InputError:
    return InputError(
        name,
        found=found,
        expected="the support in three corners of the cloud, as the published depth and pseudo-normals need",
        action="record the support around the part, or train with --geometry normals",
        reason="no-points",
    )


def _depth_of_part(xyz: XyzImage, mask: Mask) -> _Depth:
    return np.where(mask, xyz[..., 2], np.float32(0))


def _scaled(depth: _Depth) -> _Depth:
    """Return depth with its non-zero values scaled to 0-1; 0 for all if they are equal."""
    known = depth[depth != 0]
    low, high = known.min(), known.max()
    return (depth - low) / (high - low if high > low else np.float32(1))


def _filled(depth: _Depth) -> _Depth:
    """Return depth with each 0 replaced by the mean of positive values among its neighbours, twice."""
    box = np.ones(3, dtype=np.float32)
    for _ in range(_FILLS):
        total = _correlated(depth, box, box, mode="constant")
        count = _correlated((depth > 0).astype(np.float32), box, box, mode="constant")
        depth = np.where(depth == 0, (total / (count + 1e-12)).astype(np.float32), depth)
    return depth


def _correlated(
    image: npt.NDArray[Any], rows: npt.NDArray[Any], columns: npt.NDArray[Any], *, mode: str = "mirror"
) -> npt.NDArray[np.float64]:
    """Return the correlation of an image with the product of two kernels, down the rows and along the columns."""
    down = scipy.ndimage.correlate1d(image, rows, axis=0, output=np.float64, mode=mode)
    along: npt.NDArray[np.float64] = scipy.ndimage.correlate1d(down, columns, axis=1, mode=mode)
    return along
