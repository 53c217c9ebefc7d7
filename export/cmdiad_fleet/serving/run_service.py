"""Start the application of Ray Serve, prove every bundle, and serve until a signal ends the command."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.signals import check_signals

if TYPE_CHECKING:
    from cmdiad_fleet.serving.ray_application import Service

_PROOF_S = 600.0
_QUIET = {"log_level": "ERROR", "enable_access_log": False}


@contextmanager
def running_service(service: Service, host: str, port: int) -> Iterator[None]:
    """Serve the bundles while the block runs. The process must be connected to a Ray cluster.

    Args:
        service: Bundles, engine, limits.
        host: Address that the service listens on.
        port: TCP port.

    Raises:
        EngineError: The port is in use, Ray cannot start the replicas, or a bundle has not passed its self-test.
    """
    from ray import serve

    from cmdiad_fleet.serving.ray_application import application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    _require_free(host, port)
    try:
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=_QUIET)
            serve.run(application(service), name="cmdiad", logging_config=_QUIET)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(
                f"{host}:{port}",
                found=f"no service ({cause_of(error)})",
                expected="replicas that start",
                action="pass fewer --replicas, and look at the log of Ray in /tmp/ray/session_latest/logs/serve",
            ) from error
        _prove(service)
        yield
    finally:
        serve.shutdown()


def _require_free(host: str, port: int) -> None:
    """Raise EngineError if the service cannot listen: Ray would report that a minute later, without the reason."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise EngineError(
            f"{host}:{port}",
            found=f"an address that cannot be listened on ({cause_of(error)})",
            expected="an address of this machine and a free port",
            action="choose another --host or --port",
        ) from error


def serve_until_signal() -> None:
    """Wait until a signal ends the command."""
    forever = threading.Event()
    while True:
        check_signals()
        forever.wait(0.5)


def _prove(service: Service) -> None:
    """Open every bundle once, so that one that cannot be used ends the command instead of a request."""
    from ray import serve

    detectors = serve.get_deployment_handle("detectors", "cmdiad")
    for digest in service.bundles:
        problem = detectors.options(multiplexed_model_id=digest).prove.remote().result(timeout_s=_PROOF_S)
        if problem:
            raise EngineError(
                service.names[digest],
                found=f"a bundle that cannot be served ({problem})",
                expected="a passed self-test",
                action="export the bundle again, or choose another --engine",
            )
