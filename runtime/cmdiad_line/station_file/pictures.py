"""Section `[pictures]`: which pictures are kept, and how many."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The keys of the section `[pictures]`."""
