"""int8 matrix products for processors: one scale per row of what is fed, found at run time; no calibration.

A row of a matrix product's input (a token, a patch, a point) is divided by its own largest absolute value, so that one
outlying token costs no other its precision. That is the dynamic quantisation of vectors of Dettmers et al. 2022,
"LLM.int8()", §2, without their split. Weights have one scale per output channel.

The operator is ONNX's MatMulInteger. onnxruntime computes it with the integer instructions of x86-64 (VNNI) and ARM
processors; TensorRT does not know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from cmdiad_export.quantise import Product, drop_unused

LARGEST = 127
OFFSET = 128
"""Added to a row's numbers: x86-64 multiplies unsigned by signed ones, all others take ten times as long (1.31)."""
KINDS = ("Gemm", "MatMul")
_Step = tuple[str, list[str], str, dict[str, Any]]
"""A node: operator, inputs, result, attributes."""
_CONSTANTS: dict[str, npt.NDArray[Any]] = {
    "rowwise/axis": np.array([-1]),
    "rowwise/step": np.array(1 / LARGEST, np.float32),
    "rowwise/least": np.array(1e-30, np.float32),  # a row of zeros is divided by it
    "rowwise/offset": np.array(OFFSET, np.float32),
    "rowwise/zero": np.array(OFFSET, np.uint8),
}


def quantise_rows(model: onnx.ModelProto, chosen: Sequence[Product]) -> onnx.ModelProto:
    """A copy of an fp32 graph whose chosen matrix products are of int8 numbers.

    Args:
        model: of opset 18 or later.
        chosen: some of `products(model)`, of the KINDS.
    """
    by_node = {product.node: product for product in chosen}
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in {p.weight for p in chosen}}
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        product = by_node.get(node.name)
        if product is None:
            nodes.append(node)
            continue
        if product.given not in done:
            nodes += _rows(product.given)
        if product.weight not in done:
            graph.initializer.extend(_columns(product, weights[product.weight]))
        done |= {product.given, product.weight}
        nodes += _product(node, product)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
    drop_unused(graph, {*weights, *_CONSTANTS})
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _rows(given: str) -> list[onnx.NodeProto]:
    """`given_row_scale` float32 `[..., 1]` and `given_rows` uint8, the rows in units of it."""
    steps: list[_Step] = [
        ("Abs", [given], "magnitude", {}),
        ("ReduceMax", [f"{given}/magnitude", "rowwise/axis"], "largest", {"keepdims": 1}),
        ("Max", [f"{given}/largest", "rowwise/least"], "range", {}),
        ("Mul", [f"{given}/range", "rowwise/step"], "row_scale", {}),
        ("Div", [given, f"{given}/row_scale"], "scaled", {}),
        ("Round", [f"{given}/scaled"], "rounded", {}),
        ("Add", [f"{given}/rounded", "rowwise/offset"], "shifted", {}),
        ("Cast", [f"{given}/shifted"], "rows", {"to": TensorProto.UINT8}),
    ]
    return [
        helper.make_node(kind, inputs, [f"{given}/{result}"], f"{given}/rowwise/{result}", **options)
        for kind, inputs, result, options in steps
    ]


def _columns(product: Product, weight: npt.NDArray[np.float32]) -> list[onnx.TensorProto]:
    """int8 weights `[in, out]` and their scales float32 `[out]`."""
    matrix = weight if product.axis == 1 else weight.T
    largest = np.abs(matrix).max(0)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    numbers = np.clip(np.rint(matrix / scale), -LARGEST, LARGEST).astype(np.int8)
    return [
        numpy_helper.from_array(np.ascontiguousarray(numbers), f"{product.weight}/columns"),
        numpy_helper.from_array(scale, f"{product.weight}/column_scale"),
    ]


def _product(node: onnx.NodeProto, product: Product) -> list[onnx.NodeProto]:
    """The product of rows and columns, taken back to float32; a Gemm's third input is added."""
    given, weight, name = product.given, product.weight, node.name
    result = node.output[0]
    bias = node.input[2:3] if product.kind == "Gemm" else []
    unbiased = f"{result}/unbiased" if bias else result
    steps: list[_Step] = [
        ("MatMulInteger", [f"{given}/rows", f"{weight}/columns", "rowwise/zero"], f"{result}/integers", {}),
        ("Cast", [f"{result}/integers"], f"{result}/floats", {"to": TensorProto.FLOAT}),
        ("Mul", [f"{result}/floats", f"{weight}/column_scale"], f"{result}/in_row_units", {}),
        ("Mul", [f"{result}/in_row_units", f"{given}/row_scale"], unbiased, {}),
    ]
    made = [helper.make_node(kind, i, [o], f"{name}/rowwise_{n}", **a) for n, (kind, i, o, a) in enumerate(steps)]
    if bias:
        made.append(helper.make_node("Add", [unbiased, bias[0]], [result], f"{name}/bias"))
    return made
