"""Define the application of Ray Serve: `Door` answers HTTP requests, and replicas of `Detectors` inspect.

A replica keeps the last bundles open (`serve.multiplexed`), and Ray sends a request to a replica that has the bundle
open. Only `cmdiad-fleet serve` imports this module, because it imports Ray.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import warnings
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from cmdiad_fleet.serving.detectors import ServedBundle
from cmdiad_fleet.serving.upload import RefusedError, Upload, read_upload
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.readers.worker import TimedReader

with warnings.catch_warnings():  # Ray 2.60 defines its settings with an argument that Pydantic will remove.
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`", DeprecationWarning)
    from ray import serve

Result = TypeVar("Result")

OPEN_BUNDLES = 8
"""Number of bundles that a replica keeps open; the one that was used longest ago is closed for a new one."""
PREFIX = "/bundles"

_READING_S = 30.0
_AT_ONCE = 16
"""Number of requests that the door reads at the same time."""
_WAITING = 64
"""Number of further requests that wait; Ray refuses more with the status 503."""
_logger = logging.getLogger("cmdiad.serve")


@dataclass(frozen=True, kw_only=True)
class Service:
    """Bundles, engine and limits of the application. The token is stored as a hash only.

    Attributes:
        bundles: Folder of each bundle by the SHA-256 of its manifest.
        names: Name of the detector by the same digest.
        engine: Engine that runs the graphs.
        replicas: Number of processes that inspect.
        cores: Cores of a replica, as a number that Ray plans with.
        largest: Largest size of a request's body in bytes.
        token_sha256: SHA-256 of the token that a request must contain; "" accepts requests without a token.
    """

    bundles: Mapping[str, Path]
    names: Mapping[str, str]
    engine: EngineName = "cpu"
    replicas: int = 1
    cores: float = 1.0
    largest: int = 128 << 20
    token_sha256: str = field(default="", repr=False)


class Detectors:
    """Deployment that inspects. Each replica inspects one sample at a time.

    Args:
        service: Bundles and engine.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = TimedReader(_READING_S)
        self._engine_in_use = asyncio.Lock()

    @serve.multiplexed(max_num_models_per_replica=OPEN_BUNDLES)  # type: ignore[untyped-decorator]
    async def opened(self, digest: str) -> ServedBundle:
        """Return an open bundle, which has passed its self-test in this process."""
        service = self._service
        return await asyncio.to_thread(ServedBundle.open, service.bundles[digest], digest, service.engine, self._reader)

    async def prove(self) -> str:
        """Open the bundle of the request. Return "", or the reason why it cannot be used."""
        result = await uninterrupted(self._with_bundle(None))
        return result if isinstance(result, str) else ""

    async def inspect(self, upload: Upload) -> dict[str, Any] | str:
        """Return the line of the result, or the reason why the bundle or engine cannot be used."""
        return await uninterrupted(self._with_bundle(upload))

    async def _with_bundle(self, upload: Upload | None) -> dict[str, Any] | str:
        async with self._engine_in_use:
            try:
                bundle = await self.opened(serve.get_multiplexed_model_id())
                return {} if upload is None else await asyncio.to_thread(bundle.inspect, upload)
            except CmdiadError as error:
                return str(error)


async def uninterrupted(work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of work that ends even if the caller is cancelled.

    A client that hangs up cancels its request, but not the thread that uses the engine. The work must hold its lock
    until the thread has ended, because an engine belongs to one thread at a time.
    """
    return await asyncio.shield(asyncio.ensure_future(work))


class Door:
    """Deployment that answers HTTP requests.

    Args:
        detectors: Handle of the replicas that inspect.
        service: Bundles and limits.
    """

    def __init__(self, detectors: Any, service: Service) -> None:
        self._detectors, self._service = detectors, service

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer one request; see docs/serve.md for paths and states."""
        try:
            self._require_token(request)
            return await self._answer(request)
        except RefusedError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            return JSONResponse({"error": str(error)}, error.status, headers)
        except Exception:
            _logger.exception("a request failed")
            return JSONResponse({"error": "The service failed. Treat the part as NG, and see the log."}, 500)

    async def _answer(self, request: Request) -> JSONResponse:
        path, service = request.url.path.rstrip("/"), self._service
        digest = path.removeprefix(f"{PREFIX}/")
        if path == PREFIX:
            _require_method(request, "GET")
            return JSONResponse([{"digest": digest, "name": name} for digest, name in service.names.items()])
        if digest not in service.bundles:
            raise RefusedError(404, f"No such bundle. GET {PREFIX} lists those that are served.")
        _require_method(request, "POST")
        upload = await read_upload(request, service.largest)
        result = await self._detectors.options(multiplexed_model_id=digest).inspect.remote(upload)
        if isinstance(result, str):
            raise RefusedError(503, result)
        return JSONResponse(result, 200 if result["inspected"] else 422)

    def _require_token(self, request: Request) -> None:
        if not self._service.token_sha256:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        presented = hash_of(token.strip())
        if scheme.lower() != "bearer" or not hmac.compare_digest(presented, self._service.token_sha256):
            raise RefusedError(401, "A token is needed. Send the header Authorization: Bearer TOKEN.")


def application(service: Service) -> serve.Application:
    """Return the application for `serve.run`."""
    deployment: Any = serve.deployment  # The overloads of Ray do not describe a class with a name.
    detectors = deployment(
        name="detectors",
        num_replicas=service.replicas,
        ray_actor_options={"num_cpus": service.cores},
        max_ongoing_requests=_AT_ONCE,
    )(Detectors)
    door = deployment(
        name="door",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_AT_ONCE,
        max_queued_requests=_WAITING,
    )(Door)
    bound: serve.Application = door.bind(detectors.bind(service), service)
    return bound


def hash_of(token: str) -> str:
    """Return the SHA-256 of a token as hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _require_method(request: Request, method: str) -> None:
    if request.method != method:
        raise RefusedError(405, f"The path takes {method} only.")
