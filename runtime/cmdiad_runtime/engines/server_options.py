"""`ServerOptions`: address, time limit and TLS files of an inference server, read from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from cmdiad_runtime.engines import ONNX_RUNTIME_NAMES, OnnxRuntimeName
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.loopback import is_loopback
from cmdiad_runtime.support.records import RecordError, require, require_number

ADDRESS = "CMDIAD_SERVER"
"""Environment variable of the address; the other variables begin with the same name."""

_PORTS = {"": 8001, "grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}
"""Port of each scheme without a stated one: those of Triton, and for https, which Triton does not have, of a proxy."""
_ENCRYPTED = ("grpcs", "https")
_LONGEST_WAIT_S = 600.0
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Address of a Triton server, and settings of the connection.

    Attributes:
        address: `grpcs://HOST:PORT` or `https://HOST:PORT` with TLS, `grpc://HOST:PORT` or `http://HOST:PORT`
            without. `HOST:PORT` alone means gRPC, and is accepted for this machine only, so nobody sends pictures
            through a network without TLS by mistake.
        timeout_s: Seconds within which a sample must be answered. A station needs less than its `deadline_ms`.
        shared_memory: True to pass tensors through shared memory, which needs gRPC and a server on this machine.
        fallback: Engine on this machine that takes over when the server fails; None for no such engine.
        authority: PEM file of the certificate authority that signed the server's certificate; "" for those that gRPC
            or, for HTTP, the system knows.
        certificate: PEM file of this machine's certificate, which a server may require; "" for none.
        key: PEM file of the certificate's private key; "" for none.

    Raises:
        RecordError: A value is wrong, or two of them contradict each other.
    """

    address: str
    timeout_s: float = 1.0
    shared_memory: bool = False
    fallback: OnnxRuntimeName | None = None
    authority: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        host, port, scheme = _parts(self.address)
        usable = scheme in _PORTS and bool(host) and 0 < port < 1 << 16
        expected = "grpc, grpcs, http or https, then ://HOST:PORT, or HOST:PORT on this machine"
        require(usable, self, "address", expected)
        with_scheme = "grpcs://, grpc://, https:// or http:// before the name of another machine"
        require(bool(scheme) or is_loopback(host), self, "address", with_scheme)
        require_number(self, "timeout_s", 0.001, _LONGEST_WAIT_S)
        require(
            self.fallback in (None, *ONNX_RUNTIME_NAMES), self, "fallback", f"one of {', '.join(ONNX_RUNTIME_NAMES)}"
        )
        shareable = is_loopback(host) and not self.http
        require(not self.shared_memory or shareable, self, "shared_memory", "a server on this machine, by gRPC")
        tls = self.authority or self.certificate or self.key
        require(self.tls or not tls, self, "address", "grpcs:// or https://, because files for TLS are set")
        require(bool(self.certificate) == bool(self.key), self, "key", "a certificate and its key, or neither")

    @property
    def target(self) -> str:
        """Return host and port as gRPC takes them."""
        host, port, _ = _parts(self.address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def host(self) -> str:
        """Return the name or address of the server."""
        return _parts(self.address)[0]

    @property
    def port(self) -> int:
        """Return the port of the server."""
        return _parts(self.address)[1]

    @property
    def http(self) -> bool:
        """Return True if the server is asked by HTTP, and False for gRPC."""
        return _parts(self.address)[2] in ("http", "https")

    @property
    def tls(self) -> bool:
        """Return True if the connection is encrypted and the server's certificate is verified."""
        return _parts(self.address)[2] in _ENCRYPTED

    @staticmethod
    def from_environment(
        address: str | None = None,
        fallback: OnnxRuntimeName | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> ServerOptions:
        """Return the options that the environment variables CMDIAD_SERVER… set.

        Args:
            address: Address that replaces the one of the environment.
            fallback: Engine that replaces the fallback of the environment.
            environment: Variables to read.

        Raises:
            EngineError: There is no address, or a value is wrong.
        """
        address = address or environment.get(ADDRESS, "")
        if not address:
            raise EngineError(
                "",
                found="The engine 'triton' needs the address of a server",
                action=f"pass --server grpcs://HOST:PORT, or set {ADDRESS}",
            )
        texts = {name: environment.get(f"{ADDRESS}_{name.upper()}", "") for name in _VARIABLES}
        try:
            return ServerOptions(
                address=address,
                timeout_s=_seconds(texts["timeout"]),
                shared_memory=_flag(texts["shared_memory"]),
                fallback=fallback or cast("OnnxRuntimeName | None", texts["fallback"] or None),
                authority=texts["authority"],
                certificate=texts["certificate"],
                key=texts["key"],
            )
        except RecordError as error:
            name, value = _source(error.field, {"address": address, "fallback": fallback, **texts}, environment)
            raise EngineError(name, found=repr(value), expected=error.expected, action=f"correct {name}") from error


_VARIABLES = ("timeout", "shared_memory", "fallback", "authority", "certificate", "key")


def _source(field: str, values: Mapping[str, str | None], environment: Mapping[str, str]) -> tuple[str, str]:
    """Return where the value of a field comes from, and the value."""
    field = field.removesuffix("_s")
    variable = ADDRESS if field == "address" else f"{ADDRESS}_{field.upper()}"
    option = {"address": "--server", "fallback": "--fallback"}.get(field, "")
    value = values[field] or ""
    return (option if option and value != environment.get(variable, "") else variable), value[:200]


def _parts(address: str) -> tuple[str, int, str]:
    """Return host, port and scheme of an address; port 0 for one that cannot be read."""
    text = address if "://" in address else f"//{address}"
    try:
        split = urlsplit(text)
        port = _PORTS.get(split.scheme, 0) if split.port is None else split.port
        extra = split.path.strip("/") or split.query or split.fragment or "@" in split.netloc
    except ValueError:
        return "", 0, ""
    return ("", 0, "") if extra else (split.hostname or "", port, split.scheme)


def _seconds(text: str) -> float:
    try:
        return float(text or ServerOptions.timeout_s)
    except ValueError:
        raise RecordError(field="timeout_s", expected="seconds") from None


def _flag(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise RecordError(field="shared_memory", expected="1 or 0")
    return text.lower() in _TRUE
