"""Engines built from graphs made here by TensorRT-RTX itself, and what graph authors may rely on. No GPU is needed."""

import dataclasses
import hashlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.engines._library import log_of
from cmdiad_runtime.engines.building.builder import AHEAD_OF_TIME, OPTIONAL, BuildRequest, ahead_of_time, build_engine
from cmdiad_runtime.engines.fingerprint import EngineFingerprint
from cmdiad_runtime.errors import BundleError, EngineError, OutputError
from cmdiad_runtime.support.reporter import SILENT, Reporter
from graphs import FLOAT, HALF, INT32, INT64, UINT8, detector_graph, dynamic_graph, node, noise, write_graph
from helpers import RecordingReporter

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package"
)
pytestmark = [pytest.mark.rtx]

PROFILES = {"weights": ((1, 64), (900, 64), (3136, 64))}


def build(graph: Path, *, reporter: Reporter = SILENT, **options: Any) -> EngineFingerprint:
    defaults: dict[str, Any] = {"precision": "fp32", "compute_capabilities": (86, 89, 120)}
    request = BuildRequest(graph, "tensorrt_rtx", **{**defaults, **options})
    return build_engine(request, graph.with_suffix(".engine"), reporter)


class ActingReporter(RecordingReporter):
    """A reporter that calls a function with the fraction done."""

    def __init__(self, act: Callable[[float], None]) -> None:
        super().__init__()
        self.act = act

    def step(self, name: str, done: int, total: int) -> None:
        self.act(done / total)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return detector_graph(tmp_path / "detector.onnx")


# --- what is built


@needs_rtx
def test_an_engine_and_its_fingerprint(detector: Path) -> None:
    fingerprint = build(detector, precision="fp16")
    engine = detector.with_suffix(".engine")
    fingerprint.check_file(engine)
    assert engine.stat().st_size == fingerprint.size_bytes > 0
    assert fingerprint.graph_sha256 == hashlib.sha256(detector.read_bytes()).hexdigest()
    assert fingerprint.compute_capabilities == (86, 89, 120)
    assert fingerprint.precision == "fp16"
    assert not fingerprint.certified
    assert EngineFingerprint.from_json(fingerprint.to_json()) == fingerprint
    assert names_in(detector.parent) == ["detector.engine", "detector.onnx"]


@needs_rtx
def test_sizes_come_from_the_build_log(detector: Path) -> None:
    fingerprint = build(detector, precision="fp16")
    bank_bytes = 512 * 64 * (4 + 2)
    assert fingerprint.weights_bytes is not None
    assert bank_bytes < fingerprint.weights_bytes < fingerprint.size_bytes
    assert fingerprint.scratch_bytes is not None
    assert fingerprint.scratch_bytes > 0
    assert fingerprint.layers is not None
    assert fingerprint.layers > 0


@needs_rtx
def test_two_builds_of_one_output_are_identical(tmp_path: Path) -> None:
    graph = dynamic_graph(tmp_path / "xyz.onnx")
    first = build(graph, profiles=PROFILES)
    content = graph.with_suffix(".engine").read_bytes()
    assert build(graph, profiles=PROFILES) == first
    assert graph.with_suffix(".engine").read_bytes() == content


@needs_rtx
def test_two_builds_of_two_outputs_hold_the_same_bytes(detector: Path) -> None:
    """The library writes its table of outputs in either order (1 build in 7), so only that may differ."""
    first = build(detector, precision="fp16")
    content = detector.with_suffix(".engine").read_bytes()
    second = build(detector, precision="fp16")
    assert dataclasses.replace(second, engine_sha256=first.engine_sha256) == first
    assert sorted(detector.with_suffix(".engine").read_bytes()) == sorted(content)


@needs_rtx
def test_a_flipped_byte_is_found(detector: Path) -> None:
    fingerprint = build(detector, precision="fp16")
    engine = detector.with_suffix(".engine")
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        fingerprint.check_file(engine)


@needs_rtx
def test_targets_are_sorted_and_taken_once(detector: Path) -> None:
    assert build(detector, compute_capabilities=[120, 86, 120]).compute_capabilities == (86, 120)


@needs_rtx
@pytest.mark.parametrize("cell_type", [INT32, INT64])
def test_a_dynamic_axis_with_a_profile(tmp_path: Path, cell_type: int) -> None:
    graph = dynamic_graph(tmp_path / "xyz.onnx", cell_type)
    small = build(graph, profiles={"weights": ((1, 64), (10, 64), (20, 64))})
    large = build(graph, profiles=PROFILES)
    assert small.scratch_bytes is not None
    assert large.scratch_bytes is not None
    assert small.scratch_bytes < large.scratch_bytes


@needs_rtx
def test_nothing_is_printed(detector: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(detector)
    with pytest.raises(EngineError):
        build(detector, profiles=PROFILES)
    assert capfd.readouterr() == ("", "")


# --- what is refused


@needs_rtx
def test_a_broken_graph_is_named(tmp_path: Path) -> None:
    graph = tmp_path / "broken.onnx"
    graph.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"broken\.onnx: found .*Failed to parse the ONNX model"):
        build(graph)
    assert names_in(tmp_path) == ["broken.onnx"]


@needs_rtx
def test_an_empty_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(EngineError, match=r"empty\.onnx: found an empty file"):
        build(tmp_path / "empty.onnx")


@needs_rtx
def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"none\.onnx: found No such file"):
        build(tmp_path / "none.onnx")


@needs_rtx
def test_a_bad_node_is_named_with_its_reason(tmp_path: Path) -> None:
    graph = write_graph(
        tmp_path / "bad.onnx",
        [node("MatMul", ["a", "b"], ["y"], name="search/MatMul")],
        [("a", FLOAT, [4, 5]), ("b", FLOAT, [6, 7])],
        [("y", FLOAT, [4, 7])],
    )
    with pytest.raises(EngineError) as caught:
        build(graph)
    message = str(caught.value)
    assert message.startswith(f"{graph}: found node 0 'search/MatMul' (MatMul): ")
    assert "last dimension of input0 = 5" in message
    assert "cuda" not in message.lower()
    assert "/_src/" not in message


@needs_rtx
def test_weights_outside_the_graph_are_refused(tmp_path: Path) -> None:
    graph = dynamic_graph(tmp_path / "inside.onnx")
    outside = tmp_path / "outside.onnx"
    import onnx

    onnx.save(onnx.load(graph), outside, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(EngineError, match="not as external data"):
        build(outside, profiles=PROFILES)


@needs_rtx
@pytest.mark.parametrize("profiles", [{}, {**PROFILES, "cells": ((1,), (1,), (1,))}, {"typo": ((1,),) * 3}])
def test_profiles_must_be_for_the_dynamic_inputs(tmp_path: Path, profiles: Any) -> None:
    with pytest.raises(EngineError, match="Expected profiles for weights, the inputs with a dynamic axis"):
        build(dynamic_graph(tmp_path / "xyz.onnx"), profiles=profiles)


@needs_rtx
@pytest.mark.parametrize("shapes", [((9, 64), (5, 64), (20, 64)), ((1, 63), (5, 63), (20, 63)), ((1,), (5,), (20,))])
def test_impossible_profiles_are_refused(tmp_path: Path, shapes: Any) -> None:
    with pytest.raises(EngineError, match=r"xyz\.onnx: found .*weights"):
        build(dynamic_graph(tmp_path / "xyz.onnx"), profiles={"weights": shapes})


@needs_rtx
def test_fp8_is_for_ada_and_later() -> None:
    assert ahead_of_time("fp8") == (89, 120)
    for precision in ("fp32", "fp16", "int8"):
        assert ahead_of_time(precision) == AHEAD_OF_TIME


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_graph_without_the_type_is_refused(tmp_path: Path, precision: str) -> None:
    graph = dynamic_graph(tmp_path / "xyz.onnx")
    with pytest.raises(EngineError, match=f"no {precision} tensor.*Export an {precision} graph"):
        build(graph, precision=precision, profiles=PROFILES)


def test_an_unknown_precision_is_refused(detector: Path) -> None:
    with pytest.raises(EngineError, match="precision: found 'int4'. Expected fp32 or fp16 or int8 or fp8"):
        build(detector, precision="int4")


@needs_rtx
@pytest.mark.parametrize(("targets", "found"), [([], "none"), ([86, 87], "87"), ([90], "90")])
def test_unknown_targets_are_refused(detector: Path, targets: list[int], found: str) -> None:
    with pytest.raises(EngineError, match=f"found {found}. Expected some of 75, 80, 86, 89, 120, 121"):
        build(detector, compute_capabilities=targets)


@needs_rtx
def test_turing_refuses_fp32_products_and_says_what_to_do(tmp_path: Path) -> None:
    graph = dynamic_graph(tmp_path / "xyz.onnx")
    with pytest.raises(EngineError, match=r"FP32 GEMM.*Leave compute capability 75 \(Turing\) out"):
        build(graph, compute_capabilities=[75, 86], profiles=PROFILES)


@needs_rtx
def test_turing_is_left_out_with_a_note_where_the_graph_does_not_allow_it(tmp_path: Path) -> None:
    graph = dynamic_graph(tmp_path / "xyz.onnx")
    fingerprint = build(graph, compute_capabilities=AHEAD_OF_TIME, optional=OPTIONAL, profiles=PROFILES)
    assert fingerprint.compute_capabilities == (86, 89, 120)
    assert "7.5 left out: " in fingerprint.note
    assert "FP32 GEMM" in fingerprint.note
    fingerprint.check_file(graph.with_suffix(".engine"))


@needs_rtx
def test_turing_is_taken_where_the_graph_allows_it(tmp_path: Path) -> None:
    graph = write_graph(
        tmp_path / "half.onnx",
        [node("MatMul", ["x", "w"], ["y"])],
        [("x", HALF, [16, 32])],
        [("y", HALF, [16, 8])],
        w=noise(32, 8).astype(np.float16),
    )
    fingerprint = build(graph, compute_capabilities=AHEAD_OF_TIME, optional=OPTIONAL, precision="fp16")
    assert fingerprint.compute_capabilities == (75, 86, 89, 120)
    assert fingerprint.note == ""


@needs_rtx
def test_only_optional_targets_are_left_out(tmp_path: Path) -> None:
    graph = dynamic_graph(tmp_path / "xyz.onnx")
    with pytest.raises(EngineError, match="FP32 GEMM"):
        build(graph, compute_capabilities=[75], optional=OPTIONAL, profiles=PROFILES)
    assert names_in(tmp_path) == ["xyz.onnx"]


@needs_rtx
def test_an_unwritable_folder(detector: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        build_engine(BuildRequest(detector, "tensorrt_rtx", "fp32", [86]), detector.parent / "nowhere" / "engine")


def test_a_missing_library_names_the_pip_command(detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r'Run: pip install "cmdiad\[rtx\]"'):
        build(detector)


# --- progress and interruption


@needs_rtx
def test_progress_never_falls_and_ends_at_one(detector: Path) -> None:
    reporter = RecordingReporter()
    build(detector, reporter=reporter)
    fractions = [done / total for _, done, total in reporter.steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert len(set(fractions)) > 5


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@needs_rtx
@pytest.mark.parametrize("interrupt", [raise_interrupt, press_ctrl_c])
@pytest.mark.parametrize("at", [0.0, 0.3, 1.0])
def test_interruption_leaves_nothing(
    detector: Path, capfd: pytest.CaptureFixture[str], interrupt: Callable[[], None], at: float
) -> None:
    calls_after = 0

    def progress(fraction: float) -> None:
        nonlocal calls_after
        calls_after += 1 if fraction >= at else 0
        if fraction >= at:
            interrupt()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(detector, reporter=ActingReporter(progress))
    assert calls_after == 1
    assert names_in(detector.parent) == ["detector.onnx"]
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr() == ("", "")


@needs_rtx
def test_interruption_cancels_the_build_early(detector: Path) -> None:
    def progress(fraction: float) -> None:
        if fraction > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(detector, reporter=ActingReporter(progress))
    assert any("BuildCanceled" in error for error in log_of("tensorrt_rtx").errors)


@needs_rtx
def test_ctrl_c_never_raises_inside_a_callback(detector: Path) -> None:
    returned = False

    def progress(_fraction: float) -> None:
        nonlocal returned
        press_ctrl_c()
        returned = True

    with pytest.raises(KeyboardInterrupt):
        build(detector, reporter=ActingReporter(progress))
    assert returned


@needs_rtx
def test_an_interrupted_build_keeps_the_older_engine(detector: Path) -> None:
    engine = detector.with_suffix(".engine")
    engine.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        build(detector, reporter=ActingReporter(lambda _: raise_interrupt()))
    assert engine.read_bytes() == b"older"
    assert build(detector)
    assert engine.read_bytes() != b"older"


@needs_rtx
def test_a_failing_callback_fails_the_build(detector: Path) -> None:
    def progress(_fraction: float) -> None:
        raise ValueError("no terminal")

    with pytest.raises(ValueError, match="no terminal"):
        build(detector, reporter=ActingReporter(progress))
    assert names_in(detector.parent) == ["detector.onnx"]


@needs_rtx
def test_building_outside_the_main_thread(detector: Path) -> None:
    built: list[EngineFingerprint] = []
    thread = threading.Thread(target=lambda: built.append(build(detector)))
    thread.start()
    thread.join()
    built[0].check_file(detector.with_suffix(".engine"))


# --- what graph authors may rely on

F32, F16 = np.float32, np.float16
IMAGE = ("x", FLOAT, [1, 16, 28, 28])
SAME_IMAGE = ("y", FLOAT, [1, 16, 28, 28])
TOKENS, SAME_TOKENS = ("x", FLOAT, [1, 50, 32]), ("y", FLOAT, [1, 50, 32])
TOKENS16, SAME_TOKENS16 = ("x", HALF, [1, 50, 32]), ("y", HALF, [1, 50, 32])
HALF_PIXEL = {"coordinate_transformation_mode": "half_pixel"}

TAKEN: dict[str, dict[str, Any]] = {
    "uint8 cast straight to fp16": {
        "nodes": [node("Cast", ["x"], ["y"], to=HALF)],
        "inputs": [("x", UINT8, [1, 8, 8, 3])],
        "outputs": [("y", HALF, [1, 8, 8, 3])],
    },
    "ArgMax of [1, n]": {
        "nodes": [node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)],
        "inputs": [("x", FLOAT, [1, 784])],
        "outputs": [("y", INT64, [1])],
    },
    "TopK largest and smallest": {
        "nodes": [
            node("TopK", ["x", "k"], ["small", "i"], axis=1, largest=0),
            node("TopK", ["x", "k"], ["large", "j"], axis=1, largest=1),
        ],
        "inputs": [("x", HALF, [49, 500])],
        "outputs": [("i", INT64, [49, 4]), ("j", INT64, [49, 4])],
        "k": np.array([4]),
    },
    "softmax as an fp32 island": {
        "nodes": [
            node("Cast", ["x"], ["wide"], to=FLOAT),
            node("Softmax", ["wide"], ["soft"], axis=-1),
            node("Cast", ["soft"], ["y"], to=HALF),
        ],
        "inputs": [TOKENS16],
        "outputs": [SAME_TOKENS16],
    },
    "LayerNormalization fp32": {
        "nodes": [node("LayerNormalization", ["x", "scale", "bias"], ["y"], axis=-1)],
        "inputs": [TOKENS],
        "outputs": [SAME_TOKENS],
        "scale": noise(32),
        "bias": noise(32),
    },
    "LayerNormalization fp16": {
        "nodes": [node("LayerNormalization", ["x", "scale", "bias"], ["y"], axis=-1, stash_type=1)],
        "inputs": [TOKENS16],
        "outputs": [SAME_TOKENS16],
        "scale": noise(32).astype(F16),
        "bias": noise(32).astype(F16),
    },
    "Erf": {"nodes": [node("Erf", ["x"], ["y"])], "inputs": [TOKENS16], "outputs": [SAME_TOKENS16]},
    "Gelu of opset 20": {
        "nodes": [node("Gelu", ["x"], ["y"])],
        "inputs": [TOKENS16],
        "outputs": [SAME_TOKENS16],
        "opset": 20,
    },
    "Slice and Expand": {
        "nodes": [node("Slice", ["x", "one", "end", "one"], ["s"]), node("Expand", ["s", "shape"], ["y"])],
        "inputs": [TOKENS],
        "outputs": [("y", FLOAT, [4, 49, 32])],
        "one": np.array([1]),
        "end": np.array([50]),
        "shape": np.array([4, 49, 32]),
    },
    "ReduceMax": {
        "nodes": [node("ReduceMax", ["x", "axis"], ["y"], keepdims=0)],
        "inputs": [TOKENS],
        "outputs": [("y", FLOAT, [1, 32])],
        "axis": np.array([1]),
    },
    "grouped Conv": {
        "nodes": [node("Conv", ["x", "w"], ["y"], group=4, pads=[1, 1, 1, 1])],
        "inputs": [IMAGE],
        "outputs": [SAME_IMAGE],
        "w": noise(16, 4, 3, 3),
    },
    "BatchNormalization": {
        "nodes": [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        "inputs": [("x", FLOAT, [8, 16, 32])],
        "outputs": [("y", FLOAT, [8, 16, 32])],
        **{name: np.ones(16, F32) for name in "sbmv"},
    },
    "Resize linear": {
        "nodes": [node("Resize", ["x", "", "", "size"], ["y"], mode="linear", **HALF_PIXEL)],
        "inputs": [IMAGE],
        "outputs": [("y", FLOAT, [1, 16, 224, 224])],
        "size": np.array([1, 16, 224, 224]),
    },
    "Pad edge": {
        "nodes": [node("Pad", ["x", "pads"], ["y"], mode="edge")],
        "inputs": [IMAGE],
        "outputs": [("y", FLOAT, [1, 16, 60, 60])],
        "pads": np.array([0, 0, 16, 16, 0, 0, 16, 16]),
    },
    "AveragePool": {
        "nodes": [
            node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
            node("AveragePool", ["x"], ["z"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=0),
        ],
        "inputs": [IMAGE],
        "outputs": [SAME_IMAGE, ("z", FLOAT, [1, 16, 28, 28])],
    },
}


@needs_rtx
@pytest.mark.parametrize("case", TAKEN)
def test_these_operators_are_taken(tmp_path: Path, case: str) -> None:
    assert build(write_graph(tmp_path / "case.onnx", **TAKEN[case])).size_bytes > 0


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "uint8 used before its cast": (
        "make a Cast to float32 or float16 the only user",
        {
            "nodes": [
                node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
                node("Cast", ["t"], ["y"], to=FLOAT),
            ],
            "inputs": [("x", UINT8, [1, 8, 8, 3])],
            "outputs": [("y", FLOAT, [1, 3, 8, 8])],
        },
    ),
    "ArgMax of [n]": (
        "reshape the input of that node",
        {
            "nodes": [node("ArgMax", ["x"], ["y"], axis=0, keepdims=0)],
            "inputs": [("x", FLOAT, [784])],
            "outputs": [("y", INT64, [])],
        },
    ),
    "MatMul of two types": (
        "cast both operands",
        {
            "nodes": [node("MatMul", ["x", "w"], ["y"])],
            "inputs": [TOKENS],
            "outputs": [SAME_TOKENS],
            "w": noise(32, 32).astype(F16),
        },
    ),
    "Resize with antialiasing": (
        "resize with antialiasing before the graph",
        {
            "nodes": [node("Resize", ["x", "", "", "size"], ["y"], mode="linear", antialias=1)],
            "inputs": [IMAGE],
            "outputs": [("y", FLOAT, [1, 16, 14, 14])],
            "size": np.array([1, 16, 14, 14]),
        },
    ),
    "TopK of too many": (
        "TopK takes at most 3840",
        {
            "nodes": [node("TopK", ["x", "k"], ["y", "i"], axis=1)],
            "inputs": [("x", FLOAT, [2, 4000])],
            "outputs": [("y", FLOAT, [2, 3841])],
            "k": np.array([3841]),
        },
    ),
}


@needs_rtx
@pytest.mark.parametrize("case", REFUSED)
def test_these_are_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    remedy, graph = REFUSED[case]
    with pytest.raises(EngineError, match=r"case\.onnx: found ") as caught:
        build(write_graph(tmp_path / "case.onnx", **graph))
    assert remedy in caught.value.action
