"""The engine on a Triton server: deadlines, restarts, wrong answers, TLS, options, fallback."""

from __future__ import annotations

import logging
import math
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import onnx
import pytest

from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.engines._server_client import Deadline
from cmdiad_runtime.engines._triton_grpc import GrpcClient
from cmdiad_runtime.engines._triton_http import HttpClient
from cmdiad_runtime.engines.fallback import FallbackEngine
from cmdiad_runtime.engines.served_model import ServedModel
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.engines.triton import TritonEngine
from cmdiad_runtime.errors import EngineError, NoAnswerError
from cmdiad_runtime.support.records import RecordError
from graphs import cloud_expected, cloud_graph, cloud_inputs
from helpers import python
from kserve_server import MANY, Fault, KServeServer, Protocol, kserve, read_config
from mqtt_broker import write_certificates
from patience import LIMIT_S, wait_until
from served import add_model

WAYS = [("grpc", False), ("grpc", True), ("http", False)]
"""Protocols, without and with shared memory."""
SHORT_S = 0.3
"""A time limit that a server that hangs exceeds, and that nothing else in these tests depends on."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for a server than a slow machine needs, where a test sets no limit."""
    monkeypatch.setattr("cmdiad_runtime.engines.triton._OPENING_S", LIMIT_S)


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return add_model(tmp_path / "models", cloud_graph(tmp_path / "cloud.onnx"), cloud_inputs(4))


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    chosen: Protocol = request.param
    return chosen


@pytest.fixture
def server(tmp_path: Path, model: ServedModel, protocol: Protocol) -> Iterator[KServeServer]:
    with kserve(tmp_path / "models", model.name, protocol=protocol) as running:
        yield running


def opened(model: ServedModel, server: KServeServer, **options: Any) -> Any:
    address = ServerOptions(**{"address": server.address, "timeout_s": LIMIT_S, **options})
    return closing(TritonEngine.open(model, address))


def assert_right(engine: Any, rows: int = 5) -> None:
    inputs = cloud_inputs(rows)
    np.testing.assert_allclose(engine.run(inputs)["map"], cloud_expected(inputs)["map"], rtol=1e-5, atol=1e-5)


# --- what a server is asked before the first sample


def test_the_identity_names_server_model_and_graph(model: ServedModel, server: KServeServer) -> None:
    with opened(model, server) as engine:
        assert engine.identity == (
            f"triton 2.99.0 at {server.address}, model {model.name} version 1, graph {model.graph_sha256[:12]}"
        )
    assert model.name == f"cloud-{model.graph_sha256[:16]}"


def test_a_model_that_is_not_loaded_is_refused(tmp_path: Path, model: ServedModel, protocol: Protocol) -> None:
    with (
        kserve(tmp_path / "models", protocol=protocol) as server,
        pytest.raises(EngineError, match="unknown model") as refused,
    ):
        TritonEngine.open(model, ServerOptions(address=server.address))
    assert not isinstance(refused.value, NoAnswerError)
    assert "cmdiad-fleet triton" in refused.value.action


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('string_value: "SHA"', f'string_value: "{"0" * 64}"', "cmdiad_graph_sha256"),
        ('key: "cmdiad_graph_sha256"', 'key: "other"', "cmdiad_graph_sha256 none"),
        ("dims: -1", "dims: 4", "inputs"),
        ("data_type: TYPE_INT64", "data_type: TYPE_INT32", "inputs"),
        ("  data_type: TYPE_FP32\n  dims: 1\n", "  data_type: TYPE_FP32\n  dims: -1\n", "outputs"),
    ],
)
def test_another_configuration_is_refused(
    tmp_path: Path, model: ServedModel, protocol: Protocol, old: str, new: str, word: str
) -> None:
    config = tmp_path / "models" / model.name / "config.pbtxt"
    text, old = config.read_text(), old.replace("SHA", model.graph_sha256)
    assert old in text
    config.write_text(text.replace(old, new, 1))
    running = kserve(tmp_path / "models", model.name, protocol=protocol)
    with running as server, pytest.raises(EngineError, match=word):
        TritonEngine.open(model, ServerOptions(address=server.address))


def test_no_server_is_no_answer(model: ServedModel, server: KServeServer) -> None:
    server.stop()
    with pytest.raises(NoAnswerError, match="check server and network|Check server and network"):
        TritonEngine.open(model, ServerOptions(address=server.address))


# --- samples without an answer


@pytest.mark.seconds
@pytest.mark.parametrize(("protocol", "shared_memory"), WAYS, indirect=["protocol"])
def test_a_server_that_hangs_costs_the_time_limit_and_may_come_back(
    model: ServedModel, server: KServeServer, shared_memory: bool
) -> None:
    with opened(model, server, shared_memory=shared_memory) as engine:
        engine.run(cloud_inputs(5))
        server.fault = "hang"
        object.__setattr__(engine._options, "timeout_s", SHORT_S)  # The client has the same options.
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(NoAnswerError, match="within 0.3 s"):
                engine.run(cloud_inputs(5))
            assert time.monotonic() - began >= SHORT_S
        server.fault = ""
        engine._options = ServerOptions(address=server.address, timeout_s=LIMIT_S, shared_memory=shared_memory)
        assert_right(engine)


def test_a_server_that_dies_during_an_inference_is_no_answer(model: ServedModel, server: KServeServer) -> None:
    with opened(model, server) as engine:
        engine.run(cloud_inputs(5))
        server.fault = "hang"
        stopping = threading.Thread(target=lambda: (_wait_for(server, "ModelInfer", 2), server.stop()))
        stopping.start()
        with pytest.raises(NoAnswerError):
            engine.run(cloud_inputs(5))
        stopping.join()
        with pytest.raises(NoAnswerError):
            engine.run(cloud_inputs(5))


def _wait_for(server: KServeServer, verb: str, times: int) -> None:
    wait_until(lambda: server.calls.count(verb) >= times)


# --- samples after which the engine stays refused


@pytest.mark.failure_mode("A Triton server that restarts, or loads the model again")
@pytest.mark.parametrize("how", ["restart", "load", "unload and load"])
def test_a_model_that_was_loaded_again_needs_a_new_self_test(
    model: ServedModel, server: KServeServer, how: str
) -> None:
    with opened(model, server) as engine:
        for _ in range(3):
            engine.run(cloud_inputs(5))
        if how == "restart":
            server.stop()
            with pytest.raises(NoAnswerError):
                engine.run(cloud_inputs(5))
            server.start(model.name)
        else:
            if how == "unload and load":
                server.RepositoryModelUnload(type("Request", (), {"model_name": model.name}), None)
            server.load(model.name)
        for _ in range(2):
            with pytest.raises(EngineError, match="loaded again") as refused:
                engine.run(cloud_inputs(5))
            assert not isinstance(refused.value, NoAnswerError)
            server.fault = ""
    with opened(model, server) as engine:
        assert_right(engine)


@pytest.mark.failure_mode("A Triton server that restarts between two parts while other lines use it")
@pytest.mark.parametrize("meanwhile", ["nothing", "a pause", "a new connection", "a restart"])
@pytest.mark.parametrize("graph", ["same", "other"])
def test_another_model_is_noticed_although_other_lines_use_it(
    tmp_path: Path,
    model: ServedModel,
    server: KServeServer,
    monkeypatch: pytest.MonkeyPatch,
    graph: str,
    meanwhile: str,
) -> None:
    """The count of inferences is high again when this line asks: only the outputs show the other graph."""
    if meanwhile == "a pause":  # In that time, other lines could have made as many inferences as the old load.
        server.count(model.name)
        monkeypatch.setattr("cmdiad_runtime.engines.triton._LARGEST_RATE", math.inf)
    with opened(model, server) as engine:
        engine.run(cloud_inputs(5))
        if graph == "other":
            _scale_features(tmp_path, model)
        if meanwhile in ("a new connection", "a restart"):
            server.stop()
            if meanwhile == "a new connection":
                with pytest.raises(NoAnswerError):
                    engine.run(cloud_inputs(5))
            wait_until(lambda: engine._client is None or engine._client.lost)
            server.start()
        server.load(model.name)
        server.count(model.name, 2 * MANY)
        if graph == "same":
            assert_right(engine)
        else:
            with pytest.raises(EngineError, match="for the first sample of the self-test"):
                engine.run(cloud_inputs(7))


def _scale_features(tmp_path: Path, model: ServedModel) -> None:
    """Replace the graph in the repository by one with other outputs."""
    scaled = onnx.load(tmp_path / "cloud.onnx")
    (features,) = (array for array in scaled.graph.initializer if array.name == "features")
    features.CopyFrom(onnx.numpy_helper.from_array(1.05 * onnx.numpy_helper.to_array(features), "features"))
    onnx.save(scaled, tmp_path / "models" / model.name / "1" / "model.onnx")


def test_a_count_that_no_server_reaches_in_this_time_proves_the_load(model: ServedModel, server: KServeServer) -> None:
    with opened(model, server) as engine:
        for _ in range(3):
            assert_right(engine)
        assert server.calls.count("ModelInfer") == 1 + 2 * 2, "with a small number, the first inference is repeated"
        server.count(model.name)
        assert_right(engine)
        asked = server.calls.count("ModelInfer")
        for _ in range(3):
            assert_right(engine)
        assert server.calls.count("ModelInfer") == asked + 3


def test_other_lines_use_a_new_load_until_its_count_is_read(
    tmp_path: Path, model: ServedModel, server: KServeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count that proves the load at the time of the answer proves nothing when the server reports it much later."""
    client = HttpClient if server.protocol == "http" else GrpcClient
    now_s, read = [0.0], client.inference_count

    def read_late(client: Any, deadline: Deadline) -> int:
        now_s[0] += MANY
        return read(client, deadline)

    clock = SimpleNamespace(monotonic=lambda: now_s[0], sleep=time.sleep)
    monkeypatch.setattr("cmdiad_runtime.engines.triton.time", clock)
    server.count(model.name)
    with opened(model, server) as engine:
        engine.run(cloud_inputs(5))
        _scale_features(tmp_path, model)
        server.load(model.name)
        server.count(model.name, 2 * MANY)
        monkeypatch.setattr(client, "inference_count", read_late)
        with pytest.raises(EngineError, match="for the first sample of the self-test"):
            engine.run(cloud_inputs(7))


def test_the_count_must_rise_by_the_inferences_of_this_line(
    tmp_path: Path, model: ServedModel, server: KServeServer
) -> None:
    """A new load that has counted as many inferences as the old one, this line's included, is noticed."""
    server.count(model.name)
    with opened(model, server) as engine:
        engine.run(cloud_inputs(5))
        _scale_features(tmp_path, model)
        server.load(model.name)
        server.count(model.name)
        engine._options = ServerOptions(address=server.address, timeout_s=SHORT_S)
        with pytest.raises(NoAnswerError):
            engine.run(cloud_inputs(7))
        engine._options = ServerOptions(address=server.address, timeout_s=LIMIT_S)
        with pytest.raises(EngineError, match="for the first sample of the self-test"):
            engine.run(cloud_inputs(7))


def test_a_server_may_count_after_the_answer(model: ServedModel, server: KServeServer) -> None:
    server.count(model.name)
    with opened(model, server) as engine:
        assert_right(engine)
        server.fault = "uncounted"
        asked = server.calls.count("ModelStatistics")

        def count() -> None:
            _wait_for(server, "ModelStatistics", asked + 3)
            server._models[model.name].count += 1

        counting = threading.Thread(target=count)
        counting.start()
        assert_right(engine)
        counting.join()


@pytest.mark.failure_mode("A Triton server that answers with another shape or type")
@pytest.mark.parametrize(
    ("protocol", "shared_memory", "fault"),
    [(*way, fault) for fault in ("shape", "type", "name", "version", "missing") for way in WAYS]
    + [("grpc", False, "bytes"), ("http", False, "bytes")],  # in shared memory, the region has a fixed size
    indirect=["protocol"],
)
def test_a_wrong_answer_ends_the_use_of_the_server(
    model: ServedModel, server: KServeServer, fault: Fault, shared_memory: bool
) -> None:
    with opened(model, server, shared_memory=shared_memory) as engine:
        engine.run(cloud_inputs(5))
        server.fault = fault
        with pytest.raises(EngineError) as refused:
            engine.run(cloud_inputs(5))
        assert not isinstance(refused.value, NoAnswerError)
        server.fault = ""
        with pytest.raises(EngineError):
            engine.run(cloud_inputs(5))


@pytest.mark.parametrize("protocol", ["grpc"], indirect=True)
def test_shared_memory_never_repeats_the_outputs_of_an_earlier_sample(model: ServedModel, server: KServeServer) -> None:
    server.count(model.name)
    with opened(model, server, shared_memory=True) as engine:
        assert_right(engine)
        server.fault = "nothing"
        outputs = engine.run(cloud_inputs(5))
        assert all(np.isnan(array).all() for array in outputs.values())


@pytest.mark.parametrize("protocol", ["grpc"], indirect=True)
def test_regions_are_removed_on_both_sides(model: ServedModel, server: KServeServer) -> None:
    with opened(model, server, shared_memory=True) as engine:
        for rows in (3, 40, 5):  # the second sample needs a larger region
            assert_right(engine, rows)
        (name,) = server.SystemSharedMemoryStatus(None, None).regions
        assert Path("/dev/shm", name).stat().st_mode & 0o077 == 0
    assert not server.SystemSharedMemoryStatus(None, None).regions
    assert not Path("/dev/shm", name).exists()


# --- TLS


def _credentials(folder: Path, protocol: Protocol) -> Any:
    """The certificate of a server that requires certificates of its clients."""
    names = [str(folder / name) for name in ("broker.key", "broker.pem", "ca.pem")]
    if protocol == "http":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=names[2])
        context.load_cert_chain(names[1], names[0])
        context.verify_mode = ssl.CERT_REQUIRED
        return context
    key, certificate, authority = (Path(name).read_bytes() for name in names)
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=authority, require_client_auth=True)


def test_tls_verifies_both_sides(tmp_path: Path, model: ServedModel, protocol: Protocol) -> None:
    write_certificates(tmp_path)
    credentials = _credentials(tmp_path, protocol)
    with kserve(tmp_path / "models", model.name, credentials=credentials, protocol=protocol) as server:
        files = {"authority": "ca.pem", "certificate": "station.pem", "key": "station.key"}
        paths = {name: str(tmp_path / file) for name, file in files.items()}
        address = f"{protocol}s://127.0.0.1:{server.port}"
        with opened(model, server, address=address, **paths) as engine:
            assert_right(engine)
        for incomplete in ({"authority": paths["authority"]}, {}):
            with pytest.raises(NoAnswerError):
                TritonEngine.open(model, ServerOptions(address=address, **incomplete))
        with pytest.raises(EngineError, match="PEM files"):
            TritonEngine.open(model, ServerOptions(address=address, authority=str(tmp_path / "absent.pem")))


# --- options


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"address": "inference.plant:8001"}, "address"),
        ({"address": "ftp://127.0.0.1:8001"}, "address"),
        ({"address": "http://127.0.0.1:8000/triton"}, "address"),
        ({"address": "http://127.0.0.1:1", "authority": "ca.pem"}, "address"),
        ({"address": "http://127.0.0.1:1", "shared_memory": True}, "shared_memory"),
        ({"address": "grpc://user@127.0.0.1"}, "address"),
        ({"address": "grpc://host/model"}, "address"),
        ({"address": "127.0.0.1:99999"}, "address"),
        ({"address": ""}, "address"),
        ({"address": "127.0.0.1:1", "authority": "ca.pem"}, "address"),
        ({"address": "grpcs://host:1", "certificate": "a.pem"}, "key"),
        ({"address": "grpc://host:1", "shared_memory": True}, "shared_memory"),
        ({"address": "127.0.0.1:1", "timeout_s": 0}, "timeout_s"),
        ({"address": "127.0.0.1:1", "timeout_s": float("nan")}, "timeout_s"),
        ({"address": "127.0.0.1:1", "fallback": "tensorrt"}, "fallback"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(RecordError, match=rf"ServerOptions\.{field}"):
        ServerOptions(**options)


def test_a_scheme_in_capitals_keeps_tls() -> None:
    assert ServerOptions(address="GRPCS://inference.plant:8001").tls
    assert not ServerOptions(address="GRPC://inference.plant:8001").tls
    assert ServerOptions(address="HTTPS://inference.plant").tls
    assert not ServerOptions(address="HTTP://inference.plant").tls


@pytest.mark.parametrize(
    ("address", "port", "http"),
    [
        ("localhost", 8001, False),
        ("grpcs://plant", 8001, False),
        ("http://plant", 8000, True),
        ("https://plant", 443, True),
        ("https://plant:8443", 8443, True),
    ],
)
def test_each_scheme_has_a_protocol_and_a_port(address: str, port: int, http: bool) -> None:
    options = ServerOptions(address=address)
    assert (options.port, options.http) == (port, http)


def test_options_of_the_environment() -> None:
    environment = {
        "CMDIAD_SERVER": "grpcs://[::1]",
        "CMDIAD_SERVER_TIMEOUT": "0.25",
        "CMDIAD_SERVER_SHARED_MEMORY": "yes",
        "CMDIAD_SERVER_FALLBACK": "cpu",
        "CMDIAD_SERVER_AUTHORITY": "ca.pem",
    }
    options = ServerOptions.from_environment(environment=environment)
    assert (options.target, options.tls, options.timeout_s) == ("[::1]:8001", True, 0.25)
    assert (options.shared_memory, options.fallback, options.authority) == (True, "cpu", "ca.pem")
    assert ServerOptions.from_environment("localhost:1", environment={}).fallback is None
    with pytest.raises(EngineError, match="CMDIAD_SERVER"):
        ServerOptions.from_environment(environment={})


SCHEMES = "grpcs://, grpc://, https:// or http:// before the name of another machine"


@pytest.mark.parametrize(
    ("address", "variable", "value", "message"),
    [
        ("10.1.2.3:9", "", "", f"--server: found '10.1.2.3:9'. Expected {SCHEMES}. "),
        (None, "", "plant:9", f"CMDIAD_SERVER: found 'plant:9'. Expected {SCHEMES}. "),
        (None, "_TIMEOUT", "soon", "CMDIAD_SERVER_TIMEOUT: found 'soon'. Expected seconds. "),
        (None, "_TIMEOUT", "0", "CMDIAD_SERVER_TIMEOUT: found '0'. Expected a number from 0.001 to 600. "),
        (None, "_SHARED_MEMORY", "perhaps", "CMDIAD_SERVER_SHARED_MEMORY: found 'perhaps'. Expected 1 or 0. "),
        (None, "_FALLBACK", "moon", "CMDIAD_SERVER_FALLBACK: found 'moon'. Expected one of cpu, "),
        (None, "_KEY", "a.pem", "CMDIAD_SERVER_KEY: found 'a.pem'. Expected a certificate and its key, or neither. "),
    ],
)
def test_a_wrong_option_is_named_with_its_source(address: str | None, variable: str, value: str, message: str) -> None:
    environment = {"CMDIAD_SERVER": "grpcs://host:1", f"CMDIAD_SERVER{variable}": value}
    with pytest.raises(EngineError) as refused:
        ServerOptions.from_environment(address, environment=environment)
    assert str(refused.value).startswith(message)
    assert str(refused.value).endswith(f"Correct {message.partition(':')[0]}.")


def test_a_missing_package_names_the_command(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(EngineError, match=r'Run: pip install "cmdiad\[triton\]"'):
        TritonEngine.open(model, ServerOptions(address="127.0.0.1:1"))


def test_the_client_is_imported_when_it_is_used() -> None:
    modules = "triton, fallback, served_model, server_options"
    code = f"import sys; from cmdiad_runtime.engines import {modules}; print('grpc' in sys.modules)"
    assert python(code).strip() == "False"


# --- fallback


def test_the_local_engine_takes_over_and_stays(
    tmp_path: Path, model: ServedModel, server: KServeServer, caplog: pytest.LogCaptureFixture
) -> None:
    served = TritonEngine.open(model, ServerOptions(address=server.address, timeout_s=LIMIT_S))
    with closing(FallbackEngine(served, open_engine(tmp_path / "cloud.onnx"))) as engine:
        assert_right(engine)
        assert engine.description.endswith("the server runs")
        server.stop()
        with caplog.at_level(logging.WARNING, "cmdiad.engine"):
            assert_right(engine)
            assert_right(engine)
        assert [record.message.count("runs on this machine") for record in caplog.records] == [1]
        assert engine.description.endswith("the local engine runs")
        assert "triton" in engine.identity
        assert "onnxruntime" in engine.identity
        server.start(model.name)
        server.calls.clear()
        assert_right(engine)
        assert server.calls == []


# --- the server of the tests


@pytest.mark.parametrize(
    "line", ["max_batch_size: 8", "dynamic_batching { }", "moon: 1", 'name: "other"', "version_policy { all { } }"]
)
def test_the_server_refuses_what_triton_refuses(tmp_path: Path, model: ServedModel, line: str) -> None:
    config = tmp_path / "models" / model.name / "config.pbtxt"
    key = line.split(maxsplit=1)[0]
    kept = [text for text in config.read_text().splitlines() if not text.startswith(key)]
    if key == "version_policy":
        kept = config.read_text().replace("version_policy {\n  specific {\n    versions: 1\n  }\n}\n", "").splitlines()
    config.write_text("\n".join([*kept, line]))
    with pytest.raises(Exception, match=r"batch|no field|directory name|no version"):
        read_config(config.parent)
