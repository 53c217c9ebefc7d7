"""Removal of old recipes from the disk while the station runs, because commands add recipes at any time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.review.lineage import recipes_to_replace
from cmdiad_line.station_file.station import Station
from cmdiad_line.supervisor.background import Background

INTERVAL_NS = 600 * 10**9
"""Time between two removals. The first one is at the start of the station."""
ACTION = "recipes-removed"
"""Action in the audit log."""
_logger = logging.getLogger("cmdiad.line")


class OldRecipes:
    """Removes old recipes from time to time, in the thread for files.

    Args:
        station: The station file.
        background: The thread.
        note: Writes an entry to the audit log: action, subject, details.
    """

    def __init__(
        self, station: Station, background: Background, note: Callable[[str, str, dict[str, Any]], None]
    ) -> None:
        self._station, self._background, self._note = station, background, note
        self._removed_ns: int | None = None

    def remove(self, loaded: frozenset[str], now_ns: int) -> None:
        """Remove old recipes if the last removal is long ago.

        Args:
            loaded: Ids of the recipes in memory, which stay.
            now_ns: Present monotonic time.
        """
        if self._removed_ns is not None and now_ns - self._removed_ns < INTERVAL_NS:
            return
        self._removed_ns = now_ns
        self._background.submit(lambda: _keep_last(self._station, loaded), self._report)

    def _report(self, removed: tuple[str, ...] | None, error: Exception | None) -> None:
        if error is not None:
            _logger.warning("old recipes cannot be removed: %s", error)
        elif removed:
            self._note(ACTION, "", {"recipes": list(removed), "keep": self._station.recipe.keep})


def _keep_last(station: Station, loaded: frozenset[str]) -> tuple[str, ...]:
    """Remove old recipes, except those in memory and those that candidates are to replace. Return the ids."""
    store = RecipeStore(station.state)
    to_replace = recipes_to_replace(station.state, [recipe.recipe_id for recipe in store.list()])
    return store.keep_last(station.recipe.keep, loaded | to_replace)
