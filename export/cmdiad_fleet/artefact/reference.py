"""Names of artefacts: `REGISTRY/REPO[:TAG][@sha256:HEX]`, and `oci:PATH[:TAG][@sha256:HEX]` for a layout on the disk.

The digest is the address. A tag is a pointer that the owner of a registry can move.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.support.loopback import is_loopback

LAYOUT = "oci:"
_LONGEST = 1000
_HOST = r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]{2,45}\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"
_REMOTE = re.compile(rf"(?P<registry>{_HOST})/(?P<repository>{_PART}(?:/{_PART})*)(?::(?P<tag>{_TAG}))?")
_LOCAL = re.compile(rf"(?P<layout>.+?)(?::(?P<tag>{_TAG}))?")


class ArtefactNameError(CmdiadError):
    """Error for a text that is not the name of an artefact."""


@dataclass(frozen=True)
class Reference:
    """Name of an artefact; without tag and digest, name of a repository or layout.

    Attributes:
        registry: Host of the registry with its port, or "" for a layout.
        repository: Repository in the registry, or "" for a layout.
        layout: Folder or `.tar` file of an OCI layout, or None for a registry.
        tag: Tag, or "".
        digest: "sha256:" and 64 hexadecimal digits, or "".
    """

    registry: str = ""
    repository: str = ""
    layout: Path | None = None
    tag: str = ""
    digest: str = ""

    @staticmethod
    def parse(text: str) -> Reference:
        """Read the name of an artefact.

        Raises:
            ArtefactNameError: The text has another form.
        """
        name, at, digest = text.partition("@") if not text.startswith(LAYOUT) else _split_digest(text)
        if len(text) > _LONGEST or not text.isprintable() or (at and not re.fullmatch(_DIGEST, digest)):
            raise _not_a_reference(text)
        if name.startswith(LAYOUT):
            local = _LOCAL.fullmatch(name.removeprefix(LAYOUT))
            if local is None:
                raise _not_a_reference(text)
            return Reference(layout=Path(local["layout"]), tag=local["tag"] or "", digest=digest)
        remote = _REMOTE.fullmatch(name)
        if remote is None or not ({".", ":"} & set(remote["registry"]) or remote["registry"] == "localhost"):
            raise _not_a_reference(text)
        return Reference(remote["registry"], remote["repository"], tag=remote["tag"] or "", digest=digest)

    @property
    def place(self) -> str:
        """Return the name without tag and digest."""
        return f"{self.registry}/{self.repository}" if self.layout is None else f"{LAYOUT}{self.layout}"

    def pinned(self, digest: str) -> Reference:
        """Return the name with this digest and without a tag, which always means the same bytes."""
        return replace(self, tag="", digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.place}{tag}{f'@{self.digest}' if self.digest else ''}"


def is_loopback_registry(registry: str) -> bool:
    """Return True if a host, with or without port, is this machine."""
    return is_loopback(re.sub(r":[0-9]+$", "", registry).strip("[]").lower())


def _split_digest(text: str) -> tuple[str, str, str]:
    """Split a name at the digest; the path of a layout may contain other `@`."""
    name, at, digest = text.rpartition("@")
    return (name, at, digest) if digest.startswith("sha256:") else (text, "", "")


def _not_a_reference(text: str) -> ArtefactNameError:
    return ArtefactNameError(
        f"{text:.200}",
        found="no name of an artefact",
        expected="REGISTRY/REPO[:TAG][@sha256:HEX], with a dot or port in REGISTRY, or oci:PATH[:TAG]",
        action="correct the name",
    )
