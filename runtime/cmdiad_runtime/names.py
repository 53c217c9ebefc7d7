"""Names of modalities and views, and limits of options. Commands offer them, so this module imports nothing."""

from __future__ import annotations

from typing import Literal, get_args

Modality = Literal["rgb", "xyz"]
Sensors = Literal["rgb", "xyz", "both"]
"""Modalities that a detector uses: one, or both."""
MODALITIES: tuple[Modality, ...] = get_args(Modality)
SENSORS: tuple[Sensors, ...] = get_args(Sensors)
ANY = "any"
"""Value of `--modality` for one bundle that inspects samples with image, cloud or both."""
PATTERN_TEXTS: dict[Sensors, str] = {"rgb": "an image alone", "xyz": "a cloud alone", "both": "image and cloud"}
"""Text for people about the modalities of a sample."""

ViewName = Literal["sensor", "part", "top", "each"]
VIEW_NAMES: tuple[ViewName, ...] = get_args(ViewName)
MOST_PARTS = 64
"""Largest number of equal parts in a sample."""

Verdict = Literal["map", "image"]
"""Score that decides: the largest value of the anomaly map over the image of the sensor, or the published image score.
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

INSPECTION_STAGES = ("preprocess", "engine", "map")
"""Stages of an inspection whose durations are recorded, in order; see `Inspection.timings_ms`."""

EARLIER_VIEWS = {"plan": "top"}
"""Current names of views by the names of earlier versions. JSON keeps the name "plan" for settings of the top view."""
