"""What training learns about the inspected area from each good sample."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.inspected_area.background import BackgroundCells
from cmdiad_runtime.preprocess.inspected_area.measure import (
    PartFacts,
    cells_around_part,
    cloud_facts,
    image_facts,
    shared_area,
    stray_share,
)
from cmdiad_runtime.preprocess.inspected_area.records import InspectedArea
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_train.fit.evidence import (
    TAMPERED_SAMPLES,
    ImageEvidence,
    against_cloud,
    against_image,
    image_evidence,
)
from cmdiad_train.fit.limits import FALSE_ALARM_RATE, learn_background, learn_shared, learn_statistics, learn_stray

_MOST_SHOWN = 24


@dataclass(frozen=True)
class ObservedImage:
    """The part and the background of one good image.

    Attributes:
        facts: Number, area and position of the parts.
        background: Picture around the part.
        evidence: Content outside of the part.
    """

    facts: PartFacts
    background: BackgroundCells
    evidence: ImageEvidence


@dataclass(frozen=True)
class ObservedCloud:
    """The part of one good cloud.

    Attributes:
        facts: Number, area and position of the clusters.
        stray: Share of the picture with points off the support outside of the part.
        background: Image around the part, or None if there is no image or it is inspected otherwise.
        shared: Agreement with the part in the image (`shared_area`), or None if there is no image or several parts.
    """

    facts: PartFacts
    stray: float
    background: BackgroundCells | None = None
    shared: float | None = None


class Observations:
    """The inspected area of the good samples of a training in one view.

    Args:
        view: Name of the view.
        preprocessing: Preprocessing of inspection.
    """

    def __init__(self, view: ViewName, preprocessing: Preprocessing) -> None:
        self._of_images = view in ("part", "each")
        self._of_clouds = preprocessing.needs_cloud and preprocessing.foreground
        seen_through_cloud = view == "top" or preprocessing.rgb_mask == "cloud"
        self._image_by_cloud = self._of_clouds and seen_through_cloud and preprocessing.modality != "xyz"
        # Several parts of image and cloud are assigned to each other, or the image is seen through the cloud alone.
        self._compared = self._of_clouds and preprocessing.modality != "xyz" and preprocessing.parts == 1
        # With several parts, a tampered copy in which a part looks different is refused by the number of parts.
        self._tampered = TAMPERED_SAMPLES if preprocessing.parts == 1 else 0
        self._images: list[ObservedImage] = []
        self._clouds: list[ObservedCloud] = []

    @property
    def needed(self) -> bool:
        """Return True if the view leaves out some of the picture, so that samples must be observed."""
        return self._of_images or self._of_clouds

    def add(self, geometry: PartGeometry) -> None:
        """Observe a good sample.

        Raises:
            InputError: The cloud cannot be used. An image must show a part.
        """
        if self._of_images:
            regions, number = geometry.image_regions, len(self._images)
            evidence = image_evidence(geometry.rgb, regions, tampered=number < self._tampered, seed=number)
            facts, cells = _without_place(image_facts(regions)), cells_around_part(geometry, image=True)
            self._images.append(ObservedImage(facts, cells, evidence))
        if self._of_clouds and geometry.part.any():
            around = cells_around_part(geometry, image=False) if self._image_by_cloud else None
            facts = _without_place(cloud_facts(geometry))
            shared = shared_area(geometry) if self._compared else None
            self._clouds.append(ObservedCloud(facts, stray_share(geometry), around, shared))

    def against_image(self) -> str:
        """Return why the image view would leave out something that matters, as text, or ""."""
        if not self._images:
            return ""
        return self.against_comparison() or against_image(
            [i.facts for i in self._images], [i.evidence for i in self._images]
        )

    def against_comparison(self) -> str:
        """Return why the image around the part cannot be compared, as text, or ""."""
        shapes = {cells.near.shape for cells in self._cells(self._images, self._clouds)}
        return "the pictures differ in their aspect ratio" if len(shapes) > 1 else ""

    def against_cloud(self) -> str:
        """Return why the largest cluster is not the part, as text, or ""."""
        if not self._clouds:
            return ""
        return against_cloud([c.facts for c in self._clouds], [c.stray for c in self._clouds])

    def area(self, *, image: bool, cloud: bool) -> InspectedArea:
        """Return the inspected area with its limits.

        Args:
            image: True if the view shows only the part of the image.
            cloud: True if only the largest cluster of a cloud is inspected.
        """
        images = self._images if image else []
        clouds = self._clouds if cloud else []
        cells = self._cells(images, clouds)
        shared = [c.shared for c in clouds if c.shared is not None]
        areas = [i.facts.area for i in images] + [c.facts.area for c in clouds]
        return InspectedArea(
            share=float(np.median(areas)) if areas else 1.0,
            samples=max(len(images), len(clouds)),
            false_alarm_rate=FALSE_ALARM_RATE if areas else 0.0,
            image=learn_statistics([i.facts for i in images]) if images else None,
            background=learn_background(cells) if cells else None,
            cloud=learn_statistics([c.facts for c in clouds]) if clouds else None,
            stray=learn_stray([c.stray for c in clouds]) if clouds else None,
            shared=learn_shared(shared) if shared else None,
        )

    @staticmethod
    def _cells(images: list[ObservedImage], clouds: list[ObservedCloud]) -> list[BackgroundCells]:
        return [i.background for i in images] or [c.background for c in clouds if c.background is not None]

    def worth_showing(self) -> list[int]:
        """Return the positions of up to 24 samples for a person to look at: half of them unusual, the others even."""
        parts = [observed.facts for observed in self._images] or [observed.facts for observed in self._clouds]
        if not parts:
            return []
        facts = np.array([[np.log(part.area + 1e-6), part.row, part.column, part.rim] for part in parts])
        middle = np.median(facts, axis=0)
        spread = np.maximum(np.median(np.abs(facts - middle), axis=0), 0.01)
        unusual = np.argsort(-(np.abs(facts - middle) / spread).max(axis=1), kind="stable")[: _MOST_SHOWN // 2]
        even = np.linspace(0, len(parts) - 1, min(len(parts), _MOST_SHOWN)).astype(int)
        return list(dict.fromkeys([*unusual.tolist(), *even.tolist()]))[:_MOST_SHOWN]


def _without_place(facts: PartFacts) -> PartFacts:
    """Return the facts without the function that keeps the whole mask in memory."""
    return replace(facts, place=_nowhere)


def _nowhere(rank: int) -> tuple[float, float]:
    return (0.0, 0.0)
