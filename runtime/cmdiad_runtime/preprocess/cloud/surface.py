"""The surface of an organised cloud as an image for any image backbone: normals or depth.

The normal at a pixel is that of a plane fitted around the pixel by weighted least squares of z over x and y. The
weights are Gaussian in the image and zero outside the mask (normalised convolution, Knutsson and Westin 1993), so
holes and the part's rim need no special case. The noise of a depth sensor lies along its ray. Therefore z is the
regressed coordinate, and the fit is exact for any plane, however steep. The window is a length on the part, not a
number of pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image

from cmdiad_runtime.preprocess.work.pieces import share
from cmdiad_runtime.sample import Mask, XyzImage

SurfaceKind = Literal["normals", "depth"]
SurfaceImage = npt.NDArray[np.float32]
"""float32 `[h, w, 3]`, 0-255 like an RGB image; only the background is 0 in all three channels."""

NORMAL_SIGMA = 0.0003
"""Metres: standard deviation of the window in which a plane is fitted."""
_LEAST_SIGMA = 1.0  # pixels: a smaller window contains too few points
_MOST_SIGMA = 16.0  # pixels: bounds the time
_TRUNCATE = 3.0
_FILLED = 0.5  # a hole is filled if a larger share of the window has points, which never holds beyond a straight edge
_LEAST_SPREAD = 1e-4  # ratio of the spread across and along the window's points; 0 if the points are collinear

_Float = npt.NDArray[np.float64]


def surface_image(xyz: XyzImage, mask: Mask, *, kind: SurfaceKind) -> SurfaceImage:
    """Return the surface as an image.

    Args:
        xyz: Organised cloud in the sensor's coordinates, float32 `[h, w, 3]`, metres; read only where `mask` is True.
        mask: The part's pixels that carry a point, bool `[h, w]`.
        kind: "normals": red, green and blue are the normal's x, y and component towards the sensor, -1 to 1 mapped to
            0-255. "depth": all three channels are the distance along z, from the part's nearest point (230) to its
            farthest (25).

    Returns:
        float32 `[h, w, 3]`, 0-255; 0 in all three channels off the part. Small holes in the part are filled.
    """
    if kind == "normals":
        normals = surface_normals(xyz, mask)
        known = normals.any(axis=2, keepdims=True)
        return np.where(
            known, (normals * np.array([1, 1, -1], dtype=np.float32) + 1) * np.float32(127.5), np.float32(0)
        )
    return np.repeat(_depth_image(xyz, mask)[..., None], 3, axis=2)


def surface_normals(xyz: XyzImage, mask: Mask, *, sigma: float = NORMAL_SIGMA) -> npt.NDArray[np.float32]:
    """Return unit normals on the sensor's side of the surface.

    Args:
        xyz: Organised cloud in the sensor's coordinates, float32 `[h, w, 3]`, metres; read only where `mask` is True.
        mask: The part's pixels that carry a point, bool `[h, w]`.
        sigma: Standard deviation of the Gaussian window on the part, metres.

    Returns:
        Normals float32 `[h, w, 3]` of length 1, with negative z if the sensor looks along +z; 0 at pixels without a
        surface, or whose neighbouring points are collinear.
    """
    return normals_and_pitch(xyz, mask, sigma=sigma)[0]


def normals_and_pitch(
    xyz: XyzImage, mask: Mask, *, sigma: float = NORMAL_SIGMA
) -> tuple[npt.NDArray[np.float32], float]:
    """Return `surface_normals`, and the median distance in x and y between neighbouring pixels.

    The distance is in metres; infinite without neighbouring points.
    """
    normals = np.zeros((*mask.shape, 3), dtype=np.float32)
    box = _bounding_box(mask)
    if box is None:
        return normals, np.inf
    points, inside = _centred(xyz[box], mask[box])
    pitch = _pitch(points, inside)
    pixels = float(np.clip(sigma / pitch, _LEAST_SIGMA, _MOST_SIGMA))
    weight, means, products = _moments(points, inside, pixels)
    slopes, proper = _slopes(means, products)
    proper &= inside | (weight > _FILLED)
    towards_z = -1.0 if xyz[box][..., 2][inside].sum() >= 0 else 1.0
    length = np.sqrt(np.square(slopes[0]) + np.square(slopes[1]) + 1)
    for axis, component in enumerate((*(slopes * -towards_z), towards_z)):
        np.divide(component, length, where=proper, out=normals[box][..., axis], casting="same_kind")
    return normals, pitch


def resize_surface(image: SurfaceImage, size: int) -> SurfaceImage:
    """Resize a surface image; each target pixel is a mean of the part's pixels alone.

    The filter is Pillow's bilinear one, antialiased when shrinking, on float channels ("F"), because rounding to 8 bit
    would cost up to a quarter of a degree. Each channel is divided by the share of the part in the window, so that no
    background mixes into the rim. Pixels covered by the part to less than half are background.

    Args:
        image: Surface image float32 `[h, w, 3]`, 0-255, background 0 in all channels.
        size: Rows and columns of the result.

    Returns:
        Surface image float32 `[size, size, 3]`, 0-255, background 0 in all channels.
    """
    known = np.asarray(image.any(axis=2))
    share = _resize(np.asarray(known, dtype=np.float32), size)
    kept = share >= 0.5
    share = np.where(kept, share, np.float32(1))
    channels = [_resize(np.ascontiguousarray(image[..., channel]), size) for channel in range(3)]
    return np.where(kept[..., None], np.stack(channels, axis=2) / share[..., None], np.float32(0))


def _resize(channel: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    image = Image.fromarray(channel)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _bounding_box(mask: Mask) -> tuple[slice, slice] | None:
    """Return the bounding box of a mask, or None for an empty mask."""
    boxes = scipy.ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else None


def _centred(xyz: XyzImage, mask: Mask) -> tuple[_Float, Mask]:
    """Return points minus their mean, float64 `[3, h, w]`, 0 off the mask, and the mask.

    Squares of uncentred metres would cancel.
    """
    points = np.moveaxis(xyz, 2, 0).astype(np.float64, order="C")
    points -= points[:, mask].mean(axis=1)[:, None, None]
    np.copyto(points, 0, where=~mask)
    return points, mask


def _pitch(points: _Float, mask: Mask) -> float:
    """Return the median distance of `normals_and_pitch` for centred points `[3, h, w]`, metres."""
    steps = []
    for axis in (0, 1):
        both = mask[1:] & mask[:-1] if axis == 0 else mask[:, 1:] & mask[:, :-1]
        x, y = np.diff(points[:2], axis=1 + axis)[:, both]
        steps.append(np.hypot(x, y))
    lengths = np.concatenate(steps)
    return float(np.median(lengths)) if len(lengths) and lengths.any() else np.inf


def _moments(points: _Float, mask: Mask, sigma: float) -> tuple[_Float, _Float, _Float]:
    """Return the share of the window with points `[h, w]`, and the window's moments.

    The moments are the means of x, y, z `[3, h, w]` and of xx, xy, yy, xz, yz `[5, h, w]`.
    """
    x, y, z = points
    sums = _smooth(np.stack([mask, x, y, z, x * x, x * y, y * y, x * z, y * z]), sigma)
    weight = sums[0]
    means = sums[1:] / np.maximum(weight, np.finfo(np.float64).tiny)
    return weight, means[:3], means[3:]


def _smooth(images: npt.NDArray[Any], sigma: float) -> _Float:
    return smoothed(images, sigma, truncate=_TRUNCATE)


def smoothed(images: npt.NDArray[Any], sigma: float, *, truncate: float = 4.0) -> _Float:
    """Smooth images `[C, h, w]` with a Gaussian of `sigma` pixels, zeros around them, partly in the helper thread."""
    smooth = np.empty(images.shape, dtype=np.float64)

    def smooth_one(index: int) -> None:
        scipy.ndimage.gaussian_filter(images[index], sigma, output=smooth[index], mode="constant", truncate=truncate)

    share(partial(smooth_one, index) for index in range(len(images)))
    return smooth


def smoothed_at(
    images: _Float, sigma: float, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], *, truncate: float = 4.0
) -> _Float:
    """Return the values of `smoothed` at some pixels, float64 `[C, K]`, without those of all others.

    Args:
        images: Images, float64 `[C, h, w]`.
        sigma: Standard deviation of the Gaussian, pixels.
        rows: Row of each pixel, `[K]`; at least one.
        columns: Column of each pixel, `[K]`.
        truncate: Radius of the Gaussian, standard deviations.
    """
    weights = _gaussian_weights(sigma, truncate)
    reach = len(weights) - 1
    first, end = max(int(rows.min()) - reach, 0), int(rows.max()) + 1 + reach
    left, right = max(int(columns.min()) - reach, 0), int(columns.max()) + 1 + reach
    part = np.pad(images[:, first:end, left:right], ((0, 0), (0, 0), (reach, reach)))
    place = (rows - first) * part.shape[2] + (columns - left + reach)
    values = np.empty((len(images), len(rows)))

    def smooth_one(index: int) -> None:
        down = scipy.ndimage.gaussian_filter1d(part[index], sigma, axis=0, mode="constant", truncate=truncate).ravel()
        values[index] = down[place] * weights[0]
        for step in range(reach, 0, -1):  # the order of `gaussian_filter`, for equal rounding
            values[index] += (down[place - step] + down[place + step]) * weights[step]

    share(partial(smooth_one, index) for index in range(len(images)))
    return values


def _gaussian_weights(sigma: float, truncate: float) -> _Float:
    """Return the weights of SciPy's Gaussian filter from its centre outwards, float64 `[reach + 1]`."""
    reach = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-reach, reach + 1) ** 2)
    return np.asarray((weights / weights.sum())[reach:])


def _slopes(means: _Float, products: _Float) -> tuple[_Float, Mask]:
    """Return dz/dx and dz/dy of the fitted planes `[2, h, w]`, and the pixels that determine a plane `[h, w]`."""
    x, y, z = means
    pairs = (x, x), (x, y), (y, y), (x, z), (y, z)
    xx, xy, yy, xz, yz = (product - first * other for product, (first, other) in zip(products, pairs, strict=True))
    determinant = xx * yy - xy * xy
    proper = determinant > _LEAST_SPREAD * np.square(xx + yy)
    determinant = np.where(proper, determinant, 1)
    slopes = np.stack([yy * xz - xy * yz, xx * yz - xy * xz]) / determinant
    return np.where(proper, slopes, 0), proper


def _depth_image(xyz: XyzImage, mask: Mask) -> npt.NDArray[np.float32]:
    """Return the depth float32 `[h, w]`, 25-230, smoothed by one pixel; holes of about one pixel are filled."""
    image = np.zeros(mask.shape, dtype=np.float32)
    box = _bounding_box(mask)
    if box is None:
        return image
    points, inside = _centred(xyz[box], mask[box])
    weight, depth = _smooth(np.stack([inside, points[2]]), _LEAST_SIGMA)
    known = inside | (weight > _FILLED)
    depth = depth / np.where(known, weight, 1)
    near, far = depth[inside].min(), depth[inside].max()
    scaled = (far - depth) / (far - near if far > near else 1)
    image[box] = np.where(known, (0.1 + 0.8 * scaled) * 255, 0)
    return image
