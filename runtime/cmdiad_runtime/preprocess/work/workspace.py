"""Large work arrays that are reused from sample to sample, so that steady inspection allocates no memory."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64  # bytes: sizes are rounded up to a multiple of this


class Workspace(threading.local):
    """Named work arrays, separate for each thread.

    An array is valid until the same thread requests the same name again; never return one to a caller.
    """

    def __init__(self) -> None:
        self._memory: dict[str, npt.NDArray[np.uint8]] = {}
        self._counting = np.empty(0, dtype=np.int64)

    def take(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an uninitialised work array.

        The memory of a name grows to the largest size that was requested.

        Args:
            name: Name of the work array.
            shape: Shape of the array.
            dtype: Type of the elements.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        memory = self._memory.get(name)
        if memory is None or len(memory) < size:
            memory = np.empty(-(-size // _ALIGNMENT) * _ALIGNMENT, dtype=np.uint8)
            self._memory[name] = memory
        return memory[:size].view(dtype).reshape(shape)

    def counting(self, count: int) -> npt.NDArray[np.int64]:
        """Return the numbers 0 to `count` - 1, int64 `[count]`; do not write to the result."""
        if len(self._counting) < count:
            self._counting = np.arange(count, dtype=np.int64)
        return self._counting[:count]


WORKSPACE = Workspace()
"""Work arrays of the point geometry."""
