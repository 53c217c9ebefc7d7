"""Limits of the inspected area, learned from good training samples and stored with the run and in the bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cmdiad_runtime.preprocess.inspected_area.background import Background
from cmdiad_runtime.support.records import (
    fields_from_json,
    make_tuple,
    require,
    require_instance,
    require_integer,
    require_line,
    require_number,
    require_numbers,
)

_MOST_PARTS = 1 << 20


@dataclass(frozen=True)
class PartStatistics:
    """Number, area and position of the parts of good samples. Areas and positions are shares of the picture.

    Attributes:
        least_area: Smallest area of a region that counts as a part.
        count: Smallest and largest number of such regions.
        area: Smallest and largest area of the part, which is the largest region.
        row: Smallest and largest row of the part's centre.
        column: Smallest and largest column of the part's centre.
        rim: Largest share of the outermost pixels of the picture that the part covers.
    """

    least_area: float
    count: tuple[int, int]
    area: tuple[float, float]
    row: tuple[float, float]
    column: tuple[float, float]
    rim: float

    def __post_init__(self) -> None:
        require_number(self, "least_area", 0, 1)
        require_number(self, "rim", 0, 1)
        for name, high in (("count", _MOST_PARTS), ("area", 1), ("row", 1), ("column", 1)):
            make_tuple(self, name)
            require_numbers(self, name, 0, high)
            limits = getattr(self, name)
            require(len(limits) == 2 and limits[0] <= limits[1], self, name, "a lower and an upper limit")
        require(all(isinstance(number, int) for number in self.count), self, "count", "whole numbers")

    @staticmethod
    def from_json(value: object) -> PartStatistics:
        """Read the record from a JSON object; RecordError if a field is missing, unknown or wrong."""
        return PartStatistics(**fields_from_json(PartStatistics, value))


_KINDS: dict[str, type[PartStatistics] | type[Background]] = {
    "image": PartStatistics,
    "background": Background,
    "cloud": PartStatistics,
}
_LATER: dict[str, object] = {"counter_evidence": "", "shared": None}
"""Fields that `to_json` leaves out at these values."""


@dataclass(frozen=True)
class InspectedArea:
    """The area that a detector inspects, and the limits within which it is the area of the training samples.

    Attributes:
        share: Median share of the picture that is inspected; 1 if all of it is.
        samples: Number of good samples that the limits are learned from; 0 if there is nothing to compare.
        false_alarm_rate: Share of good samples that each limit is expected to reject.
        image: Limits of the part in the image, or None if the whole image is inspected.
        background: Image around the part, or None if there is no image or all of it is inspected. The part is that of
            the image if `image` is not None, else that of the cloud.
        cloud: Limits of the part in the cloud, or None if the whole cloud is inspected.
        stray: Largest share of the picture with points off the support plane outside of the part, or None if the
            whole cloud is inspected.
        counter_evidence: Reason of the good samples against this area, which is used nevertheless, as with a forced
            `--view part`: for example "the picture has structure outside of the part, ..."; "" without a reason.
        shared: Smallest area in which the parts of image and cloud agree, as a share of the area that either covers;
            None if there is one modality or several parts, or if good samples do not agree either.
    """

    share: float
    samples: int = 0
    false_alarm_rate: float = 0.0
    image: PartStatistics | None = None
    background: Background | None = None
    cloud: PartStatistics | None = None
    stray: float | None = None
    counter_evidence: str = ""
    shared: float | None = None

    def __post_init__(self) -> None:
        require_number(self, "share", 0, 1)
        require_integer(self, "samples", 0, 1 << 40)
        require_number(self, "false_alarm_rate", 0, 1)
        for name, kind in _KINDS.items():
            if getattr(self, name) is not None:
                require_instance(self, name, kind)
        for name in ("stray", "shared"):
            if getattr(self, name) is not None:
                require_number(self, name, 0, 1)
        require_line(self, "counter_evidence")

    @staticmethod
    def from_json(value: object) -> InspectedArea:
        """Read the record from a JSON object; RecordError if a field is missing, unknown or wrong."""
        fields = fields_from_json(InspectedArea, value)
        for name, kind in _KINDS.items():
            if fields.get(name) is not None:
                fields[name] = kind.from_json(fields[name])
        return InspectedArea(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object; fields that earlier versions lack are left out at their defaults."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}


WHOLE_PICTURE = InspectedArea(1.0)
"""The inspected area of a detector that looks at everything that the sensor delivers."""


def describe(area: InspectedArea, parts: int = 1) -> str:
    """Return the inspected area as text, for example "the part in the image, 15.7% of the picture".

    Args:
        area: Inspected area.
        parts: Number of equal parts in a sample (`--parts`), which count as one part in the limits.
    """
    counts = {limits.count for limits in (area.image, area.cloud) if limits is not None}
    if not counts:
        return "the whole picture"
    low, high = min(low for low, _ in counts), max(high for _, high in counts)
    number = f"{low * parts}" if low == high else f"{low} to {high}"
    names = [name for name in ("image", "cloud") if getattr(area, name) is not None]
    counted = f"{number} part{'' if number == '1' else 's'} in each sample"
    return f"the part in the {' and in the '.join(names)}, {area.share:.1%} of the picture, {counted}"


def doubt(area: InspectedArea) -> str:
    """Return the warning about an area that is used against the evidence of the good samples, or ""."""
    if not area.counter_evidence:
        return ""
    return f"defects outside of the inspected area are not seen: {area.counter_evidence}"
