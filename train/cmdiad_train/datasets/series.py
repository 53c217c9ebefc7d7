"""Series of near copies: several images of a part that was not moved in between.

A sample that is compared with a bank without itself, or that is held out, then has near copies in the bank. Its score
is too low, and so is a threshold that such scores set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from cmdiad_runtime.sample import RgbImage
from cmdiad_runtime.support.records import fields_from_json, make_tuple, require, require_integer
from cmdiad_train.datasets.identical import shortened

_SIDE = 48
"""Side of the images that are compared, pixels. Noise and compression average out, the placement stays."""
_NEAR = 0.5
"""Largest difference within a series, as a share of the smallest difference to any other image."""
_LEAST_MEMBERS = 3
"""Fewest images of a series. Pairs also occur by chance where parts differ in one way only, as on a turntable."""
_LEAST_SERIES = 4
"""Number of series that all images would make up at least. Larger groups may be kinds of parts."""
_WARNED = 0.5
"""Share of the images in series above which training warns."""
_LEAST_IMAGES = 20
"""Among fewer images, series occur by chance."""


@dataclass(frozen=True)
class Series:
    """Series of near copies among the good samples of a training.

    Attributes:
        count: Number of series.
        samples: Number of samples in series.
        example: Names of the samples of the largest series.

    Raises:
        RecordError: A value has the wrong kind, or the numbers contradict each other.
    """

    count: int
    samples: int
    example: tuple[str, ...]

    def __post_init__(self) -> None:
        make_tuple(self, "example")
        require(all(isinstance(name, str) and name for name in self.example), self, "example", "names of samples")
        require(len(self.example) >= _LEAST_MEMBERS, self, "example", "at least three samples")
        require_integer(self, "count", 1, 10**6)
        require_integer(self, "samples", _LEAST_MEMBERS * self.count, 10**7)

    @property
    def warning(self) -> str:
        """Return the warning in one line, without the word "warning"."""
        return (
            f"{self.samples} good samples make up {self.count} series of images that hardly differ, for example "
            f"{shortened(list(self.example))}. If a part was not moved between the images of a series, the threshold "
            "may be too low for other placements: keep one image of each series, or pass good parts of other "
            "placements with --calibration"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Series:
        """Return the record that `to_json` wrote; raises RecordError."""
        return Series(**fields_from_json(Series, value))


def thumbnail(image: RgbImage) -> bytes:
    """Return the reduced image of a sample that `series_of` compares: uint8 `[48, 48, 3]` in C order.

    Args:
        image: Image as recorded, uint8 `[h, w, 3]`. In a view that follows the part, placements would look alike.
    """
    return Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes()


def series_of(
    names: Sequence[str], thumbnails: Sequence[bytes], held_out: Collection[int], counted_as: Sequence[int] = ()
) -> Series | None:
    """Return the series of near copies that make a threshold too low, if most samples belong to one.

    Images belong to a series if the largest difference between two of them is at most half of the smallest difference
    to any other image. The difference is that of the thumbnails, without mean and contrast; see docs/cross-modal.md
    for the figures behind the numbers.

    Args:
        names: Name of each sample.
        thumbnails: Reduced image of each sample, see `thumbnail`.
        held_out: Numbers of the samples that set the threshold and do not build the bank. Empty if samples that build
            the bank set the threshold, too.
        counted_as: Number of each sample; the detector compared no sample with others of the same number. Empty if it
            compared samples with all others.

    Returns:
        The series, without those that the detector left out as a whole. None if at most half of the samples belong to
        any; if there are less than 20 samples; or if there are held-out samples, none of which has a near copy among
        the others, so that they set the threshold right.
    """
    if len(names) < _LEAST_IMAGES:
        return None
    differences = _differences(np.stack([_compared(reduced) for reduced in thumbnails]))
    numbers = counted_as or range(len(names))
    groups = [group for group in _near_groups(differences) if len({numbers[i] for i in group}) > 1]
    samples = sum(map(len, groups))
    divided = any(0 < len({*group} & {*held_out}) < len(group) for group in groups)
    if samples <= _WARNED * len(names) or (held_out and not divided):
        return None
    example = sorted(names[i] for i in max(groups, key=len))
    return Series(len(groups), samples, tuple(example))


def _compared(reduced: bytes) -> npt.NDArray[np.float32]:
    """Return a thumbnail as a vector of length 1 with a mean of 0; zeros if all pixels are equal."""
    values = np.frombuffer(reduced, dtype=np.uint8).astype(np.float32)
    values -= values.mean()
    norm = float(np.linalg.norm(values))
    return values / np.float32(norm) if norm > 0 else values


def _differences(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the Euclidean distances of vectors `[n, d]` of length 1, float64 `[n, n]`."""
    squares = np.maximum(2 - 2 * (vectors @ vectors.T).astype(np.float64), 0)
    np.fill_diagonal(squares, 0)
    return np.sqrt((squares + squares.T) / 2)


def _near_groups(differences: npt.NDArray[np.float64]) -> Iterator[list[int]]:
    """Yield groups of at least three images that differ less from each other than from all others, the largest ones.

    A group that is closer together than to any other image is a cluster of single linkage, so no other is examined.

    Args:
        differences: Differences `[n, n]`.
    """
    count = len(differences)
    clusters = {i: [i] for i in range(count)}
    series: dict[int, list[list[int]]] = {i: [] for i in range(count)}
    for number, (first, second, _, size) in enumerate(linkage(squareform(differences, checks=False), "single")):
        members = clusters.pop(int(first)) + clusters.pop(int(second))
        inside = series.pop(int(first)) + series.pop(int(second))
        clusters[count + number] = members
        is_series = _LEAST_MEMBERS <= size <= count // _LEAST_SERIES and _is_near(differences, members)
        series[count + number] = [members] if is_series else inside
    yield from (group for groups in series.values() for group in groups)


def _is_near(differences: npt.NDArray[np.float64], members: list[int]) -> bool:
    others = np.ones(len(differences), dtype=bool)
    others[members] = False
    within = differences[np.ix_(members, members)].max()
    return bool(within <= _NEAR * differences[members][:, others].min())
