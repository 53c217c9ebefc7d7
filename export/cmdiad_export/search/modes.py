"""The kinds of search that a graph can have."""

from __future__ import annotations

from typing import Literal, get_args

SearchMode = Literal["exact", "proven", "fast"]
SEARCH_MODES: tuple[SearchMode, ...] = get_args(SearchMode)
