"""Several equal parts in one sample: each is found on its own, numbered in reading order, and seen in its own view.

A sample whose number of parts differs from the settings is refused: a missing part must never count as inspected, and
a region that is neither a part nor dirt has not been inspected by anyone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.parts import OnePartGeometry, cloud_clusters
from cmdiad_runtime.preprocess.image.foreground import bright_components
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.view_settings import PartSettings, TopSettings
from cmdiad_runtime.preprocess.views.part_pose import template_area
from cmdiad_runtime.preprocess.views.strategy import image_of, part_geometry
from cmdiad_runtime.preprocess.views.top_pose import covered_area, covered_area_of_template
from cmdiad_runtime.sample import Mask, Sample

_FURTHER = 8
"""Regions to look at beyond the number of parts."""
_PART_AREA = (0.5, 1.7)
"""Range of a part's area as a multiple of the usual area; two parts that touch have about twice the area."""
_DIRT_AREA = 0.1
"""Multiple of the usual area below which a region is dirt and not counted."""
_SAME_ROW = 0.5
"""Largest distance between the centres of parts in one row, as a multiple of the edge of a part."""


def part_geometries(sample: Sample, preprocessing: Preprocessing) -> tuple[PartGeometry, ...]:
    """Return the geometry of each part in a sample, in reading order.

    Args:
        sample: Sample with the modalities of the preprocessing.
        preprocessing: Settings with the learned view; with one part, the geometry of the whole sample is returned.

    Raises:
        InputError: The sample has another number of parts, or the cloud cannot be used.
    """
    if preprocessing.parts == 1:
        return (part_geometry(sample, preprocessing),)
    top, part, modality = preprocessing.top, preprocessing.part, preprocessing.modality
    if modality == "rgb" and part is not None:
        top = None
    if modality == "xyz" and top is not None:
        part = None
    return _separated(
        sample, preprocessing, in_image=part, in_cloud=top, image=part is not None, cloud=modality != "rgb" or not part
    )


def training_geometries(sample: Sample, preprocessing: Preprocessing, view: ViewName) -> tuple[PartGeometry, ...]:
    """Return the geometry of each part in a training sample, before the view has learned the size of a part.

    Args:
        sample: Good training sample.
        preprocessing: Settings in the sensor view.
        view: View that is being learned.

    Raises:
        InputError: The sample has another number of parts, or the cloud cannot be used.
    """
    if preprocessing.parts == 1 or view == "sensor":
        return (part_geometry(sample, preprocessing),)
    image, cloud = view in ("part", "each"), view in ("top", "each")
    return _separated(sample, preprocessing, in_image=None, in_cloud=None, image=image, cloud=cloud)


def _separated(
    sample: Sample,
    preprocessing: Preprocessing,
    *,
    in_image: PartSettings | None,
    in_cloud: TopSettings | None,
    image: bool,
    cloud: bool,
) -> tuple[PartGeometry, ...]:
    whole = part_geometry(sample, preprocessing)
    count = preprocessing.parts
    seen = _parts_in_image(sample, count, in_image) if image else None
    measured = _parts_in_cloud(whole, count, in_cloud) if cloud else None
    if seen is not None and measured is not None:
        measured = _matched(sample.name, seen, measured)
    return tuple(
        OnePartGeometry(whole, image=None if seen is None else seen[i], cloud=None if measured is None else measured[i])
        for i in range(count)
    )


def _parts_in_image(sample: Sample, count: int, settings: PartSettings | None) -> list[Mask]:
    regions = bright_components(image_of(sample), count, count + _FURTHER)
    areas = [float(np.count_nonzero(region)) for region in regions]
    usual = None if settings is None else template_area(settings)
    return in_reading_order([regions[i] for i in _equal_parts(sample.name, areas, count, usual)])


def _parts_in_cloud(geometry: PartGeometry, count: int, settings: TopSettings | None) -> list[Mask]:
    clusters = cloud_clusters(geometry, count + _FURTHER)
    if settings is None:
        areas = [float(np.count_nonzero(cluster)) for cluster in clusters]
        usual = None
    else:
        pitch = settings.pitch
        areas = [covered_area(geometry.xyz, cluster, geometry.support, pitch) for cluster in clusters]
        usual = covered_area_of_template(settings)
    return in_reading_order([clusters[i] for i in _equal_parts(geometry.name, areas, count, usual)])


def _equal_parts(name: str, areas: Sequence[float], count: int, usual: float | None) -> list[int]:
    """Return the indices of the regions that are parts.

    Args:
        name: Name of the sample.
        areas: Area of each region, any unit.
        count: Number of parts.
        usual: Area of a part in the same unit; None takes the median of the `count` largest regions.

    Raises:
        InputError: There are more or fewer parts, or regions that are neither parts nor dirt.
    """
    if usual is None:
        usual = float(np.median(sorted(areas)[-count:])) if areas else 0.0
    low, high = (factor * usual for factor in _PART_AREA)
    parts = [i for i, area in enumerate(areas) if low <= area <= high]
    others = sum(area > _DIRT_AREA * usual and not low <= area <= high for area in areas)
    if len(parts) == count and not others:
        return parts
    further = f" and {_counted(others, 'region')} of another size" if others else ""
    raise _wrong_count(name, f"{_counted(len(parts), 'part')}{further}", count)


def in_reading_order(masks: Sequence[Mask]) -> list[Mask]:
    """Return masks `[h, w]` of equal parts row by row from the top, each row from the left.

    A part belongs to a row if its centre lies within half the edge of a part below the first centre of the row.
    """
    centres = [np.argwhere(mask).mean(axis=0) for mask in masks]
    edge = float(np.median([np.count_nonzero(mask) for mask in masks])) ** 0.5 if len(masks) else 0.0
    ordered: list[Mask] = []
    waiting = sorted(range(len(masks)), key=lambda i: float(centres[i][0]))
    while waiting:
        top = centres[waiting[0]][0]
        row = [i for i in waiting if centres[i][0] - top <= _SAME_ROW * edge]
        ordered += [masks[i] for i in sorted(row, key=lambda i: float(centres[i][1]))]
        waiting = [i for i in waiting if i not in row]
    return ordered


def _matched(name: str, seen: Sequence[Mask], measured: Sequence[Mask]) -> list[Mask]:
    """Return the parts of a cloud in the order of the parts in the registered image, by the largest overlap.

    Raises:
        InputError: Two parts in the image overlap the same part in the cloud, or one overlaps none.
    """
    overlap = np.array([[np.count_nonzero(a & b) for b in measured] for a in seen])
    partner: npt.NDArray[np.int64] = overlap.argmax(axis=1)
    if len(set(partner.tolist())) < len(seen) or (overlap.max(axis=1) == 0).any():
        raise _wrong_count(name, "parts in the image that lie elsewhere in the cloud", len(seen))
    return [measured[i] for i in partner]


def _wrong_count(name: str, found: str, count: int) -> InputError:
    return InputError(
        name,
        found=found,
        expected=f"{count} equal parts, apart from each other and from the edge of the picture",
        action="check that every part is in view and nothing else, or train with another number of --parts",
        reason="part-count",
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
