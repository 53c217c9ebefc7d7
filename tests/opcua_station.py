"""An OPC UA process under test: the test is its supervisor, and asyncua clients in the test are the plant."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asyncua import Client, Node, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cmdiad_line.accounts.store import FILE_NAME, AccountStore
from cmdiad_line.opcua.address_space import MACHINE_VISION
from cmdiad_line.opcua.certificates import ServerCertificate, own_certificate
from cmdiad_line.recipes.store import ImportOptions, RecipeStore
from cmdiad_line.transport.link import Link, link_pair
from cmdiad_line.transport.messages import Message, Ready, Result
from patience import LIMIT_S, free_port
from station_messages import part_result

BUNDLE = Path(__file__).parent / "fixtures" / "format1" / "xyz-points.cmdiad"
PASSWORD = "four random words here"
EVENT_FIELDS = (
    "CreationTime",
    "InternalConfigurationId",
    "InternalId",
    "InternalRecipeId",
    "IsPartial",
    "IsSimulated",
    "JobId",
    "MeasId",
    "PartId",
    "ProcessingTimes",
    "ResultContent",
    "ResultId",
    "ResultState",
)
Kind = TypeVar("Kind", bound=Message)
START = f"""
from cmdiad_line.opcua import methods, vision_system
from cmdiad_line.worker import start
methods.PREPARED_WITHIN_S = vision_system.ANSWER_S = {LIMIT_S}
start()
"""
"""Start of the process, which waits for an answer of the test as long as a slow machine needs."""


@dataclass
class Supervisor:
    """The supervisor's end of the link.

    Attributes:
        link: Link to the OPC UA process.
        process: The process.
        port: Port of its server.
        folder: State folder.
    """

    link: Link
    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    arrived: list[Message] = field(default_factory=list)

    def send(self, *messages: Message) -> None:
        """Send messages."""
        for message in messages:
            self.link.send(message)

    async def expect(self, kind: type[Kind]) -> Kind:
        """Return the next message of a kind; messages of other kinds before it are dropped."""
        return await asyncio.wait_for(self._next(kind), LIMIT_S)

    async def _next(self, kind: type[Kind]) -> Kind:
        while True:
            self.arrived += self.link.receive()
            while self.arrived:
                message = self.arrived.pop(0)
                if isinstance(message, kind):
                    return message
            await asyncio.sleep(0.01)


def station_result(acquisition_id: int, **changes: Any) -> Result:
    """Return an OK result of a job of this server."""
    values: dict[str, Any] = {
        "message": "",
        "score": 0.25,
        "part_id": "",
        "channel": "opcua",
        "timings_ms": {"acquired": 5.0, "inspected": 20.0, "published": 22.0, "preprocess": 4.0, "engine": 9.0},
    }
    return part_result(acquisition_id, **{**values, **changes})


@contextmanager
def running_server(folder: Path, section: str = "") -> Iterator[Supervisor]:
    """Start the OPC UA process of a station, with the accounts `ope-1` and `eng-1`, until the block ends.

    Args:
        folder: State folder.
        section: Further keys of `[opcua]`.
    """
    accounts = AccountStore(folder / FILE_NAME)
    for role in ("operator", "engineer", "admin"):
        accounts.add(role[:3] + "-1", role, PASSWORD, author="test")
    RecipeStore(folder).import_bundle(BUNDLE, ImportOptions(recipe_id="gear", product_id="P-1"))
    port = free_port()
    file = folder / "station.toml"
    file.write_text(
        f'[station]\nname = "cell 7"\nstate = "."\n[recipe]\nbundle = "{BUNDLE}"\n'
        f'[[source]]\nkind = "simulated"\n[opcua]\nport = {port}\n{section}\n'
    )
    here, there = link_pair()
    command = [sys.executable, "-c", START, "opcua", str(there.fileno()), str(file), str(folder)]
    process = subprocess.Popen(command, pass_fds=[there.fileno()])
    there.close()
    try:
        supervisor = Supervisor(here, process, port, folder)
        asyncio.run(supervisor.expect(Ready))
        yield supervisor
    finally:
        here.close()
        try:
            process.wait(LIMIT_S)
        finally:
            process.kill()
            process.wait()


def server_certificate(supervisor: Supervisor) -> bytes:
    """Return the certificate of the server (DER), as a plant engineer copies it."""
    pem = (supervisor.folder / "opcua" / "server.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def client_certificate(folder: Path) -> ServerCertificate:
    """Return a certificate for a client."""
    return own_certificate(folder / "client", "plant", "127.0.0.1")


async def secured_client(
    supervisor: Supervisor, user: str, password: str = PASSWORD, folder: Path | None = None
) -> Client:
    """Return a client with SignAndEncrypt that is not connected yet."""
    own = client_certificate(folder or supervisor.folder)
    client = Client(f"opc.tcp://127.0.0.1:{supervisor.port}/cmdiad", timeout=LIMIT_S, watchdog_intervall=LIMIT_S)
    client.application_uri = own.application_uri
    key = own.private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    await client.set_security(
        SecurityPolicyBasic256Sha256,
        certificate=own.certificate.public_bytes(serialization.Encoding.DER),
        private_key=key,
        server_certificate=server_certificate(supervisor),
        mode=ua.MessageSecurityMode.SignAndEncrypt,
    )
    client.set_user(user)
    client.set_password(password)
    return client


class Plant:
    """A connected client with the nodes of the vision system.

    Args:
        client: Connected client.
        system: The vision system.
        namespace: Index of the namespace of OPC 40100-1.
    """

    def __init__(self, client: Client, system: Node, namespace: int) -> None:
        self.client = client
        self.system = system
        self.namespace = namespace
        self.events: asyncio.Queue[Any] = asyncio.Queue()

    async def node(self, path: str) -> Node:
        """Return a node below the vision system."""
        names = [ua.QualifiedName(n, 0 if n in ("CurrentState", "Id") else self.namespace) for n in path.split("/")]
        return await self.system.get_child(names)

    async def call(self, path: str, *arguments: Any) -> Any:
        """Call a method by its path."""
        parent, _, _ = path.rpartition("/")
        return await (await self.node(parent)).call_method(await self.node(path), *arguments)

    async def state(self) -> str:
        """Return the state, for example "Operational/Ready"."""
        machine = await (await self.node("VisionStateMachine/CurrentState")).read_value()
        try:
            mode = await (await self.node("VisionStateMachine/AutomaticModeStateMachine/CurrentState")).read_value()
        except ua.uaerrors.BadStateNotActive:
            return str(machine.Text)
        return f"{machine.Text}/{mode.Text}"

    async def wait_for_state(self, state: str) -> None:
        """Wait until the server shows a state."""

        async def reached() -> None:
            while await self.state() != state:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(reached(), LIMIT_S)

    async def event(self, name: str) -> Any:
        """Return the next event of a type; other events before it are dropped."""
        kind = await self.client.nodes.base_event_type.get_child(await self._event_path(name))

        async def next_event() -> Any:
            while True:
                event = await self.events.get()
                if event.EventType == kind.nodeid:
                    return event

        return await asyncio.wait_for(next_event(), LIMIT_S)

    async def _event_path(self, name: str) -> list[str]:
        transition = name in ("StateChanged", "Error", "ErrorResolved")
        return [*(["0:TransitionEventType"] if transition else []), f"{self.namespace}:{name}EventType"]

    async def subscribe(self) -> None:
        """Receive all events of the vision system."""
        base = [ua.QualifiedName(name) for name in ("EventType", "Message", "FromState", "ToState")]
        clauses = [
            ua.SimpleAttributeOperand(
                TypeDefinitionId=ua.NodeId(ua.ObjectIds.BaseEventType),
                BrowsePath=[name],
                AttributeId=ua.AttributeIds.Value,
            )
            for name in [*base, *(ua.QualifiedName(name, self.namespace) for name in EVENT_FIELDS)]
        ]
        subscription = await self.client.create_subscription(20, self)
        await subscription.subscribe_events(self.system, evfilter=ua.EventFilter(SelectClauses=clauses))

    def status_change_notification(self, status: Any) -> None:
        """Ignore changes of the subscription; called by asyncua."""

    def event_notification(self, event: Any) -> None:
        """Keep an event; called by asyncua."""
        self.events.put_nowait(event)


@asynccontextmanager
async def plant(supervisor: Supervisor, user: str = "eng-1") -> AsyncIterator[Plant]:
    """Connect a client with SignAndEncrypt and the password, subscribed to all events."""
    client = await secured_client(supervisor, user)
    async with client:
        if not hasattr(ua, "ResultDataType"):  # The classes of the structures are common to all clients of a process.
            await client.load_data_type_definitions()
        namespace = await client.get_namespace_index(MACHINE_VISION)
        children = await client.nodes.objects.get_children()
        names = [(await child.read_browse_name()).Name for child in children]
        connected = Plant(client, children[names.index("VisionSystem")], namespace)
        await connected.subscribe()
        yield connected
