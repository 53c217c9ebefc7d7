"""Section `[opcua]`: the OPC UA server."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_line.station_file.servers import LOOPBACK, require_server
from cmdiad_line.station_file.values import ExistingFile


@dataclass(frozen=True, kw_only=True)
class Opcua:
    """The keys of the section `[opcua]`.

    Attributes:
        address: Address to bind to.
        port: Port to bind to, or 0 for a free one.
        certificate: Certificate of the server (DER or PEM).
        private_key: Private key of the certificate (PEM).
        users: File with the users and their password hashes.
    """

    address: str = LOOPBACK
    port: int = 4840
    certificate: ExistingFile | None = None
    private_key: ExistingFile | None = None
    users: ExistingFile | None = None

    def __post_init__(self) -> None:
        require_server(self)

    def missing_protection(self) -> str:
        """Return the keys that must be set before other machines may connect, or ""."""
        complete = self.certificate and self.private_key and self.users
        return "" if complete else "certificate, private_key and users"
