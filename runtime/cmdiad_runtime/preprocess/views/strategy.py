"""The protocol of a view, and checks that all views share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.preprocess.views.several import SeveralPartsGeometry
from cmdiad_runtime.preprocess.views.top_pose import PartCloud
from cmdiad_runtime.sample import Mask, RgbImage, Sample

LEAST_CONTRAST = 8
"""Grey levels between the darkest and the brightest pixel of a usable image."""


@dataclass(frozen=True)
class LocatedPart:
    """A part found in a training sample, from which a view learns its settings.

    Attributes:
        cloud: Points on the support plane, in views that show the part from the top.
        image: Image and the part's pixels in the image, in views that cut the part out.
    """

    cloud: PartCloud | None = None
    image: tuple[RgbImage, Mask] | None = None


class View(Protocol):
    """A strategy that makes network inputs of a sample."""

    @staticmethod
    def locate(sample: Sample, geometry: PartGeometry) -> LocatedPart:
        """Find the part in a training sample.

        Raises:
            InputError: The part cannot be found, or the sample lacks a modality.
        """

    @staticmethod
    def learn(parts: Sequence[LocatedPart], preprocessing: Preprocessing) -> Preprocessing:
        """Return the preprocessing with the settings that this view learns from located training parts."""

    def prepare(self, sample: Sample, geometry: PartGeometry) -> Prepared:
        """Return the network inputs of a sample.

        Raises:
            InputError: The sample lacks a modality, or the part cannot be found.
        """


def part_geometry(sample: Sample, preprocessing: Preprocessing) -> PartGeometry:
    """Return the lazy geometry of a sample, for every view and modality of this sample.

    With several parts in a sample, its parts are those of all together; see `several.parts_of`.
    """
    if preprocessing.parts > 1:
        return SeveralPartsGeometry(sample, preprocessing)
    return PartGeometry(sample, foreground=preprocessing.foreground, seed=preprocessing.seed)


def check_contrast(rgb: RgbImage, name: str) -> None:
    """Raise InputError if an image has hardly any contrast."""
    low, high = int(rgb.min()), int(rgb.max())
    if high - low < LEAST_CONTRAST:
        raise InputError(
            name,
            found=f"an image that is all background (grey levels {low} to {high})",
            expected="a picture of a part",
            action="check camera, light and lens cap",
            reason="no-contrast",
        )
