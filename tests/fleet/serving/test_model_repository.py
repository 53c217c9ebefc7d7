"""`cmdiad-fleet triton` and the engine `triton` with real bundles, through a server of the protocol."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cmdiad_fleet.artefact.describe import describe
from cmdiad_fleet.artefact.proof import Proof, prove
from cmdiad_fleet.cli.fleet import cli
from cmdiad_fleet.serving.model_config import Placement
from cmdiad_fleet.serving.model_repository import launch_command, write_model
from cmdiad_line.inspection.detector import open_detector
from cmdiad_line.recipes.proving import prove_bundle
from cmdiad_line.transport.messages import Load
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.engine_selection import choose_engine
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.cli.info import cli as info
from cmdiad_runtime.cli.run import cli as run
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.errors import BundleError, EngineError, NoAnswerError, OutputError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.readers import read_rgb
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.records import RecordError
from cmdiad_runtime.support.reporter import SILENT
from graphs import FINGERPRINT, tiny_bundle
from helpers import assert_refused, command, flip_byte, sample_files, set_threshold
from kserve_server import KServeServer, Protocol, kserve
from patience import LIMIT_S

Cached = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(exported: Cached) -> Bundle:
    return Bundle.open(exported("rgb"))


@pytest.fixture(scope="module")
def repository(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model of the bundle, which no test changes."""
    folder = tmp_path_factory.mktemp("served") / "models"
    write_model(bundle, folder, Placement())
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep self-tests of the shared bundle away from other tests."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def name(repository: Path) -> str:
    (model,) = repository.iterdir()
    return model.name


@pytest.fixture
def server(repository: Path, name: str, request: pytest.FixtureRequest) -> Iterator[KServeServer]:
    with kserve(repository, name, protocol=getattr(request, "param", "grpc")) as running:
        running.count(name)
        yield running


BOTH = pytest.mark.parametrize("server", ["grpc", "http"], indirect=True)
"""Marks the tests that run by both protocols."""


def options(server: KServeServer, **changes: Any) -> OpenOptions:
    changes = {"address": server.address, "timeout_s": LIMIT_S, **changes}
    return OpenOptions(engine="triton", server=ServerOptions(**changes), frozen_after=0)


# --- the repository


def test_a_model_has_graph_configuration_warm_up_and_hashes(bundle: Bundle, repository: Path, name: str) -> None:
    folder = repository / name
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"1/model.onnx", "cmdiad.json", "config.pbtxt", "warmup/rgb"}
    assert (folder / "1" / "model.onnx").read_bytes() == bundle.graph.read_bytes()
    assert (folder / "warmup" / "rgb").read_bytes() == read_golden(bundle.golden)[0].inputs["rgb"].tobytes()
    record = json.loads((folder / "cmdiad.json").read_text())
    assert record["graph_sha256"] == bundle.record.graph.sha256
    assert set(record["files"]) == files - {"cmdiad.json"}
    assert name.endswith(bundle.record.graph.sha256[:16])


def test_the_configuration_is_written_exactly(bundle: Bundle, tmp_path: Path) -> None:
    placement = Placement(instances=2, device="gpu", priority=3)
    path = write_model(bundle, tmp_path, placement).path
    size = bundle.preprocessing.size
    expected = model_config_pb2.ModelConfig(
        name=path.name,
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=0,
        input=[{"name": "rgb", "data_type": "TYPE_UINT8", "dims": [1, size, size, 3]}],
        output=[{"name": "map", "data_type": "TYPE_FP32", "dims": [size, size]}],
        version_policy={"specific": {"versions": [1]}},
        instance_group=[{"count": 2, "kind": "KIND_GPU", "rate_limiter": {"priority": 3}}],
        model_warmup=[
            {
                "name": "golden",
                "batch_size": 1,
                "inputs": {"rgb": {"data_type": "TYPE_UINT8", "dims": [1, size, size, 3], "input_data_file": "rgb"}},
            }
        ],
        parameters={
            "cmdiad_bundle": {"string_value": bundle.name},
            "cmdiad_graph_sha256": {"string_value": bundle.record.graph.sha256},
        },
    )
    written = text_format.Parse((path / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert written == expected
    assert launch_command(tmp_path, [path.name], placement)[1:] == [
        f"--model-repository={tmp_path}",
        "--model-control-mode=explicit",
        f"--load-model={path.name}",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--rate-limit=execution_count",
    ]


def test_without_the_package_for_configurations_nothing_is_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    ended = command(cli, "triton", bundle.path, "--repository", tmp_path / "models")
    assert_refused(ended, 5, "needs the package 'tritonclient'", 'pip install "cmdiad[')
    assert not (tmp_path / "models").exists()


def test_a_large_graph_keeps_its_weights_file(exported_outside: Cached, tmp_path: Path) -> None:
    large = Bundle.open(exported_outside("rgb", "fp32"))
    path = write_model(large, tmp_path / "models", Placement()).path
    assert sorted(file.name for file in (path / "1" / "model.onnx").iterdir()) == ["graph.weights", "model.onnx"]
    with kserve(tmp_path / "models", path.name) as server, Inspector.open(large.path, options(server)) as inspector:
        assert large.record.graph.sha256[:12] in inspector.engine.identity


def test_a_tensorrt_engine_is_served_as_a_plan(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from cmdiad_fleet.serving import model_repository
    from cmdiad_runtime.bundle.built_engines import BuiltEngine
    from cmdiad_runtime.engines.fingerprint import EngineFingerprint

    with pytest.raises(EngineError, match="found no TensorRT engine"):
        write_model(bundle, tmp_path / "models", Placement(plan=True))
    (tmp_path / "sm86.engine").write_bytes(b"plan")
    label = EngineFingerprint.from_json({**FINGERPRINT, "engine_sha256": hashlib.sha256(b"plan").hexdigest()})
    built = BuiltEngine(tmp_path / "sm86.engine", label, built_here=True)
    monkeypatch.setattr(model_repository, "engines_of", lambda bundle, library: [built])
    path = write_model(bundle, tmp_path / "models", Placement(plan=True)).path
    config = text_format.Parse((path / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
    assert (path / "1" / "model.plan").read_bytes() == b"plan"


def test_the_same_model_is_kept_and_another_one_is_never_replaced(bundle: Bundle, tmp_path: Path) -> None:
    first = write_model(bundle, tmp_path, Placement())
    assert write_model(bundle, tmp_path, Placement()) == replace(first, written=False)
    with pytest.raises(OutputError, match="another configuration"):
        write_model(bundle, tmp_path, Placement(instances=2))
    warm_up = first.path / "warmup" / "rgb"
    warm_up.write_bytes(warm_up.read_bytes()[:-1] + b"\x01")
    with pytest.raises(OutputError, match="files that differ"):
        write_model(bundle, tmp_path, Placement())
    (first.path / "cmdiad.json").unlink()
    with pytest.raises(OutputError, match=r"found a folder without cmdiad\.json, so no model of cmdiad\. Expected"):
        write_model(bundle, tmp_path, Placement())
    (first.path / "cmdiad.json").mkdir()
    with pytest.raises(OutputError, match=r"no model of cmdiad \(a folder, not a file\)"):
        write_model(bundle, tmp_path, Placement())


def test_a_bundle_that_changes_while_it_is_written_leaves_no_model(own_bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(own_bundle)
    flip_byte(own_bundle / "graph.onnx")
    with pytest.raises(BundleError, match=r"graph\.onnx: found a file with the hash"):
        write_model(opened, tmp_path / "models", Placement())
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [{"instances": 0}, {"device": "tpu"}, {"priority": 0}, {"plan": True, "device": "cpu"}],
)
def test_wrong_placements_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        Placement(**changes)


def test_the_command_writes_models_and_names_the_server(bundle: Bundle, tmp_path: Path) -> None:
    ended = command(cli, "triton", bundle.path, "--repository", tmp_path / "models", "--instances", 2)
    assert ended.code == 0
    (model,) = (tmp_path / "models").iterdir()
    assert ended.out == f"{model.name}\n"
    assert f"--load-model={model.name}" in ended.err
    again = command(cli, "triton", bundle.path, "--repository", tmp_path / "models")
    assert_refused(again, 6, "another configuration", "unload the model")
    assert_refused(command(cli, "triton", bundle.path, "--repository", bundle.path / "models"), 6, "--repository")
    assert_refused(command(cli, "triton", tmp_path / "absent", "--repository", tmp_path / "models"), 4, "manifest")


def test_a_bundle_that_cannot_be_served_keeps_all_models_from_being_written(
    bundle: Bundle, own_bundle: Path, tmp_path: Path
) -> None:
    flip_byte(own_bundle / "graph.onnx")
    refused = command(cli, "triton", bundle.path, own_bundle, "--repository", tmp_path / "models")
    assert_refused(refused, 4, "graph.onnx")
    assert not (tmp_path / "models").exists()


def test_a_model_of_another_content_keeps_all_models_from_being_written(bundle: Bundle, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    present = write_model(bundle, repository, Placement(instances=2)).path
    tiny = tiny_bundle(tmp_path / "tiny.cmdiad")
    assert_refused(command(cli, "triton", tiny, bundle.path, "--repository", repository), 6, "another configuration")
    assert list(repository.iterdir()) == [present]


def test_two_bundles_with_the_same_graph_have_one_model(bundle: Bundle, own_bundle: Path, tmp_path: Path) -> None:
    set_threshold(own_bundle, 2 * bundle.calibration.score_threshold)
    ended = command(cli, "triton", bundle.path, own_bundle, "--repository", tmp_path / "models")
    assert ended.code == 0, ended.err
    (model,) = (tmp_path / "models").iterdir()
    assert ended.out == f"{model.name}\n" * 2
    assert ended.err.count(f"--load-model={model.name}") == 1


# --- verdicts through a server


@pytest.mark.parametrize(
    ("server", "shared_memory"), [("grpc", False), ("grpc", True), ("http", False)], indirect=["server"]
)
def test_results_are_those_of_the_local_engine(
    bundle: Bundle, server: KServeServer, data: Path, shared_memory: bool
) -> None:
    samples = [
        Sample(path.name, rgb=read_rgb(path))
        for defect in sorted(folder.name for folder in (data / "gear" / "test").iterdir())
        for path in sample_files(data, "test", defect, "rgb")[:2]
    ]
    with (
        Inspector.open(bundle.path, options(server, shared_memory=shared_memory)) as served,
        Inspector.open(bundle.path, OpenOptions(frozen_after=0)) as local,
    ):
        for sample in samples:
            there, here = served.inspect(sample), local.inspect(sample)
            assert (there.verdict, there.reason) == (here.verdict, here.reason)
            assert there.score == pytest.approx(here.score, rel=1e-4)
            np.testing.assert_allclose(there.map, here.map, rtol=1e-3, atol=1e-4)


@BOTH
def test_the_self_test_runs_through_the_server_at_every_opening(bundle: Bundle, server: KServeServer) -> None:
    for _ in range(2):
        server.calls.clear()
        with Inspector.open(bundle.path, options(server)):
            assert server.calls.count("ModelInfer") == len(read_golden(bundle.golden))


@pytest.mark.failure_mode("Another model behind the name on a Triton server")
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_another_graph_behind_the_name_does_not_open(
    bundle: Bundle, repository: Path, name: str, tmp_path: Path, protocol: Protocol
) -> None:
    """The configuration claims the graph of the bundle, the file is another: only the results can show that."""
    import onnx

    shutil.copytree(repository, tmp_path / "models")
    file = tmp_path / "models" / name / "1" / "model.onnx"
    graph = onnx.load(file)
    (producer,) = (node for node in graph.graph.node if "map" in node.output)
    producer.output[list(producer.output).index("map")] = "honest"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([0.5]), "half"))
    graph.graph.node.append(onnx.helper.make_node("Mul", ["honest", "half"], ["map"]))
    onnx.save(graph, file)
    with kserve(tmp_path / "models", name, protocol=protocol) as server:
        with pytest.raises(EngineError, match="failed self-test through triton"):
            Inspector.open(bundle.path, options(server))
        ended = command(run, bundle.path, "--self-test", "--engine", "triton", "--server", server.address)
    assert_refused(ended, 8)


@pytest.mark.failure_mode("A Triton server that does not answer in time, or is away")
@BOTH
def test_a_sample_without_an_answer_is_ng_and_the_next_one_asks_again(
    bundle: Bundle, server: KServeServer, data: Path
) -> None:
    sample = Sample("part", rgb=read_rgb(sample_files(data, "test", "good", "rgb")[0]))
    with Inspector.open(bundle.path, options(server)) as inspector:
        good = inspector.inspect(sample)
        server.fault = "hang"
        inspector.engine._options = ServerOptions(address=server.address, timeout_s=0.3)  # type: ignore[attr-defined]
        late = inspector.inspect(sample)
        server.fault = ""
        inspector.engine._options = ServerOptions(address=server.address, timeout_s=LIMIT_S)  # type: ignore[attr-defined]
        again = inspector.inspect(sample)
        server.stop()
        away = inspector.inspect(sample)
    assert good.inspected
    for without in (late, away):
        assert (without.verdict, without.reason, without.inspected) == ("NG", "no-answer", False)
    assert (again.verdict, again.reason, again.score) == (good.verdict, good.reason, good.score)


@pytest.mark.parametrize("fault", ["nan", "nothing"])
def test_values_that_are_no_numbers_are_ng(bundle: Bundle, server: KServeServer, data: Path, fault: Any) -> None:
    sample = Sample("part", rgb=read_rgb(sample_files(data, "test", "good", "rgb")[0]))
    with Inspector.open(bundle.path, options(server, shared_memory=fault == "nothing")) as inspector:
        assert inspector.inspect(sample).inspected
        server.fault = fault
        inspection = inspector.inspect(sample)
    assert (inspection.verdict, inspection.reason) == ("NG", "bad-output")


def test_a_server_that_is_away_at_the_start(
    bundle: Bundle, server: KServeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    with pytest.raises(NoAnswerError):
        Inspector.open(bundle.path, options(server))
    with Inspector.open(bundle.path, options(server, fallback="cpu")) as inspector:
        assert inspector.engine.identity.startswith("onnxruntime")
    assert "All samples run on this machine" in caplog.text


def test_another_model_is_no_reason_for_the_fallback(bundle: Bundle, repository: Path) -> None:
    with kserve(repository) as server, pytest.raises(EngineError, match="unknown model"):
        Inspector.open(bundle.path, options(server, fallback="cpu"))


@pytest.mark.parametrize("fault", ["shape", "away"])
def test_a_fallback_never_passes_the_self_test_of_a_server(
    bundle: Bundle, server: KServeServer, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    if fault == "away":
        server.stop()
    else:
        server.fault = fault
        with pytest.raises(EngineError, match="found the output"):
            choose_engine(bundle, "triton", untested=True, server=options(server, fallback="cpu").server)
    ended = command(
        run, bundle.path, "--self-test", "--engine", "triton", "--server", server.address, "--fallback", "cpu"
    )
    assert_refused(ended, 5, "no answer" if fault == "away" else "found the output")
    monkeypatch.setenv("CMDIAD_SERVER", server.address)
    monkeypatch.setenv("CMDIAD_SERVER_FALLBACK", "cpu")
    artefact = describe(bundle, None).artefact
    with pytest.raises(EngineError):
        prove(bundle.path, artefact, Proof(public_key=None, engine="triton"), SILENT)


# --- commands and station


@BOTH
def test_the_command_inspects_through_the_server(
    bundle: Bundle, server: KServeServer, data: Path, tmp_path: Path
) -> None:
    photo = sample_files(data, "test", "good", "rgb")[0]
    words = ("--engine", "triton", "--server", server.address, "--output", tmp_path / "results")
    ended = command(run, bundle.path, photo, *words)
    assert ended.code == 0, ended.err
    (line,) = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["engine"].startswith(f"triton 2.99.0 at {server.address}, model {bundle.name}")
    tested = command(run, bundle.path, "--self-test", *words[:4])
    assert "self-test passed" in tested.out
    assert "triton (a server): self-test passed" in command(info, bundle.path).out
    server.stop()
    assert_refused(command(run, bundle.path, photo, *words[:4]), 5, "no answer", "check server and network")
    assert command(run, bundle.path, photo, "--fallback", "cpu").code == 2


def test_a_recipe_of_the_station_takes_the_address_from_the_environment(
    bundle: Bundle, server: KServeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMDIAD_SERVER", server.address)
    monkeypatch.setenv("CMDIAD_SERVER_TIMEOUT", str(LIMIT_S))
    assert "passed on triton" in prove_bundle(bundle.path, "triton")
    monkeypatch.delenv("CMDIAD_SERVER")
    with pytest.raises(EngineError, match="needs the address of a server"):
        prove_bundle(bundle.path, "triton")


def test_the_station_opens_the_engine_again_after_a_restart(
    bundle: Bundle, server: KServeServer, name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An EngineError ends the inspection process; the next process must pass the self-test."""
    monkeypatch.setenv("CMDIAD_SERVER", server.address)
    monkeypatch.setenv("CMDIAD_SERVER_TIMEOUT", str(LIMIT_S))
    order = Load(
        recipe_id="gear",
        path=str(bundle.path),
        bundle_digest=manifest_hash(bundle.manifest),
        engine="triton",
        threshold=None,
        public_key="",
    )
    frames = [{"rgb": read_rgb(path)} for path in sample_files(data, "train", "good", "rgb")[:4]]
    with closing(open_detector(order)) as detector:
        assert detector.inspect(1, frames[0]).inspected
        assert detector.probe(1).passed
        server.stop()
        assert detector.inspect(2, frames[1]).reason == "no-answer"
        server.start(name)
        with pytest.raises(EngineError, match="loaded again"):
            detector.inspect(3, frames[2])
    with closing(open_detector(order)) as detector:
        assert detector.inspect(4, frames[3]).inspected


def test_auto_never_takes_a_server(bundle: Bundle, server: KServeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_SERVER", server.address)
    with closing(choose_engine(bundle, "auto").engine) as engine:
        assert engine.identity.startswith("onnxruntime")
    assert server.calls == []


def test_a_changed_threshold_needs_no_new_model(own_bundle: Path, tmp_path: Path) -> None:
    first = write_model(Bundle.open(own_bundle), tmp_path, Placement())
    set_threshold(own_bundle, 2 * Bundle.open(own_bundle).calibration.score_threshold)
    assert write_model(Bundle.open(own_bundle), tmp_path, Placement()).path == first.path
