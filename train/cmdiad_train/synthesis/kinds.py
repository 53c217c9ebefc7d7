"""Builders of the object kinds by name. The first kind varies least and is used for demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cmdiad_train.synthesis.biscuit import build_biscuit
from cmdiad_train.synthesis.connector import build_connector
from cmdiad_train.synthesis.gear import build_gear
from cmdiad_train.synthesis.surface import Grid, Surface

KINDS: Mapping[str, Callable[[np.random.Generator, Grid], Surface]] = {
    "gear": build_gear,
    "connector": build_connector,
    "biscuit": build_biscuit,
}
CATEGORIES: tuple[str, ...] = tuple(KINDS)
"""All object kinds that can be rendered."""
