"""Facts about the part in one sample: number of regions, area, position, and contact with the edge of the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.image.foreground import ImageRegions
from cmdiad_runtime.preprocess.inspected_area.background import BackgroundCells, background_cells
from cmdiad_runtime.sample import Mask

_RIM = 2
"""Pixels: width of the frame that a part touches if the edge of the picture cuts it."""


@dataclass(frozen=True)
class PartFacts:
    """The part of one sample, compared with the picture.

    Attributes:
        regions: Share of the picture of every region, largest first, float64 `[n]`; clusters in a cloud.
        place: Function that returns row and column of the centre of a region by its rank, as shares of the picture.
        area: Share of the picture that the part covers.
        row: Centre of the part, as a share of the picture's height.
        column: Centre of the part, as a share of the picture's width.
        rim: Share of the outermost pixels of the picture that the part covers.
        scale: Sensor pixels of the picture along each axis, rows and columns.
    """

    regions: npt.NDArray[np.float64]
    place: Callable[[int], tuple[float, float]]
    area: float
    row: float
    column: float
    rim: float
    scale: tuple[int, int]

    def count(self, least_area: float) -> int:
        """Return the number of regions of at least an area, a share of the picture."""
        return int(np.count_nonzero(self.regions >= least_area))


def image_facts(regions: ImageRegions) -> PartFacts:
    """Return the facts about the part of an image; the image must show a part."""
    order = np.argsort(-regions.areas, kind="stable")
    areas = regions.areas[order]

    def place(rank: int) -> tuple[float, float]:
        return _centre(regions.labels == order[rank])

    return _found(regions.part, areas[areas > 0], place, (regions.height, regions.width))


def cloud_facts(geometry: PartGeometry) -> PartFacts:
    """Return the facts about the part of a cloud; the cloud must contain one."""
    clusters, off_support = geometry.clusters, geometry.off_support
    sizes = np.bincount(clusters[clusters >= 0])

    def place(rank: int) -> tuple[float, float]:
        mask = off_support.copy()
        mask[mask] = clusters == rank
        return _centre(mask)

    return _found(geometry.foreground, sizes / off_support.size, place, off_support.shape)


def cells_around_part(geometry: PartGeometry, *, image: bool) -> BackgroundCells:
    """Return the image around the part.

    Args:
        geometry: Geometry of the sample.
        image: True if the part is the one in the image, False if it is the one in the cloud.
    """
    if not image:
        return background_cells(geometry.rgb, geometry.foreground)
    return background_cells(geometry.rgb, geometry.image_regions.part, geometry.image_regions.factor)


def shared_area(geometry: PartGeometry) -> float:
    """Return the area in which the parts of image and cloud agree, as a share of the area that either covers.

    Holes of both are filled. 0 if neither shows a part.

    Args:
        geometry: Geometry of a sample with image and cloud of one size.
    """
    regions = geometry.image_regions
    cloud = scipy.ndimage.binary_fill_holes(geometry.foreground[:: regions.factor, :: regions.factor])
    either = int(np.count_nonzero(cloud | regions.part))
    return float(np.count_nonzero(cloud & regions.part) / max(either, 1))


def stray_share(geometry: PartGeometry) -> float:
    """Return the share of the picture with points off the support plane that belong to no part."""
    return float(np.count_nonzero(geometry.clusters != 0) / geometry.off_support.size)


def stray_place(geometry: PartGeometry) -> tuple[float, float]:
    """Return the median row and column of the points of `stray_share`, as shares of the picture."""
    mask = geometry.off_support.copy()
    mask[mask] = geometry.clusters != 0
    rows, columns = np.nonzero(mask)
    return (float(np.median(rows)) + 0.5) / mask.shape[0], (float(np.median(columns)) + 0.5) / mask.shape[1]


def _found(
    part: Mask,
    regions: npt.NDArray[np.float64],
    place: Callable[[int], tuple[float, float]],
    scale: tuple[int, ...],
) -> PartFacts:
    row, column = _centre(part)
    frame = [part[:_RIM], part[-_RIM:], part[:, :_RIM].T, part[:, -_RIM:].T]
    rim = np.concatenate([strip.any(axis=0) for strip in frame]).mean()
    return PartFacts(regions, place, float(part.mean()), row, column, float(rim), (scale[0], scale[1]))


def _centre(mask: Mask) -> tuple[float, float]:
    """Return the mean row and column of a mask, as shares of its height and width."""
    by_row, by_column = mask.sum(axis=1), mask.sum(axis=0)
    total = max(int(by_row.sum()), 1)
    row = float(by_row @ (np.arange(len(by_row)) + 0.5)) / total / len(by_row)
    return row, float(by_column @ (np.arange(len(by_column)) + 0.5)) / total / len(by_column)
