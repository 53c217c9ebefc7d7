"""The publisher of states and events. After the start, nothing else writes to the address space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from asyncua import Node, ua
from asyncua.server.event_generator import EventGenerator

from cmdiad_line.opcua.address_space import AddressSpace
from cmdiad_line.opcua.result_data import job_id, recipe_id, result_fields, status
from cmdiad_line.opcua.results import Entry
from cmdiad_line.opcua.state import Step, VisionState

_MACHINES = {
    "system": ("VisionStateMachineType", "VisionStateMachine"),
    "mode": ("VisionAutomaticModeStateMachineType", "VisionStateMachine/AutomaticModeStateMachine"),
}
_TRANSITION = {
    **dict.fromkeys(("FromState", "ToState", "Transition"), ua.VariantType.LocalizedText),
    **dict.fromkeys(("FromState/Id", "ToState/Id", "Transition/Id"), ua.VariantType.NodeId),
}
_TYPES = {
    "AcquisitionDone": {"JobId": ua.VariantType.ExtensionObject},
    "Error": _TRANSITION,
    "ErrorResolved": _TRANSITION,
    "JobStarted": {"JobId": ua.VariantType.ExtensionObject},
    "Ready": {"JobId": ua.VariantType.ExtensionObject},
    "RecipePrepared": {"InternalId": ua.VariantType.ExtensionObject},
    "ResultReady": {
        "CreationTime": ua.VariantType.DateTime,
        "InternalConfigurationId": ua.VariantType.ExtensionObject,
        "InternalRecipeId": ua.VariantType.ExtensionObject,
        "IsPartial": ua.VariantType.Boolean,
        "IsSimulated": ua.VariantType.Boolean,
        "JobId": ua.VariantType.ExtensionObject,
        "MeasId": ua.VariantType.ExtensionObject,
        "PartId": ua.VariantType.ExtensionObject,
        "ProcessingTimes": ua.VariantType.ExtensionObject,
        "ResultContent": ua.VariantType.Variant,
        "ResultId": ua.VariantType.ExtensionObject,
        "ResultState": ua.VariantType.Int32,
    },
    "StateChanged": _TRANSITION,
}
"""Events of OPC 40100-1 that the server sends, with the types of their fields."""
_SERVER = ua.NodeId(ua.Int32(ua.ObjectIds.Server))
SEVERITIES = {"Error": 700}
"""Severity (1 to 1000) of events other than 100."""


@dataclass
class Publisher:
    """Writes the present state and sends events from the vision system and from the Server object.

    Attributes:
        space: Address space.
        simulated: True if a sensor of the station is simulated.
    """

    space: AddressSpace
    simulated: bool
    _generators: dict[str, EventGenerator] = field(default_factory=dict)
    _nodes: dict[str, Node | None] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Create the generators of the events. Call once before the server starts."""
        for name in _TYPES:
            event_type = await self.space.event_type(f"{name}EventType")
            generator = await self.space.server.get_event_generator(event_type, self.space.system.nodeid)
            generator.event.Severity = SEVERITIES.get(name, 100)
            self._generators[name] = generator

    async def show(self, state: VisionState) -> None:
        """Write the present state of both state machines."""
        await self._show("system", state.system)
        await self._show("mode", state.mode)

    async def changed(self, step: Step, cause: str, message: str) -> None:
        """Send StateChanged, and Error or ErrorResolved, for one transition.

        Args:
            step: Transition.
            cause: Name of the method that caused the transition, or "".
            message: Line for people, or "".
        """
        fields = await self._transition(step, cause)
        text = message or f"{step.before} to {step.after}"
        await self._send("StateChanged", text, fields)
        if step.after == "Error":
            await self._send("Error", text, fields)
        elif step.before == "Error" and step.after == "Operational":
            await self._send("ErrorResolved", text, fields)

    async def ready(self, job: str) -> None:
        """Send Ready: the job has ended, the next one can start."""
        await self._send("Ready", "Ready for the next job", {"JobId": job_id(job)})

    async def job_started(self, job: str) -> None:
        """Send JobStarted."""
        await self._send("JobStarted", f"Job {job} started", {"JobId": job_id(job)})

    async def acquisition_done(self, job: str) -> None:
        """Send AcquisitionDone: the part may move."""
        await self._send("AcquisitionDone", f"Acquisition of job {job} done", {"JobId": job_id(job)})

    async def recipe_prepared(self, recipe: str) -> None:
        """Send RecipePrepared."""
        await self._send("RecipePrepared", f"Recipe {recipe} prepared", {"InternalId": recipe_id(recipe)})

    async def result_ready(self, entry: Entry) -> None:
        """Send ResultReady with all fields of the result."""
        result = entry.result
        reason = f" {result.reason}" if result.reason else ""
        await self._send("ResultReady", f"{result.verdict}{reason}", result_fields(entry, self.simulated))

    async def _send(self, name: str, message: str, values: dict[str, Any]) -> None:
        """Send an event to the subscribers of the vision system and of the Server object."""
        generator = self._generators[name]
        for key, value in values.items():
            generator.event.add_property(key, value, _TYPES[name][key])
        for emitter in (self.space.system.nodeid, _SERVER):
            generator.event.emitting_node = emitter
            await generator.trigger(message=message)

    async def _transition(self, step: Step, cause: str) -> dict[str, Any]:
        """Return the fields of a TransitionEventType."""
        names = [name for name in step.names(cause) if await self._node(step.machine, name) is not None]
        fields: dict[str, Any] = {}
        for key, name in (("FromState", step.before), ("ToState", step.after), ("Transition", names[0])):
            node = await self._node(step.machine, name)
            assert node is not None
            fields[key] = ua.LocalizedText(name)
            fields[f"{key}/Id"] = node.nodeid
        return fields

    async def _show(self, machine: str, state: str) -> None:
        """Write CurrentState of a state machine; an inactive machine has the status BadStateNotActive."""
        kind, path = _MACHINES[machine]
        variable = await self.space.child(f"{path}/CurrentState")
        identifier = await self.space.child(f"{path}/CurrentState/Id")
        if not state:
            for node in (variable, identifier):
                await node.write_value(ua.DataValue(StatusCode=status(ua.StatusCodes.BadStateNotActive)))
            return
        state_node = await self._node(machine, state)
        assert state_node is not None, f"{kind} has no state {state}"
        await identifier.write_value(ua.Variant(state_node.nodeid, ua.VariantType.NodeId))
        await variable.write_value(ua.LocalizedText(state))

    async def _node(self, machine: str, name: str) -> Node | None:
        """Return a state or transition of a state machine type by its browse name."""
        if f"{machine}/{name}" not in self._nodes:
            self._nodes[f"{machine}/{name}"] = await self.space.type_child(_MACHINES[machine][0], name)
        return self._nodes[f"{machine}/{name}"]
