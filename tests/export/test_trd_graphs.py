"""The graph of every variant of reverse distillation: operators, precision of the parts, certificate, engine."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from cmdiad_export.bundle_writer import certifier_of, write_bundle
from cmdiad_export.certified import Certifier
from cmdiad_export.graph.passes.name_by_module import module_of
from cmdiad_export.options import ExportOptions
from cmdiad_export.precision.levels import is_within
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.runs.run import load_run
from lanes import long, some

Fitted = Callable[..., Path]
VARIANTS = [("rd", "rgb"), ("rd", "both"), ("mtfi-rd", "rgb"), ("mtfi-trd", "xyz"), ("trd", "both")]
OPERATORS = {
    "Add",
    "AveragePool",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Div",
    "Gather",
    "MatMul",
    "MaxPool",
    "Mul",
    "ReduceMax",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
}
"""Operators that TensorRT 10, TensorRT 11, TensorRT-RTX and ONNX Runtime have."""


@functools.cache
def certifier(run: Path) -> Certifier:
    """A certifier of a run, which certifies the fp32 graph once for all precisions."""
    return certifier_of(load_run(run), ExportOptions(), SILENT)


@dataclass(frozen=True)
class Bundled:
    """A bundle of reverse distillation: its graph as it is stored, and its manifest."""

    graph: ir.Model
    manifest: dict[str, Any]


@functools.cache
def bundled(run: Path, precision: Precision) -> Bundled:
    """Return the bundle of a run. It is written once, all tests share it, and no test changes it."""
    bundle = run.with_name(f"{run.name}-graphs-{precision}.cmdiad")
    manifest = write_bundle(load_run(run), bundle, ExportOptions(precision), SILENT, certifier=certifier(run))
    return Bundled(ir.load(bundle / "graph.onnx"), manifest)


@pytest.mark.parametrize(
    ("variant", "modality", "precision"),
    some(
        [*((*variant, "fp16") for variant in VARIANTS), ("trd", "both", "fp32")],
        [("mtfi-trd", "xyz", "fp16")],
    ),
)
def test_graphs_consist_of_operators_that_every_engine_has(
    fitted: Fitted, variant: str, modality: str, precision: Precision
) -> None:
    model = bundled(fitted(variant, modality), precision).graph
    kinds = Counter(node.op_type for node in model.graph)
    assert set(kinds) <= OPERATORS
    tuned = variant in ("trd", "mtfi-trd")
    assert kinds["ConvTranspose"] == (12 if tuned else 6) * (2 if modality == "both" else 1)
    assert not any(value.dtype == ir.DataType.DOUBLE for value in model.graph.initializers.values())


def test_level_weights_are_constants(fitted: Fitted) -> None:
    model = bundled(fitted("mtfi-trd", "xyz"), "fp16").graph
    assert not any(node.op_type in ("Softmax", "Exp") for node in model.graph)


@pytest.mark.parametrize(("variant", "modality"), [("mtfi-trd", "xyz"), long("trd", "both")])
def test_sums_of_cosines_stay_fp32(fitted: Fitted, variant: str, modality: str) -> None:
    run = fitted(variant, modality)
    model = bundled(run, "fp16").graph
    sums = [node for node in model.graph if node.op_type in ("ReduceSum", "Sqrt")]
    # Of each branch and level the product, two squares and two roots; the sums over levels, and over branches.
    branches = 2 if modality == "both" else 1
    assert len(sums) == branches * (3 * 5 + 1) + 1
    for node in sums:
        assert {value.dtype for value in (node.inputs[0], *node.outputs) if value} == {ir.DataType.FLOAT}
    networks = load_run(run).detector.precision_parts().networks
    kernels = [node.inputs[1] for node in model.graph if node.op_type in ("Conv", "ConvTranspose")]
    assert {value.dtype for value in kernels if value} == {ir.DataType.FLOAT16}
    assert all(is_within(module_of(node), networks) for node in model.graph if "Conv" in node.op_type)


@pytest.mark.parametrize(
    ("variant", "modality", "precision"),
    [("mtfi-trd", "xyz", "fp16"), *(long("trd", "both", precision) for precision in ("fp16", "int8", "int8-cpu"))],
)
def test_a_reduced_graph_passes_its_certificate(
    fitted: Fitted, variant: str, modality: str, precision: Precision
) -> None:
    manifest = bundled(fitted(variant, modality), precision).manifest
    _, reduced = manifest["certificate"]["comparisons"]
    assert reduced["precision"] == precision
    assert reduced["passed"]
    assert reduced["map_max_share"] > 0
    tolerance = manifest["certificate"]["tolerances"][precision]
    assert tolerance["score"] == (0.02 if precision == "fp16" else 0.05)


@pytest.mark.long
def test_int8_cpu_multiplies_integers(fitted: Fitted, tmp_path: Path) -> None:
    bundle = tmp_path / "rd.cmdiad"
    manifest = write_bundle(load_run(fitted("rd", "rgb")), bundle, ExportOptions("int8-cpu"), SILENT)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(bundle / "graph.onnx", options, providers=["CPUExecutionProvider"])
    written, taken = (
        Counter(node.op_type for node in onnx.load(file).graph.node)
        for file in (bundle / "graph.onnx", tmp_path / "optimised.onnx")
    )
    kept = len(manifest["graph"]["fp32_islands"])
    assert taken["QLinearConv"] == written["Conv"] - kept > kept


@pytest.mark.rtx
@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_rtx_engine_is_built_without_a_gpu(fitted: Fitted, tmp_path: Path, precision: Precision) -> None:
    run, options = fitted("trd", "both"), ExportOptions(precision, target="rtx")
    manifest = write_bundle(load_run(run), tmp_path / "trd.cmdiad", options, SILENT, certifier=certifier(run))
    (engine,) = manifest["engines"]
    fingerprint = engine["fingerprint"]
    assert fingerprint["size_bytes"] > 0
    assert fingerprint["scratch_bytes"] > 0
    assert np.isfinite(fingerprint["size_bytes"])
