"""The threshold between OK and NG, from good samples that did not build the bank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t


@dataclass(frozen=True)
class Threshold:
    """A threshold and how it was found.

    Attributes:
        value: scores above it are NG.
        false_reject_rate: the share of good parts that was asked for.
        samples: number of held-out good samples.
        method: "order statistic", or "Student prediction limit" where the samples are too few for the first.
        warning: what the number of samples does not support, or "".
    """

    value: float
    false_reject_rate: float
    samples: int
    method: str
    warning: str


def calibrate_threshold(scores: Sequence[float], false_reject_rate: float) -> Threshold:
    """The threshold that a new good part exceeds with at most the given probability.

    With n scores and ⌈(n+1)(1-r)⌉ ≤ n that order statistic holds for any distribution (split conformal
    prediction, Vovk et al. 2005). With fewer, the upper prediction limit of a normal sample is used,
    mean + t(1-r, n-1)·s·√(1 + 1/n), and said so.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    n, r = len(values), false_reject_rate
    if n < 2:
        raise ValueError(f"a threshold needs at least 2 held-out good samples, got {n}")
    rank = math.ceil((n + 1) * (1 - r))
    if rank <= n:
        return Threshold(float(values[rank - 1]), r, n, "order statistic", "")
    needed = math.ceil(1 / r) - 1
    value = values.mean() + student_t.ppf(1 - r, n - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / n)
    warning = f"{n} held-out good samples; {needed} are needed to support a false-reject rate of {r:g}"
    return Threshold(float(value), r, n, "Student prediction limit", warning)
