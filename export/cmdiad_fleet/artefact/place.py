"""Interface of the places that store artefacts: repositories of registries, and layouts on the disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cmdiad_fleet.artefact.artefact import Blob
from cmdiad_fleet.artefact.reference import Reference
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.printable import printable

_logger = logging.getLogger("cmdiad.fleet")

USER, PASSWORD, TOKEN = "CMDIAD_REGISTRY_USER", "CMDIAD_REGISTRY_PASSWORD", "CMDIAD_REGISTRY_TOKEN"
"""Environment variables with the credentials for the registry of a reference; never sent to a mirror."""


class RegistryError(CmdiadError):
    """A registry or layout cannot be reached, lacks an artefact, or refuses a request.

    Args:
        subject: See `CmdiadError`.
        found: See `CmdiadError`.
        expected: See `CmdiadError`.
        action: See `CmdiadError`.
        temporary: True if the same request may succeed later.

    Attributes:
        temporary: See Args.
    """

    def __init__(self, subject: str, *, found: str, expected: str = "", action: str, temporary: bool = False) -> None:
        super().__init__(subject, found=found, expected=expected, action=action)
        self.temporary = temporary


class Content(Protocol):
    """Open blob that is read in blocks."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, b"" at the end; RegistryError if the transfer breaks off."""


class Place(Protocol):
    """A repository of a registry, or a layout. Nothing that a place returns is trusted.

    Attributes:
        name: Name for messages.
    """

    name: str

    def manifest(self, reference: Reference) -> bytes:
        """Return the manifest with the digest, or else the tag, of a reference; RegistryError if there is none."""

    def blob(self, blob: Blob, start: int) -> AbstractContextManager[tuple[int, Content]]:
        """Open a blob and return the position of the first byte, `start` or 0, with the content from there on."""

    def close(self) -> None:
        """Close connections. Idempotent."""


class WritablePlace(Place, Protocol):
    """A place that artefacts can be published to."""

    def put_blob(self, blob: Blob, content: Path | bytes) -> bool:
        """Store a blob. Return False if the place has the blob already, so that nothing was sent."""

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Store a manifest under its digest, and let a tag point to the manifest unless the tag is ""."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Choices for connections to registries.

    Attributes:
        plain_http: True to use HTTP without TLS for all registries; else only for those on this machine.
        ca_file: PEM file of authorities to verify registries with instead of those of the system, or None.
        auth_host: Host, with port if not 443, that may receive the credentials to exchange them for a token, in
            addition to the registry itself; "" for none.
        environment: Environment variables.
        attempts: Number of attempts of a request that fails for a reason that may pass.
        wait_s: Seconds before the second attempt; doubled before each further one.
    """

    plain_http: bool = False
    ca_file: Path | None = None
    auth_host: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    attempts: int = 5
    wait_s: float = 0.5

    def pause(self, failures: int, error: RegistryError, say: Callable[[str], None] = _logger.warning) -> None:
        """Report a failure that may pass, and wait before the next attempt.

        Args:
            failures: Number of attempts that have failed, from 1.
            error: Failure of the last attempt.
            say: Receiver of the report.
        """
        seconds = self.wait_s * 2 ** (failures - 1)
        problem = printable(f"{error.subject}: found {error.found}")
        say(f"{problem}. Attempt {failures + 1} of {self.attempts} follows in {seconds:g} s.")
        time.sleep(seconds)

    def without_credentials(self) -> Access:
        """Return the same choices for a mirror, which never receives credentials from the environment."""
        kept = {name: value for name, value in self.environment.items() if name not in (USER, PASSWORD, TOKEN)}
        return replace(self, environment=kept)


def open_place(reference: Reference, access: Access) -> WritablePlace:
    """Return the place of a reference. A registry is contacted by the first request.

    Raises:
        RegistryError: The layout cannot be read.
    """
    if reference.layout is not None:
        from cmdiad_fleet.artefact.layout import Layout

        return Layout(reference.layout)
    from cmdiad_fleet.artefact.registry import RegistryPlace

    return RegistryPlace(reference, access)
