"""Combinations of options that a sweep tries.

The criterion of a trial is that of `cmdiad-train --family auto`: the share of pairs in which a slightly changed copy
of a held-out good sample has a higher score than a good sample. The test split is not read.
"""

from __future__ import annotations

import math
import random
from itertools import product
from typing import Any

from cmdiad_fleet.training.fleet_file.sections import Sweep


def points_of(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the options of each trial by name, in an order that depends on the sweep alone.

    A random search with more samples begins with the trials of the one with fewer samples, so those are kept.
    """
    grid = [dict(zip(sweep.values, point, strict=True)) for point in product(*sweep.values.values())]
    if sweep.search == "grid":
        return grid
    random.Random(sweep.seed).shuffle(grid)  # noqa: S311
    return grid[: sweep.samples]


def combinations(sweep: Sweep) -> int:
    """Return the number of combinations of a sweep's values, before a random search draws some of them."""
    return math.prod(len(values) for values in sweep.values.values())
