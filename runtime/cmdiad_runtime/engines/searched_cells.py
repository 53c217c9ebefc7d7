"""List the cells of an image that a graph must search, so that background cells are searched once.

In an image of the part alone all background cells have the same features and therefore the same distance. A graph of
`cmdiad-export` has an optional input `IMAGE_searched` for each such image: the cells to search, by default all. The
graph finds the background itself: a cell with a pixel of the part that is missing from the list makes the run fail, so
a wrong list cannot hide a defect. Engines without dynamic shapes leave the list out and search every cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines import Arrays

SUFFIX = "_searched"
"""Follows the name of an image in the name of its list."""
LEAST = 2
"""Shortest list: graphs are traced for two rows or more."""
_DIGITS = 4


def grids_of(metadata: Mapping[str, str]) -> dict[str, int]:
    """Return the side of the grid of cells by name of the image, from the metadata of a graph.

    Grids of other graphs, and entries that are no number, are left out: every cell of such an image is searched.
    """
    return {
        key.removesuffix(SUFFIX): int(side)
        for key, side in metadata.items()
        if key.endswith(SUFFIX) and side.isascii() and side.isdigit() and len(side) <= _DIGITS and int(side) > 0
    }


def lists_of(inputs: Arrays, grids: Mapping[str, int]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the list of each image that shows fewer cells of the part than its grid has.

    Args:
        inputs: Network inputs by name.
        grids: Side of the grid of cells by name of the image, from `grids_of`.
    """
    images = {name: inputs[name] for name in grids if name in inputs}
    lists = {f"{name}{SUFFIX}": searched_cells(image, grids[name]) for name, image in images.items() if image.ndim == 4}
    return {name: cells for name, cells in lists.items() if cells is not None}


def searched_cells(image: npt.NDArray[Any], grid: int) -> npt.NDArray[np.int64] | None:
    """Return the cells with a pixel of the part and the first background cell, int64 `[n]`, ascending.

    A pixel belongs to the part if any channel is above 0. None stands for all cells.

    Args:
        image: Network input `[1, size, size, channels]` whose background is 0.
        grid: Side of the grid of cells, flattened row by row.
    """
    part = np.logical_or.reduce([image[0, :, :, channel] > 0 for channel in range(image.shape[3])])
    if min(part.shape) < grid:
        return None
    on_part = _any_in_windows(_any_in_windows(part, grid).T, grid).T.ravel()
    background = np.flatnonzero(~on_part)[:1]
    cells = np.sort(np.concatenate([np.flatnonzero(on_part), background]))
    if len(cells) == grid**2:
        return None
    return np.resize(cells, max(len(cells), LEAST))


def _any_in_windows(part: npt.NDArray[np.bool_], grid: int) -> npt.NDArray[np.bool_]:
    """Return whether each of `grid` windows along the first axis has a pixel, bool `[grid, ...]`.

    Windows begin one stride apart and the last one ends with the image, so they overlap if the grid does not divide it.
    """
    stride = len(part) // grid
    width = len(part) - stride * (grid - 1)
    last = stride * (grid - 1) + 1
    return np.logical_or.reduce([part[start : start + last : stride] for start in range(width)])
