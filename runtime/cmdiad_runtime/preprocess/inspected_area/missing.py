"""Find limits that are missing in the record of an inspected area which does not cover the whole picture."""

from __future__ import annotations

from cmdiad_runtime.preprocess.inspected_area.records import InspectedArea
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.reasons import Reason

PART_CHECKS: tuple[Reason, ...] = ("part-count", "part-area", "part-position")
"""Checks of the part against the parts of the training samples."""
OUTSIDE_CHECKS: tuple[Reason, ...] = ("outside",)
"""Checks of what lies outside of the part."""


def missing_checks(area: InspectedArea | None, settings: Preprocessing) -> tuple[Reason, ...]:
    """Return the names of the checks that the settings need and the area has no limits for.

    Bundles of earlier versions have no inspected area. An absent part, and defects outside of what is taken for the
    part, can then pass.

    Args:
        area: Inspected area of a bundle, or None.
        settings: Preprocessing of the bundle.
    """
    image = settings.view in ("part", "each")
    cloud = settings.needs_cloud and settings.foreground
    if area is None:
        return (*PART_CHECKS, *OUTSIDE_CHECKS) if image or cloud else ()
    part = (image and area.image is None) or (cloud and area.cloud is None)
    outside = (image and area.background is None) or (cloud and area.stray is None)
    return (*(PART_CHECKS if part else ()), *(OUTSIDE_CHECKS if outside else ()))


def missing_note(area: InspectedArea | None, settings: Preprocessing) -> str:
    """Return the note about checks that cannot be made for want of limits, or ""."""
    missing = missing_checks(area, settings)
    if not missing:
        return ""
    return (
        f"the bundle has no limits for {', '.join(missing)}, so an absent part, or a defect outside of what is taken "
        "for the part, can pass. Train and export again with this version"
    )
