"""The surface of an organised cloud as an image that any image backbone takes: normals, or depth.

Normals come from a plane fitted around every pixel: weighted least squares of z over x and y, weights Gaussian in
the image and zero outside the mask (normalised convolution, Knutsson and Westin 1993), so holes and the part's rim
need no special case. The noise of a depth sensor lies along its ray, so z is the regressed coordinate and the fit is
exact for any plane, however steep. The window is a length on the part, not a number of pixels.
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
"""float32 `[h, w, 3]`, 0-255 like an RGB image; the background, and only that, is 0 in all three channels."""

NORMAL_SIGMA = 0.0003
"""Metres: standard deviation of the window that a plane is fitted in."""
_LEAST_SIGMA = 1.0  # pixels: below this the window holds too few points
_MOST_SIGMA = 16.0  # pixels: bounds the time
_TRUNCATE = 3.0
_FILLED = 0.5  # a hole is filled where more than this share of the window has points: never beyond a straight edge
_LEAST_SPREAD = 1e-4  # of the window's points, across over along; 0 where they lie on one line

_Float = npt.NDArray[np.float64]


def surface_image(xyz: XyzImage, mask: Mask, *, kind: SurfaceKind) -> SurfaceImage:
    """The surface as an image.

    Args:
        xyz: float32 `[h, w, 3]`, metres as the sensor sees them; read where `mask` is True only.
        mask: bool `[h, w]`, the part's pixels that carry a point.
        kind: "normals": red, green and blue are the normal's x, y and part towards the sensor, -1 to 1 mapped to
            0-255. "depth": the distance along z, from the part's nearest (230) to its farthest (25) point, in
            all three channels.

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
    """Unit normals on the sensor's side of the surface.

    Args:
        xyz: float32 `[h, w, 3]`, metres as the sensor sees them; read where `mask` is True only.
        mask: bool `[h, w]`, the part's pixels that carry a point.
        sigma: standard deviation of the Gaussian window on the part, metres.

    Returns:
        float32 `[h, w, 3]` of length 1, z negative where the sensor looks along +z; 0 where there is no surface,
        or where the points around a pixel lie on one line.
    """
    return normals_and_pitch(xyz, mask, sigma=sigma)[0]


def normals_and_pitch(
    xyz: XyzImage, mask: Mask, *, sigma: float = NORMAL_SIGMA
) -> tuple[npt.NDArray[np.float32], float]:
    """`surface_normals`, and the median distance across the line of sight between neighbouring pixels.

    The distance is in metres, infinite without neighbours.
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
    towards_z = np.float64(-1.0 if xyz[box][inside][:, 2].sum() >= 0 else 1.0)
    direction = np.stack([*(slopes * -towards_z), np.full(weight.shape, towards_z)], axis=2)
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    normals[box] = np.where(proper[..., None], direction, 0)
    return normals, pitch


def resize_surface(image: SurfaceImage, size: int) -> SurfaceImage:
    """Resize a surface image: the mean over each target pixel of the part's pixels alone.

    Pillow's bilinear filter, antialiased when shrinking, on float channels ("F"): rounding to 8 bit would cost up to
    a quarter of a degree. Each channel is divided by the share of the part in the window, so that no background
    mixes into the rim; pixels of which the part covers less than half are background.

    Args:
        image: float32 `[h, w, 3]`, 0-255, background 0 in all channels.
        size: rows and columns of the result.

    Returns:
        float32 `[size, size, 3]`, 0-255, background 0 in all channels.
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
    boxes = scipy.ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else None


def _centred(xyz: XyzImage, mask: Mask) -> tuple[_Float, Mask]:
    """Points float64 `[3, h, w]` less their mean, 0 off the mask; squares of centred metres do not cancel."""
    points = np.moveaxis(xyz, 2, 0).astype(np.float64)
    points -= points[:, mask].mean(axis=1)[:, None, None]
    points[:, ~mask] = 0
    return points, mask


def _pitch(points: _Float, mask: Mask) -> float:
    """The median distance of `normals_and_pitch`, of centred points `[3, h, w]`."""
    steps = []
    for axis in (0, 1):
        both = mask[1:] & mask[:-1] if axis == 0 else mask[:, 1:] & mask[:, :-1]
        x, y = np.diff(points[:2], axis=1 + axis)[:, both]
        steps.append(np.hypot(x, y))
    lengths = np.concatenate(steps)
    return float(np.median(lengths)) if len(lengths) and lengths.any() else np.inf


def _moments(points: _Float, mask: Mask, sigma: float) -> tuple[_Float, _Float, _Float]:
    """Share of the window with points `[h, w]`, mean x y z `[3, h, w]` and mean xx xy yy xz yz `[5, h, w]`."""
    x, y, z = points
    sums = _smooth(np.stack([mask, x, y, z, x * x, x * y, y * y, x * z, y * z]), sigma)
    weight = sums[0]
    means = sums[1:] / np.maximum(weight, np.finfo(np.float64).tiny)
    return weight, means[:3], means[3:]


def _smooth(images: npt.NDArray[Any], sigma: float) -> _Float:
    return smoothed(images, sigma, truncate=_TRUNCATE)


def smoothed(images: npt.NDArray[Any], sigma: float, *, truncate: float = 4.0) -> _Float:
    """Images `[C, h, w]` under a Gaussian of `sigma` pixels, zeros around them; the helper takes some of them."""
    smooth = np.empty(images.shape, dtype=np.float64)

    def smooth_one(index: int) -> None:
        scipy.ndimage.gaussian_filter(images[index], sigma, output=smooth[index], mode="constant", truncate=truncate)

    share(partial(smooth_one, index) for index in range(len(images)))
    return smooth


def _slopes(means: _Float, products: _Float) -> tuple[_Float, Mask]:
    """dz/dx and dz/dy `[2, h, w]` of the fitted planes, and where the points determine one `[h, w]`."""
    x, y, z = means
    xx, xy, yy, xz, yz = products - np.stack([x * x, x * y, y * y, x * z, y * z])
    determinant = xx * yy - xy * xy
    proper = determinant > _LEAST_SPREAD * np.square(xx + yy)
    determinant = np.where(proper, determinant, 1)
    slopes = np.stack([yy * xz - xy * yz, xx * yz - xy * xz]) / determinant
    return np.where(proper, slopes, 0), proper


def _depth_image(xyz: XyzImage, mask: Mask) -> npt.NDArray[np.float32]:
    """Depth float32 `[h, w]`, smoothed by one pixel and with holes of about a pixel filled."""
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
