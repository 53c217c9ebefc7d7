"""Large work arrays that are used again from sample to sample, so that steady inspection asks for no memory."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64  # bytes: sizes are rounded up to it


class Workspace(threading.local):
    """Named work arrays, each thread its own: what one thread takes, no other sees.

    An array holds until the same name is taken again by the same thread. Nothing taken here is handed to a caller
    that keeps it.
    """

    def __init__(self) -> None:
        self._memory: dict[str, npt.NDArray[np.uint8]] = {}
        self._counting = np.empty(0, dtype=np.int64)

    def take(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array `shape` of `dtype` with any content, in memory that grows to the largest ever asked for."""
        size = prod(shape) * np.dtype(dtype).itemsize
        memory = self._memory.get(name)
        if memory is None or len(memory) < size:
            memory = np.empty(-(-size // _ALIGNMENT) * _ALIGNMENT, dtype=np.uint8)
            self._memory[name] = memory
        return memory[:size].view(dtype).reshape(shape)

    def counting(self, count: int) -> npt.NDArray[np.int64]:
        """0 to `count` - 1, int64 `[count]`; not to be written to."""
        if len(self._counting) < count:
            self._counting = np.arange(count, dtype=np.int64)
        return self._counting[:count]


WORKSPACE = Workspace()
"""Of the point geometry."""
