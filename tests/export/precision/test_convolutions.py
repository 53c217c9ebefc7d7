"""int8 convolutions for processors, compared with the same arithmetic in NumPy and torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from cmdiad_export.precision.convolutions import QuantiseConvolutions, arrays_of, quantise_convolutions
from cmdiad_export.precision.products import Product, Range, value_ranges
from cmdiad_export.precision.products import products as products_in
from cmdiad_runtime.engines import open_engine

WIDTH = 8


def residual_unit() -> ir.Model:
    """`x` [1, 3, 6, 6] through a stem and a residual unit to `inside`, and outside the network to its mean `y`."""
    random = np.random.default_rng(0)
    weights = {
        "stem": random.normal(size=(WIDTH, 3, 3, 3)),
        "first": random.normal(size=(WIDTH, WIDTH, 3, 3)),
        "second": random.normal(size=(WIDTH, WIDTH, 3, 3)) * np.geomspace(0.01, 10, WIDTH)[:, None, None, None],
        "bias": random.normal(size=WIDTH),
        "axes": np.array([1]),
    }
    weights["second"][3] = 0
    nodes = [
        helper.make_node("Conv", ["x", "stem", "bias"], ["a"], "network.stem/c", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "network.relu/r"),
        helper.make_node("Conv", ["b", "first", "bias"], ["c"], "network.first/c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"], "network.relu/r_1"),
        helper.make_node("Conv", ["d", "second"], ["e"], "network.second/c", pads=[1] * 4),
        helper.make_node("Add", ["e", "b"], ["f"], "network.sum/a"),
        helper.make_node("Relu", ["f"], ["inside"], "network.relu/r_2"),
        helper.make_node("ReduceMean", ["inside", "axes"], ["y"], "distance/m", keepdims=0),
        helper.make_node("ReduceMean", ["b", "axes"], ["z"], "distance/m_1", keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6, 6]) for name in "yz"]
    arrays = {name: array.astype(np.int64 if name == "axes" else np.float32) for name, array in weights.items()}
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "unit", [x], outputs, stored)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(1, 1, size=(1, 3, 6, 6)).astype(np.float32)} for _ in range(count)]


def quantised(model: ir.Model, chosen: list[Product]) -> tuple[ir.Model, dict[str, Range]]:
    ranges = value_ranges(model, arrays_of(model, chosen), samples())
    return quantise_convolutions(model, ranges, chosen, ("network",)), ranges


def steps(x: torch.Tensor, limits: Range) -> torch.Tensor:
    """An array rounded to 255 steps between its limits; one of them is 0."""
    step = (limits[1] - limits[0]) / 255
    zero = round(-limits[0] / step)
    return ((x / step).round() + zero).clamp(0, 255).sub(zero) * step


def columns(weight: torch.Tensor) -> torch.Tensor:
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (weight / scale).round() * scale


def test_computes_what_its_ranges_say(tmp_path: Path) -> None:
    model = residual_unit()
    written, ranges = quantised(model, products_in(model, ("network",)))
    assert sorted(ranges) == ["b", "d", "e", "x"]  # results are taken behind their Relu
    assert ranges["b"][0] == ranges["d"][0] == 0
    ir.save(written, tmp_path / "q.onnx")
    engine = open_engine(tmp_path / "q.onnx")
    w = {name: torch.from_numpy(v.const_value.numpy().copy()) for name, v in model.graph.initializers.items()}
    for sample in samples():
        x = steps(torch.from_numpy(sample["x"]), ranges["x"])
        unrounded = F.conv2d(x, columns(w["stem"]), w["bias"], padding=1).relu()
        b = steps(unrounded, ranges["b"])
        d = steps(F.conv2d(b, columns(w["first"]), w["bias"], padding=1).relu(), ranges["d"])
        e = steps(F.conv2d(d, columns(w["second"]), padding=1), ranges["e"])
        expected = (e + b).relu().mean(1).numpy()
        outputs = engine.run(sample)
        # A value on the border between two steps may be rounded the other way.
        close = np.abs(outputs["y"] - expected) < 2e-2 * expected.max()
        assert close.mean() > 0.95
        exact = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(["y"], sample)[0]
        assert 1e-4 < np.abs(outputs["y"] - exact).max() / exact.max() < 0.05


def test_onnxruntime_multiplies_integers(tmp_path: Path) -> None:
    model = residual_unit()
    ir.save(quantised(model, products_in(model, ("network",)))[0], tmp_path / "q.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 2
    assert kinds["FusedConv"] + kinds["Conv"] == 1  # the stem, whose result is also read in fp32


def test_nodes_outside_the_networks_read_fp32(tmp_path: Path) -> None:
    model = residual_unit()
    written, _ = quantised(model, products_in(model, ("network",)))
    readers = {str(node.name): [str(value.name) for value in node.inputs if value] for node in written.graph}
    assert readers["distance/m_1"][0] == "b"
    assert readers["network.sum/a"] == ["e/restored", "b/restored"]
    assert readers["network.first/c"][0] == "b/restored"


def test_what_is_not_chosen_stays_as_it_was() -> None:
    model = residual_unit()
    stem, first, second = products_in(model, ("network",))
    written, ranges = quantised(model, [first])
    assert sorted(ranges) == ["b", "d"]
    names = set(written.graph.initializers)
    assert {stem.weight, second.weight} < names
    assert first.weight not in names
    copy = model.clone()
    assert not QuantiseConvolutions({}, [], ("network",))(copy).modified
    assert ir.to_proto(copy).SerializeToString() == ir.to_proto(model).SerializeToString()


def test_shared_weights_are_stored_once() -> None:
    model = residual_unit()
    first, second = (node for node in model.graph if node.name in ("network.first/c", "network.second/c"))
    second.replace_input_with(1, first.inputs[1])
    chosen = [p for p in products_in(model, ("network",)) if p.weight == "first"]
    assert len(chosen) == 2
    written, _ = quantised(model, chosen)
    stored = [v for v in written.graph.initializers.values() if v.dtype == ir.DataType.INT8 and len(v.shape) == 4]
    assert len(stored) == 1


@pytest.mark.parametrize("limits", [(0.0, 0.0), (-1.0, 0.0), (-0.3, 2.0)])
def test_zero_is_exact_in_every_range(limits: Range) -> None:
    from cmdiad_export.precision.convolutions import _steps

    scale, zero = _steps(limits)
    assert scale > 0
    assert (0 - limits[0]) / scale == pytest.approx(int(zero), abs=0.5)
