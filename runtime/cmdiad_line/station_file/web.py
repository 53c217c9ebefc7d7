"""Section `[web]`: REST interface, metrics and pages."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_line.station_file.servers import LOOPBACK, require_server
from cmdiad_line.station_file.values import ExistingFile


@dataclass(frozen=True, kw_only=True)
class Web:
    """The keys of the section `[web]`.

    Attributes:
        address: Address to bind to.
        port: Port to bind to, or 0 for a free one.
        certificate: TLS certificate (PEM).
        private_key: Private key of the certificate (PEM).
        token_file: File with the tokens of programs, one per line.
    """

    address: str = LOOPBACK
    port: int = 8080
    certificate: ExistingFile | None = None
    private_key: ExistingFile | None = None
    token_file: ExistingFile | None = None

    def __post_init__(self) -> None:
        require_server(self)

    def missing_protection(self) -> str:
        """Return the keys that must be set before other machines may connect, or ""."""
        return "" if self.certificate and self.private_key else "certificate and private_key"
