"""Products that share int8 weights: each gets a separate copy, which processors without VNNI store as uint8."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cmdiad_export.precision.convolutions import arrays_of, quantise_convolutions
from cmdiad_export.precision.own_weights import OwnWeights
from cmdiad_export.precision.products import products, value_ranges
from cmdiad_export.precision.quantise import quantise
from cmdiad_export.precision.rowwise import quantise_rows

KINDS = ("int8", "convolutions of int8-cpu", "rows of int8-cpu")


def shared_network(kind: str) -> ir.Model:
    """`a` and `b` through one network of two products each; both results are outputs."""
    random = np.random.default_rng(0)
    rows = kind == "rows of int8-cpu"
    operator, shape = ("MatMul", [5, 16]) if rows else ("Conv", [1, 16, 5, 5])
    weights = [random.normal(size=(16, 16) if rows else (16, 16, 1, 1)).astype(np.float32) for _ in range(2)]
    nodes = [
        helper.make_node(operator, [f"{before}{name}", f"w{layer}"], [f"{after}{name}"], f"network.{layer}/{name}")
        for name in "ab"
        for layer, before, after in ((0, "", "h"), (1, "h", "y"))
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{end}{name}", TensorProto.FLOAT, shape) for name in "ab"] for end in ("", "y")
    )
    stored = [numpy_helper.from_array(weight, f"w{layer}") for layer, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "shared", inputs, outputs, stored)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def samples(shape: list[int]) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{name: random.normal(size=shape).astype(np.float32) for name in "ab"} for _ in range(3)]


def quantised(kind: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return the shared network, quantised in a way of KINDS, and one sample of its inputs."""
    model = shared_network(kind)
    chosen = products(model, ("network",))
    data = samples([int(size) for size in model.graph.inputs[0].shape])  # type: ignore[union-attr, arg-type]
    if kind == "rows of int8-cpu":
        return quantise_rows(model, chosen), data[0]
    if kind == "int8":
        return quantise(model, value_ranges(model, [p.operand for p in chosen], data), "int8", chosen), data[0]
    ranges = value_ranges(model, arrays_of(model, chosen), data)
    return quantise_convolutions(model, ranges, chosen, ("network",)), data[0]


def readers(model: onnx.ModelProto) -> Counter[str]:
    """Return the number of products that read each int8 constant, also through a DequantizeLinear."""
    int8 = {stored.name for stored in model.graph.initializer if stored.data_type == TensorProto.INT8}
    uses = Counter(name for node in model.graph.node for name in node.input)
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        for name in int8.intersection(node.input):
            counts[name] += uses[node.output[0]] if node.op_type == "DequantizeLinear" else 1
    return counts


def run(model: onnx.ModelProto, sample: dict[str, np.ndarray], *, exact: bool) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    else:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["ya", "yb"], sample)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_products_share_int8_weights(kind: str) -> None:
    model, _ = quantised(kind)
    assert max(readers(ir.to_proto(model)).values()) > 1, "the test needs a graph that shares weights"
    assert OwnWeights()(model).modified
    written = ir.to_proto(model)
    onnx.checker.check_model(written, full_check=True)
    assert set(readers(written).values()) == {1}
    assert len(readers(written)) >= 4
    assert not OwnWeights()(model).modified


@pytest.mark.parametrize("kind", ["int8", "convolutions of int8-cpu"])
def test_the_copies_change_no_result(kind: str) -> None:
    """Without optimisations, ONNX Runtime restores fp32 and multiplies it: exact on every processor."""
    model, sample = quantised(kind)
    before = run(ir.to_proto(model), sample, exact=False)
    OwnWeights()(model)
    for old, new in zip(before, run(ir.to_proto(model), sample, exact=False), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_opens_and_is_exact_without_vnni(kind: str) -> None:
    """On processors with VNNI the option of ONNX Runtime changes nothing, because sums are exact there without it.

    The reference is fp32. Two quantised products in a row may change a result by 5 % of the largest result.
    """
    model, sample = quantised(kind)
    exact = run(ir.to_proto(shared_network(kind)), sample, exact=False)
    OwnWeights()(model)
    for value, reference in zip(run(ir.to_proto(model), sample, exact=True), exact, strict=True):
        assert np.abs(value - reference).max() < 0.05 * np.abs(reference).max()
