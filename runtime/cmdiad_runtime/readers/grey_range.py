"""Grey images of 16 bits, and the range of their values that becomes the grey levels 0 to 255.

Sensors such as thermal cameras use a small part of their 65536 values, so the upper 8 bits would lose nearly all
contrast. The range is measured on the training images, widened by a quarter on both sides, and stored in the
preprocessing. A value outside the range is refused and never cut: a cut image would hide how hot the part is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, TiffImagePlugin

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import GREY16, PNG_SIGNATURE, ContentError, FilePath, bounded, check_size
from cmdiad_runtime.readers._tiff_image import TIFF_SIGNATURES, check_tiff_image
from cmdiad_runtime.support.records import fields_from_json, require, require_integer

LARGEST = (1 << 16) - 1
"""Largest value of 16 bits."""
_MARGIN = 4  # the measured range is widened by a fourth on both sides
_LEVELS = 255


@dataclass(frozen=True)
class GreyRange:
    """The values of 16-bit images that become the grey levels 0 and 255; those between are rounded.

    Attributes:
        low: Value that becomes 0.
        high: Value that becomes 255.

    Raises:
        RecordError: The values are not whole, or not in order.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        require_integer(self, "low", 0, LARGEST)
        require_integer(self, "high", 0, LARGEST)
        require(self.low < self.high, self, "high", f"more than low ({self.low})")

    @staticmethod
    def from_json(value: object) -> GreyRange:
        """Read the range that `to_json` wrote; raises RecordError, or NewerRecordError for an unknown field."""
        return GreyRange(**fields_from_json(GreyRange, value))

    def to_json(self) -> dict[str, Any]:
        """Return the range as a JSON object."""
        return {"low": self.low, "high": self.high}

    @property
    def text(self) -> str:
        """Return the conversion as text for people."""
        step = (self.high - self.low) / _LEVELS
        return (
            f"16-bit values {self.low} to {self.high} become the grey levels 0 to 255, one level is {step:.3g} values"
        )

    def levels(self, path: FilePath, values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        """Convert values to grey levels.

        Args:
            path: File of the values, for the message.
            values: uint16 `[h, w]`.

        Returns:
            uint8 `[h, w]`.

        Raises:
            InputError: A value is outside the range.
        """
        lowest, highest = int(values.min()), int(values.max())
        if lowest < self.low or highest > self.high:
            raise InputError(
                path,
                found=f"16-bit values from {lowest} to {highest}",
                expected=f"values from {self.low} to {self.high}, the range of training and a quarter more",
                action="check the sensor's range and emissivity, or train with images like this one",
                reason="exposure",
            )
        scaled = (values.astype(np.float64) - self.low) * _LEVELS / (self.high - self.low)
        return np.rint(scaled).astype(np.uint8)


def range_of(images: Iterable[npt.NDArray[np.uint16]]) -> GreyRange | None:
    """Return the range of 16-bit images, widened by a quarter on both sides; None without an image."""
    limits = [(int(image.min()), int(image.max())) for image in images]
    if not limits:
        return None
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    margin = max(1, -(-(high - low) // _MARGIN))
    return GreyRange(max(0, low - margin), min(LARGEST, high + margin))


def open_grey16(path: FilePath, file: BinaryIO) -> Image.Image:
    """Open a grey image of 16 bits and read its header.

    Args:
        path: File, for messages.
        file: The same file, at its beginning.

    Raises:
        InputError: The image has too many pixels.
        ContentError: The image is no PNG or TIFF file with one channel of 16 bits, or a limit is exceeded.
        Exception: The file is damaged; the kind depends on the decoder.
    """
    header = file.read(len(PNG_SIGNATURE))
    file.seek(0)
    image: Image.Image
    if header.startswith(PNG_SIGNATURE):
        image = PngImagePlugin.PngImageFile(bounded(file))
        check_size(path, image.height, image.width)
    elif header.startswith(TIFF_SIGNATURES):
        check_tiff_image(path, file, bits=16)
        file.seek(0)
        image = TiffImagePlugin.TiffImageFile(bounded(file))
    else:
        raise ContentError("an image of another format", GREY16)
    if not image.mode.startswith("I;16"):
        raise ContentError("an image that is not grey with 16 bits", GREY16)
    return image
