"""Let an OPC 40100-1 client inspect one part: start a single job and wait for its result.

The password comes from the environment variable CMDIAD_PASSWORD. The client's certificate is created in OWN_FOLDER.
SERVER_CERTIFICATE is a copy of `opcua/server.pem` in the state folder of the station.

Run: python examples/opcua_client.py URL SERVER_CERTIFICATE USER PART_ID OWN_FOLDER
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from asyncua import Client, Node, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID

MACHINE_VISION = "http://opcfoundation.org/UA/MachineVision"
STRUCTURES: Any = ua  # load_data_type_definitions() adds the structures of OPC 40100-1 to this module.


class Results:
    """Receiver of ResultReady events."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()

    def event_notification(self, event: Any) -> None:
        """Keep an event."""
        self.events.put_nowait(event)

    async def of_job(self, job_id: str) -> Any:
        """Return the event of a job. Events of other channels arrive too."""
        while True:
            event = await self.events.get()
            if event.JobId.Id == job_id:
                return event


async def secured(url: str, server_certificate: Path, user: str, own: Path) -> Client:
    """Return a client with its own certificate, for sessions that are signed and encrypted."""
    own.mkdir(parents=True, exist_ok=True)
    client = Client(url, timeout=30, watchdog_intervall=30)
    client.application_uri = f"urn:{socket.gethostname()}:plant"
    await setup_self_signed_certificate(
        own / "client-key.pem",
        own / "client.der",
        client.application_uri,
        socket.gethostname(),
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        {"organizationName": "Plant"},
    )
    await client.set_security(
        SecurityPolicyBasic256Sha256, own / "client.der", own / "client-key.pem", None, server_certificate
    )
    client.set_user(user)
    client.set_password(os.environ["CMDIAD_PASSWORD"])
    return client


async def inspect(client: Client, part_id: str, limit_s: float = 30.0) -> str:
    """Inspect one part and return its verdict. Without a result in time, the verdict is NG."""
    await client.load_data_type_definitions()
    space = await client.get_namespace_index(MACHINE_VISION)
    system = await vision_system(client)
    results = Results()
    subscription = await client.create_subscription(50, results)
    kind = await client.nodes.base_event_type.get_child([f"{space}:ResultReadyEventType"])
    await subscription.subscribe_events(system, kind)

    machine = await system.get_child([f"{space}:VisionStateMachine", f"{space}:AutomaticModeStateMachine"])
    arguments = [
        STRUCTURES.MeasIdDataType(),
        STRUCTURES.PartIdDataType(Id=part_id),
        STRUCTURES.RecipeIdExternalDataType(),  # Empty: the active recipe.
        STRUCTURES.ProductIdDataType(),
    ]
    inputs = [ua.Variant(argument, ua.VariantType.ExtensionObject) for argument in arguments]
    inputs.append(ua.Variant([], ua.VariantType.Variant, is_array=True))
    job, _error = await machine.call_method(f"{space}:StartSingleJob", *inputs)

    try:
        event = await asyncio.wait_for(results.of_job(job.Id), limit_s)
    except asyncio.TimeoutError:
        return "NG"
    content = {pair.Value.Key.Name: pair.Value.Value.Value for pair in event.ResultContent}
    print(f"part {part_id}, job {job.Id}: {content['Verdict']} {content['Reason']}".rstrip())
    return str(content["Verdict"])


async def vision_system(client: Client) -> Node:
    """Return the vision system of a station."""
    for node in await client.nodes.objects.get_children():
        if (await node.read_browse_name()).Name == "VisionSystem":
            return node
    raise LookupError("the server has no vision system")


async def main(url: str, server_certificate: str, user: str, part_id: str, own_folder: str) -> None:
    """Connect, inspect one part, and end with exit code 1 for NG."""
    async with await secured(url, Path(server_certificate), user, Path(own_folder)) as client:
        verdict = await inspect(client, part_id)
    sys.exit(0 if verdict == "OK" else 1)


if __name__ == "__main__":
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    try:
        asyncio.run(main(*sys.argv[1:6]))
    except (ua.UaError, OSError) as error:
        sys.exit(f"NG: {error}")
