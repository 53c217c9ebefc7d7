"""Describe an inspection mask in one line, for every command."""

from __future__ import annotations

from collections.abc import Iterator

from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.share_text import share_text

LARGE_MASK = 0.5
"""Ignored share from which the line about an inspection mask is a warning."""


def mask_notes(preprocessing: Preprocessing) -> Iterator[str]:
    """Yield one line about the inspection mask, or none without a mask."""
    if preprocessing.ignored is not None:
        large = preprocessing.ignored.share >= LARGE_MASK
        yield f"{'warning' if large else 'note'}: {mask_text(preprocessing)}"


def mask_text(preprocessing: Preprocessing) -> str:
    """Return the ignored share as text, such as "12.3 % of the part is not inspected, because of --mask"; "" for none.

    From a share of `LARGE_MASK` on, the text also states what follows.
    """
    if preprocessing.ignored is None:
        return ""
    share = preprocessing.ignored.share
    what = "picture" if preprocessing.view == "sensor" else "part"
    text = f"{share_text(share)} of the {what} is not inspected, because of --mask"
    return f"{text}: a defect there passes, also a missing piece" if share >= LARGE_MASK else text
