"""Compute a threshold from good parts at your station, and inspect with it.

A bundle brings a threshold that was calibrated on the training data. Another camera or lamp shifts the scores; good
parts from the real station give a threshold that fits. The same rule as in training applies (split conformal
prediction): with n good parts and a rate r, the ⌈(n + 1)(1 − r)⌉-th smallest score.

Run: python examples/own_threshold.py BUNDLE GOOD_FOLDER TEST_FOLDER [RATE]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from cmdiad import Inspector, Sample, read_rgb


def own_threshold(scores: list[float], rate: float) -> float:
    """Return the score that a new good part exceeds with a probability of at most `rate`.

    Raises:
        ValueError: There are too few scores for this rate.
    """
    rank = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    if rank > len(scores):
        raise ValueError(f"a rate of {rate:g} needs at least {math.ceil(1 / rate) - 1} good parts, got {len(scores)}")
    return sorted(scores)[rank - 1]


def main(bundle: Path, good: Path, test: Path, rate: float = 0.25) -> None:
    """Print the new threshold and the verdicts of the test folder with the old and with the new one."""
    with Inspector.open(bundle) as inspector:
        scores = [inspector.inspect(Sample(path.name, rgb=read_rgb(path))).score for path in sorted(good.glob("*.png"))]
        threshold = own_threshold(scores, rate)
        print(f"threshold of the bundle {inspector.bundle.calibration.score_threshold:.4f}, own {threshold:.4f}")
        for path in sorted(test.glob("*.png")):
            inspection = inspector.inspect(Sample(path.name, rgb=read_rgb(path)))
            own = "NG" if inspection.score > threshold else "OK"
            print(f"{path.name}: bundle {inspection.verdict}, own {own}")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]), *(float(argument) for argument in sys.argv[4:5]))
