"""The score that decides between OK and NG, in one definition for training, certificate, self-test and inspection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.names import Verdict


def deciding_score(
    verdict: Verdict, outputs: Mapping[str, npt.NDArray[Any]], over_sensor: npt.NDArray[np.float32]
) -> float:
    """Return the score of one sample or part that is compared with the score threshold.

    Args:
        verdict: "map" takes the largest value of the map, "image" the image score of the graph.
        outputs: Results of the graph; `score`, float32 `[1]`, is needed for "image" only.
        over_sensor: Anomaly map over the sensor's padded square, float32 `[size, size]`; see `Prepared.to_sensor`.

    Returns:
        The score; NaN if the map has a value that is not a number.
    """
    return float(over_sensor.max()) if verdict == "map" else float(outputs["score"].reshape(-1)[0])
