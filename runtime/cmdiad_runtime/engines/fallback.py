"""`FallbackEngine`: a server, replaced by an engine on this machine after the first failure."""

from __future__ import annotations

import logging
from typing import Any

import numpy.typing as npt

from cmdiad_runtime.engines import Arrays, Engine
from cmdiad_runtime.errors import EngineError

_logger = logging.getLogger("cmdiad.engine")


class FallbackEngine:
    """Engine that runs a graph on a server until the server fails, then on this machine.

    After the first failure of the server all samples run on this machine, until the bundle is opened again. A server
    that returns is thereby tested again before it gives a verdict.

    Args:
        server: Open engine of the server.
        local: Open engine of this machine, which has passed its self-test.

    Attributes:
        identity: Identities of both engines.
    """

    def __init__(self, server: Engine, local: Engine) -> None:
        self._server: Engine | None = server
        self._local = local
        self.identity = f"{server.identity}; after a failure {local.identity}"

    @property
    def description(self) -> str:
        """Return the identity of both engines, and the one that runs now."""
        now = "the local engine runs" if self._server is None else "the server runs"
        return f"{self.identity}; {now}"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run the graph on the server, or on this machine if the server has failed; see `Engine.run`."""
        if self._server is not None:
            try:
                return self._server.run(inputs)
            except EngineError as error:
                _logger.warning("%s From now on %s runs on this machine.", error, self._local.identity)
                self._server.close()
                self._server = None
        return self._local.run(inputs)

    def close(self) -> None:
        """Release both engines; see `Engine.close`."""
        if self._server is not None:
            self._server.close()
        self._local.close()
