"""Names of the checks of recording conditions, and of the measures behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cmdiad_runtime.reasons import Reason

LEARNT_CHECKS: tuple[Reason, ...] = (
    "image-size",
    "exposure",
    "noise",
    "sharpness",
    "colour",
    "axes",
    "point-pitch",
    "valid-points",
    "plane-distance",
    "holes",
    "part-height",
)
"""Checks whose limits are learnt from the training samples, in the order of the examination."""

CHECKS: tuple[Reason, ...] = (*LEARNT_CHECKS, "frozen")
"""Checks of the recording conditions, which can be switched off by name. The name is the reason of the verdict."""

FROZEN_AFTER = 3
"""Default number of identical frames in a row that is reported as a frozen sensor."""


@dataclass(frozen=True)
class Measure:
    """A number that describes the recording conditions of a sample.

    Attributes:
        check: Check that the measure belongs to.
        text: Name of the measure in messages.
        scale: Factor from the measured value to the unit of messages.
        unit: Unit of messages.
        range: Smallest and largest value that the measure can have, in the unit of messages. Limits beyond are shown as
            these values.
    """

    check: Reason
    text: str
    scale: float = 1.0
    unit: str = ""
    range: tuple[float, float] = (-math.inf, math.inf)

    def show(self, value: float) -> str:
        """Return a value with its unit."""
        low, high = self.range
        return f"{min(max(value * self.scale, low), high):.3g}{self.unit}"


_LEVELS, _PERCENT, _MILLIMETRES = " of 255", " %", " mm"
_GREY, _SHARE, _POSITIVE, _DIRECTION = (0.0, 255.0), (0.0, 100.0), (0.0, math.inf), (-1.0, 1.0)

MEASURES: dict[str, Measure] = {
    "dark": Measure("exposure", "grey level of the darkest pixels", 1, _LEVELS, range=_GREY),
    "brightness": Measure("exposure", "mean grey level", 1, _LEVELS, range=_GREY),
    "bright": Measure("exposure", "grey level of the brightest pixels", 1, _LEVELS, range=_GREY),
    "saturated": Measure("exposure", "saturated pixels", 100, _PERCENT, range=_SHARE),
    "noise": Measure("noise", "noise", 1, " grey levels", range=_POSITIVE),
    "depth_noise": Measure("noise", "noise of the points", 1e3, _MILLIMETRES, range=_POSITIVE),
    "sharpness": Measure("sharpness", "ratio of fine to coarse detail", 1, " dB"),
    "order": Measure("colour", "similarity to pictures with red and blue in their places"),
    "red_blue": Measure("colour", "mean of red minus blue", 1, _LEVELS),
    "green": Measure("colour", "mean of green minus red and blue", 1, _LEVELS),
    "column_x": Measure("axes", "x direction of the columns", range=_DIRECTION),
    "column_y": Measure("axes", "y direction of the columns", range=_DIRECTION),
    "column_z": Measure("axes", "z direction of the columns", range=_DIRECTION),
    "row_x": Measure("axes", "x direction of the rows", range=_DIRECTION),
    "row_y": Measure("axes", "y direction of the rows", range=_DIRECTION),
    "row_z": Measure("axes", "z direction of the rows", range=_DIRECTION),
    "away": Measure("axes", "points with a positive z", 100, _PERCENT, range=_SHARE),
    "column_pitch": Measure(
        "point-pitch", "distance of neighbouring points in a row", 1e3, _MILLIMETRES, range=_POSITIVE
    ),
    "row_pitch": Measure(
        "point-pitch", "distance of neighbouring points in a column", 1e3, _MILLIMETRES, range=_POSITIVE
    ),
    "valid": Measure("valid-points", "measured points", 100, _PERCENT, range=_SHARE),
    "reach": Measure("valid-points", "extent of the points around their median", 1e3, _MILLIMETRES, range=_POSITIVE),
    "depth": Measure("plane-distance", "median distance of the points", 1e3, _MILLIMETRES),
    "plane": Measure("plane-distance", "support planes", range=_POSITIVE),
    "plane_distance": Measure("plane-distance", "distance of the support plane", 1e3, _MILLIMETRES),
    "plane_x": Measure("plane-distance", "tilt of the support plane along x", range=_DIRECTION),
    "plane_y": Measure("plane-distance", "tilt of the support plane along y", range=_DIRECTION),
    "holes": Measure("holes", "area of missing points inside the part", 100, _PERCENT, range=_POSITIVE),
    "largest_hole": Measure("holes", "area of the largest hole inside the part", 1e6, " mm²", range=_POSITIVE),
    "hole_count": Measure("holes", "number of holes above 4 mm² inside the part", range=_POSITIVE),
    "detached": Measure("holes", "area of detached material inside the part", 1e6, " mm²", range=_POSITIVE),
    "part_height": Measure("part-height", "height of the part above its support", 1e3, _MILLIMETRES, range=_POSITIVE),
}
"""Measures by name, in the order of the examination."""

ACTIONS: dict[Reason, str] = {
    "image-size": "check the resolution of the sensor",
    "exposure": "check that a part is in view, then lamp, exposure time and lens",
    "noise": "check gain, exposure time, lamp and vibration",
    "sharpness": "check focus, lens and motion",
    "colour": "check that a part is in view, then the colour order (RGB, not BGR), the white balance and the lamp",
    "axes": "check that x grows with the columns, y with the rows and z away from the sensor, as in training",
    "point-pitch": "check the distance, the resolution and the unit (metres) of the sensor",
    "valid-points": "check the sensor, its filters, and how missing points are written",
    "plane-distance": "check the place of the sensor, and that the background is not cut away",
    "holes": "check for reflections, shadows and loose material",
    "part-height": "check that the right part is in view, whole and in its usual pose",
}
"""Remedy of each check, without the way to switch the check off."""
