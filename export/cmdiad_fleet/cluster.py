"""Connect to a Ray cluster: an existing one, or one that this command starts on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.signals import ENDING

_OBJECT_STORE_BYTES = 100 << 20
"""Size of the object store of a cluster on this machine: no large object travels between processes."""
_CONNECT_S = 10.0
"""Longest time to connect to a cluster."""


@contextmanager
def ray_cluster(address: str = "", cores: int | None = None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster until the block ends. An existing connection is used and kept.

    Args:
        address: Address of a cluster to join; "" starts a cluster on this machine.
        cores: Number of cores of a cluster that is started; None for all of this machine.

    Raises:
        EngineError: There is no cluster at the address, or no cluster can be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Must be set before the import.
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Messages about killed processes stay readable in a log.
    if not address:
        _require_token()
    import ray

    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address, cores)
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_token() -> None:
    """Protect a cluster of this machine: Ray listens on all interfaces and executes what it receives.

    Ray reads these variables when it is imported. A choice of the user stays.
    """
    if "ray" in sys.modules or "RAY_AUTH_MODE" in os.environ:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _connect(ray: Any, address: str, cores: int | None) -> None:
    """Join or start a cluster. Ray replaces the handlers of signals; those of this command are restored."""
    _require_listener(address)
    handlers = {number: signal.getsignal(number) for number in ENDING}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if not address:
        options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise _no_cluster(address or "ray", problem) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _require_listener(address: str) -> None:
    """Refuse a HOST:PORT that nobody listens at. Ray would try for minutes, with a warning every few seconds."""
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), _CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, cause_of(error)) from error


def _no_cluster(address: str, problem: str) -> EngineError:
    return EngineError(
        address,
        found=f"no cluster ({problem})",
        expected="a Ray cluster that runs, or --engine local",
        action="check the address, and the output of ray status",
    )
