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
    """Return the options of each trial by name, in an order that depends on the sweep alone."""
    grid = [dict(zip(sweep.values, point, strict=True)) for point in product(*sweep.values.values())]
    if sweep.search == "grid" or sweep.samples >= len(grid):
        return grid
    # The numbers of the combinations are drawn, so that no combination is drawn twice.
    numbers = random.Random(sweep.seed).sample(range(len(grid)), sweep.samples)  # noqa: S311
    return [grid[number] for number in numbers]


def combinations(sweep: Sweep) -> int:
    """Return the number of combinations of a sweep's values, before a random search draws some of them."""
    return math.prod(len(values) for values in sweep.values.values())
