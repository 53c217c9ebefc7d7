"""`IgnoredRegion`, the region of the view that an inspection mask excludes (`cmdiad-train --mask`)."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.sample import Mask
from cmdiad_runtime.support.records import (
    fields_from_json,
    make_tuple,
    require,
    require_integer,
    require_number,
)

_MOST_SIDE = 1 << 17
_MOST_SIZE = 4096
_MOST_TEXT = 1 << 21
_MOST_REGIONS = 2


def encode_region(region: Mask) -> str:
    """Return a region `[size, size]` as base64 text of its compressed bits (zlib, row by row, first bit highest)."""
    return base64.b64encode(zlib.compress(np.packbits(region).tobytes(), 9)).decode("ascii")


def decode_region(text: str, size: int) -> Mask:
    """Return the region of `encode_region`, bool `[size, size]`.

    Raises:
        ValueError: The text is not base64 of compressed bits, or has another number of values.
    """
    expected = -(-size * size // 8)
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(text, validate=True), expected + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) != expected or not unpacker.eof:
        raise ValueError(f"{len(content)} bytes instead of {expected}")
    bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=size * size)
    return bits.reshape(size, size).astype(np.bool_)


@dataclass(frozen=True)
class IgnoredRegion:
    """Region of the view that is not inspected, with the size of the picture on which the mask was drawn.

    Attributes:
        height: Height of that picture, pixels. In the sensor view every picture must have this size.
        width: Width of that picture, pixels.
        size: Side of the view, pixels.
        share: Ignored share of the inspected area: of the picture in the sensor view, of the part in other views.
        regions: Ignored pixels of the view as text, see `encode_region`: one region, or with a separate view for each
            modality one for the cloud and one for the image.

    Raises:
        RecordError: A value has the wrong kind or is out of range.
    """

    height: int
    width: int
    size: int
    share: float
    regions: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            require_integer(self, name, 1, _MOST_SIDE)
        require_integer(self, "size", 1, _MOST_SIZE)
        require_number(self, "share", 0, 1)
        make_tuple(self, "regions")
        require(1 <= len(self.regions) <= _MOST_REGIONS, self, "regions", "one or two regions")
        require(all(self._is_region(text) for text in self.regions), self, "regions", "bits of the view in base64")

    def _is_region(self, text: object) -> bool:
        if not isinstance(text, str) or len(text) > _MOST_TEXT:
            return False
        try:
            decode_region(text, self.size)
        except ValueError:
            return False
        return True

    @cached_property
    def array(self) -> npt.NDArray[np.bool_]:
        """Return the ignored pixels of each view, bool `[regions, size, size]`."""
        return np.stack([decode_region(text, self.size) for text in self.regions])

    @staticmethod
    def of(regions: Sequence[Mask], shape: tuple[int, int], share: float) -> IgnoredRegion:
        """Return the record of regions `[size, size]`, drawn over a picture of `shape` (height, width)."""
        return IgnoredRegion(*shape, len(regions[0]), share, tuple(map(encode_region, regions)))

    @staticmethod
    def from_json(value: object) -> IgnoredRegion:
        """Read the record from a JSON object; raises RecordError."""
        return IgnoredRegion(**fields_from_json(IgnoredRegion, value))
