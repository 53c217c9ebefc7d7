"""One contract for every engine: ONNX Runtime, TensorRT over doubles, a protocol-true server, and a GPU if any."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.engines import Engine, open_engine
from cmdiad_runtime.engines._tensorrt import SHAPES, padded_rows
from cmdiad_runtime.engines.building.builder import BuildRequest, build_engine
from cmdiad_runtime.engines.fingerprint import EngineFingerprint
from cmdiad_runtime.engines.tensorrt import open_tensorrt
from cmdiad_runtime.engines.tensorrt_rtx import open_tensorrt_rtx
from cmdiad_runtime.errors import BundleError, EngineError
from doubles import VERSIONS, FakeCuda, install
from graphs import cloud_expected as expected
from graphs import cloud_graph
from graphs import cloud_inputs as cloud

GROUPS, GRID = 6, 8
MOST = GRID**2 + 1
PROFILES = {"weights": ((2, GROUPS), (30, GROUPS), (MOST, GROUPS))}
DOUBLES = [f"double {version}" for version in VERSIONS]


@dataclass
class Kit:
    """Engines of one kind over one graph, and what they are made of."""

    graph: Path
    cuda: FakeCuda | None = None
    trt: Any = None
    library: Any = None

    @property
    def engine(self) -> Path:
        return self.graph.with_suffix(".engine")

    @property
    def graph_sha256(self) -> str:
        return hashlib.sha256(self.graph.read_bytes()).hexdigest()

    def build(self, capability: int) -> EngineFingerprint:
        request = BuildRequest(self.graph, self.library, "fp32", [capability], profiles=PROFILES)
        return build_engine(request, self.engine)

    def load(self, fingerprint: EngineFingerprint) -> Engine:
        opener = open_tensorrt if self.library == "tensorrt" else open_tensorrt_rtx
        return opener(self.engine, fingerprint, self.graph_sha256)


def install_double(version: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    cuda, trt = install(version, monkeypatch)
    return Kit(graph, cuda, trt, trt.__name__)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=VERSIONS)
def double(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    return install_double(request.param, cloud_graph(tmp_path / "graph.onnx"), monkeypatch)


def on_gpu(name: str, graph: Path) -> Engine:
    """An engine on the GPU of this machine; skips without one."""
    from cmdiad_runtime.engines._cuda import current_device, load_cuda

    try:
        device = current_device(load_cuda())
    except EngineError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    if name == "cuda":
        return open_engine(graph, "cuda")
    library = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}[name]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs the {library} package")
    kit = Kit(graph, library=library)
    try:
        return kit.load(kit.build(device.compute_capability))
    except EngineError as error:
        if "expected some of" in str(error):
            pytest.skip(f"{library} has no code for this GPU: {error}")
        raise


GPU = [pytest.param(f"gpu {name}", marks=pytest.mark.gpu) for name in ("cuda", "tensorrt", "rtx")]


@contextmanager
def on_server(graph: Path, way: str) -> Iterator[Engine]:
    """An engine on a server of the protocol; skips without the client."""
    pytest.importorskip("tritonclient.grpc", reason="talks to a server")
    from cmdiad_runtime.engines.server_options import ServerOptions
    from cmdiad_runtime.engines.triton import TritonEngine
    from kserve_server import kserve
    from patience import LIMIT_S
    from served import add_model

    model = add_model(graph.parent / "models", graph, cloud(3))
    with kserve(graph.parent / "models", model.name, protocol="http" if way == "http" else "grpc") as server:
        options = ServerOptions(address=server.address, timeout_s=LIMIT_S, shared_memory=way == "memory")
        yield TritonEngine.open(model, options)


@pytest.fixture(params=["cpu", "server messages", "server memory", "server http", *DOUBLES, *GPU])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    kind, _, detail = request.param.partition(" ")
    graph = cloud_graph(tmp_path / "graph.onnx")
    if kind == "server":
        with on_server(graph, detail) as opened:
            yield opened
            opened.close()
        return
    kit = None
    if kind == "cpu":
        opened = open_engine(graph, "cpu")
    elif kind == "gpu":
        opened = on_gpu(detail, graph)
    else:
        kit = install_double(detail, graph, monkeypatch)
        opened = kit.load(kit.build(86))
    yield opened
    opened.close()
    if kit is not None and kit.cuda is not None:
        kit.cuda.assert_all_freed()


# --- the contract


@pytest.mark.parametrize("rows", [2, 9, 10, 37, MOST])
def test_results_are_right_and_repeat(engine: Engine, rows: int) -> None:
    for seed in (0, 0, 1):
        inputs = cloud(rows, seed)
        outputs = engine.run(inputs)
        assert {name: (each.dtype, each.shape) for name, each in outputs.items()} == {
            "score": (np.float32, (1,)),
            "map": (np.float32, (GRID, GRID)),
        }
        for name, wanted in expected(inputs).items():
            np.testing.assert_allclose(outputs[name], wanted, rtol=1e-5, atol=1e-5)


def test_row_counts_may_alternate(engine: Engine) -> None:
    """A smaller cloud after a larger one must see nothing of it."""
    for rows in (MOST, 2, 40, 3, MOST, 40, 2, 11):
        inputs = cloud(rows)
        np.testing.assert_allclose(engine.run(inputs)["map"], expected(inputs)["map"], rtol=1e-5, atol=1e-5)


def test_outputs_are_the_callers_own(engine: Engine) -> None:
    first = engine.run(cloud(12))
    kept = {name: value.copy() for name, value in first.items()}
    second = engine.run(cloud(12, seed=5))
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)
        assert not np.shares_memory(first[name], second[name])
    first["map"][:] = 0
    assert np.any(engine.run(cloud(12))["map"])


def test_inputs_are_left_alone_and_need_not_be_contiguous(engine: Engine) -> None:
    inputs = cloud(20)
    inputs["weights"] = np.asfortranarray(inputs["weights"])
    before = {name: value.copy() for name, value in inputs.items()}
    outputs = engine.run(inputs)
    np.testing.assert_allclose(outputs["map"], expected(before)["map"], rtol=1e-5, atol=1e-5)
    for name, value in inputs.items():
        np.testing.assert_array_equal(value, before[name])


WRONG: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "an input is missing": lambda inputs: {"weights": inputs["weights"]},
    "an input too many": lambda inputs: {**inputs, "rgb": np.zeros((1, 2, 2, 3), np.uint8)},
    "another type": lambda inputs: {**inputs, "weights": inputs["weights"].astype(np.float64)},
    "another integer": lambda inputs: {**inputs, "cells": inputs["cells"].astype(np.int32)},
    "another number of cells": lambda inputs: {**inputs, "cells": inputs["cells"][:-1]},
    "another number of groups": lambda inputs: {**inputs, "weights": inputs["weights"][:, :-1]},
    "a dimension less": lambda inputs: {**inputs, "weights": inputs["weights"][0]},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_refused_and_the_engine_stays_usable(engine: Engine, case: str) -> None:
    inputs = cloud(14)
    with pytest.raises(EngineError):
        engine.run(WRONG[case](inputs))
    np.testing.assert_allclose(engine.run(inputs)["map"], expected(inputs)["map"], rtol=1e-5, atol=1e-5)


def test_a_closed_engine_says_so(engine: Engine) -> None:
    engine.run(cloud(5))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="found a closed engine"):
        engine.run(cloud(5))


def test_an_engine_says_what_it_is(engine: Engine) -> None:
    engine.run(cloud(5))
    assert engine.description.startswith(engine.identity)
    assert any(character.isdigit() for character in engine.identity)


# --- what the doubles let one see


@pytest.mark.parametrize("rows", [0, 1, MOST + 1])
def test_rows_outside_the_profile_are_refused(double: Kit, rows: int) -> None:
    opened = double.load(double.build(86))
    with pytest.raises(EngineError, match=rf"found weights float32 \[{rows}, 6\].*2-{MOST}"):
        opened.run({**cloud(5), "weights": np.zeros((rows, GROUPS), np.float32)})
    opened.close()


def test_few_shapes_and_each_is_captured_once(double: Kit) -> None:
    assert double.cuda is not None
    opened = double.load(double.build(86))
    for rows in range(2, MOST + 1):
        opened.run(cloud(rows))
    executed = double.cuda.calls.count("execute")
    assert len({padded_rows(rows, MOST) for rows in range(2, MOST + 1)}) <= SHAPES
    if double.library == "tensorrt":  # a warm-up and a capture for each shape; results come from graphs alone
        assert executed == 2 * SHAPES
        assert double.cuda.calls.count("graph") == MOST - 1
        assert opened.description.endswith(", CUDA graph")
    else:  # the library captures by itself
        assert executed == SHAPES + MOST - 1
        assert opened.description.endswith(", the library's CUDA graphs")
    opened.close()
    double.cuda.assert_all_freed()


@pytest.mark.parametrize("rows", [1, 2, 9, 10, 64, 65, 3137])
@pytest.mark.parametrize("largest", [65, 197, 785, 3137])
def test_filling_up_holds_the_rows(rows: int, largest: int) -> None:
    rows = min(rows, largest)
    assert rows <= padded_rows(rows, largest) <= min(rows + -(-largest // SHAPES), largest)


def test_an_engine_that_cannot_be_captured_runs_plainly(double: Kit) -> None:
    assert double.cuda is not None
    double.cuda.capturing_allowed = False
    opened = double.load(double.build(86))
    for _ in range(3):
        inputs = cloud(10)
        np.testing.assert_allclose(opened.run(inputs)["map"], expected(inputs)["map"], rtol=1e-5, atol=1e-5)
    if double.library == "tensorrt":
        assert opened.description.endswith(", plain launches")
        assert "graph" not in double.cuda.calls
    opened.close()
    double.cuda.assert_all_freed()


def test_too_little_memory_is_named_and_given_back(double: Kit) -> None:
    assert double.cuda is not None
    fingerprint = double.build(86)
    double.cuda.memory_limit = 5000
    with pytest.raises(EngineError, match=r"cudaMalloc: found cudaErrorMemoryAllocation \(out of memory\)"):
        double.load(fingerprint)
    double.cuda.assert_all_freed()


def test_a_file_that_is_no_engine_gives_the_librarys_reason(double: Kit) -> None:
    assert double.cuda is not None
    content = b"not an engine"
    fingerprint = double.build(86)
    double.engine.write_bytes(content)
    label = replace(fingerprint, engine_sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    with pytest.raises(EngineError, match=r"graph\.engine: found Serialization assertion magicTag failed. Expected an"):
        double.load(label)
    double.cuda.assert_all_freed()


def test_a_changed_file_is_refused(double: Kit) -> None:
    fingerprint = double.build(86)
    double.engine.write_bytes(double.engine.read_bytes() + b" ")
    with pytest.raises(BundleError, match="bytes"):
        double.load(fingerprint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"library_version": "9.9"}, "built with {library} 9.9 and this is {library} {version}"),
        ({"compute_capabilities": (89,)}, "built for compute capability 8.9 and this device has 8.6"),
        ({"graph_sha256": "0" * 64}, "built from graph 000000000000…"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused(double: Kit, change: dict[str, Any], words: str) -> None:
    fingerprint = replace(double.build(86), **change)
    with pytest.raises(EngineError) as refused:
        double.load(fingerprint)
    assert words.format(library=double.library, version=double.trt.__version__) in refused.value.found
    assert "cmdiad-build" in refused.value.action


def test_compiled_kernels_are_kept_for_the_next_start(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = install_double(VERSIONS[-1], cloud_graph(tmp_path / "graph.onnx"), monkeypatch)
    fingerprint = kit.build(86)
    for times in (1, 2):
        opened = kit.load(fingerprint)
        opened.run(cloud(3))
        opened.close()
        (kernels,) = (cache / "tensorrt-rtx").iterdir()
        assert kernels.read_bytes() == b"compiled" * times


def test_a_cache_that_cannot_be_written_costs_nothing(double: Kit, cache: Path) -> None:
    (cache).mkdir(exist_ok=True)
    for name in ("tensorrt", "tensorrt-rtx"):
        (cache / name).write_text("in the way")
    opened = double.load(double.build(86))
    assert np.any(opened.run(cloud(3))["map"])
    opened.close()


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_a_missing_library_names_the_command(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    extra = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}[library]
    kit = Kit(cloud_graph(tmp_path / "graph.onnx"), library=library)
    with pytest.raises(EngineError, match=rf'Run: pip install "cmdiad\[{extra}\]"'):
        kit.build(86)


def test_missing_cuda_bindings_name_the_command(double: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = double.build(86)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match='pip install "cuda-bindings'):
        double.load(fingerprint)


def test_an_old_library_is_refused(double: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flags:
        EXPLICIT_BATCH = 0

    monkeypatch.setattr(double.trt, "NetworkDefinitionCreationFlag", Flags)
    with pytest.raises(EngineError, match="without strongly typed networks"):
        double.build(86)
