"""Facts that decide if a trigger is accepted: processes, sensors, the loaded recipe, and the command `stop`."""

from __future__ import annotations

from dataclasses import dataclass, field

from cmdiad_line.reasons import STATION_REASONS, StationReason
from cmdiad_line.station_file.source import modalities_of
from cmdiad_line.transport.messages import SourcesState
from cmdiad_runtime.names import MODALITIES

NEEDED = ("records", "acquisition", "inspection")
"""Processes without which no part can be inspected."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedRecipe:
    """A recipe that has passed its self-test in the running inspection process.

    Two objects are never equal: each stands for one self-test. A recipe that is loaded again is another object.

    Attributes:
        recipe_id: Id of the recipe.
        bundle_digest: SHA-256 of the manifest of the bundle.
        modality: Sensors that the bundle needs: "rgb", "xyz" or "both".
        engine: Library, version and device of the engine.
        threshold: Score threshold in use.
    """

    recipe_id: str
    bundle_digest: str
    modality: str
    engine: str
    threshold: float


@dataclass(kw_only=True)
class Readiness:
    """Present facts about the station.

    Attributes:
        running: Names of the processes that have started and take orders.
        sources: State of the sensors, or None before the acquisition has reported it.
        loaded: Recipes that the running inspection process has tested, by id.
        active_id: Id of the active recipe, or "" without one.
        stopped: True after the command `stop` or `abort`.
        fault: Reason code and message of a problem that only a person can solve, or None.
        delivered: Modalities that the sensors of the station file deliver.
    """

    running: set[str] = field(default_factory=set)
    sources: SourcesState | None = None
    loaded: dict[str, LoadedRecipe] = field(default_factory=dict)
    active_id: str = ""
    stopped: bool = False
    fault: tuple[StationReason, str] | None = None
    delivered: frozenset[str] = frozenset(MODALITIES)

    @property
    def active(self) -> LoadedRecipe | None:
        """Return the active recipe if it is loaded and tested."""
        return self.loaded.get(self.active_id)

    def lack(self, recipe: LoadedRecipe) -> str:
        """Explain which sensor a recipe lacks, or return "" if the sensors deliver all that the recipe needs."""
        missing = [name for name in modalities_of(recipe.modality) if name not in self.delivered]
        if not missing:
            return ""
        return f"The recipe {recipe.recipe_id!r} needs {missing[0]}, which no sensor of the station file delivers."

    def refusal(self) -> tuple[StationReason, str] | None:
        """Return reason code and message why no trigger is accepted, or None if triggers are accepted."""
        if self.fault is not None:
            return self.fault
        missing = [name for name in NEEDED if name not in self.running]
        if missing:
            return "not-ready", f"Not running yet: {', '.join(missing)}."
        if self.sources is None or not self.sources.connected:
            message = self.sources.message if self.sources else ""
            return "camera-gone", message or STATION_REASONS["camera-gone"]
        problem = (
            self.lack(self.active) if self.active else f"The recipe {self.active_id!r} is being loaded and tested."
        )
        if problem:
            return "not-ready", problem
        if self.stopped:
            return "stopped", STATION_REASONS["stopped"]
        return None
