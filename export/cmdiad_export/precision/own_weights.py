"""Give each int8 product a separate copy of its weights: processors without VNNI need it.

There, ONNX Runtime adds sums exactly only after it has stored int8 weights as uint8 (`session.x64quantprecision`). It
makes the uint8 copy once for each node that reads the weights, always under the same name, and refuses its own second
copy: a graph that applies one network to two arrays did not open (ONNX Runtime 1.31.1).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from cmdiad_export.precision.quantise import constant


class OwnWeights(ir.passes.InPlacePass):
    """Copy int8 constants, and the nodes that restore them, until each has one reader."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        graph = model.graph
        restored = [node for node in graph if node.op_type == "DequantizeLinear" and _is_int8(node.inputs[0])]
        copies = [_copy_node(graph, node) for node in restored]
        shared = [value for value in list(graph.initializers.values()) if _is_int8(value)]
        copies += [_copy_constant(graph, value) for value in shared]
        return ir.passes.PassResult(model, modified=any(copies))


def _is_int8(value: ir.Value | None) -> bool:
    """Return True for an int8 constant of the graph."""
    return value is not None and value.is_initializer() and value.dtype == ir.DataType.INT8


def _copy_node(graph: ir.Graph, node: ir.Node) -> bool:
    """Give each reader but the first a copy of a node with one output; return True if there was another reader."""
    (output,) = node.outputs
    attributes = list(node.attributes.values())

    def add(number: int) -> ir.Value:
        copy, name = ir.val(f"{output.name}/{number}", output.dtype, output.shape), f"{node.name}/{number}"
        graph.insert_after(node, ir.Node("", node.op_type, node.inputs, attributes, outputs=[copy], name=name))
        return copy

    return _separate(output, add)


def _copy_constant(graph: ir.Graph, value: ir.Value) -> bool:
    """Give each reader but the first a copy of a constant; return True if there was another reader."""
    assert value.const_value is not None
    array = value.const_value.numpy()

    def add(number: int) -> ir.Value:
        copy = constant(f"{value.name}/{number}", array)
        graph.register_initializer(copy)
        return copy

    return _separate(value, add)


def _separate(value: ir.Value, add: Callable[[int], ir.Value]) -> bool:
    """Let each reader of a value but the first read what `add` makes for it; return True if there was another one."""
    others = list(value.uses())[1:]
    for number, use in enumerate(others, start=2):
        use.node.replace_input_with(use.idx, add(number))
    return bool(others)
