"""Lock-out times after wrong passwords, in seconds of the wall clock, so that a lock outlasts a restart."""

from __future__ import annotations

FREE_FAILURES = 5
"""Number of wrong passwords after which the account is locked."""
FIRST_LOCK_S = 30.0
"""Duration of the first lock in seconds; each further wrong password doubles the duration."""
LONGEST_LOCK_S = 900.0
"""Longest lock in seconds."""


def lock_seconds(failures: int) -> float:
    """Return for how many seconds an account is locked after this number of wrong passwords in a row."""
    if failures < FREE_FAILURES:
        return 0.0
    return min(FIRST_LOCK_S * 2.0 ** min(failures - FREE_FAILURES, 20), LONGEST_LOCK_S)


def is_locked(failures: int, last_failure_s: float, now_s: float) -> bool:
    """Return True if an account is locked.

    Args:
        failures: Number of wrong passwords in a row.
        last_failure_s: Time of the last one. A time in the future, after a clock was set back, counts as now: the
            account is then locked, but never for ever, because the store moves such a time back to now.
        now_s: Present time.
    """
    return now_s - min(last_failure_s, now_s) < lock_seconds(failures)
