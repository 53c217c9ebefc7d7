"""Call a Triton server by HTTP: the KServe protocol, version 2, with the extension for binary tensors.

An inference is a JSON object, followed by the bytes of all tensors in the order in which the object names them; a
header states the length of the object. Source: the pages `http_json` and `extension_binary_data` of the protocol's
documentation. No package of Triton is needed.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines import Arrays
from cmdiad_runtime.engines._http_connection import HttpAnswer, HttpConnection
from cmdiad_runtime.engines._server_client import Deadline, Expectations, LoadedModel, Ports
from cmdiad_runtime.engines.served_model import GRAPH_PARAMETER, VERSION, ServedModel
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.printable import cause_of, printable

_AWAY = (408, 429, 499, 502, 503, 504)
"""States after which a later call may succeed: those of a proxy, and of a server that starts, ends or is busy."""
_HEADER = "Inference-Header-Content-Length"
_LONGEST_MESSAGE = 300


class HttpClient:
    """Connection to a Triton server by HTTP; see `ServerClient`.

    Args:
        options: Address and files for TLS.
        model: Model on the server.

    Raises:
        EngineError: A file for TLS cannot be read.
    """

    def __init__(self, options: ServerOptions, model: ServedModel) -> None:
        self._options, self._model = options, model
        self._expectations = Expectations(options, model)
        self._tls = _tls(options) if options.tls else None
        self._connection: HttpConnection | None = None
        self._path = f"/v2/models/{model.name}/versions/{VERSION}"
        self._inferences = 0

    @property
    def lost(self) -> bool:
        """Return True if the connection has ended; see `ServerClient`."""
        return self._connection is None or self._connection.lost

    def server(self, deadline: Deadline) -> str:
        """Return name and version of the server."""
        metadata = self._get("/v2", deadline)
        return f"{metadata.get('name')} {metadata.get('version')}"

    def check_model(self, deadline: Deadline) -> bytes:
        """Return the configuration of the loaded model after its check; see `ServerClient`."""
        metadata, config = self._get(self._path, deadline), self._get(f"{self._path}/config", deadline)
        try:
            loaded = LoadedModel(
                name=metadata["name"],
                versions=list(metadata["versions"]),
                inputs=_ports(metadata["inputs"]),
                outputs=_ports(metadata["outputs"]),
                graph_sha256=config.get("parameters", {}).get(GRAPH_PARAMETER, {}).get("string_value", "none"),
                max_batch_size=config.get("max_batch_size", 0),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise self._expectations.unreadable(_text(error)) from error
        self._expectations.check_loaded(loaded)
        return json.dumps(config, sort_keys=True).encode()

    def inference_count(self, deadline: Deadline) -> int:
        """Return the number of inferences since the server loaded the model."""
        statistics = self._get(f"{self._path}/stats", deadline)
        try:
            entries = [
                (entry["name"], entry["version"], entry["inference_count"]) for entry in statistics["model_stats"]
            ]
        except (KeyError, TypeError) as error:
            raise self._expectations.unreadable(_text(error)) from error
        self._expectations.check_statistics([(name, version) for name, version, _ in entries])
        count = entries[0][2]
        if type(count) is not int or count < 0:
            raise self._expectations.unreadable(f"{printable(str(count))} inferences")
        return count

    def infer(self, inputs: Arrays, deadline: Deadline) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs for these inputs; see `ServerClient`."""
        self._inferences += 1
        number = str(self._inferences)
        tensors = {name: np.ascontiguousarray(inputs[name]) for name in self._model.inputs}
        request = json.dumps(
            {
                "id": number,
                "inputs": [
                    {
                        "name": name,
                        "shape": list(inputs[name].shape),
                        "datatype": port.datatype,
                        "parameters": {"binary_data_size": tensors[name].nbytes},
                    }
                    for name, port in self._model.inputs.items()
                ],
                "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in self._model.outputs],
            }
        ).encode()
        body = b"".join([request, *(tensor.tobytes() for tensor in tensors.values())])
        headers = {_HEADER: str(len(request)), "Content-Type": "application/octet-stream"}
        answer = self._ask("POST", f"{self._path}/infer", deadline, body, headers)
        try:
            return self._outputs(answer, number)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._expectations.unreadable(_text(error)) from error

    def _outputs(self, answer: HttpAnswer, number: str) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of an answer. An answer that is not one of the protocol raises any common error."""
        place = int(answer.headers[_HEADER])
        stated = json.loads(answer.body[:place])
        self._expectations.require("the answer to request", stated["id"], number)
        names = [output["name"] for output in stated["outputs"]]
        self._expectations.check_answer(stated["model_name"], stated["model_version"], names)
        outputs = {}
        for output in stated["outputs"]:
            name, size = output["name"], output["parameters"]["binary_data_size"]
            outputs[name] = self._output(name, output, answer.body[place : place + size])
            place += size
        self._expectations.require("bytes", place, len(answer.body))
        return outputs

    def _output(self, name: str, stated: Mapping[str, Any], content: bytes) -> npt.NDArray[Any]:
        port, kind, shape = self._model.outputs[name], stated["datatype"], stated["shape"]
        if kind != port.datatype:
            raise self._expectations.wrong_output(name, f"{kind} {shape}"[:_LONGEST_MESSAGE])
        try:
            array = np.frombuffer(content, port.dtype).reshape(shape).copy()
        except (TypeError, ValueError) as error:  # The number of bytes contradicts the stated shape.
            raise self._expectations.wrong_output(name, str(error)) from error
        if not port.fits(array) or list(array.shape) != shape:
            raise self._expectations.wrong_output(name, f"{kind} {shape}"[:_LONGEST_MESSAGE])
        return array

    def _get(self, path: str, deadline: Deadline) -> dict[str, Any]:
        answer = self._ask("GET", path, deadline)
        try:
            content = json.loads(answer.body)
        except ValueError as error:
            raise self._expectations.unreadable(_text(error)) from error
        if not isinstance(content, dict):
            raise self._expectations.unreadable("no JSON object")
        return content

    def _ask(
        self, method: str, path: str, deadline: Deadline, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> HttpAnswer:
        try:
            if self._connection is None:
                self._connection = HttpConnection(self._options.host, self._options.port, self._tls, deadline)
            answer = self._connection.request(method, path, deadline, body, headers)
        except OSError as error:
            raise self._expectations.no_answer(printable(cause_of(error))[:_LONGEST_MESSAGE]) from error
        if answer.status in _AWAY:
            raise self._expectations.no_answer(f"status {answer.status}: {_message(answer)}")
        if answer.status != 200:
            raise self._expectations.refusal(f"status {answer.status}: {_message(answer)}")
        return answer

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._connection is not None:
            self._connection.close()


def _tls(options: ServerOptions) -> ssl.SSLContext:
    """Return the settings of TLS; EngineError if a file cannot be read."""
    try:
        context = ssl.create_default_context(cafile=options.authority or None)
        if options.certificate:
            context.load_cert_chain(options.certificate, options.key)
    except OSError as error:  # Also for a file without a certificate.
        raise EngineError(
            options.address,
            found=cause_of(error),
            expected="readable PEM files for TLS",
            action="check the environment variables CMDIAD_SERVER_AUTHORITY, _CERTIFICATE and _KEY",
        ) from error
    return context


def _ports(tensors: Any) -> Ports:
    return {tensor["name"]: (tensor["datatype"], tuple(tensor["shape"])) for tensor in tensors}


def _message(answer: HttpAnswer) -> str:
    """Return the message of an answer that is no success, as one short line."""
    text = answer.body[: 10 * _LONGEST_MESSAGE].decode("utf-8", "replace")
    with suppress(KeyError, TypeError, ValueError):
        text = str(json.loads(text)["error"])
    return printable(text)[:_LONGEST_MESSAGE]


def _text(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")[:_LONGEST_MESSAGE]
