"""`Inspection`, the result for one sample: verdict, reason, score, map and pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.names import Sensors
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import Mask, RgbImage, Sample
from cmdiad_runtime.support.sizes import image_fits


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Result of the inspection of one sample.

    The verdict is OK only if the sample was inspected, the score is a number up to the threshold, and nothing else
    speaks against the sample. Everything else is NG with a reason.

    Attributes:
        name: Name of the sample.
        reason: Reason of the verdict NG, see `cmdiad_runtime.reasons`; None for OK.
        message: The reason in one line for people; "" for OK.
        score: Score that decides, larger is more anomalous: the largest value of `map`, or the image score if the
            bundle says so (`Calibration.verdict`); NaN if the sample was not inspected.
        threshold: Score above which a sample is NG.
        map_threshold: Map value above which a pixel is drawn as anomalous.
        map: Anomaly map over the sensor's padded square, float32 `[size, size]`; None if the sample was not inspected.
        view: Position of that square over the sensor's image; None if the sample was not inspected.
        ignored: Pixels of that square that the inspection mask excludes, bool `[size, size]`; None without a mask.
        ignored_share: Share of the inspected area that the inspection mask excludes; 0 without a mask.
        timings_ms: Wall-clock milliseconds by stage: `preprocess`; if the engine answered, also `engine`; if its
            outputs can be used, also `map`: their check, and the move of map and mask over the image of the sensor.
        sample: The inspected sample, for `overlay`; None if the file could not be read or the arrays are too large.
        skipped_checks: Names of the checks of the recording conditions that were not made: those that are switched off,
            and all that training learns if the bundle has no envelope.
        pattern: Modalities of the sample, with a bundle for whichever sensors arrive; None with any other bundle.
    """

    name: str
    reason: Reason | None
    message: str = ""
    score: float = math.nan
    threshold: float
    map_threshold: float
    map: npt.NDArray[np.float32] | None = None
    view: PaddedSquare | None = None
    ignored: Mask | None = None
    ignored_share: float = 0.0
    timings_ms: dict[str, float] = field(default_factory=dict)
    sample: Sample | None = field(default=None, repr=False, compare=False)
    skipped_checks: tuple[str, ...] = ()
    pattern: Sensors | None = None

    def __post_init__(self) -> None:
        if self.reason is None and not (self.inspected and self.score <= self.threshold):  # False for NaN
            raise ValueError(f"{self.name}: the verdict OK needs a map and a score up to {self.threshold:g}")

    @property
    def verdict(self) -> Literal["OK", "NG"]:
        """Return "OK" if there is no reason against the sample, else "NG"."""
        return "OK" if self.reason is None else "NG"

    @property
    def inspected(self) -> bool:
        """Return True if the detector scored the sample; False if it could not be read or used."""
        return self.map is not None

    def heatmap(self) -> npt.NDArray[np.float32]:
        """Return the anomaly map over the sensor's image, float32 `[h, w]`, bilinear interpolation.

        If the sample was not inspected, every value is NaN; without a picture the shape is `[0, 0]`.
        """
        if self.map is None or self.view is None:
            return np.full(_shape(self.sample), np.nan, dtype=np.float32)
        view = self.view
        square = Image.fromarray(self.map).resize((view.side, view.side), Image.Resampling.BILINEAR)
        return np.asarray(square)[view.top : view.top + view.height, view.left : view.left + view.width].copy()

    def overlay(self) -> RgbImage:
        """Return the sensor's picture with heatmap and verdict, uint8 `[h, w, 3]`, RGB order.

        A sample that could not be inspected is shown as it is, with the reason; without a picture, on a grey area.
        """
        from cmdiad_runtime.inspection.overlay import draw_overlay

        return draw_overlay(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the result without arrays, ready for JSON; a missing number is None.

        With an inspection mask there is also `ignored_share`, with a bundle for whichever sensors arrive `pattern`.
        """
        ignored = {"ignored_share": round(self.ignored_share, 6)} if self.ignored_share else {}
        return {
            "name": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "message": self.message,
            "inspected": self.inspected,
            "score": self.score if math.isfinite(self.score) else None,
            "threshold": self.threshold,
            "map_max": None if self.map is None else float(self.map.max()),
            "skipped_checks": list(self.skipped_checks),
            "timings_ms": {stage: round(value, 3) for stage, value in self.timings_ms.items()},
            **ignored,
            **({} if self.pattern is None else {"pattern": self.pattern}),
        }


def _shape(sample: Sample | None) -> tuple[int, int]:
    """Return height and width of a sample's picture, (0, 0) without one."""
    for array in () if sample is None else (sample.rgb, sample.xyz):
        if isinstance(array, np.ndarray) and array.ndim == 3 and image_fits(*array.shape[:2]):
            return array.shape[0], array.shape[1]
    return 0, 0
