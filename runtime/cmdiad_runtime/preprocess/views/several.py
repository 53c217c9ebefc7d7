"""Several equal parts in one sample: each is found on its own, numbered in reading order, and seen in its own view.

A sample whose number of parts differs from the settings is refused: a missing part must never count as inspected, and
a region that is neither a part nor dirt has not been inspected by anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.cloud.clustering import cluster_ranks
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.support_plane import Plane
from cmdiad_runtime.preprocess.image.foreground import ImageRegions, image_regions
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.part_pose import template_area
from cmdiad_runtime.preprocess.views.top_pose import covered_area, covered_area_of_template
from cmdiad_runtime.sample import Mask, Sample

_FURTHER = 8
"""Regions to look at beyond the number of parts."""
_LEAST_AREA = 100
"""Working pixels of the image: regions smaller than this, divided by the number of parts, are noise."""
_PART_AREA = (0.5, 1.7)
"""Range of a part's area as a multiple of the usual area; two parts that touch have about twice the area."""
_DIRT_AREA = 0.1
"""Multiple of the usual area below which a region is dirt and not counted."""
_SAME_ROW = 0.5
"""Largest distance between the centres of parts in one row, as a multiple of the edge of a part."""


class SeveralPartsGeometry(PartGeometry):
    """Geometry of a sample with several equal parts. Part, foreground and largest region are all parts together.

    The size of a part is that of the mean training part; before a view has learned that, the usual size in the sample.

    Args:
        sample: Sample.
        preprocessing: Settings with the number of parts.
    """

    def __init__(self, sample: Sample, preprocessing: Preprocessing) -> None:
        super().__init__(sample, foreground=preprocessing.foreground, seed=preprocessing.seed)
        self._settings = preprocessing

    @cached_property
    def _regions(self) -> ImageRegions:
        return image_regions(self.rgb, parts=self._settings.parts)

    @cached_property
    def _part_labels(self) -> list[int]:
        """Labels of the parts in the image, in reading order."""
        regions, settings = self._regions, self._settings
        pixels = regions.areas * regions.labels.size
        order = [int(i) for i in np.argsort(-pixels, kind="stable") if pixels[i] >= _LEAST_AREA / settings.parts]
        labels = order[: settings.parts + _FURTHER]
        usual = None if settings.part is None else template_area(settings.part) / regions.factor**2
        chosen = _equal_parts(self.name, [float(pixels[label]) for label in labels], settings.parts, usual)
        parts = [labels[i] for i in chosen]
        return [parts[i] for i in in_reading_order([regions.labels == label for label in parts])]

    @cached_property
    def in_image(self) -> list[Mask]:
        """Return the working pixels of each part in the image, bool `[rows, columns]` each, in reading order.

        Raises:
            InputError: The image has another number of parts.
        """
        return [self._regions.region(label) for label in self._part_labels]

    @cached_property
    def image_regions(self) -> ImageRegions:
        """Return the bright regions of the image, with all parts as one region.

        Raises:
            InputError: The image has another number of parts, or the sample has no image.
        """
        labels = np.where(np.isin(self._regions.labels, self._part_labels), self._part_labels[0], self._regions.labels)
        return replace(self._regions, labels=labels, part=np.any(self.in_image, axis=0))

    @cached_property
    def _ranks(self) -> npt.NDArray[np.int64]:
        return cluster_ranks(self.xyz[self.off_support])

    @cached_property
    def _part_ranks(self) -> list[int]:
        """Ranks of the parts' clusters, in reading order."""
        top, count = self._settings.top, self._settings.parts
        ranks = range(min(int(self._ranks.max(initial=-1)) + 1, count + _FURTHER))
        masks = [self._cluster(rank) for rank in ranks]
        if top is None:
            areas, usual = [float(np.count_nonzero(mask)) for mask in masks], None
        else:
            areas = [covered_area(self.xyz, mask, self.support, top.pitch) for mask in masks]
            usual = covered_area_of_template(top)
        parts = _equal_parts(self.name, areas, count, usual)
        return [parts[i] for i in in_reading_order([masks[part] for part in parts])]

    def _cluster(self, rank: int) -> Mask:
        mask = self.off_support.copy()
        mask[mask] = self._ranks == rank
        return mask

    @cached_property
    def in_cloud(self) -> list[Mask]:
        """Return the pixels of each part in the cloud, bool `[h, w]` each, in reading order.

        Raises:
            InputError: The cloud has another number of parts.
        """
        return [self._cluster(rank) for rank in self._part_ranks]

    @cached_property
    def clusters(self) -> npt.NDArray[np.int64]:
        """Return the rank of the cluster of each point of `off_support`, 0 for all parts; -1 without a cluster.

        Raises:
            InputError: The cloud has another number of parts.
        """
        others = [rank for rank in range(int(self._ranks.max(initial=-1)) + 1) if rank not in self._part_ranks]
        changed = np.zeros(len(others) + len(self._part_ranks) + 1, dtype=np.int64)
        changed[others] = np.arange(1, len(others) + 1)
        changed[-1] = -1  # noise, whose rank is -1
        return changed[self._ranks]

    def each(self, *, image: bool, cloud: bool) -> tuple[PartGeometry, ...]:
        """Return the geometry of each part, in reading order.

        Args:
            image: Tell parts apart in the image.
            cloud: Tell parts apart in the cloud; with both, parts belong together that overlap.

        Raises:
            InputError: The sample has another number of parts, or the cloud cannot be used.
        """
        seen = self.in_image if image else None
        measured = None
        if cloud and self.part.any():  # the property checks the cloud
            measured = self.in_cloud
        if seen is not None and measured is not None:
            shown = [replace(self._regions, part=part).mask for part in seen]
            measured = _matched(self.name, shown, measured)
        return tuple(
            OnePartGeometry(
                self, self._sample, None if seen is None else seen[i], None if measured is None else measured[i]
            )
            for i in range(self._settings.parts)
        )


class OnePartGeometry(PartGeometry):
    """Geometry of one of several parts in a sample. Plane and valid pixels are those of the whole sample.

    Args:
        whole: Geometry of the sample.
        sample: Sample.
        in_image: The part's working pixels in the image, bool `[rows, columns]`, or None for all parts.
        in_cloud: The part's pixels in the cloud, bool `[h, w]`, or None for all parts.
    """

    def __init__(
        self, whole: SeveralPartsGeometry, sample: Sample, in_image: Mask | None, in_cloud: Mask | None
    ) -> None:
        super().__init__(sample, foreground=whole.removes_background)
        self._whole, self._in_image, self._in_cloud = whole, in_image, in_cloud

    @cached_property
    def image_regions(self) -> ImageRegions:
        """Return the bright regions of the image, and this part among them."""
        regions = self._whole.image_regions
        return regions if self._in_image is None else replace(regions, part=self._in_image)

    @property
    def valid(self) -> Mask:
        """Return the pixels with a point, bool `[h, w]`."""
        return self._whole.valid

    @property
    def support(self) -> Plane | None:
        """Return the plane that the parts lie on, or None if the rim of the cloud shows none."""
        return self._whole.support

    @property
    def foreground(self) -> Mask:
        """Return the part's pixels in the cloud, bool `[h, w]`."""
        return self._whole.foreground if self._in_cloud is None else self._in_cloud


def parts_of(geometry: PartGeometry, preprocessing: Preprocessing) -> tuple[PartGeometry, ...]:
    """Return the geometry of each part of a sample, in reading order.

    Args:
        geometry: Geometry of the whole sample, of `strategy.part_geometry`.
        preprocessing: Settings with the learned view.

    Raises:
        InputError: The sample has another number of parts, or the cloud cannot be used.
    """
    if not isinstance(geometry, SeveralPartsGeometry):
        return (geometry,)
    modality, top, part = preprocessing.modality, preprocessing.top, preprocessing.part
    image = part is not None and (modality != "xyz" or top is None)
    return geometry.each(image=image, cloud=modality != "rgb" or not image)


def training_parts(geometry: PartGeometry, view: ViewName) -> tuple[PartGeometry, ...]:
    """Return the geometry of each part of a training sample, from which a view is learned.

    Args:
        geometry: Geometry of the whole sample, of `strategy.part_geometry`.
        view: View that is being learned.

    Raises:
        InputError: The sample has another number of parts, or the cloud cannot be used.
    """
    if not isinstance(geometry, SeveralPartsGeometry) or view == "sensor":
        return (geometry,)
    return geometry.each(image=view in ("part", "each"), cloud=view in ("top", "each"))


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


def in_reading_order(masks: Sequence[Mask]) -> list[int]:
    """Return the order of masks `[h, w]` of equal parts: row by row from the top, each row from the left.

    A part belongs to a row if its centre lies within half the edge of a part below the first centre of the row.
    """
    centres = [np.argwhere(mask).mean(axis=0) for mask in masks]
    edge = float(np.median([np.count_nonzero(mask) for mask in masks])) ** 0.5 if len(masks) else 0.0
    ordered: list[int] = []
    waiting = sorted(range(len(masks)), key=lambda i: float(centres[i][0]))
    while waiting:
        top = centres[waiting[0]][0]
        row = [i for i in waiting if centres[i][0] - top <= _SAME_ROW * edge]
        ordered += sorted(row, key=lambda i: float(centres[i][1]))
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
