"""The picture around the part, at low resolution: the mean colour of the background in each cell of a grid."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image

from cmdiad_runtime.sample import Mask, RgbImage
from cmdiad_runtime.support.records import fields_from_json, require, require_integer, require_number

GRID = 40
"""Cells along the longer edge of the picture, about."""
MOST_CELLS = 1 << 13
SPREAD_STEP = 0.25
"""Grey levels per step of the stored spread."""

_CELL = 4  # reduced pixels along a cell
_MARGIN = 2  # reduced pixels around the part: its blurred outline belongs to neither side
_LEAST_FREE = 0.25  # share of a cell that must lie off the part

_Cells = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BackgroundCells:
    """The background of one picture.

    Attributes:
        colour: Mean colour of the background in each cell, float32 `[rows, columns, 3]`, grey levels; NaN in cells
            that the part covers by more than three quarters.
        near: True for cells next to the part, which contain its shadow and its dim faces, bool `[rows, columns]`.
    """

    colour: _Cells
    near: Mask

    def deviations(self, mean: _Cells, spread: _Cells, near_spread: float) -> _Cells:
        """Return the largest difference over the channels per spread, float32 `[rows, columns]`; 0 for NaN cells.

        Args:
            mean: Mean colours, float32 `[rows, columns, 3]`.
            spread: Standard deviations, float32 `[rows, columns]`.
            near_spread: Standard deviation next to the part, added in squares.
        """
        difference = np.nan_to_num(np.abs(self.colour - mean), nan=0.0).max(axis=-1)
        return np.asarray(difference / np.where(self.near, np.hypot(spread, near_spread), spread), dtype=np.float32)


def background_cells(rgb: RgbImage, part: Mask, factor: int = 1) -> BackgroundCells:
    """Return the background of a picture at low resolution.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        part: The pixels that are inspected, bool `[h / factor, w / factor]`, rounded up.
        factor: Image pixels per pixel of `part`, along each axis.
    """
    step = max(1, round(max(part.shape) / (GRID * _CELL)))
    small = np.asarray(Image.fromarray(rgb).reduce(step * factor), dtype=np.float32)
    height, width = small.shape[:2]
    covered = np.asarray(Image.fromarray(part.astype(np.uint8) * np.uint8(255)).reduce(step)) > 0
    covered = np.asarray(scipy.ndimage.maximum_filter(covered, size=2 * _MARGIN + 1))[:height, :width]
    free = (~covered[..., None]).astype(np.float32)
    share = _in_cells(free)
    near = scipy.ndimage.maximum_filter(_in_cells(1 - free)[..., 0], size=5) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        colour = np.where(share >= _LEAST_FREE, _in_cells(small * free) / share, np.float32(np.nan))
    return BackgroundCells(colour, near)


def _in_cells(image: _Cells) -> _Cells:
    """Return the mean over each cell, float32 `[rows, columns, channels]`, with zeros beyond the edge."""
    height, width, channels = image.shape
    rows, columns = -(-height // _CELL), -(-width // _CELL)
    padded = np.zeros((rows * _CELL, columns * _CELL, channels), dtype=np.float32)
    padded[:height, :width] = image
    return padded.reshape(rows, _CELL, columns, _CELL, channels).mean(axis=(1, 3), dtype=np.float32)


@dataclass(frozen=True)
class Background:
    """The background of good samples, and the limit of deviations from it.

    The deviation of a cell is the largest difference of a colour channel from the mean of good samples, divided by
    the spread of that cell.

    Attributes:
        rows: Rows of cells.
        columns: Columns of cells.
        mean: Mean colour of each cell, uint8 `[rows, columns, 3]` as base64 text.
        spread: Standard deviation of each cell, uint8 `[rows, columns]` in quarters of a grey level, as base64 text.
        near_spread: Further standard deviation of cells next to the part, grey levels.
        threshold: Largest deviation of a cell without an objection.
    """

    rows: int
    columns: int
    mean: str
    spread: str
    near_spread: float
    threshold: float

    def __post_init__(self) -> None:
        require_integer(self, "rows", 1, MOST_CELLS)
        require_integer(self, "columns", 1, MOST_CELLS)
        require(self.rows * self.columns <= MOST_CELLS, self, "rows", f"at most {MOST_CELLS} cells")
        require_number(self, "near_spread", 0, 255)
        require_number(self, "threshold", 0, 1e6)
        cells = self.rows * self.columns
        require(_length(self.mean) == 3 * cells, self, "mean", f"{3 * cells} bytes in base64")
        require(_length(self.spread) == cells, self, "spread", f"{cells} bytes in base64")

    @cached_property
    def means(self) -> _Cells:
        """Return the mean colours, float32 `[rows, columns, 3]`."""
        values = np.frombuffer(base64.b64decode(self.mean), dtype=np.uint8)
        return values.reshape(self.rows, self.columns, 3).astype(np.float32)

    @cached_property
    def spreads(self) -> _Cells:
        """Return the standard deviations, float32 `[rows, columns]`, at least one step."""
        values = np.frombuffer(base64.b64decode(self.spread), dtype=np.uint8).reshape(self.rows, self.columns)
        return np.maximum(values, 1).astype(np.float32) * np.float32(SPREAD_STEP)

    def deviations(self, cells: BackgroundCells) -> _Cells:
        """Return the deviation of each cell, float32 `[rows, columns]`; 0 for cells that the part covers."""
        return cells.deviations(self.means, self.spreads, self.near_spread)

    @staticmethod
    def from_json(value: object) -> Background:
        """Read the record from a JSON object; RecordError if a field is missing, unknown or wrong."""
        return Background(**fields_from_json(Background, value))


def encode(values: npt.NDArray[np.floating[Any]]) -> str:
    """Return values as base64 text of uint8, rounded and limited to 0-255."""
    return base64.b64encode(np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes()).decode("ascii")


def strange_region(deviation: _Cells, threshold: float) -> Mask:
    """Return the connected cells above a threshold around the largest deviation, bool `[rows, columns]`."""
    labels, _ = scipy.ndimage.label(deviation > threshold, structure=np.ones((3, 3), dtype=int))
    peak = np.unravel_index(int(deviation.argmax()), deviation.shape)
    return np.asarray((labels == labels[peak]) & (labels > 0))


def _length(text: object) -> int:
    """Return the number of bytes that a base64 text decodes to, or -1 if it is none."""
    try:
        return len(base64.b64decode(text, validate=True)) if isinstance(text, str) else -1
    except ValueError:
        return -1
