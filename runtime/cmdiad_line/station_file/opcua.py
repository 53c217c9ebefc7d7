"""Section `[opcua]`: the OPC UA server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmdiad_line.station_file.servers import LOOPBACK, require_server
from cmdiad_runtime.support.records import require, require_integer
from cmdiad_runtime.support.toml_file.values import ExistingFile, ExistingFolder


@dataclass(frozen=True, kw_only=True)
class Opcua:
    """The keys of the section `[opcua]`.

    Attributes:
        address: Address to bind to.
        port: Port to bind to, or 0 for a free one.
        encryption: "sign-and-encrypt", or "none" to allow unsecured sessions too, on loopback only.
        certificate: Certificate of the server in PEM or DER; None for one that the station creates.
        private_key: Private key of the certificate.
        trusted: Folder with the certificates of the clients that may connect; None for any. Every client needs an
            account of the station in addition.
        keep_results: Number of newest results that clients can ask for.
    """

    address: str = LOOPBACK
    port: int = 4840
    encryption: Literal["sign-and-encrypt", "none"] = "sign-and-encrypt"
    certificate: ExistingFile | None = None
    private_key: ExistingFile | None = None
    trusted: ExistingFolder | None = None
    keep_results: int = 1000

    def __post_init__(self) -> None:
        require_server(self)
        complete = (self.certificate is None) == (self.private_key is None)
        require(complete, self, "private_key", "certificate and private_key together, or neither")
        require_integer(self, "keep_results", 1, 10_000)

    def missing_protection(self) -> str:
        """Return the key that must be changed before other machines may connect, or ""."""
        return 'encryption = "sign-and-encrypt"' if self.encryption == "none" else ""
