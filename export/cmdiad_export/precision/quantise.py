"""int8 and fp8 graphs: explicit, symmetric Q/DQ around matrix products and convolutions, with static scales.

ONNX Runtime's own quantiser is not used: its fp8 calibration (by distribution) fails on clouds, whose arrays differ in
length, and clips at 4.5 standard deviations; and it cannot keep named layers in fp32.

A scale is the largest absolute value over the calibration samples, divided by the largest number of the type
(TensorRT calls this MinMax calibration). Operands have one scale per array. int8 weights have one scale per output
channel, fp8 weights have one scale in all, because the exponent covers the channels.

Not quantised are biases, the products of attention itself (both operands vary), modules that see coordinates in
metres, and the search. Banks are fp16 with distances measured in fp32; an int8 copy for the candidates would be needed
in addition to the rows for the distances, and would miss neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from onnx_ir.passes.common import CheckerPass

from cmdiad_export.precision.products import Product, Range

Quantised = Literal["int8", "fp8"]
"""Precisions with static scales from calibration samples."""
LARGEST: dict[Quantised, float] = {"int8": 127.0, "fp8": 448.0}
OPSETS: dict[Quantised, int] = {"int8": 18, "fp8": 19}
"""Opset 19 was the first with fp8."""


def quantise(model: ir.Model, ranges: Mapping[str, Range], kind: Quantised, chosen: Sequence[Product]) -> ir.Model:
    """Return a copy of an fp32 graph with Q/DQ at the operands and weights of the chosen products.

    Args:
        model: Graph of the opset in OPSETS.
        ranges: Range of each product's operand, from `value_ranges`.
        kind: Type to quantise to.
        chosen: Some of `products(model, ...)`.
    """
    copy = model.clone()
    ir.passes.Sequential(QuantiseProducts(ranges, kind, chosen), CheckerPass(full_check=True))(copy)
    return copy


class QuantiseProducts(ir.passes.InPlacePass):
    """Put Q/DQ at the operands and weights of the chosen products.

    Args:
        ranges: Range of each product's operand.
        kind: Type to quantise to.
        chosen: Products to quantise.
    """

    def __init__(self, ranges: Mapping[str, Range], kind: Quantised, chosen: Sequence[Product]) -> None:
        super().__init__()
        self._ranges, self._kind = ranges, kind
        self._chosen = {product.node: product for product in chosen}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        graph = model.graph
        restored: dict[str, ir.Value] = {}
        for node in list(graph):
            product = self._chosen.get(str(node.name))
            if product is None:
                continue
            for name, quantised in ((product.operand, self._operand), (product.columns, self._weight)):
                if name not in restored:
                    restored[name] = quantised(graph, node, product)
            node.replace_input_with(0, restored[product.operand])
            node.replace_input_with(1, restored[product.columns])
        drop_unused(graph, {product.weight for product in self._chosen.values()})
        return ir.passes.PassResult(model, modified=bool(self._chosen))

    def _operand(self, graph: ir.Graph, node: ir.Node, product: Product) -> ir.Value:
        """Quantise and restore the operand of a product in front of its node."""
        name, kind = product.operand, self._kind
        scale, zero = _scale(name, np.float32(np.abs(self._ranges[name]).max()), kind)
        for value in (scale, zero):
            graph.register_initializer(value)
        quantised = ir.val(f"{name}_quantised")
        inputs, step = [node.inputs[0], scale, zero], f"{node.name}/quantise/{name}"
        graph.insert_before(node, ir.node("QuantizeLinear", inputs, outputs=[quantised], name=step))
        return _restore(graph, node, name, [quantised, scale, zero])

    def _weight(self, graph: ir.Graph, node: ir.Node, product: Product) -> ir.Value:
        """Store the weights of a product in the type, and restore them in front of its node."""
        weight = graph.initializers[product.weight].const_value
        assert weight is not None
        values = _stored(product, weight.numpy(), self._kind)
        for value in values:
            graph.register_initializer(value)
        scale, zero, numbers = values
        return _restore(graph, node, product.columns, [numbers, scale, zero], product.axis)


def _restore(
    graph: ir.Graph, node: ir.Node, name: str, inputs: Sequence[ir.Value], axis: int | None = None
) -> ir.Value:
    """Insert a DequantizeLinear in front of a node; `axis` matters only if there is more than one scale."""
    restored = ir.val(f"{name}_restored")
    attributes = {} if axis is None else {"axis": axis}
    step = f"{node.name}/restore/{name}"
    graph.insert_before(node, ir.node("DequantizeLinear", inputs, attributes, outputs=[restored], name=step))
    return restored


def _stored(product: Product, weight: npt.NDArray[np.float32], kind: Quantised) -> list[ir.Value]:
    """Return scale, zero point and quantised numbers of a product's weights."""
    others = tuple(axis for axis in range(weight.ndim) if axis != product.axis)
    largest = np.abs(weight).max(others if kind == "int8" else None)
    scale, zero = _scale(product.columns, largest, kind)
    shape = [1] * weight.ndim
    if kind == "int8":
        shape[product.axis] = -1
    assert scale.const_value is not None
    scaled = weight / scale.const_value.numpy().reshape(shape)
    return [scale, zero, _numbers(f"{product.columns}_{kind}", scaled, kind)]


def _scale(name: str, largest: npt.NDArray[np.float32] | np.float32, kind: Quantised) -> tuple[ir.Value, ir.Value]:
    """Return scale and zero point. The zero point is 0 and sets the type. An array of zeros gets scale 1."""
    scale = np.where(largest > 0, largest / np.float32(LARGEST[kind]), np.float32(1)).astype(np.float32)
    return constant(f"{name}_scale", scale), _numbers(f"{name}_zero", np.zeros_like(scale), kind)


def _numbers(name: str, scaled: npt.NDArray[np.float32], kind: Quantised) -> ir.Value:
    """Return scaled values, rounded to the nearest numbers of the type (ties to even), as a constant."""
    clipped = np.clip(scaled, -LARGEST[kind], LARGEST[kind])
    if kind == "int8":
        return constant(name, np.rint(clipped).astype(np.int8))
    stored = torch.from_numpy(np.ascontiguousarray(clipped)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return constant(name, stored.view(ml_dtypes.float8_e4m3fn).reshape(scaled.shape))


def constant(name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Return an array as an initializer that no graph has yet."""
    tensor = ir.Tensor(array, name=name)
    return ir.val(name, tensor.dtype, tensor.shape, const_value=tensor)


def drop_unused(graph: ir.Graph, names: set[str]) -> None:
    """Remove the named initializers that no node uses."""
    for name in names:
        if name in graph.initializers and not graph.initializers[name].uses():
            del graph.initializers[name]
