"""The address space of the server: the official node set, and one vision system with the parts that a station has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from asyncua import Node, Server, ua
from asyncua.common.instantiate_util import instantiate
from asyncua.common.manage_nodes import delete_nodes

NODE_SET = Path(__file__).parent / "nodeset" / "Opc.Ua.MachineVision.NodeSet2.xml"
"""Node set of OPC 40100-1 by the OPC Foundation, unchanged; see `nodeset/ORIGIN.md`."""
MACHINE_VISION = "http://opcfoundation.org/UA/MachineVision"
"""URI of the namespace of OPC 40100-1."""

_INHERITING_TYPES = ("RecipeIdExternalDataType", "RecipeIdInternalDataType", "ConfigurationIdDataType")
"""Structures that inherit all their fields from BinaryIdBaseDataType."""
_ABSENT = (
    "ConfigurationManagement",
    "DiagnosticLevel",
    "SafetyStateManagement",
    "SystemState",
    "RecipeManagement/PrepareProduct",
    "RecipeManagement/Products",
    "RecipeManagement/Recipes",
    "RecipeManagement/RecipeTransfer",
    "RecipeManagement/RemoveRecipe",
    "RecipeManagement/UnlinkProduct",
    "RecipeManagement/UnprepareProduct",
    "ResultManagement/Results",
    "ResultManagement/ResultTransfer",
    "VisionStateMachine/ErrorStepModel",
    "VisionStateMachine/HaltedStepModel",
    "VisionStateMachine/PreoperationalStepModel",
    "VisionStateMachine/AutomaticModeStateMachine/ContinuousExecutionStepModel",
    "VisionStateMachine/AutomaticModeStateMachine/InitializedStepModel",
    "VisionStateMachine/AutomaticModeStateMachine/ReadyStepModel",
    "VisionStateMachine/AutomaticModeStateMachine/SimulationMode",
    "VisionStateMachine/AutomaticModeStateMachine/SingleExecutionStepModel",
)
"""Optional parts of a vision system that a station does not have."""


@dataclass(frozen=True)
class AddressSpace:
    """The nodes that the server works with.

    Attributes:
        server: Server, initialised and not started.
        namespace: Index of the namespace of OPC 40100-1.
        system: The vision system.
    """

    server: Server
    namespace: int
    system: Node

    async def child(self, path: str) -> Node:
        """Return a node of the vision system by its path, for example "VisionStateMachine/CurrentState"."""
        return await self.system.get_child([self._qualified(name) for name in path.split("/")])

    async def type_child(self, kind: str, name: str) -> Node | None:
        """Return a part of a state machine type, for example a state or a transition, or None if there is none."""
        base = self.server.get_node(ua.ObjectIds.FiniteStateMachineType)
        machine = await base.get_child([self._qualified(kind)])
        try:
            return await machine.get_child([self._qualified(name)])
        except ua.UaStatusCodeError:
            return None

    async def event_type(self, name: str) -> Node:
        """Return an event type, for example "ResultReadyEventType"."""
        base = ua.ObjectIds.TransitionEventType if name in _TRANSITION_EVENTS else ua.ObjectIds.BaseEventType
        return await self.server.get_node(base).get_child([self._qualified(name)])

    def _qualified(self, name: str) -> ua.QualifiedName:
        namespace = 0 if name in ("CurrentState", "Id") else self.namespace
        return ua.QualifiedName(name, namespace)


_TRANSITION_EVENTS = ("StateChangedEventType", "ErrorEventType", "ErrorResolvedEventType")


async def build_address_space(server: Server, name: str) -> AddressSpace:
    """Import the node set and create the vision system. This takes about a second.

    Args:
        server: Initialised server.
        name: Name of the station, the display name of the vision system.
    """
    await server.import_xml(xmlstring=_node_set())
    namespace = await server.get_namespace_index(MACHINE_VISION)
    own = await server.register_namespace(f"{server.get_application_uri()}:nodes")
    base = server.get_node(ua.ObjectIds.BaseObjectType)
    kind = await base.get_child([ua.QualifiedName("VisionSystemType", namespace)])
    browse_name = ua.QualifiedName("VisionSystem", own)
    nodes = await instantiate(
        server.nodes.objects, kind, bname=browse_name, dname=ua.LocalizedText(name), idx=own, instantiate_optional=True
    )
    space = AddressSpace(server, namespace, nodes[0])
    for path in _ABSENT:
        await _remove(await space.child(path))
    return space


async def _remove(node: Node) -> None:
    """Remove a part of the vision system. asyncua would search all nodes for references to it, which takes seconds."""
    parent = await node.get_parent()
    assert parent is not None
    await parent.delete_reference(node, ua.ObjectIds.HasComponent, bidirectional=False)
    await delete_nodes(node.session, [node], recursive=True, delete_target_references=False)


def _node_set() -> str:
    """Return the node set, with the inherited fields written into the definitions of structures that only inherit.

    The definition of a data type contains its inherited fields in the address space (OPC 10000-3), but not in a node
    set file. asyncua reads a definition without fields as another name of the base type.
    """
    text = NODE_SET.read_text(encoding="utf-8")
    base = re.search(r'<Definition Name="1:BinaryIdBaseDataType">(.*?)</Definition>', text, re.DOTALL)
    assert base is not None
    for name in _INHERITING_TYPES:
        text = text.replace(
            f'<Definition Name="1:{name}" />', f'<Definition Name="1:{name}">{base.group(1)}</Definition>'
        )
    return text
