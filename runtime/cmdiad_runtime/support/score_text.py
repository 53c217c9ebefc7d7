"""Scores next to a threshold as text for people: with the same digits, and different where the values are different."""

from __future__ import annotations

import math

_LEAST_DIGITS = 4
"""Significant digits of the threshold."""
_MOST_DECIMALS = 17


def score_texts(score: float, threshold: float) -> tuple[str, str]:
    """Return a score and its threshold as text with equally many decimals.

    The threshold has at least four significant digits, and both get more decimals as long as different values have
    the same text: 4.6504 and 4.6496 become 4.650 and 4.650, then 4.6504 and 4.6496.

    Args:
        score: Score of a sample, finite.
        threshold: Threshold of the score, finite.
    """
    decimals = max(0, _LEAST_DIGITS - 1 - math.floor(math.log10(abs(threshold)))) if threshold else _LEAST_DIGITS - 1
    while decimals < _MOST_DECIMALS:
        texts = f"{score:.{decimals}f}", f"{threshold:.{decimals}f}"
        if score == threshold or float(texts[0]) != float(texts[1]):
            return texts
        decimals += 1
    return repr(score), repr(threshold)


def compared(score: float, threshold: float, name: str) -> str:
    """Return a score, its relation to the threshold and the threshold as one text, such as "4.650 > thr 4.648".

    Args:
        score: Score of a sample, finite.
        threshold: Threshold of the score, finite.
        name: Name of the threshold.
    """
    score_text, threshold_text = score_texts(score, threshold)
    relation = ">" if score > threshold else "<" if score < threshold else "="
    return f"{score_text} {relation} {name} {threshold_text}"
