"""Call a Triton server by gRPC through `tritonclient` with a deadline for each call, and translate its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines import Arrays
from cmdiad_runtime.engines._server_client import Deadline, Expectations, LoadedModel, Ports
from cmdiad_runtime.engines.served_model import GRAPH_PARAMETER, VERSION, ServedModel, ServedTensor
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.errors import EngineError

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


class GrpcClient:
    """Connection to a Triton server by gRPC; see `ServerClient`.

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
        self._model, self._expectations = model, Expectations(options, model)
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
            return self._expectations.no_answer(error.message())
        return self._expectations.refusal(error.message())

    @property
    def lost(self) -> bool:
        """Return True if the connection has ended: the next call would open another one, unnoticed.

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
        """Return the configuration of the loaded model after its check; see `ServerClient`."""
        metadata = self.call("get_model_metadata", deadline, model_name=self._model.name, model_version=VERSION)
        answer = self.call("get_model_config", deadline, model_name=self._model.name, model_version=VERSION)
        config = answer.config
        self._expectations.check_loaded(
            LoadedModel(
                name=metadata.name,
                versions=metadata.versions,
                inputs=_ports(metadata.inputs),
                outputs=_ports(metadata.outputs),
                graph_sha256=(
                    config.parameters[GRAPH_PARAMETER].string_value if GRAPH_PARAMETER in config.parameters else "none"
                ),
                max_batch_size=config.max_batch_size,
            )
        )
        content: bytes = config.SerializeToString(deterministic=True)
        return content

    def inference_count(self, deadline: Deadline) -> int:
        """Return the number of inferences since the server loaded the model."""
        answer = self.call("get_inference_statistics", deadline, model_name=self._model.name, model_version=VERSION)
        self._expectations.check_statistics([(entry.name, entry.version) for entry in answer.model_stats])
        return int(answer.model_stats[0].inference_count)

    def infer(self, inputs: Arrays, deadline: Deadline) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs for these inputs, which travel inside the messages; see `ServerClient`."""
        import tritonclient.grpc as library

        sent = []
        for name, port in self._model.inputs.items():
            tensor = library.InferInput(name, list(inputs[name].shape), port.datatype)
            tensor.set_data_from_numpy(np.ascontiguousarray(inputs[name]))
            sent.append(tensor)
        requested = [library.InferRequestedOutput(name) for name in self._model.outputs]
        result = self.infer_tensors(sent, requested, deadline)
        return {name: self._read(result, name, port) for name, port in self._model.outputs.items()}

    def _read(self, result: Any, name: str, port: ServedTensor) -> npt.NDArray[Any]:
        try:
            array = result.as_numpy(name)
        except (ValueError, TypeError) as error:  # The number of bytes contradicts the stated shape.
            raise self._expectations.wrong_output(name, str(error)) from error
        if not port.fits(array):
            problem = f"{getattr(array, 'dtype', None)} {list(np.shape(array))}"
            raise self._expectations.wrong_output(name, problem)
        return np.array(array)

    def infer_tensors(self, inputs: list[Any], outputs: list[Any], deadline: Deadline) -> Any:
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
        outputs_stated = [output.name for output in response.outputs]
        self._expectations.check_answer(response.model_name, response.model_version, outputs_stated)
        return result

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._client.close()


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


def _ports(tensors: Any) -> Ports:
    return {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in tensors}
