"""Strategies that several property tests share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

seeds = st.integers(0, 2**32 - 1)
"""Seeds of NumPy generators, for data that is too large to be drawn number by number."""

sides = st.integers(1, 12)
"""Heights and widths of small images."""

images = st.tuples(sides, sides).flatmap(lambda shape: arrays.arrays(np.uint8, (*shape, 3)))
"""uint8 `[h, w, 3]`."""

coordinates = st.one_of(
    st.just(0.0),
    st.floats(-2.0, 2.0, width=32, allow_subnormal=False),
)
"""Coordinates in metres that a sensor could deliver; 0 stands for a missing measurement."""

clouds = st.tuples(sides, sides).flatmap(lambda shape: arrays.arrays(np.float32, (*shape, 3), elements=coordinates))
"""float32 `[h, w, 3]`, metres."""
