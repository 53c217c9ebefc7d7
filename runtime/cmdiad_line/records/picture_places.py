"""Folders and files of the pictures. A part has the folder `pictures/YYYY-MM-DD/ID/`, by the date of its trigger.

`rgb.png` is the image of the camera, `xyz.npz` the cloud (array `xyz`, float32 `[h, w, 3]`, metres), `overlay.png`
the image with the heatmap, and `result.json` the published result. A folder has its name when it is complete.
"""

from __future__ import annotations

import re
from pathlib import Path

RGB, XYZ, OVERLAY, RESULT = "rgb.png", "xyz.npz", "overlay.png", "result.json"

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_ID = re.compile(r"\d{10}")


def pictures_folder(state: Path) -> Path:
    """Return the folder of all pictures in a state folder."""
    return state / "pictures"


def part_folder(state: Path, acquisition_id: int, time: str) -> Path:
    """Return the folder for the pictures of a part, which exists only if pictures were kept.

    Args:
        state: State folder of the station.
        acquisition_id: Id of the part.
        time: Time of the trigger, ISO 8601.

    Raises:
        ValueError: The time has no date.
    """
    day = time[:10]
    if not _DAY.fullmatch(day):
        raise ValueError(f"no date: {time!r:.40}")
    return pictures_folder(state) / day / f"{acquisition_id:010d}"


def is_day(name: str) -> bool:
    """Return True for the name of a folder of one day."""
    return _DAY.fullmatch(name) is not None


def is_part(name: str) -> bool:
    """Return True for the name of a folder of one part."""
    return _ID.fullmatch(name) is not None
