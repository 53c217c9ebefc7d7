"""HTTP interface of `kserve_server`: the KServe requests, and those of Triton for configuration and statistics."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

HEADER = "Inference-Header-Content-Length"
STATUS = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "UNAVAILABLE": 503}
"""Status of each code of gRPC, as Triton answers."""


class HttpDoor(ThreadingHTTPServer):
    """Answers requests by HTTP with the verbs of a server, from its creation until `stop`."""

    daemon_threads = True

    def __init__(self, verbs: Any, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.verbs = verbs
        self._connections: set[socket.socket] = set()
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def get_request(self) -> Any:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def stop(self) -> None:
        """End as a killed server does: all connections break."""
        self.shutdown()
        self._thread.join()
        for connection in self._connections:
            with suppress(OSError):  # The other side may have closed it.
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that break off are part of the tests."""


class _RefusedError(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = STATUS[code.name]


class _Context:
    def abort(self, code: grpc.StatusCode, message: str) -> None:
        raise _RefusedError(code, message)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HttpDoor

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._infer)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Stay silent."""

    def _reply(self, answer: Any) -> None:
        try:
            content, binary = answer()
            status = 200
        except _RefusedError as refused:
            content, binary, status = {"error": str(refused)}, None, refused.status
        header = json.dumps(content).encode()
        self.send_response(status, HTTPStatus(status).phrase)
        if binary is not None:
            self.send_header(HEADER, str(len(header)))
        body = header + b"".join(binary or [])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _verb(self, name: str, request: Any) -> Any:
        return getattr(self.server.verbs, name)(request, _Context())

    def _get(self) -> tuple[Any, None]:
        version, *rest = self.path.strip("/").split("/")
        if version != "v2":
            raise _RefusedError(grpc.StatusCode.NOT_FOUND, "Not Found")
        if not rest:
            server = self._verb("ServerMetadata", service_pb2.ServerMetadataRequest())
            return {"name": server.name, "version": server.version, "extensions": list(server.extensions)}, None
        named = {"name": rest[1], "version": rest[3]}
        if rest[4:] == ["config"]:
            config = self._verb("ModelConfig", service_pb2.ModelConfigRequest(**named)).config
            return json_format.MessageToDict(config, preserving_proto_field_name=True), None
        if rest[4:] == ["stats"]:
            statistics = self._verb("ModelStatistics", service_pb2.ModelStatisticsRequest(**named))
            entries = [
                {
                    "name": entry.name,
                    "version": entry.version,
                    "last_inference": 0,
                    "inference_count": entry.inference_count,
                }
                for entry in statistics.model_stats
            ]
            return {"model_stats": entries}, None
        metadata = self._verb("ModelMetadata", service_pb2.ModelMetadataRequest(**named))
        inputs, outputs = (
            [{"name": port.name, "datatype": port.datatype, "shape": list(port.shape)} for port in ports]
            for ports in (metadata.inputs, metadata.outputs)
        )
        return {
            "name": metadata.name,
            "versions": list(metadata.versions),
            "platform": metadata.platform,
            "inputs": inputs,
            "outputs": outputs,
        }, None

    def _infer(self) -> tuple[Any, list[bytes]]:
        _, _, name, _, version, _ = self.path.strip("/").split("/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = int(self.headers[HEADER])
        stated = json.loads(body[:place])
        request = service_pb2.ModelInferRequest(model_name=name, model_version=version, id=stated.get("id", ""))
        for tensor in stated["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
            request.raw_input_contents.append(body[place : place + size])
            place += size
        if place != len(body):
            raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "unexpected additional input data")
        for output in stated["outputs"]:
            assert output["parameters"] == {"binary_data": True}
            request.outputs.add(name=output["name"])
        response = self._verb("ModelInfer", request)
        contents = list(response.raw_output_contents)
        outputs = [
            {
                "name": output.name,
                "datatype": output.datatype,
                "shape": list(output.shape),
                "parameters": {"binary_data_size": len(content)},
            }
            for output, content in zip(response.outputs, contents, strict=True)
        ]
        answer = {"model_name": response.model_name, "model_version": response.model_version, "outputs": outputs}
        return {**answer, **({"id": response.id} if response.id else {})}, contents
