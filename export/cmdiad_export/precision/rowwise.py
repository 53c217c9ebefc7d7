"""int8 matrix products for processors: one scale per row of the operand, computed at run time without calibration.

Each row x of a product's operand (a token, a patch, a point) is divided into 255 steps s from its smallest to its
largest number. One outlying token then costs no other token precision, and numbers cut off at 0 waste no steps. This is
the dynamic quantisation of vectors of Dettmers et al. 2022, "LLM.int8()", section 2, without their decomposition, and
with the offset of Jacob et al. 2018, section 2.1. Weights have one scale c per output channel:
x W ≈ (s (n Q) + least(x) (1 Q)) c, with the integers n = (x - least(x)) / s and Q = W / c.

The operator is ONNX's MatMulInteger. ONNX Runtime computes it with the integer instructions of x86-64 (VNNI) and ARM
processors; TensorRT does not support it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from cmdiad_export.precision.levels import Level
from cmdiad_export.precision.products import Product
from cmdiad_export.precision.quantise import constant, drop_unused

LARGEST = 127
STEPS = 255
"""Rows are unsigned: x86-64 multiplies unsigned by signed numbers; signed by signed took ten times as long."""
KINDS = ("Gemm", "MatMul")
NARROW = 256
"""Products over fewer channels stay fp32: at 128 (8192 rows, 256 outputs) the scales cost as much as int8 gained."""
LEVELS = {
    "first eighth of the products": 0.125,
    "first quarter of the products": 0.25,
    "first half of the products": 0.5,
    "networks": 1.0,
}
_TINY = 1e-30
"""Smallest range of a row: a row of equal numbers is divided by a step of this range."""


def worthwhile(candidates: Sequence[Product]) -> list[Product]:
    """Return the products that gain from int8 rows."""
    return [product for product in candidates if product.kind in KINDS and product.channels >= NARROW]


def rowwise_levels(chosen: Sequence[Product]) -> list[Level]:
    """Return levels that keep more and more of the first products in fp32: their errors pass through all others.

    The last level keeps all of them: a fast search over an fp16 bank is worth having on a processor by itself.
    """
    weights = list(dict.fromkeys(product.weight for product in chosen))
    levels = [Level()]
    for name, share in LEVELS.items():
        kept = set(weights[: math.ceil(share * len(weights))])
        levels.append(Level(name, tuple(product.node for product in chosen if product.weight in kept)))
    return levels


def quantise_rows(model: ir.Model, chosen: Sequence[Product]) -> ir.Model:
    """Return a copy of an fp32 graph whose chosen matrix products multiply int8 numbers.

    Args:
        model: Graph of opset 18 or later.
        chosen: Some of `worthwhile(products(model, ...))`.
    """
    copy = model.clone()
    ir.passes.Sequential(QuantiseRows(chosen), CheckerPass(full_check=True))(copy)
    return copy


class QuantiseRows(ir.passes.InPlacePass):
    """Replace matrix products by products of int8 rows and columns.

    Args:
        chosen: Products to replace.
    """

    def __init__(self, chosen: Sequence[Product]) -> None:
        super().__init__()
        self._chosen = {product.node: product for product in chosen}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        graph = model.graph
        rows: dict[str, _Rows] = {}
        columns: dict[str, _Columns] = {}
        shared = _add_constants(graph) if self._chosen else {}
        for node in list(graph):
            product = self._chosen.get(str(node.name))
            if product is None:
                continue
            if product.operand not in rows:
                rows[product.operand] = _Rows(graph, node, product.operand, shared)
            if product.columns not in columns:
                columns[product.columns] = _Columns(graph, product)
            _replace(graph, node, rows[product.operand], columns[product.columns])
        drop_unused(graph, {product.weight for product in self._chosen.values()})
        return ir.passes.PassResult(model, modified=bool(self._chosen))


def _add_constants(graph: ir.Graph) -> dict[str, ir.Value]:
    """Add the constants that all products share: axis, size of a step in a range, and the smallest range."""
    arrays = {"axis": np.array([-1]), "step": np.array(1 / STEPS, np.float32), "tiny": np.array(_TINY, np.float32)}
    values = {name: constant(f"rowwise/{name}", array) for name, array in arrays.items()}
    for value in values.values():
        graph.register_initializer(value)
    return values


class _Rows:
    """An operand as uint8 rows in steps above the smallest number of each row.

    Attributes:
        numbers: Rows uint8 `[..., C]`.
        step: Size of a step float32 `[..., 1]`.
        least: Smallest number of each row float32 `[..., 1]`.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node, name: str, shared: dict[str, ir.Value]) -> None:
        operand = node.inputs[0]

        def add(kind: str, inputs: list[ir.Value | None], result: str, **attributes: Any) -> ir.Value:
            value = ir.val(f"{name}/rowwise/{result}")
            step = ir.node(kind, inputs, attributes, outputs=[value], name=f"{name}/rowwise/{result}")
            graph.insert_before(node, step)
            return value

        largest = add("ReduceMax", [operand, shared["axis"]], "largest", keepdims=1)
        self.least = add("ReduceMin", [operand, shared["axis"]], "least", keepdims=1)
        span = add("Sub", [largest, self.least], "span")
        self.step = add("Mul", [add("Max", [span, shared["tiny"]], "range"), shared["step"]], "step")
        above = add("Sub", [operand, self.least], "above")
        rounded = add("Round", [add("Div", [above, self.step], "scaled")], "rounded")
        self.numbers = add("Cast", [rounded], "rows", to=ir.DataType.UINT8)


class _Columns:
    """Weights as int8 columns.

    Attributes:
        numbers: Columns int8 `[in, out]`.
        scale: Scale of each column float32 `[out]`.
        sum: Sum of each column over the inputs float32 `[out]`.
    """

    def __init__(self, graph: ir.Graph, product: Product) -> None:
        weight = graph.initializers[product.weight].const_value
        assert weight is not None
        matrix = weight.numpy() if product.axis == 1 else weight.numpy().T
        largest = np.abs(matrix).max(0)
        scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
        numbers = np.clip(np.rint(matrix / scale), -LARGEST, LARGEST).astype(np.int8)
        self.numbers = constant(f"{product.columns}/columns", np.ascontiguousarray(numbers))
        self.scale = constant(f"{product.columns}/column_scale", scale)
        self.sum = constant(f"{product.columns}/column_sum", numbers.sum(0, dtype=np.float32))
        for value in (self.numbers, self.scale, self.sum):
            graph.register_initializer(value)


def _replace(graph: ir.Graph, node: ir.Node, rows: _Rows, columns: _Columns) -> None:
    """Replace a product by that of rows and columns, converted back to float32; add the third input of a Gemm."""
    result, nodes = str(node.outputs[0].name), list[ir.Node]()

    def add(kind: str, inputs: Sequence[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
        value = ir.val(f"{result}/{name}")
        nodes.append(ir.node(kind, inputs, attributes, outputs=[value], name=f"{node.name}/rowwise_{len(nodes)}"))
        return value

    integers = add("MatMulInteger", [rows.numbers, columns.numbers], "integers")
    floats = add("Cast", [integers], "floats", to=ir.DataType.FLOAT)
    above = add("Mul", [floats, rows.step], "above")
    below = add("Mul", [rows.least, columns.sum], "below")
    value = add("Mul", [add("Add", [above, below], "in_columns"), columns.scale], "unbiased")
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is not None:
        value = add("Add", [value, bias], "biased")
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, [value])
