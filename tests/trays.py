"""A small data set of trays: several equal parts in every picture and cloud, each turned and shifted at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

SIDE = 160
"""Pixels along each side of a picture."""
PITCH = 0.001
"""Metres between the points of a cloud."""
_HALF = (23.0, 15.0)
"""Half of length and width of a part, pixels."""
_DISTANCE = 0.5
_HEIGHT = 0.012


@dataclass(frozen=True)
class Tray:
    """A picture and a cloud of parts on a support, registered pixel by pixel.

    Attributes:
        rgb: uint8 `[SIDE, SIDE, 3]`.
        xyz: float32 `[SIDE, SIDE, 3]`, metres.
        centres: Row and column of each part's centre, in reading order.
        defect: Pixels of the defect, bool `[SIDE, SIDE]`.
    """

    rgb: npt.NDArray[np.uint8]
    xyz: npt.NDArray[np.float32]
    centres: list[tuple[float, float]]
    defect: npt.NDArray[np.bool_]


PLACES = [(42.0, 42.0), (40.0, 118.0), (118.0, 41.0), (119.0, 119.0)]
FURTHER = (80.0, 80.0)
"""Free place in the middle, for a part too many of a smaller tray."""


def tray(seed: int, *, places: list[tuple[float, float]] = PLACES, scratched: int | None = None) -> Tray:
    """Draw a tray with a part near each place; `scratched` is the number of the part with a defect."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    grey = 38 + rng.normal(0, 1.5, (SIDE, SIDE))
    height = np.zeros((SIDE, SIDE))
    defect = np.zeros((SIDE, SIDE), dtype=np.bool_)
    centres = []
    for number, place in enumerate(places):
        row, column = place[0] + rng.uniform(-3, 3), place[1] + rng.uniform(-3, 3)
        angle = rng.uniform(-0.35, 0.35) + np.pi * rng.integers(2)
        along = np.cos(angle) * (columns - column) + np.sin(angle) * (rows - row)
        across = np.cos(angle) * (rows - row) - np.sin(angle) * (columns - column)
        inside = (np.abs(along) <= _HALF[0]) & (np.abs(across) <= _HALF[1]) & (along + across < 30)
        grey[inside] = (165 + 20 * np.cos(along / 5))[inside] + rng.normal(0, 2, inside.sum())
        dent = inside & (np.hypot(along + 12, across) < 5)
        grey[dent] = 100
        height[inside] = _HEIGHT
        height[dent] -= 0.004
        if number == scratched:
            mark = inside & (np.hypot(along - 8, across) < 5)
            grey[mark] = 245
            height[mark] += 0.004
            defect |= mark
        centres.append((row, column))
    rgb = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    depth = _DISTANCE - height + rng.normal(0, 2e-5, height.shape)
    plane = ((np.arange(SIDE) + 0.5 - SIDE / 2) * PITCH).astype(np.float64)
    xyz = np.stack([np.broadcast_to(plane, height.shape), np.broadcast_to(plane[:, None], height.shape), depth], axis=2)
    return Tray(rgb, xyz.astype(np.float32), centres, defect)


def make_trays(
    folder: Path,
    *,
    train: int = 6,
    validation: int = 4,
    count: int = 4,
    places: list[tuple[float, float]] | None = None,
) -> Path:
    """Write a data set of one category, `tray`, with a test split of good trays and trays with one scratched part."""
    places = PLACES[:count] if places is None else places
    for split, defect, number in (
        ("train", "good", train),
        ("validation", "good", validation),
        ("test", "good", 2),
        ("test", "scratch", 2),
    ):
        for i in range(number):
            seed = 1000 * ["train", "validation", "test"].index(split) + i + (500 if defect != "good" else 0)
            drawn = tray(seed, places=places, scratched=None if defect == "good" else i % len(places))
            write_tray(folder / "tray" / split / defect, f"{i:03d}", drawn, ground_truth=split == "test")
    return folder


def write_tray(folder: Path, name: str, drawn: Tray, *, ground_truth: bool = False) -> Path:
    """Write picture and cloud of a tray, and return the picture."""
    for kind in ("rgb", "xyz", "gt"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn.rgb).save(folder / "rgb" / f"{name}.png")
    tifffile.imwrite(folder / "xyz" / f"{name}.tiff", drawn.xyz, photometric="rgb")
    if ground_truth:
        Image.fromarray(drawn.defect.astype(np.uint8) * 255).save(folder / "gt" / f"{name}.png")
    else:
        (folder / "gt").rmdir()
    return folder / "rgb" / f"{name}.png"
