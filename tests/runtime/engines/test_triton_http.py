"""The engine `triton` by HTTP: the official client agrees about the protocol; answers that are none."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.engines._server_client import Deadline
from cmdiad_runtime.engines._triton_http import HttpClient
from cmdiad_runtime.engines.served_model import ServedModel
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.engines.triton import TritonEngine
from cmdiad_runtime.errors import EngineError, NoAnswerError
from graphs import cloud_expected, cloud_graph, cloud_inputs
from kserve_server import KServeServer, kserve
from patience import LIMIT_S
from served import add_model

HEADER = "Inference-Header-Content-Length"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for a server than a slow machine needs, where a test sets no limit."""
    monkeypatch.setattr("cmdiad_runtime.engines.triton._OPENING_S", LIMIT_S)


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return add_model(tmp_path / "models", cloud_graph(tmp_path / "cloud.onnx"), cloud_inputs(4))


@pytest.fixture
def server(tmp_path: Path, model: ServedModel) -> Iterator[KServeServer]:
    with kserve(tmp_path / "models", model.name, protocol="http") as running:
        yield running


def test_no_package_of_triton_is_needed(
    model: ServedModel, server: KServeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tritonclient", "tritonclient.grpc", "tritonclient.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with closing(TritonEngine.open(model, ServerOptions(address=server.address, timeout_s=LIMIT_S))) as engine:
        inputs = cloud_inputs(5)
        np.testing.assert_allclose(engine.run(inputs)["map"], cloud_expected(inputs)["map"], rtol=1e-5, atol=1e-5)


def test_the_official_client_has_the_same_outputs(model: ServedModel, server: KServeServer) -> None:
    """The server of the tests speaks the protocol as the client of Triton does, and both clients read the same."""
    pytest.importorskip("geventhttpclient", reason="tritonclient[http] needs an older greenlet than locked.txt")
    import tritonclient.http as library

    inputs = cloud_inputs(5)
    official = library.InferenceServerClient(f"127.0.0.1:{server.port}")
    sent = []
    for name, port in model.inputs.items():
        tensor = library.InferInput(name, list(inputs[name].shape), port.datatype)
        sent.append(tensor.set_data_from_numpy(np.ascontiguousarray(inputs[name]), binary_data=True))
    asked = [library.InferRequestedOutput(name, binary_data=True) for name in model.outputs]
    result = official.infer(model.name, sent, model_version="1", outputs=asked)
    statistics = official.get_inference_statistics(model.name, "1")["model_stats"]
    config = official.get_model_config(model.name, "1")
    official.close()
    with closing(HttpClient(ServerOptions(address=server.address), model)) as client:
        deadline = Deadline(LIMIT_S)
        assert client.inference_count(deadline) == statistics[0]["inference_count"] == 1
        assert json.loads(client.check_model(deadline)) == config
        outputs = client.infer(inputs, deadline)
    assert sorted(outputs) == sorted(model.outputs)
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, result.as_numpy(name))


# --- answers that are none


@contextmanager
def answering(status: int, content: bytes, headers: dict[str, str]) -> Iterator[str]:
    """A server with the same answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the name of `http.server`

        def log_message(self, format: str, *arguments: Any) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (502, b"<html>Bad Gateway</html>", "status 502"),
        (503, b'{"error":"starting"}', "status 503: starting"),
        (504, b"", "status 504"),
        (429, b"\x1b[31m", r"status 429: \\x1b"),
    ],
)
def test_a_proxy_whose_server_is_away_is_no_answer(
    model: ServedModel, status: int, content: bytes, message: str
) -> None:
    with answering(status, content, {}) as address, pytest.raises(NoAnswerError, match=message):
        TritonEngine.open(model, ServerOptions(address=address))


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (301, b""),
        (401, b'{"error": 5}'),
        (404, b'["error"]'),
        (500, b'{"error":"broken"}'),
        (204, b""),
        (200, b""),
        (200, b"{"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"name": "triton", "versions": 3, "inputs": 4, "outputs": null, "parameters": []}'),
        (200, b"\xff\xfe"),
    ],
)
def test_another_server_is_refused(model: ServedModel, status: int, content: bytes) -> None:
    with answering(status, content, {}) as address, pytest.raises(EngineError) as refused:
        TritonEngine.open(model, ServerOptions(address=address))
    assert not isinstance(refused.value, NoAnswerError)


def answer(model: ServedModel, **changes: Any) -> dict[str, Any]:
    """The JSON part of a right answer to the first inference with five rows, and changes of the output `map`."""
    arrays = cloud_expected(cloud_inputs(5))
    outputs = [
        {
            "name": name,
            "datatype": port.datatype,
            "shape": list(arrays[name].shape),
            "parameters": {"binary_data_size": arrays[name].astype(port.dtype).nbytes},
            **(changes if name == "map" else {}),
        }
        for name, port in model.outputs.items()
    ]
    return {"id": "1", "model_name": model.name, "model_version": "1", "outputs": outputs}


def infer(
    model: ServedModel, content: dict[str, Any], after: bytes = b"", headers: dict[str, str] | None = None
) -> Any:
    arrays = cloud_expected(cloud_inputs(5))
    head = json.dumps(content).encode()
    body = head + b"".join(arrays[name].astype(port.dtype).tobytes() for name, port in model.outputs.items()) + after
    stated = {HEADER: str(len(head))} if headers is None else headers
    with (
        answering(200, body, stated) as address,
        closing(HttpClient(ServerOptions(address=address), model)) as client,
    ):
        return client.infer(cloud_inputs(5), Deadline(LIMIT_S))


def test_a_right_answer_is_read(model: ServedModel) -> None:
    """The answers of the next test differ from this one in one thing each."""
    outputs = infer(model, answer(model))
    np.testing.assert_allclose(outputs["map"], cloud_expected(cloud_inputs(5))["map"], rtol=1e-6)
    assert all(array.flags.writeable for array in outputs.values())


@pytest.mark.failure_mode("A Triton server that answers with another shape or type")
@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1]},
        {"shape": "all"},
        {"shape": None},
        {"shape": [1e300]},
        {"datatype": "FP64"},
        {"datatype": None},
        {"name": "other"},
        {"name": ["map"]},
        {"parameters": {}},
        {"parameters": {"binary_data_size": 4}},
        {"parameters": {"binary_data_size": -4}},
        {"parameters": {"binary_data_size": "16"}},
        {"parameters": {"binary_data_size": 1 << 80}},
    ],
)
def test_an_output_that_is_none_is_refused(model: ServedModel, change: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        infer(model, answer(model, **change))


@pytest.mark.parametrize(
    ("change", "after", "headers"),
    [
        ({"id": "2"}, b"", None),  # the answer to another request
        ({"id": None}, b"", None),
        ({"outputs": []}, b"", None),
        ({"outputs": None}, b"", None),
        ({"model_version": "2"}, b"", None),
        ({}, b"more", None),
        ({}, b"", {}),
        ({}, b"", {HEADER: "many"}),
        ({}, b"", {HEADER: "-5"}),
        ({}, b"", {HEADER: "99999999"}),
    ],
)
def test_an_answer_that_is_none_is_refused(
    model: ServedModel, change: dict[str, Any], after: bytes, headers: dict[str, str] | None
) -> None:
    with pytest.raises(EngineError) as refused:
        infer(model, {**answer(model), **change}, after, headers)
    assert not isinstance(refused.value, NoAnswerError)
