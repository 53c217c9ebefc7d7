"""Read a stored calibration, and compare what it states with the held-out scores that it contains."""

from __future__ import annotations

import math
from dataclasses import replace

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.threshold import (
    LEAST_COST,
    ORDER_STATISTIC,
    SET_BY_HAND,
    calibrate_sessions,
    is_earlier_method,
    threshold_by_hand,
)
from cmdiad_runtime.support.records import RecordError

SCORE_ROUNDING = 1e-9
"""Largest relative difference of a stored and a recomputed threshold, which are sums of the same few numbers."""
SHARE_ROUNDING = 1e-6
"""Largest difference of a stored and a recomputed share: versions of SciPy compute quantiles with different errors."""

_UNKNOWN = (0.0, 1.0)


def stored_calibration(value: object) -> Calibration:
    """Read a calibration from parsed JSON of a run or bundle, and recompute what its held-out scores determine.

    A threshold for a rate is computed again from scores, sessions and rate; for a threshold that was set otherwise, the
    share of held-out samples above. The interval and the warning are recomputed, too. Their texts, and an interval that
    is missing, are replaced by the recomputed ones. The map threshold can be set separately and is not compared.

    A calibration without held-out scores, or of a method of an earlier version, is returned as stored.

    Raises:
        NewerRecordError: The object has an unknown field.
        RecordError: A field is missing, wrong, or contradicts the held-out scores.
    """
    stored = Calibration.from_json(value)
    if not stored.held_out_scores or is_earlier_method(stored.method):
        return stored
    computed = _recomputed(stored)
    for name in ("score_threshold", "false_reject_rate"):
        pair = getattr(stored, name), getattr(computed, name)
        if not math.isclose(*pair, rel_tol=SCORE_ROUNDING):
            raise RecordError(f"Calibration.{name} is {pair[0]:g}, but the held-out scores make it {pair[1]:g}")
    if stored.interval != _UNKNOWN and not all(
        math.isclose(*pair, rel_tol=0, abs_tol=SHARE_ROUNDING)
        for pair in zip(stored.interval, computed.interval, strict=True)
    ):
        low, high = computed.interval
        raise RecordError(
            f"Calibration.interval is {stored.interval}, but the held-out scores make it ({low:g}, {high:g})"
        )
    if bool(stored.warning) != bool(computed.warning):
        expected = "a warning" if computed.warning else "no warning"
        raise RecordError(f"Calibration.warning is {stored.warning!r:.60}, but the held-out scores need {expected}")
    return computed


def _recomputed(stored: Calibration) -> Calibration:
    """Return the calibration that the held-out scores determine, with the method that was used.

    Raises:
        RecordError: The method is unknown, or needs other scores.
    """
    if stored.method in (SET_BY_HAND, LEAST_COST):
        try:
            by_hand = threshold_by_hand(stored.score_threshold, stored.held_out_scores)
        except ValueError as error:
            raise RecordError(f"Calibration: {error}") from error
        return replace(
            stored,
            false_reject_rate=by_hand.false_reject_rate,
            warning=by_hand.warning,
            interval=by_hand.interval,
        )
    if not stored.method.startswith(ORDER_STATISTIC):
        raise RecordError(f"Calibration.method is {stored.method!r:.60}, expected a known method")
    if len(stored.held_out_peaks) != len(stored.held_out_scores):
        raise RecordError(f"Calibration.held_out_peaks has {len(stored.held_out_peaks)} values, expected one per score")
    try:
        computed = calibrate_sessions(stored.by_session, stored.false_reject_rate)
    except ValueError as error:
        raise RecordError(f"Calibration: {error}") from error
    return replace(computed, map_threshold=stored.map_threshold, sessions=stored.sessions, verdict=stored.verdict)
