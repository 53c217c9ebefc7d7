"""Detection of a frozen sensor: the same image or cloud, bit by bit, several times in a row."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import Modality
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.sample import Sample

Checksums = Mapping[Modality, int]
"""Checksum of each inspected array of a sample."""

_KINDS: Mapping[Modality, str] = {"rgb": "image", "xyz": "cloud"}


def checksums_of(sample: Sample, preprocessing: Preprocessing) -> Checksums:
    """Return the checksums of the arrays of a sample that the detector inspects."""
    arrays: dict[Modality, npt.NDArray[Any] | None] = {
        "rgb": sample.rgb if "rgb" in preprocessing.modalities else None,
        "xyz": sample.xyz if "xyz" in preprocessing.modalities else None,
    }
    return {modality: checksum(array) for modality, array in arrays.items() if array is not None}


def checksum(array: npt.NDArray[Any]) -> int:
    """Return a checksum of type, shape and content of an array.

    CRC-32 is the fastest checksum of the standard library. Two different frames have equal checksums once in four
    billion times, and a report needs several in a row.
    """
    kind = zlib.crc32(repr((array.shape, array.dtype.str)).encode())
    return zlib.crc32(np.ascontiguousarray(array).data, kind)


class FrameCounter:
    """Counter of identical frames in a row, by modality. Not safe for use by several threads at once.

    Args:
        most: Number of identical frames in a row that is reported; 0 reports nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._last: Checksums = {}
        self._counts: dict[Modality, int] = {}

    def add(self, name: str, checksums: Checksums) -> InputError | None:
        """Count a frame, and return an error if a sensor delivers the same frame too often.

        Args:
            name: Name of the sample, for the message.
            checksums: Checksums of the frame; empty for a sample that cannot be used, which ends the row.
        """
        counts = {m: self._counts[m] + 1 if self._last.get(m) == value else 1 for m, value in checksums.items()}
        # A sample without image or cloud does not end the row of the absent modality.
        self._last = {**self._last, **checksums} if checksums else {}
        self._counts = {**self._counts, **counts} if checksums else {}
        frozen = [modality for modality, count in counts.items() if 0 < self._most <= count]
        if not frozen:
            return None
        return InputError(
            name,
            found=f"the same {_KINDS[frozen[0]]} {counts[frozen[0]]} times in a row",
            expected=f"at most {self._most - 1} identical frames in a row",
            action="check that the sensor delivers new frames; or change the number with --frozen-after, or switch the "
            "check off: --ignore-check frozen",
            reason="frozen",
        )
