"""How far an engine's results lie from the trained detector's, on the golden set of a bundle."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.manifest import Calibration, Tolerance
from cmdiad_runtime.engines import Engine
from cmdiad_runtime.errors import BundleError

GOLDEN_LIMIT = 1 << 30
"""Bytes of a golden set in memory; a small archive may unpack to any number."""

_NO_ARCHIVE = (OSError, ValueError, KeyError, TypeError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class GoldenSample:
    """Network inputs of one sample and what the trained detector makes of them in fp32.

    Attributes:
        name: of the sample.
        inputs: network inputs by name.
        score: image score.
        map: float32 `[size, size]`, anomaly map, or `[maps, size, size]`, maps that add up (see `Detector`).
    """

    name: str
    inputs: Mapping[str, npt.NDArray[Any]]
    score: float
    map: npt.NDArray[np.float32]


# fp32: engines only reorder sums; 1e-3 leaves two orders above what was seen, and is far below what moves a verdict.
# fp16: 11 significant bits through a deep network; 2 % of the threshold is a tenth of the usual spread of good parts.
# int8, fp8: 7 and 4 significant bits, in networks alone: errors of single products, a percent and more, average out
# over hundreds of channels. 5 % of the threshold is still a fraction of what defects lie above it, and no verdict of
# the golden set may change; double for a map, whose largest value is the extreme of thousands.
# int8-cpu: a scale per row moves scores of trained detectors by 0.2 % (docs/performance.md); together with the fast
# search, which may move them by 0.5 % too, it keeps to that.
TOLERANCES = {
    "fp32": Tolerance(score=1e-3, map=2e-3),
    "fp16": Tolerance(score=2e-2, map=5e-2),
    "int8": Tolerance(score=5e-2, map=1e-1),
    "int8-cpu": Tolerance(score=5e-3, map=5e-2),
    "fp8": Tolerance(score=5e-2, map=1e-1),
}

# The published blur rounds to 256 levels of the map's own maximum, which may be several thresholds high; a sum that
# is rounded the other way moves a pixel by a whole level.
PUBLISHED_BLUR_LEVEL = 3e-2


@dataclass(frozen=True)
class SearchTolerance:
    """How far a fast search may move results from those of an exact one, on held-out samples. No verdict may change.

    Attributes:
        score: largest change of a score, as a share of the score threshold.
        map: largest change of a map value, as a share of the map threshold.
        auroc: largest change of the AUROC of good samples against tampered ones.
    """

    score: float
    map: float
    auroc: float

    def to_json(self) -> dict[str, Any]:
        """The tolerance as JSON-ready values."""
        return asdict(self)


def search_tolerance(*, published_blur: bool) -> SearchTolerance:
    """The tolerance of a search. A map is the extreme of thousands of values, so it may move by twice as much."""
    return SearchTolerance(score=5e-3, map=1e-2 + PUBLISHED_BLUR_LEVEL * published_blur, auroc=2e-3)


def tolerance_for(precision: str, *, published_blur: bool, fast_search: bool = False) -> Tolerance:
    """The tolerance that a graph of this precision must keep.

    A fast search has one of its own: for scores the wider of the two holds, for maps both together.
    """
    tolerance = TOLERANCES[precision]
    search = search_tolerance(published_blur=False)
    return Tolerance(
        score=max(tolerance.score, search.score) if fast_search else tolerance.score,
        map=tolerance.map + PUBLISHED_BLUR_LEVEL * published_blur + search.map * fast_search,
    )


@dataclass(frozen=True)
class Comparison:
    """The differences of one engine over the golden set.

    Attributes:
        engine: library, version and device.
        precision: of the graph.
        score_max_abs: largest difference of a score.
        score_max_share: the same as a share of the score threshold.
        map_max_abs: largest difference of a map value; of maps that add up, the sum of the largest of each.
        map_mean_abs: mean difference of map values.
        map_max_share: the largest as a share of the map threshold.
        label_flips: samples with another verdict, not counting borderline ones.
        borderline: samples whose reference score is within the score tolerance of the threshold.
        not_finite: scores and map values that are NaN or infinite.
        passed: within tolerance, no flip, all finite.
    """

    engine: str
    precision: str
    score_max_abs: float
    score_max_share: float
    map_max_abs: float
    map_mean_abs: float
    map_max_share: float
    label_flips: int
    borderline: int
    not_finite: int
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON-ready values."""
        return asdict(self)


def compare(
    engine: Engine, precision: str, golden: list[GoldenSample], calibration: Calibration, tolerance: Tolerance
) -> Comparison:
    """Run the golden set through an engine and measure how far it lies from the reference."""
    outputs = [engine.run(sample.inputs) for sample in golden]
    scores = np.array([float(o["score"][0]) for o in outputs])
    maps = np.stack([o["map"] for o in outputs]).astype(np.float64)  # [samples, (maps,) size, size]
    reference = np.array([s.score for s in golden])
    not_finite = int((~np.isfinite(scores)).sum() + (~np.isfinite(maps)).sum())
    score_difference = np.abs(np.nan_to_num(scores, posinf=0) - reference)
    map_difference = np.abs(np.nan_to_num(maps, posinf=0) - np.stack([s.map for s in golden]))
    map_largest = map_difference.reshape(len(maps), -1, *maps.shape[-2:]).max(axis=(2, 3)).sum(axis=1).max()
    threshold = calibration.score_threshold
    borderline = np.abs(reference - threshold) <= tolerance.score * threshold
    flips = int((((scores > threshold) != (reference > threshold)) & ~borderline).sum())
    score_share = float(score_difference.max() / threshold)
    map_share = float(map_largest / calibration.map_threshold)
    within = score_share <= tolerance.score and map_share <= tolerance.map
    return Comparison(
        engine=engine.description,
        precision=precision,
        score_max_abs=float(score_difference.max()),
        score_max_share=score_share,
        map_max_abs=float(map_largest),
        map_mean_abs=float(map_difference.mean()),
        map_max_share=map_share,
        label_flips=flips,
        borderline=int(borderline.sum()),
        not_finite=not_finite,
        passed=within and flips == 0 and not_finite == 0,
    )


def write_golden(path: Path, golden: list[GoldenSample]) -> None:
    """Write a golden set as a plain npz archive."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for sample in golden:
        arrays |= {f"{sample.name}/input/{key}": value for key, value in sample.inputs.items()}
        arrays[f"{sample.name}/score"] = np.array(sample.score)
        arrays[f"{sample.name}/map"] = sample.map
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_golden(path: Path) -> list[GoldenSample]:
    """Read a golden set; raises BundleError where the archive is not one, or unpacks to more than GOLDEN_LIMIT."""
    try:
        _check_unpacked_size(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        names = sorted({key.split("/")[0] for key in arrays})
        if not names:
            raise ValueError("no samples")
        return [_golden_sample(name, arrays) for name in names]
    except _NO_ARCHIVE as error:
        raise BundleError(
            path,
            found=str(error),
            expected="a golden set",
            action="copy the bundle again, or export it again",
        ) from error


def _check_unpacked_size(path: Path) -> None:
    """What the archive's index says of the sizes holds: reading an entry ends there."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > GOLDEN_LIMIT:
        raise ValueError(f"arrays of {size} bytes, more than {GOLDEN_LIMIT}")


def _golden_sample(name: str, arrays: dict[str, npt.NDArray[Any]]) -> GoldenSample:
    prefix = f"{name}/input/"
    inputs = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    return GoldenSample(name, inputs, float(arrays[f"{name}/score"]), arrays[f"{name}/map"])
