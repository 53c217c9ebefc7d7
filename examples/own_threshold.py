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

from cmdiad import Inspector, OpenOptions, Sample, read_rgb


def own_threshold(scores: list[float], rate: float) -> float:
    """Return the score that a new good part exceeds with a probability of at most `rate`.

    Raises:
        ValueError: There are too few scores for this rate.
    """
    rank = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    if rank > len(scores):
        raise ValueError(f"a rate of {rate:g} needs at least {math.ceil(1 / rate) - 1} good parts, got {len(scores)}")
    return sorted(scores)[rank - 1]


def score_of(inspector: Inspector, path: Path) -> float:
    """Return the score of a good part. A part that cannot be inspected has no score, and would spoil the threshold."""
    inspection = inspector.inspect(Sample(path.name, rgb=read_rgb(path)))
    if not inspection.inspected:
        sys.exit(f"{path}: {inspection.message}")
    return inspection.score


def main(bundle: Path, good: Path, test: Path, rate: float = 0.25) -> None:
    """Print the new threshold, and the verdicts of the test folder with the bundle's threshold and with the new one."""
    with Inspector.open(bundle) as inspector:
        scores = [score_of(inspector, path) for path in sorted(good.glob("*.png"))]
        before = inspector.bundle.calibration.score_threshold
    threshold = own_threshold(scores, rate)
    print(f"threshold of the bundle {before:.4f}, own {threshold:.4f}")
    with Inspector.open(bundle, OpenOptions(threshold=threshold)) as inspector:
        for path in sorted(test.glob("*.png")):
            inspection = inspector.inspect(Sample(path.name, rgb=read_rgb(path)))
            was = "OK" if inspection.score <= before else "NG"  # NG without a score, which is not a number
            print(f"{path.name}: bundle {was}, own {inspection.verdict}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    bundle, good, test, *rate = sys.argv[1:]
    main(Path(bundle), Path(good), Path(test), *map(float, rate))
