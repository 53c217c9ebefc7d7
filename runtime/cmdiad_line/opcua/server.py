"""The OPC UA server of a station, built from certificate, accounts, address space and vision system."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from ipaddress import ip_address

from asyncua import Server, ua
from asyncua.common.connection import TransportLimits

from cmdiad_line.accounts.store import FILE_NAME, AccountStore
from cmdiad_line.opcua.address_space import build_address_space
from cmdiad_line.opcua.certificates import ServerCertificate, own_certificate, read_certificate, trusted_certificates
from cmdiad_line.opcua.events import Publisher
from cmdiad_line.opcua.methods import Methods, link_methods
from cmdiad_line.opcua.results import ResultStore
from cmdiad_line.opcua.sessions import AllowedPeer, StationInternalServer
from cmdiad_line.opcua.sign_in import SignIn
from cmdiad_line.opcua.vision_system import VisionSystem
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.station_file.opcua import Opcua
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.messages import Message

FOLDER = "opcua"
"""Folder in the state folder with the certificate that the server creates."""
_SECURED = [
    ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
    ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
]
_LARGEST_CHUNK = 65535
_LARGEST_MESSAGE = 4 << 20


class StationServer:
    """The server and its vision system.

    Attributes:
        server: Server of asyncua.
        system: Vision system.
    """

    def __init__(self, server: Server, system: VisionSystem) -> None:
        self.server = server
        self.system = system

    @property
    def port(self) -> int:
        """Return the port that the started server listens on."""
        assert self.server.bserver is not None
        return self.server.bserver.port

    async def start(self) -> None:
        """Listen for clients."""
        await self.server.start()

    async def stop(self) -> None:
        """Disconnect all clients and stop."""
        clock, self.server.iserver.time_task = self.server.iserver.time_task, None
        if clock is not None:
            clock.cancel()  # asyncua would wait up to a second for it.
        await self.server.stop()


async def build_server(station: Station, send: Callable[[Message], None]) -> StationServer:
    """Build the server of a station without starting it. This takes about two seconds.

    Args:
        station: Station with a section `[opcua]`.
        send: Function that sends a message to the supervisor.

    Raises:
        CmdiadError: The certificate or the folder of trusted certificates cannot be used.
    """
    section = station.opcua
    assert section is not None
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # It reports wrong passwords as errors with tracebacks.
    certificate = _certificate(station, section)
    accounts = AccountStore(station.state / FILE_NAME)
    server = Server(iserver=StationInternalServer(SignIn(accounts), _allowed_peers(section)))
    await server.init()
    await _identify(server, station, certificate)
    _secure(server, section, certificate)
    space = await build_address_space(server, station.name)
    simulated = any(source.kind == "simulated" for source in station.sources)
    publisher = Publisher(space, simulated)
    await publisher.prepare()
    system = VisionSystem(send, publisher, ResultStore(section.keep_results))
    await publisher.show(system.state)
    await link_methods(space, Methods(system, RecipeStore(station.state), simulated))
    return StationServer(server, system)


def _certificate(station: Station, section: Opcua) -> ServerCertificate:
    if section.certificate is not None and section.private_key is not None:
        return read_certificate(section.certificate, section.private_key)
    return own_certificate(station.state / FOLDER, station.name, section.address)


def _allowed_peers(section: Opcua) -> AllowedPeer:
    """Return the check of the client's certificate."""
    trusted = trusted_certificates(section.trusted) if section.trusted is not None else None

    def allowed(certificate: bytes | None) -> bool:
        if certificate is None:
            return section.encryption == "none"
        return trusted is None or certificate in trusted

    return allowed


async def _identify(server: Server, station: Station, certificate: ServerCertificate) -> None:
    name = f"CMDIAD Edge, {station.name}"
    server.set_server_name(name)
    server.product_uri = "urn:cmdiad:edge"
    server.application_type = ua.ApplicationType.Server
    await server.set_application_uri(certificate.application_uri)
    number = version("cmdiad")
    await server.set_build_info(server.product_uri, "CMDIAD Edge", name, number, number, datetime.now(timezone.utc))


def _secure(server: Server, section: Opcua, certificate: ServerCertificate) -> None:
    """Set address, security policies and limits."""
    host = f"[{section.address}]" if ip_address(section.address).version == 6 else section.address
    server.set_endpoint(f"opc.tcp://{host}:{section.port}/cmdiad")
    server.iserver.certificate = certificate.certificate
    server.iserver.private_key = certificate.private_key
    plain = [ua.SecurityPolicyType.NoSecurity] if section.encryption == "none" else []
    server.set_security_policy([*_SECURED, *plain])
    server.limits = TransportLimits(
        max_recv_buffer=_LARGEST_CHUNK,
        max_send_buffer=_LARGEST_CHUNK,
        max_chunk_count=_LARGEST_MESSAGE // _LARGEST_CHUNK + 1,
        max_message_size=_LARGEST_MESSAGE,
    )
