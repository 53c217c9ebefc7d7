"""Section `[web]`: pages, REST and metrics of a station."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cmdiad_line.station_file.servers import LOOPBACK, require_server
from cmdiad_runtime.support.records import require, require_integer
from cmdiad_runtime.support.toml_file.values import ExistingFile

_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


@dataclass(frozen=True, kw_only=True)
class Web:
    """The keys of the section `[web]`.

    Attributes:
        address: Address to bind to. Any address except those of loopback requires a certificate.
        port: Port, or 0 for any free one; the file `run/web.json` in the state folder contains the port in use.
        hosts: Names and addresses by which browsers may call the station, in addition to `address` and localhost.
        certificate: Certificate chain in PEM format; with `private_key`, the pages use TLS.
        private_key: Private key of the certificate in PEM format.
        token_file: Token file for programs; None refuses all programs.
        open_view: True if operator page, results, pictures and metrics can be read without signing in.
        session_minutes: Minutes without a request after which engineers and admins are signed out.
        shift_minutes: Minutes after signing in after which anybody is signed out. Operators stay signed in until then.
        shifts: Beginnings of the shifts in local time, for the counters per shift.
        verdict_seconds: Seconds for which the operator page shows a verdict. The page then waits for the next part.
    """

    address: str = LOOPBACK
    port: int = 8480
    hosts: tuple[str, ...] = ()
    certificate: ExistingFile | None = None
    private_key: ExistingFile | None = None
    token_file: ExistingFile | None = None
    open_view: bool = False
    session_minutes: int = 30
    shift_minutes: int = 720
    shifts: tuple[str, ...] = ("06:00", "14:00", "22:00")
    verdict_seconds: int = 30

    def __post_init__(self) -> None:
        require_server(self)
        require(
            all(re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,253}", host) for host in self.hosts), self, "hosts", "host names"
        )
        pair = (self.certificate is None) == (self.private_key is None)
        require(pair, self, "private_key", "a private key together with a certificate, or neither")
        require_integer(self, "session_minutes", 1, 1440)
        require_integer(self, "shift_minutes", 1, 10080)
        times = all(isinstance(start, str) and _TIME.fullmatch(start) for start in self.shifts)
        require(times and 1 <= len(set(self.shifts)) == len(self.shifts), self, "shifts", 'times such as "06:00"')
        require_integer(self, "verdict_seconds", 1, 3600)

    @property
    def secure(self) -> bool:
        """True if the pages use TLS."""
        return self.certificate is not None

    def missing_protection(self) -> str:
        """Return the keys that must be set before other machines may connect, or ""."""
        return "" if self.secure else "certificate and private_key"
