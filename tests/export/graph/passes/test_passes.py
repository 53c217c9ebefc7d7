"""Each rewrite by itself, on small graphs written as text."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime

from cmdiad_export.graph.passes import HalveFirstInGelu, LoopOverScans, NameByModule, StripMetadata, WidenSoftmax
from cmdiad_export.graph.passes.name_by_module import SCOPES, module_of

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'


def results(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    content = ir.to_proto(model).SerializeToString()
    return list(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, inputs))


def test_nodes_are_named_by_their_weight_or_by_the_note_of_the_exporter() -> None:
    model = ir.from_onnx_text(
        f"""{HEADER} g (float[2, 3] x) => (float[2, 2] z) <float[2, 3] weight = {{1, 2, 3, 4, 5, 6}}>
        {{ [first] y = Gemm <transB = 1> (x, weight)  [second] r = Relu (y)  [third] z = Neg (r) }}"""
    )
    model.graph.initializers["weight"].name = "head.linear.weight"
    first, second, third = model.graph
    second.metadata_props[SCOPES] = str(["", "head", "head.activation", "relu"])
    NameByModule()(model)
    assert [node.name for node in (first, second, third)] == ["head.linear/first", "head.activation/second", "third"]
    assert [module_of(node) for node in (first, second, third)] == ["head.linear", "head.activation", ""]


GELU = f"""{HEADER} g (float[5] x) => (float[5] y)
<float root = {{1.4142135}}, float one = {{1}}, float half = {{0.5}}>
{{ a = Div (x, root)  e = Erf (a)  r = Add (e, one)  h = Mul (half, r)  y = Mul (x, h) }}"""


def test_gelu_is_halved_first_and_computes_the_same() -> None:
    x = np.array([-3, -0.1, 0, 0.7, 5], np.float32)
    model = ir.from_onnx_text(GELU)
    (expected,) = results(model, x=x)
    assert HalveFirstInGelu()(model).modified
    *_, halved, product = model.graph
    assert [value.name for value in halved.inputs] == ["x", "half"]
    assert [value.name for value in product.inputs] == ["h", "r"]
    np.testing.assert_array_equal(results(model, x=x)[0], expected)
    assert not HalveFirstInGelu()(ir.from_onnx_text(GELU.replace("Erf", "Tanh"))).modified


def test_nothing_names_the_machine() -> None:
    model = ir.from_onnx_text(GELU)
    model.metadata_props["place"] = model.graph.metadata_props["place"] = "/home/me"
    for node in model.graph:
        node.doc_string = "File /home/me/detector.py"
        node.metadata_props["place"] = node.outputs[0].metadata_props["place"] = "/home/me"
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props["place"] = "/home/me"
    StripMetadata()(model)
    assert b"/home/me" not in ir.to_proto(model).SerializeToString()


def test_half_softmax_becomes_single_and_keeps_its_output() -> None:
    text = f"{HEADER} g (float16[2, 3] x) => (float16[2, 3] y) {{ [s] y = Softmax (x) }}"
    model, single = ir.from_onnx_text(text), ir.from_onnx_text(text.replace("float16", "float"))
    x = np.array([[0, 1, 2], [5, 5, 5]], np.float16)
    WidenSoftmax()(model)
    assert [node.op_type for node in model.graph] == ["Cast", "Softmax", "Cast"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    (expected,) = results(single, x=x.astype(np.float32))
    np.testing.assert_array_equal(results(model, x=x)[0], expected.astype(np.float16))
    assert not WidenSoftmax()(single).modified


BANK = ", ".join(map(str, range(28)))
SCAN = f"""{HEADER} g (float[4] x, float[6, 4] fed) => (float[4] sum, float[3, 4] seen)
<float[7, 4] bank = {{{BANK}}},
 float[3, 2, 4] rows, float[3, 2, 4] parts, int64[1] zero = {{0}}, int64[1] six = {{6}},
 int64[3] shape = {{3, 2, 4}}, int64[1] first = {{0}}>
{{
    front = Slice (bank, zero, six)
    rows = Reshape (front, shape)
    parts = Reshape (fed, shape)
    [scan] sum, seen = Scan <num_scan_inputs = 2, body = body (float[4] carried, float[2, 4] row, float[2, 4] part)
        => (float[4] next, float[4] out)
    {{
        product = Mul (row, part)
        out = ReduceSum <keepdims = 0> (product, first)
        next = Add (carried, out)
    }}> (x, rows, parts)
}}"""


def test_scan_becomes_a_loop_that_slices_the_weight_itself() -> None:
    random = np.random.default_rng(0)
    inputs = {"x": random.normal(size=4).astype(np.float32), "fed": random.normal(size=(6, 4)).astype(np.float32)}
    model = ir.from_onnx_text(SCAN)
    expected = results(model, **inputs)
    assert LoopOverScans()(model).modified
    assert [node.op_type for node in model.graph] == ["Reshape", "Loop"]
    body = model.graph[1].attributes["body"].as_graph()
    assert [node.op_type for node in body][:5] == ["Reshape", "Mul", "Add", "Slice", "Gather"]
    assert next(node for node in body if node.op_type == "Slice").inputs[0] is model.graph.initializers["bank"]
    for loop, scan in zip(results(model, **inputs), expected, strict=True):
        np.testing.assert_array_equal(loop, scan)
    assert not LoopOverScans()(model).modified
