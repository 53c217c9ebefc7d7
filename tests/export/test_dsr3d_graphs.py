"""Export of 3DSR: the operators of its graph, the precision of its parts, and its certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.options import ExportOptions
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.runs.run import load_run

Train = Callable[..., Path]
OPERATORS = {
    "Add",
    "ArgMax",
    "AveragePool",
    "Cast",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Div",
    "Gather",
    "GatherND",
    "InstanceNormalization",
    "MatMul",
    "MaxPool",
    "Relu",
    "ReduceMax",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Sub",
    "Transpose",
    "Unsqueeze",
}
"""Operators that TensorRT 10, TensorRT 11, TensorRT-RTX and ONNX Runtime have."""


@pytest.mark.long
def test_searches_stay_fp32_and_every_engine_has_the_operators(trained_dsr3d: Train, tmp_path: Path) -> None:
    bundle = tmp_path / "dsr3d.cmdiad"
    manifest = write_bundle(load_run(trained_dsr3d("both")), bundle, ExportOptions("fp16"), SILENT)
    comparisons = manifest["certificate"]["comparisons"]
    assert [(one["precision"], one["passed"]) for one in comparisons] == [("fp32", True), ("fp16", True)]
    assert manifest["recipe"]["family"] == "dsr3d"
    model = ir.load(bundle / "graph.onnx")
    assert {node.op_type for node in model.graph} <= OPERATORS
    kinds = Counter(
        node.inputs[1].dtype
        for node in model.graph
        if node.op_type in ("Conv", "ConvTranspose") and node.inputs[1] is not None
    )
    general, drawing, comparing, encoding, restricting, enlarging = 9, 14, 18, 17, 26, 2
    assert kinds[ir.DataType.FLOAT16] == general + drawing + comparing
    assert kinds[ir.DataType.FLOAT] == encoding + restricting + enlarging
    searches = [node for node in model.graph if node.op_type in ("MatMul", "InstanceNormalization")]
    assert len(searches) == 4 + 45
    assert all(value.dtype == ir.DataType.FLOAT for node in searches for value in node.inputs if value)
    assert not any(value.dtype == ir.DataType.DOUBLE for value in model.graph.initializers.values())
