"""Shares as text for people."""

from __future__ import annotations


def share_text(share: float) -> str:
    """Return a share in percent with one decimal, never rounded to all or nothing if the share is neither.

    Args:
        share: Share in [0, 1], for example 0.123 for "12.3 %".
    """
    text = f"{100 * share:.1f}"
    if text == "0.0" and share > 0:
        return "less than 0.1 %"
    if text == "100.0" and share < 1:
        return "more than 99.9 %"
    return f"{text} %"
