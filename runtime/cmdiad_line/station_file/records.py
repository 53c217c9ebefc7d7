"""Section `[records]`: how long results are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Records:
    """The keys of the section `[records]`."""
