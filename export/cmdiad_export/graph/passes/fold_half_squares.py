"""Subtract half of each bank row's squared length inside the product with the bank, in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

ALIGNED = 4
"""Rows are widened to a multiple of this many numbers, 16 bytes, which the products of all engines read at once."""


class FoldHalfSquares(ir.passes.InPlacePass):
    """Write the keys q·b - |b|²/2 of a search as one product: each query ends in 1, and each row in -|b|²/2.

    As a separate operator the subtraction reads and writes one number for each pair of a query and a row. Only
    whole fp32 products are changed: in fp16 the length would be rounded, and a loop over chunks keeps its keys in the
    cache. Rows that are gathered for exact distances lose the added numbers again, so the bank is stored once. A graph
    for several samples searches a bank once for each of them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        searches: dict[ir.Value, list[_Search]] = {}
        for node in model.graph:
            search = _search(node) if node.op_type == "Sub" else None
            if search is not None:
                searches.setdefault(search.rows, []).append(search)
        folded = [_fold(model.graph, rows, own) for rows, own in searches.items()]
        return ir.passes.PassResult(model, modified=any(folded))


@dataclass(frozen=True)
class _Search:
    """One search of a bank: its product, and the subtraction that follows."""

    rows: ir.Value
    squares: ir.Value
    transpose: ir.Node
    product: ir.Node
    subtraction: ir.Node


def _search(subtraction: ir.Node) -> _Search | None:
    """Return the search that a subtraction belongs to, or None."""
    product = _maker(subtraction.inputs[0], "MatMul")
    transpose = _maker(product.inputs[1], "Transpose") if product is not None else None
    rows, squares = transpose.inputs[0] if transpose is not None else None, subtraction.inputs[1]
    if product is None or transpose is None or rows is None or squares is None:
        return None
    if len(product.outputs[0].uses()) != 1 or not (_is_single(rows, 2) and _is_single(squares, 1)):
        return None
    return _Search(rows, squares, transpose, product, subtraction)


def _fold(graph: ir.Graph, rows: ir.Value, searches: Sequence[_Search]) -> bool:
    """Fold the subtractions of all searches of one bank; return False if the bank is used in another way too."""
    transposes = {search.transpose for search in searches}
    gathers = [usage.node for usage in rows.uses() if usage.node not in transposes]
    products = {search.product for search in searches}
    multiplied = {usage.node for transpose in transposes for usage in transpose.outputs[0].uses()}
    if multiplied != products or any(node.op_type not in ("Gather", "GatherND") for node in gathers):
        return False
    added = _widen(rows, searches[0].squares)
    for search in searches:
        _lengthen_queries(graph, search.product, added)
    for node in gathers:
        _drop_added(graph, node, added)
    for search in searches:
        node, product = search.subtraction, search.product
        ir.convenience.replace_nodes_and_values(graph, node, [node], [], node.outputs, product.outputs)
    for name in {str(search.squares.name) for search in searches}:
        del graph.initializers[name]
    for transpose in transposes:
        transpose.outputs[0].shape = None
    return True


def _maker(value: ir.Value | None, operator: str) -> ir.Node | None:
    """Return the node that computes a value if it is of this operator, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _is_single(value: ir.Value, axes: int) -> bool:
    """Return True for fp32 weights with this number of axes."""
    weights = value.const_value if value.is_initializer() else None
    return weights is not None and weights.dtype == ir.DataType.FLOAT and len(weights.shape) == axes


def _widen(rows: ir.Value, squares: ir.Value) -> int:
    """Append -|b|²/2 and zeros to each row, in place; return the number of appended numbers."""
    assert rows.const_value is not None
    assert squares.const_value is not None
    array = rows.const_value.numpy()
    added = ALIGNED - array.shape[1] % ALIGNED
    tail = np.zeros((len(array), added), np.float32)
    tail[:, 0] = -squares.const_value.numpy()
    wide = np.concatenate([array, tail], 1)
    rows.const_value, rows.shape = ir.tensor(wide, name=rows.name), ir.Shape(wide.shape)
    return added


def _lengthen_queries(graph: ir.Graph, product: ir.Node, added: int) -> None:
    """Append ones to each query in front of its product."""
    name, queries = product.name, product.inputs[0]
    pads, one = _constant(graph, f"{name}/pads", np.array([0, 0, 0, added])), np.array(1, np.float32)
    longer = ir.val(f"{name}/queries")
    pad = ir.node("Pad", [queries, pads, _constant(graph, f"{name}/one", one)], outputs=[longer], name=f"{name}/pad")
    graph.insert_before(product, pad)
    product.replace_input_with(0, longer)


def _drop_added(graph: ir.Graph, gather: ir.Node, added: int) -> None:
    """Cut the appended numbers off gathered rows."""
    name, gathered = gather.name, gather.outputs[0]
    kept = ir.val(f"{name}/rows", gathered.dtype, gathered.shape)
    ir.convenience.replace_all_uses_with(gathered, kept, replace_graph_outputs=True)
    gathered.shape = None
    limits = {"first": [0], "end": [-added], "axis": [-1]}
    bounds = [_constant(graph, f"{name}/{limit}", np.array(value)) for limit, value in limits.items()]
    graph.insert_after(gather, ir.node("Slice", [gathered, *bounds], outputs=[kept], name=f"{name}/slice"))


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to a graph."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
