"""Missed bad parts against rejected good parts at every threshold, and the threshold of the least expected cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.threshold import LEAST_COST, adjusted

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on good and bad parts at one threshold.

    Attributes:
        threshold: Score above which a part is NG.
        rejected: Number of rejected good parts of each session.
        missed: Number of bad parts that pass.
    """

    threshold: float
    rejected: tuple[int, ...]
    missed: int


@dataclass(frozen=True)
class Costs:
    """Costs of wrong verdicts.

    Attributes:
        miss: Cost of one bad part that passes, above 0.
        reject: Cost of one good part that is rejected, in the same unit, above 0.
        bad_share: Share of bad parts in production, in (0, 1). The share of bad parts among the inspected ones has no
            influence.
    """

    miss: float
    reject: float
    bad_share: float


@dataclass(frozen=True)
class Tradeoff:
    """Scores of good and bad parts.

    Attributes:
        names: Names of the sessions of good parts.
        good: Scores of the good parts of each session; every session has at least one.
        bad: Scores of the bad parts, at least one.
    """

    names: tuple[str, ...]
    good: tuple[tuple[float, ...], ...]
    bad: tuple[float, ...]

    @staticmethod
    def of(calibration: Calibration, bad: Sequence[float]) -> Tradeoff:
        """Return the trade-off between the held-out scores of a calibration and the scores of bad parts."""
        parts = calibration.by_session
        return Tradeoff(tuple(p.session.name for p in parts), tuple(p.scores for p in parts), tuple(bad))

    def at(self, threshold: float) -> Verdicts:
        """Return the verdicts at one threshold."""
        rejected = tuple(sum(score > threshold for score in scores) for scores in self.good)
        return Verdicts(threshold, rejected, sum(score <= threshold for score in self.bad))

    @property
    def curve(self) -> list[Verdicts]:
        """Return the verdicts between all neighbouring scores, by rising threshold.

        Between two neighbouring scores no verdict changes. The threshold is halfway between them, as far as possible
        from the parts on both sides. Thresholds that are not positive are left out.
        """
        scores = np.unique(np.concatenate([*self.good, self.bad]).astype(np.float64))
        halfway = scores[:-1] + (scores[1:] - scores[:-1]) / 2
        between = np.where(halfway < scores[1:], halfway, scores[:-1])  # neighbouring floats have no number between
        thresholds = [scores[0] / 2, *between, scores[-1]]
        return [self.at(float(threshold)) for threshold in thresholds if threshold > 0]

    def best(self) -> list[Verdicts]:
        """Return the points of the curve that no other threshold improves in one count without loss in the other."""
        curve = self.curve
        steps = [(sum(v.rejected), v.missed) for v in curve]
        return [
            verdicts
            for verdicts, before, step, after in zip(
                curve, [(-1, -1), *steps[:-1]], steps, [*steps[1:], (-1, -1)], strict=True
            )
            if step[0] != before[0] and step[1] != after[1]
        ]

    def cost(self, verdicts: Verdicts, costs: Costs) -> float:
        """Return the expected cost of one part of the production.

        This is p·M·missed/bad + (1-p)·R·share, with the share of bad parts p, the cost M of a miss and the cost R of a
        reject. `share` is the mean over the sessions of the share of rejected good parts: a future day resembles each
        session with equal probability, however many parts were recorded in it.
        """
        rejected = [count / len(scores) for count, scores in zip(verdicts.rejected, self.good, strict=True)]
        missed = verdicts.missed / len(self.bad)
        share = sum(rejected) / len(rejected)
        return costs.bad_share * costs.miss * missed + (1 - costs.bad_share) * costs.reject * share

    def cheapest(self, costs: Costs) -> Verdicts | None:
        """Return the verdicts of the least expected cost, or None if no score is positive.

        Several thresholds may have the same cost, up to rounding. The lowest one misses the fewest parts and is
        returned. A miss that costs more never raises the threshold, and a reject that costs more never lowers it.
        """
        curve = self.curve
        if not curve:
            return None
        priced = [self.cost(verdicts, costs) for verdicts in curve]
        least = min(priced)
        return next(v for v, cost in zip(curve, priced, strict=True) if cost <= least * (1 + 1e-12))


def at_least_cost(bundle: Bundle, verdicts: Verdicts) -> Bundle:
    """Return the bundle with the threshold of the least expected cost.

    The map threshold follows if the map decides, see `adjusted`.
    """
    changed = adjusted(bundle, score=verdicts.threshold)
    return replace(changed, calibration=replace(changed.calibration, method=LEAST_COST))
