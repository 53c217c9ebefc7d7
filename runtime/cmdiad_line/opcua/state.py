"""States of OPC 40100-1 that a station shows, and the transitions between them. Pure functions, without OPC UA."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cmdiad_line.transport.messages import StationState

System = Literal["Preoperational", "Halted", "Error", "Operational"]
"""State of the VisionStateMachine."""
Mode = Literal["", "Initialized", "Ready", "SingleExecution", "ContinuousExecution"]
"""State of the AutomaticModeStateMachine, which is active in Operational only."""
JobKind = Literal["single", "continuous"]
"""Kind of a job that an OPC UA client has started."""


@dataclass(frozen=True)
class VisionState:
    """State of both state machines.

    Attributes:
        system: State of the vision system.
        mode: State of the automatic mode; "" unless `system` is "Operational".
    """

    system: System
    mode: Mode = ""


@dataclass(frozen=True)
class Step:
    """One transition of one state machine.

    Attributes:
        machine: "system" or "mode".
        before: State before.
        after: State after.
    """

    machine: Literal["system", "mode"]
    before: str
    after: str

    def names(self, cause: str) -> tuple[str, ...]:
        """Return the browse names that the transition may have in the node set, the best one first.

        Args:
            cause: Name of the method that caused the transition, or "".
        """
        name = f"{self.before}To{self.after}"
        if not cause:
            return f"{name}Auto", name
        return f"{name}{cause}", name, f"{name}Auto"


_MODES: dict[JobKind | None, Mode] = {
    None: "Ready",
    "single": "SingleExecution",
    "continuous": "ContinuousExecution",
}
_DIRECT = {
    ("Preoperational", "Halted"),
    ("Preoperational", "Error"),
    ("Preoperational", "Operational"),
    ("Halted", "Preoperational"),
    ("Error", "Preoperational"),
    ("Error", "Halted"),
    ("Error", "Operational"),
    ("Operational", "Preoperational"),
    ("Operational", "Halted"),
    ("Operational", "Error"),
}
"""Transitions of the system. Every other change leads through Preoperational."""


def vision_state(state: StationState | None, job: JobKind | None) -> VisionState:
    """Return the state that OPC 40100-1 has for a state of the station.

    Args:
        state: State of the station, or None before the first one.
        job: Kind of the present job of an OPC UA client, or None.
    """
    if state is None or state.phase == "starting":
        return VisionState("Preoperational")
    if (state.phase, state.reason) == ("not-ready", "not-ready"):  # A recipe has not passed its self-test yet.
        return VisionState("Preoperational")
    if state.phase == "stopped":
        return VisionState("Halted")
    if state.phase != "ready":
        return VisionState("Error")
    if not state.recipe_id:
        return VisionState("Operational", "Initialized")
    return VisionState("Operational", _MODES[job])


def steps(before: VisionState, after: VisionState) -> list[Step]:
    """Return the transitions from one state to another, all of them transitions of the node set.

    A station changes some phases at once where OPC 40100-1 has a state between, for example from Halted by
    Preoperational to Operational; and Operational is entered with the mode Initialized.
    """
    path: list[Step] = []
    if before.system != after.system:
        direct = (before.system, after.system) in _DIRECT
        stations = [before.system, after.system] if direct else [before.system, "Preoperational", after.system]
        path += [Step("system", first, second) for first, second in pairwise(stations)]
    if after.system != "Operational":
        return path
    mode = before.mode if before.system == "Operational" else "Initialized"
    return path + _mode_steps(mode, after.mode)


def _mode_steps(before: str, after: str) -> list[Step]:
    """Return the transitions of the automatic mode; each of them starts or ends in Ready."""
    if before == after:
        return []
    stations = [before, after] if "Ready" in (before, after) else [before, "Ready", after]
    return [Step("mode", first, second) for first, second in pairwise(stations)]
