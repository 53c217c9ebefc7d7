"""Q/DQ in graphs, held against a fake quantisation in torch."""

from __future__ import annotations

import itertools
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from cmdiad_export.precision import products as products_module
from cmdiad_export.precision.harm import harm_of_each, quantised_levels
from cmdiad_export.precision.levels import Level
from cmdiad_export.precision.products import Product, Range, value_ranges, values_inside
from cmdiad_export.precision.products import products as products_in
from cmdiad_export.precision.quantise import LARGEST, OPSETS, QuantiseProducts, quantise
from cmdiad_export.precision.reduction import QuantisedGraphs
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.errors import CertificateError
from cmdiad_train.runs.run import Run, load_quantisation_inputs, load_run

KINDS = ["int8", "fp8"]
HIDDEN, OUT = 24, 5


def products(model: ir.Model) -> list[Product]:
    return products_in(model, ("features", "hallucinated"))


def small_graph(opset: int) -> ir.Model:
    """Convolution, Relu, matrix product: `x` [1, 4, 6, 6] to `y` [36, OUT]; one output channel is always 0."""
    random = np.random.default_rng(0)
    conv = (
        random.normal(size=(HIDDEN, 4, 3, 3)).astype(np.float32) * np.geomspace(0.01, 10, HIDDEN)[:, None, None, None]
    )
    conv[3] = 0
    weights = {
        "features.conv.weight": conv.astype(np.float32),
        "features.conv.bias": random.normal(size=HIDDEN).astype(np.float32),
        "folded": random.normal(size=(HIDDEN, OUT)).astype(np.float32),
        "unused_by_rule": random.normal(size=(3, 3)).astype(np.float32),
        "shape": np.array([HIDDEN, 36]),
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "features.conv.weight", "features.conv.bias"], ["c"], "features.conv/c", pads=[1] * 4
        ),
        helper.make_node("Reshape", ["c", "shape"], ["flat"], "features.flat"),
        helper.make_node("Transpose", ["flat"], ["turned"], "features.rows", perm=[1, 0]),
        helper.make_node("Relu", ["turned"], ["rows"], "features.relu"),
        helper.make_node("MatMul", ["rows", "folded"], ["y"], "hallucinated.linear/m"),
        helper.make_node("MatMul", ["metres", "unused_by_rule"], ["z"], "features.points/m"),
        helper.make_node("Transpose", ["y"], ["y_again"], "features.attention/t", perm=[1, 0]),
        helper.make_node("MatMul", ["y", "y_again"], ["s"], "features.attention/m"),
    ]
    ports = [("x", [1, 4, 6, 6]), ("metres", [2, 3])], [("y", [36, OUT]), ("z", [2, 3]), ("s", [36, 36])]
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side] for side in ports)
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, stored)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [
        {
            "x": random.normal(size=(1, 4, 6, 6)).astype(np.float32),
            "metres": random.normal(size=(2, 3)).astype(np.float32),
        }
        for _ in range(count)
    ]


def fake(values: Tensor, largest: Tensor, kind: str) -> Tensor:
    """Quantised and restored values."""
    scale = torch.where(largest > 0, largest / LARGEST[kind], 1.0)
    scaled = (values / scale).clamp(-LARGEST[kind], LARGEST[kind])
    return scale * (scaled.round() if kind == "int8" else scaled.to(torch.float8_e4m3fn).float())


def emulated(model: ir.Model, ranges: dict[str, Range], x: np.ndarray, kind: str) -> np.ndarray:
    weights = {name: torch.from_numpy(v.const_value.numpy().copy()) for name, v in model.graph.initializers.items()}
    conv, linear = weights["features.conv.weight"], weights["folded"]
    whole = kind == "fp8"
    conv = fake(conv, conv.abs().max() if whole else conv.abs().amax((1, 2, 3), keepdim=True), kind)
    linear = fake(linear, linear.abs().max() if whole else linear.abs().amax(0, keepdim=True), kind)
    given = fake(torch.from_numpy(x), torch.tensor(ranges["x"]).abs().max(), kind)
    hidden = torch.relu(torch.nn.functional.conv2d(given, conv, weights["features.conv.bias"], padding=1))
    rows = fake(hidden.reshape(HIDDEN, 36).T, torch.tensor(ranges["rows"]).abs().max(), kind)
    return (rows @ linear).numpy()


def test_products_with_constant_weights_are_found_in_order() -> None:
    found = products(small_graph(18))
    assert [(p.module, p.operand, p.weight, p.axis) for p in found] == [
        ("features.conv", "x", "features.conv.weight", 0),
        ("hallucinated.linear", "rows", "folded", 1),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_graph_computes_what_its_scales_say(kind: str, tmp_path: Path) -> None:
    model, seen = small_graph(OPSETS[kind]), samples()
    found = products(model)
    ranges = value_ranges(model, [p.operand for p in found], seen)
    assert ranges["x"] == (min(float(s["x"].min()) for s in seen), max(float(s["x"].max()) for s in seen))
    assert ranges["rows"][0] == 0
    ir.save(quantise(model, ranges, kind, found), tmp_path / "q.onnx")
    engine = open_engine(tmp_path / "q.onnx")
    for sample, (single,) in zip(seen, values_inside(model, ["y"], seen), strict=True):
        outputs = engine.run(sample)
        expected = emulated(model, ranges, sample["x"], kind)
        # A value on the border between two steps may go either way, so some rows are off by a step.
        off = np.abs(outputs["y"] - expected).max(1) > 1e-4 * np.abs(expected).max()
        assert off.mean() < 0.1
        assert 1e-5 < np.abs(outputs["y"] - single).max() / np.abs(single).max() < (0.05 if kind == "int8" else 0.2)
        np.testing.assert_array_equal(outputs["z"], sample["metres"] @ coordinates(model))


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_and_its_transpose_have_separate_scales(kind: str, tmp_path: Path) -> None:
    """A Gemm that transposes its weights and a MatMul by the same weights have other output channels."""
    weight = np.random.default_rng(0).normal(size=(HIDDEN, HIDDEN)) * np.geomspace(0.001, 1, HIDDEN)
    nodes = [
        helper.make_node("Gemm", ["x", "weight"], ["transposed"], "features.transpose/g", transB=1),
        helper.make_node("MatMul", ["x", "weight"], ["multiplied"], "features.multiply/m"),
    ]
    x, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [6, HIDDEN])
        for name in ("x", "transposed", "multiplied")
    )
    graph = helper.make_graph(nodes, "both", [x], outputs, [numpy_helper.from_array(weight.astype("f4"), "weight")])
    opset = [helper.make_opsetid("", OPSETS[kind])]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=9))
    sample = {"x": np.random.default_rng(1).normal(size=(6, HIDDEN)).astype(np.float32)}
    found = products(model)
    ranges = value_ranges(model, ["x"], [sample])
    ir.save(quantise(model, ranges, kind, found), tmp_path / "q.onnx")
    results = open_engine(tmp_path / "q.onnx").run(sample)
    rows = fake(torch.from_numpy(sample["x"]), torch.tensor(ranges["x"]).abs().max(), kind)
    for name, matrix in (("multiplied", weight), ("transposed", weight.T)):
        columns = torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
        largest = columns.abs().amax(0, keepdim=True) if kind == "int8" else columns.abs().max()
        np.testing.assert_allclose(results[name], rows @ fake(columns, largest, kind), rtol=0, atol=2e-4)


def test_the_session_has_gone_before_its_folder_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows keeps the file of a graph that a session has mapped."""
    sessions: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            sessions.append(weakref.ref(self))

    class Folder(TemporaryDirectory[str]):
        def cleanup(self) -> None:
            alive.append(any(session() is not None for session in sessions))
            super().cleanup()

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(products_module, "TemporaryDirectory", Folder)
    assert len(list(values_inside(small_graph(18), ["c"], samples()))) == 3
    ended_early = values_inside(small_graph(18), ["c"], samples())
    next(ended_early)
    ended_early.close()  # type: ignore[attr-defined]
    assert (len(sessions), alive) == (2, [False, False])


def coordinates(model: ir.Model) -> np.ndarray:
    return model.graph.initializers["unused_by_rule"].const_value.numpy()


def test_onnxruntime_alone_would_get_fp8_wrong(tmp_path: Path) -> None:
    """Why the runtime's engine turns two of its rules off; should this fail, they can stay on."""
    model, (sample, *_) = small_graph(OPSETS["fp8"]), samples()
    found = products(model)
    ranges = value_ranges(model, [p.operand for p in found], [sample])
    ir.save(quantise(model, ranges, "fp8", found), tmp_path / "q.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match="float8"):
        onnxruntime.InferenceSession(tmp_path / "q.onnx", options)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    wrong = onnxruntime.InferenceSession(tmp_path / "q.onnx", options).run(["y"], sample)[0]
    right = open_engine(tmp_path / "q.onnx").run(sample)["y"]
    assert np.abs(wrong - right).max() > 0.5 * np.abs(right).max()


@pytest.mark.parametrize("kind", KINDS)
def test_symmetric_and_in_one_type(kind: str) -> None:
    model = small_graph(OPSETS[kind])
    found = products(model)
    quantised = quantise(model, value_ranges(model, [p.operand for p in found], samples()), kind, found)
    written = ir.to_proto(quantised)
    stored = {t.name: t for t in written.graph.initializer}
    expected = TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN
    pairs = [n for n in written.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 2 * 2 + 2
    for node in pairs:
        assert stored[node.input[2]].data_type == expected
        assert not numpy_helper.to_array(stored[node.input[2]]).astype(np.float32).any()
        assert (numpy_helper.to_array(stored[node.input[1]]) > 0).all()
    per_channel = (HIDDEN,) if kind == "int8" else ()
    assert numpy_helper.to_array(stored["features.conv.weight/0_scale"]).shape == per_channel
    assert "features.conv.weight" not in stored
    assert stored["features.conv.bias"].data_type == TensorProto.FLOAT
    assert quantised.opset_imports[""] == OPSETS[kind]
    assert {n.op_type for n in model.graph} == {"Conv", "Relu", "Reshape", "Transpose", "MatMul"}


def test_nothing_chosen_is_the_same_graph() -> None:
    model = small_graph(18)
    copy = model.clone()
    assert not QuantiseProducts({}, "int8", [])(copy).modified
    assert ir.to_proto(copy).SerializeToString() == ir.to_proto(model).SerializeToString()


def test_what_is_not_finite_is_named() -> None:
    (sample,) = samples(1)
    sample["x"][0, 0, 0, 0] = np.inf
    with pytest.raises(CertificateError, match="x, inside the fp32 graph"):
        value_ranges(small_graph(18), ["x"], [sample])


def golden_graphs(run: Run, kind: str, graph: Path) -> QuantisedGraphs:
    inputs = {name: run.golden[0].inputs[name] for name in run.detector.input_names}
    stored = load_quantisation_inputs(run.path)
    seen = [{name: sample.inputs[name].numpy() for name in run.detector.input_names} for sample in stored]
    return QuantisedGraphs(run.detector, kind, inputs, seen, graph)  # type: ignore[arg-type]


def test_levels_keep_the_most_harmful_up_to_half() -> None:
    harm = {f"n{i}": float(i * 7 % 11) for i in range(11)}
    levels = quantised_levels(harm)
    assert [len(level.modules) for level in levels] == [2, 4, 5]
    assert levels[0].modules == ("n3", "n6")  # 10 and 9
    for narrow, wide in itertools.pairwise(levels):
        assert wide.modules[: len(narrow.modules)] == narrow.modules
    assert [len(level.modules) for level in quantised_levels({"a": 1.0, "b": 2.0})] == [1]
    assert quantised_levels({"a": 1.0}) == []


@pytest.fixture(scope="module")
def rgb_graphs(trained: object, tmp_path_factory: pytest.TempPathFactory) -> QuantisedGraphs:
    run = load_run(trained("rgb", "f2f"))  # type: ignore[operator]
    return golden_graphs(run, "int8", tmp_path_factory.mktemp("graphs") / "graph.onnx")


def test_harm_is_what_a_product_alone_does(rgb_graphs: QuantisedGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = rgb_graphs
    worst, fine = graphs.products[2], graphs.products[-1]
    least, largest = graphs.ranges[worst.operand]
    monkeypatch.setitem(graphs.ranges, worst.operand, (100 * least, 100 * largest))  # steps a hundred times as wide
    harm = harm_of_each(graphs.base, graphs.quantise, [worst, fine], graphs.samples[-2:])
    assert harm[worst.node] > 5 * harm[fine.node] > 0
    (first, *_) = quantised_levels(harm)
    assert first.modules == (worst.node,)


def test_metres_are_never_quantised(trained: object, tmp_path: Path) -> None:
    run = load_run(trained("xyz"))  # type: ignore[operator]
    graphs = golden_graphs(run, "int8", tmp_path / "graph.onnx")
    kept = graphs.write(Level())
    assert kept == ["features.0.extractor.pos_embed.2"]
    graph = onnx.load(tmp_path / "graph.onnx").graph
    restored = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    multiplied = [n for n in graph.node if n.op_type in ("MatMul", "Gemm")]
    assert sum(n.input[0] in restored for n in multiplied) == len(graphs.products) - 1
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    metres = [n for n in multiplied if 3 in shapes.get(n.input[1], [])]
    assert len(metres) == 2  # of the centres and of the groups
    assert not any(n.input[0] in restored for n in metres)


def test_kept_products_are_as_they_were(rgb_graphs: QuantisedGraphs) -> None:
    graphs = rgb_graphs
    nodes = tuple(product.node for product in graphs.products[:4])
    assert graphs.write(Level("some", nodes)) == sorted(product.module for product in graphs.products[:4])
    before = {n.name: [v.name for v in n.inputs] for n in graphs.base.graph}
    after = {n.name: list(n.input) for n in onnx.load(graphs.path).graph.node}
    changed = {name for name, inputs in before.items() if after[name] != inputs}
    assert changed == {product.node for product in graphs.products[4:]}


def test_calibration_sees_good_and_tampered_training_samples(trained: object) -> None:
    run = load_run(trained("rgb", "f2f"))  # type: ignore[operator]
    stored = {sample.name: sample.inputs for sample in load_quantisation_inputs(run.path)}
    assert list(stored) == sorted(f"{i}-{kind}" for i in range(4) for kind in ("good", "tampered"))
    for i in range(4):
        good, tampered = stored[f"{i}-good"]["rgb"], stored[f"{i}-tampered"]["rgb"]
        assert good.dtype == torch.uint8
        assert not torch.equal(good, tampered)
    held_out = [sample.inputs["rgb"] for sample in run.golden]
    assert not any(torch.equal(sample["rgb"], other) for sample in stored.values() for other in held_out)
