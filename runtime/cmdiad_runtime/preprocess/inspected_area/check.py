"""Compare the part and the background of a sample with those of the training samples."""

from __future__ import annotations

import numpy as np

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.inspected_area.background import Background, BackgroundCells, strange_region
from cmdiad_runtime.preprocess.inspected_area.measure import (
    PartFacts,
    cells_around_part,
    cloud_facts,
    image_facts,
    shared_area,
    stray_place,
    stray_share,
)
from cmdiad_runtime.preprocess.inspected_area.records import InspectedArea, PartStatistics
from cmdiad_runtime.reasons import Reason

_CHECK_SCENE = "check part, camera and light, and remove what does not belong there"


def objection_to_area(area: InspectedArea, geometry: PartGeometry) -> InputError | None:
    """Return what speaks against the verdict OK: another part, or unknown content outside of the part.

    Args:
        area: Inspected area of the training samples.
        geometry: Geometry of a sample that could be prepared, so that a part was found where one is needed.

    Returns:
        The first difference, parts before content outside of them, or None if there is no difference.
    """
    error = None
    if area.image is not None:
        error = _part_error(geometry.name, area.image, image_facts(geometry.image_regions), "image")
    if error is None and area.cloud is not None:
        error = _part_error(geometry.name, area.cloud, cloud_facts(geometry), "cloud")
    if error is None and area.shared is not None:
        error = _shared_error(area.shared, geometry)
    if error is None and area.background is not None:
        cells = cells_around_part(geometry, image=area.image is not None)
        error = _background_error(area.background, cells, geometry)
    if error is None and area.stray is not None:
        error = _stray_error(area.stray, geometry)
    return error


def _part_error(name: str, limits: PartStatistics, facts: PartFacts, where: str) -> InputError | None:
    count = facts.count(limits.least_area)
    if not limits.count[0] <= count <= limits.count[1]:
        too_many = count > limits.count[1]
        more = f", one of them at {_place(facts.place(limits.count[1]), facts.scale)}" if too_many else ""
        problem = f"{_number(count)} in the {where}{more}"
        return _error(name, problem, _between(*limits.count), reason="part-count")
    if facts.rim > limits.rim:
        problem = f"a part in the {where} that the edge of the picture cuts off"
        return _error(name, problem, "a part that is completely in view", reason="part-position")
    if not limits.area[0] <= facts.area <= limits.area[1]:
        low, high = (f"{100 * share:.3g}" for share in limits.area)
        problem = f"a part that covers {100 * facts.area:.3g} % of the {where}"
        return _error(name, problem, f"{low} to {high} %, as in training", reason="part-area")
    if _beyond(facts.row, limits.row) or _beyond(facts.column, limits.column):
        problem = f"a part at {_place((facts.row, facts.column), facts.scale)} of the {where}"
        first, last = (_place(place, facts.scale) for place in zip(limits.row, limits.column, strict=True))
        return _error(name, problem, f"a part between {first} and {last}, as in training", reason="part-position")
    return None


def _shared_error(limit: float, geometry: PartGeometry) -> InputError | None:
    share = shared_area(geometry)
    if share >= limit:
        return None
    return InputError(
        geometry.name,
        found=f"a part in the image that agrees with the part in the cloud in {100 * share:.3g} % of their area",
        expected=f"at least {100 * limit:.3g} %, as in training",
        action="check that image and cloud show the same part at the same time, and that all of the part is lit",
        reason="part-position",
    )


def _background_error(background: Background, cells: BackgroundCells, geometry: PartGeometry) -> InputError | None:
    if cells.near.shape != (background.rows, background.columns):
        problem = f"a picture of {geometry.rgb.shape[1]}×{geometry.rgb.shape[0]} pixels"
        return _error(geometry.name, problem, "the aspect ratio of the training samples", reason="outside")
    deviation = background.deviations(cells)
    if deviation.max() <= background.threshold:
        return None
    strange = strange_region(deviation, background.threshold)
    rows, columns = np.nonzero(strange)
    place = (rows.mean() + 0.5) / background.rows, (columns.mean() + 0.5) / background.columns
    height, width = geometry.rgb.shape[:2]
    tall = round((np.ptp(rows) + 1) * height / background.rows)
    wide = round((np.ptp(columns) + 1) * width / background.columns)
    at = _place((float(place[0]), float(place[1])), (height, width))
    problem = f"unknown content outside of the part at {at}, about {wide}×{tall} pixels, score {deviation.max():.3g}"
    return _error(geometry.name, problem, f"a score of at most {background.threshold:.3g}", reason="outside")


def _stray_error(limit: float, geometry: PartGeometry) -> InputError | None:
    share = stray_share(geometry)
    if share <= limit:
        return None
    at = _place(stray_place(geometry), geometry.off_support.shape)
    points = round(share * geometry.off_support.size)
    problem = f"{points} points off the support outside of the part, around {at}"
    expected = f"at most {round(limit * geometry.off_support.size)}"
    return _error(geometry.name, problem, expected, reason="outside")


def _error(name: str, problem: str, expected: str, *, reason: Reason) -> InputError:
    return InputError(name, found=problem, expected=expected, action=_CHECK_SCENE, reason=reason)


def _beyond(value: float, limits: tuple[float, float]) -> bool:
    return not limits[0] <= value <= limits[1]


def _between(low: int, high: int) -> str:
    return f"{_number(high)}, as in training" if low == high else f"{low} to {high} parts, as in training"


def _number(count: int) -> str:
    return f"{count} part{'' if count == 1 else 's'}"


def _place(place: tuple[float, float], scale: tuple[int, ...]) -> str:
    """Return a position as text; `place` holds shares of the picture, of which the middle of a pixel is reached."""
    return f"row {int(place[0] * scale[0])}, column {int(place[1] * scale[1])}"
