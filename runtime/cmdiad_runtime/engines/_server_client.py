"""`ServerClient`: connection of the engine `triton` to a server, by gRPC or HTTP, with the checks that both share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from cmdiad_runtime.engines import Arrays
from cmdiad_runtime.engines.served_model import GRAPH_PARAMETER, VERSION, ServedModel, ServedTensor
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.errors import EngineError, NoAnswerError

Ports = dict[str, tuple[str, tuple[int, ...]]]
"""Element type and shape of inputs or outputs by name, as the protocol writes them."""


class Deadline:
    """Moment by which an answer must be complete.

    Args:
        seconds: Seconds from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Return the seconds that are left, at least a millisecond, because gRPC takes 0 for no limit."""
        return max(self._end - time.monotonic(), 0.001)

    @property
    def passed(self) -> bool:
        """Return True after the moment."""
        return time.monotonic() >= self._end


class ServerClient(Protocol):
    """One connection to a server for all calls about one model.

    All calls raise NoAnswerError if the server is away or did not answer by the deadline, and EngineError if it
    refused the call or has another model. A client whose call has failed is closed by its owner.
    """

    @property
    def lost(self) -> bool:
        """Return True if the connection has ended, so that the next call needs another client."""

    def server(self, deadline: Deadline) -> str:
        """Return name and version of the server."""

    def check_model(self, deadline: Deadline) -> bytes:
        """Check that the loaded model has the inputs, outputs and graph of the bundle.

        Returns:
            The model's configuration, for a comparison after a new connection.
        """

    def inference_count(self, deadline: Deadline) -> int:
        """Return the number of inferences since the server loaded the model."""

    def infer(self, inputs: Arrays, deadline: Deadline) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of exactly this model for these inputs, as new arrays."""

    def close(self) -> None:
        """Close the connection. Idempotent."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Statements of a server about a loaded model.

    Attributes:
        name: Name of the model.
        versions: Versions that are loaded.
        inputs: Inputs by name.
        outputs: Outputs by name.
        graph_sha256: Hash of the graph in the configuration, or "none".
        max_batch_size: Largest batch; 0 for a model without batches.
    """

    name: str
    versions: Sequence[str]
    inputs: Ports
    outputs: Ports
    graph_sha256: str
    max_batch_size: int


class Expectations:
    """Compares the statements of a server with the bundle's model, and makes the errors.

    Args:
        options: Address of the server, for the errors.
        model: Model that the server must have loaded.
    """

    def __init__(self, options: ServerOptions, model: ServedModel) -> None:
        self._options, self._model = options, model

    def check_loaded(self, loaded: LoadedModel) -> None:
        """Raise EngineError unless the loaded model is that of the bundle."""
        self.require("model", (loaded.name, VERSION in loaded.versions), (self._model.name, True))
        self.require("inputs", loaded.inputs, _expected(self._model.inputs))
        self.require("outputs", loaded.outputs, _expected(self._model.outputs))
        self.require(GRAPH_PARAMETER, loaded.graph_sha256, self._model.graph_sha256)
        self.require("max_batch_size", loaded.max_batch_size, 0)

    def check_statistics(self, entries: Sequence[tuple[str, str]]) -> None:
        """Raise EngineError unless the names and versions of statistics are exactly those of the model."""
        self.require("statistics", list(entries), [(self._model.name, VERSION)])

    def check_answer(self, name: str, version: str, outputs: Sequence[str]) -> None:
        """Raise EngineError unless exactly this model has answered with exactly its outputs."""
        self.require("model", (name, version), (self._model.name, VERSION))
        self.require("outputs", sorted(outputs), sorted(self._model.outputs))

    def require(self, subject: str, stated: object, expected: object) -> None:
        """Raise EngineError unless the server states what the bundle expects."""
        if stated != expected:
            raise self._error(f"{subject} {stated}"[:300], f"{expected}"[:300])

    def no_answer(self, problem: str) -> NoAnswerError:
        """Return the error of a sample that the server has not answered."""
        return NoAnswerError(
            self._subject,
            found=f"no answer ({problem})",
            expected=f"an answer within {self._options.timeout_s:g} s",
            action="check server and network",
        )

    def refusal(self, message: str) -> EngineError:
        """Return the error of a call that the server has refused."""
        return self._error(f"a refusal ({message})", "a server that has loaded the model")

    def unreadable(self, problem: str) -> EngineError:
        """Return the error of an answer that is not one of the protocol."""
        return EngineError(
            self._subject,
            found=f"an answer that cannot be read ({problem})",
            expected="an answer of the KServe protocol with binary tensors",
            action="check that the address is that of a Triton server",
        )

    def wrong_output(self, name: str, problem: str) -> EngineError:
        """Return the error for an output that the model cannot have."""
        return EngineError(
            self._model.name,
            found=f"the output {name} as {problem}",
            expected=str(self._model.outputs[name]),
            action="load the bundle's model on the server, then repeat the self-test",
        )

    @property
    def _subject(self) -> str:
        return f"{self._options.address}, model {self._model.name}"

    def _error(self, found: str, expected: str) -> EngineError:
        action = "write the model with cmdiad-fleet triton and load the model on the server"
        return EngineError(self._subject, found=found, expected=expected, action=action)


def _expected(tensors: Mapping[str, ServedTensor]) -> Ports:
    return {name: (tensor.datatype, tensor.dims) for name, tensor in tensors.items()}
