"""The graph of AST: operators, precision of the parts, certificate, engine."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.graph.passes.name_by_module import module_of
from cmdiad_export.options import ExportOptions
from cmdiad_export.precision.levels import is_within
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.runs.run import load_run
from lanes import long

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
CASES = [
    long(("rgb", {})),
    ("both", {}),
    long(("xyz", {"mode": "faithful", "geometry": "depth", "cell": 32, "size": 256})),
]


@dataclass(frozen=True)
class Exported:
    """A bundle of AST in fp16: its graph as it is stored, and its manifest."""

    graph: ir.Model
    manifest: dict[str, Any]


@pytest.fixture(scope="module", params=CASES, ids=["rgb", "both", "faithful"])
def exported_ast(
    request: pytest.FixtureRequest, trained_ast: Train, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    modality, changes = request.param
    bundle = tmp_path_factory.mktemp("bundles") / "ast.cmdiad"
    manifest = write_bundle(load_run(trained_ast(modality, **changes)), bundle, ExportOptions("fp16"), SILENT)
    return Exported(ir.load(bundle / "graph.onnx"), manifest)


def test_the_flow_stays_fp32_and_every_engine_has_the_operators(exported_ast: Exported) -> None:
    model = exported_ast.graph
    assert {node.op_type for node in model.graph} <= OPERATORS
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    kinds = Counter(
        (is_within(module_of(node), ("flow",)), node.inputs[1].dtype) for node in convolutions if node.inputs[1]
    )
    assert kinds[True, ir.DataType.FLOAT] == 16
    assert set(kinds) == {(True, ir.DataType.FLOAT), (False, ir.DataType.FLOAT16)}
    assert not any(value.dtype == ir.DataType.DOUBLE for value in model.graph.initializers.values())


def test_a_reduced_graph_passes_its_certificate(exported_ast: Exported) -> None:
    manifest = exported_ast.manifest
    single, reduced = manifest["certificate"]["comparisons"]
    assert (single["precision"], reduced["precision"]) == ("fp32", "fp16")
    assert single["passed"]
    assert reduced["passed"]
    assert manifest["recipe"]["family"] == "ast"


@pytest.mark.rtx
@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package")
def test_rtx_engine_is_built_without_a_gpu(trained_ast: Train, tmp_path: Path) -> None:
    options = ExportOptions("fp16", target="rtx")
    manifest = write_bundle(load_run(trained_ast("both")), tmp_path / "ast.cmdiad", options, SILENT)
    (engine,) = manifest["engines"]
    assert engine["fingerprint"]["size_bytes"] > 0
