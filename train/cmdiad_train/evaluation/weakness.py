"""The rule that decides when figures on a test split are too weak to use a detector, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_MISSED = 0.5
"""Share of missed defects above which a detector is weak."""
CHANCE = 0.5
"""Image AUROC of a detector that guesses."""
REMEDY = (
    "Try better features if these are the shipped ones (cmdiad-extractor fetch standard, then train again with another "
    "--out), a larger --size, or a lower threshold (cmdiad-threshold BUNDLE --bad DIR shows the trade-off)"
)


def weakness(figures: Mapping[str, Any]) -> str:
    """Return why a detector is too weak to be used, with the next steps; "" if the figures do not show that.

    A detector is weak if it misses more than half of the defects at its threshold, or if the 95 % interval of its image
    AUROC includes 0.5, the value of a guess.

    Args:
        figures: Figures on a test split with `samples`, `good`, `missed_defects` and `intervals`.
    """
    defects, missed = figures["samples"] - figures["good"], figures["missed_defects"]
    interval = figures["intervals"]["image_auroc"]
    reasons = []
    if missed > MOST_MISSED * defects:
        reasons.append(f"{missed} of {defects} defects are missed")
    if interval is not None and interval[0] <= CHANCE:
        reasons.append(f"image AUROC may be that of a guess (95 % interval {interval[0]:.3f} to {interval[1]:.3f})")
    return f"{', and '.join(reasons)}. {REMEDY}" if reasons else ""


def verdicts_text(figures: Mapping[str, Any]) -> str:
    """Return the numbers of rejected good samples and of missed defects at the threshold, as text."""
    good = figures["good"]
    return (
        f"at the threshold {figures['false_rejects']} of {good} good rejected, "
        f"{figures['missed_defects']} of {figures['samples'] - good} defects missed"
    )
