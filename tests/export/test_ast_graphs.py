"""The graph of AST: operators, precision of the parts, certificate, engine."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.graph.exporter import graph_of
from cmdiad_export.graph.passes.name_by_module import module_of
from cmdiad_export.options import ExportOptions
from cmdiad_export.precision.casting import to_precision
from cmdiad_export.precision.levels import is_within
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.runs.run import load_run

Train = Callable[..., Path]
OPERATORS = {
    "Add",
    "Atan",
    "AveragePool",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "Div",
    "Exp",
    "Gather",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
}
"""Operators that TensorRT 10, TensorRT 11, TensorRT-RTX and ONNX Runtime have."""
CASES = [("rgb", {}), ("both", {}), ("xyz", {"mode": "faithful", "geometry": "depth", "cell": 32, "size": 256})]


def graph(run: Path, precision: Precision) -> ir.Model:
    opened = load_run(run)
    inputs = {name: opened.golden[0].inputs[name] for name in opened.detector.input_names}
    return graph_of(to_precision(opened.detector, precision), inputs)


@pytest.mark.parametrize(("modality", "changes"), CASES, ids=["rgb", "both", "faithful"])
def test_the_flow_stays_fp32_and_every_engine_has_the_operators(
    trained_ast: Train, modality: str, changes: dict[str, object]
) -> None:
    model = graph(trained_ast(modality, **changes), "fp16")
    assert {node.op_type for node in model.graph} <= OPERATORS
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    kinds = Counter(
        (is_within(module_of(node), ("flow",)), node.inputs[1].dtype) for node in convolutions if node.inputs[1]
    )
    assert kinds[True, ir.DataType.FLOAT] == 16
    assert set(kinds) == {(True, ir.DataType.FLOAT), (False, ir.DataType.FLOAT16)}
    assert not any(value.dtype == ir.DataType.DOUBLE for value in model.graph.initializers.values())


@pytest.mark.parametrize(("modality", "changes"), CASES, ids=["rgb", "both", "faithful"])
def test_a_reduced_graph_passes_its_certificate(
    trained_ast: Train, tmp_path: Path, modality: str, changes: dict[str, object]
) -> None:
    run = load_run(trained_ast(modality, **changes))
    manifest = write_bundle(run, tmp_path / "ast.cmdiad", ExportOptions("fp16"), SILENT)
    single, reduced = manifest["certificate"]["comparisons"]
    assert (single["precision"], reduced["precision"]) == ("fp32", "fp16")
    assert single["passed"]
    assert reduced["passed"]
    assert manifest["recipe"]["family"] == "ast"


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package")
def test_rtx_engine_is_built_without_a_gpu(trained_ast: Train, tmp_path: Path) -> None:
    options = ExportOptions("fp16", target="rtx")
    manifest = write_bundle(load_run(trained_ast("both")), tmp_path / "ast.cmdiad", options, SILENT)
    (engine,) = manifest["engines"]
    assert engine["fingerprint"]["size_bytes"] > 0
