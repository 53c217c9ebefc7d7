"""The golden set: network inputs of a few samples and what the trained detector makes of them in fp32."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.preprocess.views.prepared import Placement
from cmdiad_runtime.support.records import RecordError, is_number, require
from cmdiad_runtime.support.regular_file import open_regular

GOLDEN_LIMIT = 512 << 20
"""Largest size of a golden set in memory, bytes. A small archive may unpack to any size."""
_READ_LIMIT = 4 << 20
"""Largest single read from an archive, bytes. The index of an archive is read at once, arrays in small blocks."""

_LARGEST_SCORE = float(np.finfo(np.float32).max)
_NOT_A_GOLDEN_SET = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    MemoryError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class GoldenSample:
    """Network inputs of one sample and the results of the trained detector in fp32.

    Attributes:
        name: Name of the sample, without a slash.
        inputs: Network inputs by name.
        score: Score that decides: the largest value of the map over the sensor's image, or the image score.
        map: Anomaly map float32 `[size, size]`, or `[maps, size, size]` for maps that add up.
        tampered: True for a tampered copy of a good sample.
        placement: Position of the views over the sensor's image, if the map decides and the view is not the sensor's;
            otherwise None.

    Raises:
        RecordError: A value has the wrong kind or shape, or is not finite.
    """

    name: str
    inputs: Mapping[str, npt.NDArray[Any]]
    score: float
    map: npt.NDArray[np.float32]
    tampered: bool
    placement: Placement | None = None

    def __post_init__(self) -> None:
        require(bool(self.name) and "/" not in self.name, self, "name", "a name without a slash")
        require(is_number(self.score, -_LARGEST_SCORE, _LARGEST_SCORE), self, "score", "a finite number")
        require(isinstance(self.tampered, bool), self, "tampered", "true or false")
        if self.map.dtype != np.float32 or self.map.ndim not in (2, 3) or not np.isfinite(self.map).all():
            raise RecordError(f"the map of {self.name} is {self.map.dtype} {list(self.map.shape)}, not finite float32")
        for key, value in self.inputs.items():
            if value.dtype.kind not in "fiub":
                raise RecordError(f"the input {key} of {self.name} has type {value.dtype}, expected numbers")
        if self.placement is not None and not self.placement.fits(self.map.shape):
            raise RecordError(f"the places of {self.name} do not fit a map {list(self.map.shape)}")

    def over_sensor(self, anomaly_map: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return a map of this sample over the sensor's padded square, float32 `[size, size]`."""
        return anomaly_map if self.placement is None else self.placement.to_sensor(anomaly_map)


def write_golden(path: Path, golden: Sequence[GoldenSample]) -> None:
    """Write a golden set as an npz archive without pickled objects.

    The arrays of a sample are `NAME/input/KEY`, `NAME/score`, `NAME/map`, `NAME/tampered`, and with a placement
    `NAME/placement/KEY`.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for sample in golden:
        arrays |= {f"{sample.name}/input/{key}": value for key, value in sample.inputs.items()}
        arrays[f"{sample.name}/score"] = np.array(sample.score)
        arrays[f"{sample.name}/map"] = sample.map
        arrays[f"{sample.name}/tampered"] = np.array(sample.tampered)
        if sample.placement is not None:
            placed = sample.placement.to_arrays()
            arrays |= {f"{sample.name}/placement/{key}": value for key, value in placed.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_golden(path: Path) -> list[GoldenSample]:
    """Read a golden set, sorted by name.

    Raises:
        BundleError: The file is not a golden set, or unpacks to more than GOLDEN_LIMIT bytes.
    """
    try:
        with open_regular(path) as raw:
            file: Any = _SmallReads(raw)
            _check_unpacked_size(file)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        names = sorted({key.split("/")[0] for key in arrays})
        if not names:
            raise ValueError("no samples")
        samples = [_golden_sample(name, arrays) for name in names]
        if len({sample.map.shape for sample in samples}) > 1:
            raise ValueError("maps of different shapes")
    except _NOT_A_GOLDEN_SET as error:
        raise BundleError(
            path,
            found=str(error) or type(error).__name__,
            expected="a golden set",
            action="copy the bundle again, or export it again",
        ) from error
    return samples


def tampered_by_name(name: str) -> bool:
    """Return True if a name ends like those of tampered copies in files that have no `tampered` field."""
    return name.endswith("-tampered")


class _SmallReads:
    """A binary file that refuses to read more than `_READ_LIMIT` bytes at once, such as a huge index of an archive."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes; ValueError if that is more than the limit."""
        if size is None or not 0 <= size <= _READ_LIMIT:
            size = _READ_LIMIT + 1
        content = self._file.read(size)
        if len(content) > _READ_LIMIT:
            raise ValueError(f"an index of more than {_READ_LIMIT} bytes")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _check_unpacked_size(file: BinaryIO) -> None:
    """Raise ValueError if the archive's index states more than GOLDEN_LIMIT bytes, or an unusual compression.

    The index can be trusted: reading an entry ends at the size that is stated there. The decoders of other
    compressions than that of `np.savez` take memory as the archive states.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ValueError("an archive with an unusual compression")
    file.seek(0)
    size = sum(entry.file_size for entry in entries)
    if size > GOLDEN_LIMIT:
        raise ValueError(f"arrays of {size} bytes, more than {GOLDEN_LIMIT}")


def _golden_sample(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> GoldenSample:
    flag = arrays.get(f"{name}/tampered")
    placed = _below(f"{name}/placement/", arrays)
    return GoldenSample(
        name=name,
        inputs=_below(f"{name}/input/", arrays),
        score=float(arrays[f"{name}/score"]),
        map=arrays[f"{name}/map"],
        tampered=tampered_by_name(name) if flag is None else bool(flag),
        placement=Placement.from_arrays(placed) if placed else None,
    )


def _below(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
