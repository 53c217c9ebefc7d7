"""Call a Triton server through `tritonclient` with a deadline for each call, and translate its errors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmdiad_runtime.engines.served_model import GRAPH_PARAMETER, VERSION, ServedModel, ServedTensor
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.errors import EngineError, NoAnswerError

INSTALL = 'run: pip install "cmdiad[triton]"'

_AWAY = {f"StatusCode.{name}" for name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED")}
"""States of a call after which a later call may succeed; every other failure is one of the model or the request."""
_READY = 2
"""State of a connected channel, GRPC_CHANNEL_READY in grpc/impl/connectivity_state.h."""
_LARGEST_MESSAGE = (1 << 31) - 1
_CHANNEL = (
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    # A new client connects at once; with the pool of gRPC it would wait as long as the last client that failed.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


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


class TritonClient:
    """Connection to a Triton server for all calls about one model.

    Args:
        options: Address and files for TLS.
        model: Model on the server.

    Raises:
        EngineError: The package tritonclient is missing, or a file for TLS cannot be read.
    """

    def __init__(self, options: ServerOptions, model: ServedModel) -> None:
        try:
            import tritonclient.grpc as library
            from tritonclient.utils import InferenceServerException
        except ImportError as error:
            raise EngineError(
                "", found="The engine 'triton' needs the package 'tritonclient[grpc]'", action=INSTALL
            ) from error
        self._failure = InferenceServerException
        self._options, self._model = options, model
        credentials = _credentials(options) if options.tls else None
        self._client = library.InferenceServerClient(options.target, creds=credentials, channel_args=list(_CHANNEL))

    def call(self, method: str, deadline: Deadline, **arguments: Any) -> Any:
        """Call a method of `tritonclient.grpc.InferenceServerClient`.

        Raises:
            NoAnswerError: The server is away or did not answer by the deadline.
            EngineError: The server refused the call.
        """
        try:
            return getattr(self._client, method)(client_timeout=deadline.remaining, **arguments)
        except self._failure as error:
            raise self._translated(error) from error

    def _translated(self, error: Any) -> EngineError:
        if error.status() in _AWAY:
            return self.no_answer(error.message())
        return EngineError(
            f"{self._options.address}, model {self._model.name}",
            found=f"a refusal ({error.message()})",
            expected="a server that has loaded the model",
            action="write the model with cmdiad-fleet triton and load the model on the server",
        )

    def no_answer(self, problem: str) -> NoAnswerError:
        """Return the error of a sample that the server has not answered."""
        return NoAnswerError(
            f"{self._options.address}, model {self._model.name}",
            found=f"no answer ({problem})",
            expected=f"an answer within {self._options.timeout_s:g} s",
            action="check server and network",
        )

    @property
    def lost(self) -> bool:
        """Return True if the connection has ended; the next call would open another one, unnoticed.

        The public interface of gRPC reports the state only in another thread, too late or never for a short break.

        Raises:
            EngineError: The installed version of gRPC does not report the state.
        """
        try:
            state = self._client._channel._channel.check_connectivity_state(False)
        except AttributeError as error:
            raise EngineError(
                "",
                found=f"a version of grpcio or tritonclient that does not report the state of a connection ({error})",
                expected="the versions that this version of cmdiad was tested with",
                action="install tritonclient 2.73 and grpcio 1.85",
            ) from error
        return bool(state != _READY)

    def server(self, deadline: Deadline) -> str:
        """Return name and version of the server."""
        metadata = self.call("get_server_metadata", deadline)
        return f"{metadata.name} {metadata.version}"

    def check_model(self, deadline: Deadline) -> bytes:
        """Check that the loaded model has the inputs, outputs and graph of the bundle.

        Returns:
            The model's configuration, for a comparison after a new connection.

        Raises:
            NoAnswerError: The server did not answer.
            EngineError: The model is not loaded, or is another one.
        """
        metadata = self.call("get_model_metadata", deadline, model_name=self._model.name, model_version=VERSION)
        self._require("model", (metadata.name, VERSION in metadata.versions), (self._model.name, True))
        self._require("inputs", _ports(metadata.inputs), _expected(self._model.inputs))
        self._require("outputs", _ports(metadata.outputs), _expected(self._model.outputs))
        answer = self.call("get_model_config", deadline, model_name=self._model.name, model_version=VERSION)
        config = answer.config
        digest = config.parameters[GRAPH_PARAMETER].string_value if GRAPH_PARAMETER in config.parameters else "none"
        self._require(GRAPH_PARAMETER, digest, self._model.graph_sha256)
        self._require("max_batch_size", config.max_batch_size, 0)
        content: bytes = config.SerializeToString(deterministic=True)
        return content

    def inference_count(self, deadline: Deadline) -> int:
        """Return the number of inferences since the server loaded the model."""
        answer = self.call("get_inference_statistics", deadline, model_name=self._model.name, model_version=VERSION)
        loaded = [(entry.name, entry.version) for entry in answer.model_stats]
        self._require("statistics", loaded, [(self._model.name, VERSION)])
        return int(answer.model_stats[0].inference_count)

    def infer(self, inputs: list[Any], outputs: list[Any], deadline: Deadline) -> Any:
        """Return the `InferResult` of one inference by exactly this model.

        Args:
            inputs: `InferInput` objects.
            outputs: `InferRequestedOutput` objects.
            deadline: Moment at which the answer must be complete.
        """
        result = self.call(
            "infer", deadline, model_name=self._model.name, model_version=VERSION, inputs=inputs, outputs=outputs
        )
        response = result.get_response()
        self._require("model", (response.model_name, response.model_version), (self._model.name, VERSION))
        self._require("outputs", sorted(o.name for o in response.outputs), sorted(self._model.outputs))
        return result

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._client.close()

    def _require(self, subject: str, stated: object, expected: object) -> None:
        """Raise EngineError unless the server states what the bundle expects."""
        if stated != expected:
            raise EngineError(
                f"{self._options.address}, model {self._model.name}",
                found=f"{subject} {stated}"[:300],
                expected=f"{expected}"[:300],
                action="write the bundle's model with cmdiad-fleet triton and load the model on the server",
            )


def _credentials(options: ServerOptions) -> Any:
    """Return the certificates for TLS; EngineError if a file cannot be read."""
    import grpc

    try:
        authority, key, certificate = (
            Path(name).read_bytes() if name else None for name in (options.authority, options.key, options.certificate)
        )
    except OSError as error:
        raise EngineError(
            options.address,
            found=str(error),
            expected="readable PEM files for TLS",
            action="check the environment variables CMDIAD_SERVER_AUTHORITY, _CERTIFICATE and _KEY",
        ) from error
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _ports(tensors: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in tensors}


def _expected(tensors: Mapping[str, ServedTensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.datatype, tensor.dims) for name, tensor in tensors.items()}
