"""One part as recorded by the sensors, and the types of its arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

RgbImage = npt.NDArray[np.uint8]
"""uint8 `[h, w, 3]`, RGB order, 0-255."""
XyzImage = npt.NDArray[np.float32]
"""float32 `[h, w, 3]` organised point cloud, x y z in metres, zeros where the sensor saw nothing."""
Mask = npt.NDArray[np.bool_]
"""bool `[h, w]`."""


@dataclass(frozen=True)
class Sample:
    """One part: an RGB image, an organised point cloud, or both registered pixel by pixel.

    Attributes:
        name: Name of the sample in results and messages, usually a path, as text.
        rgb: uint8 `[h, w, 3]`, RGB order, 0-255, or None.
        xyz: float32 `[h, w, 3]`, x y z in metres, zeros or NaN where the sensor saw nothing, or None.

    Raises:
        TypeError: The name is not text.
    """

    name: str
    rgb: RgbImage | None = None
    xyz: XyzImage | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"the name of a Sample is text, not {type(self.name).__name__}: Sample(str(name), ...)")


def is_plain_array(value: object) -> TypeGuard[npt.NDArray[Any]]:
    """Return True for an array without a mask: the masked elements of a masked array have no value to inspect."""
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


def describe_array(value: object) -> str:
    """Return type and shape of an array as text, such as "uint8 [480, 640, 3]"; the class name of anything else."""
    if is_plain_array(value):
        return f"{value.dtype} {list(value.shape)}"
    return f"class {type(value).__name__}"
