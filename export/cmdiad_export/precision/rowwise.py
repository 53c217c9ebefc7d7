"""int8 matrix products for processors: one scale per row of what is fed, found at run time; no calibration.

A row x of a matrix product's input (a token, a patch, a point) becomes 256 steps s from its own least to its own
largest number: one outlying token costs no other its precision, and numbers cut off at 0 waste no steps. That is the
dynamic quantisation of vectors of Dettmers et al. 2022, "LLM.int8()", §2, without their split, and with the offset of
Jacob et al. 2018, §2.1. Weights have one scale c per output channel:
x W ≈ (s (n Q) + least(x) (1 Q)) c, with the integers n = (x - least(x)) / s and Q = W / c.

The operator is ONNX's MatMulInteger. onnxruntime computes it with the integer instructions of x86-64 (VNNI) and ARM
processors; TensorRT does not know it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from cmdiad_export.precision.precision import Level
from cmdiad_export.precision.quantise import Product, drop_unused

LARGEST = 127
STEPS = 255
"""A row's numbers are unsigned: x86-64 multiplies unsigned by signed ones; signed by signed took ten times as long."""
KINDS = ("Gemm", "MatMul")
NARROW = 256
"""A product over fewer channels stays in fp32: at 128 of them (8192 rows, 256 outputs) scales took what int8 gained."""
LEVELS = {
    "first eighth of the products": 0.125,
    "first quarter of the products": 0.25,
    "first half of the products": 0.5,
    "networks": 1.0,
}
_Step = tuple[str, list[str], str, dict[str, Any]]
"""A node: operator, inputs, result, attributes."""
_CONSTANTS: dict[str, npt.NDArray[Any]] = {
    "rowwise/axis": np.array([-1]),
    "rowwise/step": np.array(1 / STEPS, np.float32),
    "rowwise/tiny": np.array(1e-30, np.float32),  # a row of one number is divided by it
}


def worthwhile(found: Sequence[Product]) -> list[Product]:
    """The products that gain by int8 rows."""
    return [product for product in found if product.kind in KINDS and product.channels >= NARROW]


def rowwise_levels(chosen: Sequence[Product]) -> list[Level]:
    """Levels that keep more and more of the first products in fp32: what they add runs through all others.

    The last keeps all of them: a fast search over an fp16 bank is worth having on a processor by itself.
    """
    weights = list(dict.fromkeys(product.weight for product in chosen))
    levels = [Level()]
    for name, share in LEVELS.items():
        kept = set(weights[: math.ceil(share * len(weights))])
        levels.append(Level(name, tuple(product.node for product in chosen if product.weight in kept)))
    return levels


def quantise_rows(model: onnx.ModelProto, chosen: Sequence[Product]) -> onnx.ModelProto:
    """A copy of an fp32 graph whose chosen matrix products are of int8 numbers.

    Args:
        model: of opset 18 or later.
        chosen: some of `worthwhile(products(model))`.
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
    """`given/step` and `given/least` float32 `[..., 1]`, and `given/rows` uint8, the rows in steps above the least."""
    steps: list[_Step] = [
        ("ReduceMax", [given, "rowwise/axis"], "largest", {"keepdims": 1}),
        ("ReduceMin", [given, "rowwise/axis"], "least", {"keepdims": 1}),
        ("Sub", [f"{given}/largest", f"{given}/least"], "span", {}),
        ("Max", [f"{given}/span", "rowwise/tiny"], "range", {}),
        ("Mul", [f"{given}/range", "rowwise/step"], "step", {}),
        ("Sub", [given, f"{given}/least"], "above", {}),
        ("Div", [f"{given}/above", f"{given}/step"], "scaled", {}),
        ("Round", [f"{given}/scaled"], "rounded", {}),
        ("Cast", [f"{given}/rounded"], "rows", {"to": TensorProto.UINT8}),
    ]
    return [
        helper.make_node(kind, inputs, [f"{given}/{result}"], f"{given}/rowwise/{result}", **options)
        for kind, inputs, result, options in steps
    ]


def _columns(product: Product, weight: npt.NDArray[np.float32]) -> list[onnx.TensorProto]:
    """int8 weights `[in, out]`, and float32 `[out]` their scales and their sums over the inputs."""
    matrix = weight if product.axis == 1 else weight.T
    largest = np.abs(matrix).max(0)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    numbers = np.clip(np.rint(matrix / scale), -LARGEST, LARGEST).astype(np.int8)
    return [
        numpy_helper.from_array(np.ascontiguousarray(numbers), f"{product.weight}/columns"),
        numpy_helper.from_array(scale, f"{product.weight}/column_scale"),
        numpy_helper.from_array(numbers.sum(0, dtype=np.float32), f"{product.weight}/column_sum"),
    ]


def _product(node: onnx.NodeProto, product: Product) -> list[onnx.NodeProto]:
    """The product of rows and columns, taken back to float32; a Gemm's third input is added."""
    given, weight, name = product.given, product.weight, node.name
    result = node.output[0]
    bias = node.input[2:3] if product.kind == "Gemm" else []
    unbiased = f"{result}/unbiased" if bias else result
    steps: list[_Step] = [
        ("MatMulInteger", [f"{given}/rows", f"{weight}/columns"], f"{result}/integers", {}),
        ("Cast", [f"{result}/integers"], f"{result}/floats", {"to": TensorProto.FLOAT}),
        ("Mul", [f"{result}/floats", f"{given}/step"], f"{result}/above", {}),
        ("Mul", [f"{given}/least", f"{weight}/column_sum"], f"{result}/below", {}),
        ("Add", [f"{result}/above", f"{result}/below"], f"{result}/in_columns", {}),
        ("Mul", [f"{result}/in_columns", f"{weight}/column_scale"], unbiased, {}),
    ]
    made = [helper.make_node(kind, i, [o], f"{name}/rowwise_{n}", **a) for n, (kind, i, o, a) in enumerate(steps)]
    if bias:
        made.append(helper.make_node("Add", [unbiased, bias[0]], [result], f"{name}/bias"))
    return made
